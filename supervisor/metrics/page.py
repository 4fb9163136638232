"""All metrics of one supervisor, and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.process_collector import ProcessCollector

from supervisor.core.facts import AnyFact
from supervisor.core.model import Now
from supervisor.kernel import Kernel
from supervisor.metrics import table
from supervisor.metrics.counts import Counts, Targets
from supervisor.metrics.gauges import Gauges

# A second series for each, that says when the process came to count: process_start_time_seconds does so once.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counts what happens, and reads what is. ``now`` is the supervisor's clock."""

    def __init__(self, kernel: Kernel, now: Callable[[], Now], version: str) -> None:
        targets = Targets()
        self._registry = CollectorRegistry()
        self.counts = Counts(self._registry, targets, kernel.state.durable)
        self.gauges = Gauges(
            lambda: (kernel.state, now()),
            targets,
            version,
            lambda: kernel.state.durable.fact_seq - kernel.durable_seq,
        )
        self._registry.register(self.gauges)
        ProcessCollector(registry=self._registry)

    def told(self, _seq: int, fact: AnyFact) -> None:
        """Count a fact that is on disk; in their order, by the task that owns the state."""
        self.counts.fact(fact)

    def refusal(self, code: str) -> None:
        """Count a request that is refused over HTTP."""
        self.counts.add(table.REFUSALS, code)

    def page(self) -> bytes:
        """Return every metric in Prometheus's text format; to be called by the task that owns the state.

        Other than a status it waits for no disk: a scrape promises nobody anything, and it is wanted most while the
        disk hangs.
        """
        return generate_latest(self._registry)
