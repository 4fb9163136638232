"""What is counted as it happens: fed by facts when they are told, by the edges, and by nothing that decides.

Counts begin at 0 with the process, as Prometheus expects. What is under way at a start (who waits, who holds) is taken
from the state, so that a wait or a hold that spans a restart has its true length.
"""

from __future__ import annotations

from typing import TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Histogram

from supervisor.core.facts import (
    AnyFact,
    ContainerRefused,
    ContainerSpared,
    LeaseEnded,
    LeaseGranted,
    ProcessReported,
    ProcessSignalled,
    ResidencyEnded,
    SignalFailed,
    StopFailed,
    TargetDown,
    TargetReady,
    TicketEnded,
    TicketQueued,
)
from supervisor.core.inputs import ActionKind, Outcome
from supervisor.core.state import Durable
from supervisor.metrics import table
from supervisor.metrics.table import Metric

M = TypeVar("M", Counter, Histogram)

#: Values of the label ``target`` at most; further targets are counted together. No box has as many stacks.
TARGETS_MAX = 200
#: No target can be named so: a bare lease has none, and what is beyond the bound shares one.
BARE, OTHER = "_bare", "_other"
FAILED_STARTS = frozenset({"target_failed", "target_unhealthy", "target_timeout", "insufficient_vram"})


class Targets:
    """Names of targets as values of a label: the first ``TARGETS_MAX`` as they are, any further one as ``_other``."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def label(self, target: str | None) -> str:
        if target is None:
            return BARE
        if target not in self._known:
            if len(self._known) >= TARGETS_MAX:
                return OTHER
            self._known.add(target)
        return target


class Counts:
    """Every counter and histogram. May be fed from any thread, but for ``fact``."""

    def __init__(self, registry: CollectorRegistry, targets: Targets, durable: Durable) -> None:
        self._targets = targets
        self._registry = registry
        self._counters = {metric: self._counter(metric) for metric in table.METRICS if metric.kind == "counter"}
        self._histograms = {metric: self._histogram(metric) for metric in table.METRICS if metric.kind == "histogram"}
        self._labelled: dict[tuple[str, tuple[str, ...]], Counter | Histogram] = {}
        self._queued_ms = {ticket.id: ticket.queued_at_ms for ticket in durable.tickets.values()}
        self._granted_ms = {lease.id: lease.granted_at_ms for lease in durable.leases.values()}

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.meaning, metric.labels, registry=self._registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.meaning, metric.labels, registry=self._registry, buckets=metric.buckets)

    def add(self, metric: Metric, *labels: str, by: int = 1) -> None:
        self._of(self._counters, metric, labels).inc(by)

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        self._of(self._histograms, metric, labels).observe(max(0.0, seconds))

    def _of(self, all_: dict[Metric, M], metric: Metric, labels: tuple[str, ...]) -> M:
        """Return the metric with these labels, which are few: to look it up here takes a third of the library's way."""
        known = self._labelled.get((metric.name, labels))
        if known is None:
            known = self._labelled[metric.name, labels] = all_[metric].labels(*labels) if labels else all_[metric]
        return cast(M, known)

    # ---- facts

    def fact(self, fact: AnyFact) -> None:
        """Count a fact that is on disk; in their order."""
        self.add(table.FACTS, type(fact).__name__)
        match fact:
            case TicketQueued() | TicketEnded() | LeaseGranted() | LeaseEnded():
                self._of_lease(fact)
            case TargetReady():
                self.observe(table.START, fact.took_ms / 1000, self._targets.label(fact.target))
            case TargetDown():
                self.add(table.DOWNS, self._targets.label(fact.target))
            case ResidencyEnded():
                target = self._targets.label(fact.target)
                self.add(table.RESIDENCIES_ENDED, target, fact.reason)
                if fact.reason == "evicted":
                    self.add(table.SWAPS, target)
            case ContainerRefused():
                target = self._targets.label(fact.target)
                self.add(table.ENFORCEMENTS, target, fact.reason, fact.action, by=fact.count)
            case ContainerSpared():
                self.add(table.SPARED, self._targets.label(fact.target), fact.reason, by=fact.count)
            case StopFailed():
                self.add(table.STOP_FAILURES, self._targets.label(fact.target))
            case ProcessReported():
                self.add(table.PROCESSES_REPORTED)
            case ProcessSignalled():
                self.add(table.PROCESS_SIGNALS, fact.signal)
            case SignalFailed():
                self.add(table.SIGNAL_FAILURES, fact.outcome)
            case _:
                pass  # counted by its name, above

    def _of_lease(self, fact: TicketQueued | TicketEnded | LeaseGranted | LeaseEnded) -> None:
        match fact:
            case TicketQueued():
                self._queued_ms[fact.id] = fact.at_ms
            case TicketEnded():
                self._queued_ms.pop(fact.id, None)
                self.add(table.TICKETS_ENDED, self._targets.label(fact.target), fact.reason)
            case LeaseGranted():
                target = self._targets.label(fact.terms.target)
                waited_ms = fact.at_ms - self._queued_ms.pop(fact.id, fact.at_ms)
                self._granted_ms[fact.id] = fact.at_ms
                self.observe(table.WAIT, waited_ms / 1000, target)
                self.add(table.GRANTS, target, _how(fact))
            case LeaseEnded():
                target = self._targets.label(fact.target)
                self.observe(table.HOLD, (fact.at_ms - self._granted_ms.pop(fact.id, fact.at_ms)) / 1000, target)
                self.add(table.ENDED, target, fact.reason)
                if fact.reason in FAILED_STARTS:
                    self.add(table.START_FAILURES, target, fact.reason)

    # ---- the edges

    def call(self, kind: ActionKind, outcome: Outcome, took_s: float) -> None:
        """Count a call to the engine that came back."""
        self.add(table.ENGINE_CALLS, kind, outcome)
        self.observe(table.ENGINE_CALL, took_s, kind)


def _how(granted: LeaseGranted) -> str:
    if granted.adopted:
        return "adopted"
    if granted.joins is not None:
        return "joined"
    return "warm" if granted.warm else "cold"
