"""What is so at this moment, read from the state when somebody asks: right after a restart too.

A read that gates nothing: it decides nothing and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from supervisor.answers import GpuView, TargetState
from supervisor.api.views.gpus import gpu_views
from supervisor.api.views.overview import engine_view, journal_view
from supervisor.api.views.targets import known_targets, problems_of, stray, target_state
from supervisor.core.model import Now, Phase
from supervisor.core.state import State
from supervisor.metrics import table
from supervisor.metrics.counts import BARE, Targets
from supervisor.metrics.table import Metric

Sample = tuple[Metric, tuple[str, ...], float]
MIB = 2**20
GPU_STATES = ("ok", "lost", "mig", "unreadable", "dirty")
JOURNAL_STATES = ("ok", "full", "damaged")


class Gauges(Collector):
    """``look`` returns the state and the time, ``pending`` how many facts are not on disk yet."""

    def __init__(
        self,
        look: Callable[[], tuple[State, Now]],
        targets: Targets,
        version: str,
        pending: Callable[[], int],
    ) -> None:
        self._look, self._targets, self._version, self._pending = look, targets, version, pending
        #: How many facts wait for each hook.
        self.queues: Callable[[], dict[str, int]] = dict

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing is read before somebody asks."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {
            metric: GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for metric in table.METRICS
            if metric.kind == "gauge"
        }
        for metric, labels, value in self._samples():
            families[metric].add_metric(labels, value)
        yield from families.values()

    def _samples(self) -> Iterator[Sample]:
        state, now = self._look()
        yield table.INFO, (self._version, state.settings.mode), 1
        yield table.JOURNAL_PENDING, (), self._pending()
        journal = journal_view(state).state
        yield from _one_of(table.JOURNAL_STATE, (), JOURNAL_STATES, journal)
        engine = engine_view(state, now)
        yield table.ENGINE_SYNCED, (), engine.synced
        if engine.contact_age_seconds is not None:
            yield table.ENGINE_AGE, (), engine.contact_age_seconds
        yield from _leases(state, now)
        yield from self._of_targets(state)
        yield from self._of_gpus(state)
        for hook, length in self.queues().items():
            yield table.HOOK_QUEUE, (hook,), length

    def _of_targets(self, state: State) -> Iterator[Sample]:
        waiting = {BARE: 0}
        severities = {"error": 0, "warning": 0}
        names = known_targets(state)
        for name in names:
            label = self._targets.label(name)
            waiting.setdefault(label, 0)
            if label == name:
                yield from _one_of(table.TARGET_STATE, (name,), get_args(TargetState), target_state(state, name))
            for problem in problems_of(state, name):
                severities[problem.severity] += 1
        for lane, tickets in state.lanes.items():
            label = self._targets.label(lane if isinstance(lane, str) else None)
            waiting[label] = waiting.get(label, 0) + len(tickets)
        for problem in stray(state):
            severities[problem.severity] += 1
        yield from ((table.QUEUE, (label,), length) for label, length in waiting.items())
        yield from ((table.LABEL_PROBLEMS, (severity,), count) for severity, count in severities.items())
        for name, peak_mib in state.durable.peaks.items():
            if self._targets.label(name) == name:
                yield table.TARGET_PEAK, (name,), peak_mib * MIB

    def _of_gpus(self, state: State) -> Iterator[Sample]:
        yield table.GPUS, (), len(state.observed.gpus)
        yield table.GPUS_PROBLEM, (), bool(state.observed.gpu_problem)
        for gpu in gpu_views(state):
            yield from _gpu(gpu)
            for use in gpu.targets:
                if self._targets.label(use.target) != use.target:
                    continue
                if use.reserved_mib is not None:
                    yield table.TARGET_RESERVED, (gpu.uuid, use.target), use.reserved_mib * MIB
                if use.used_mib is not None:
                    yield table.TARGET_USED, (gpu.uuid, use.target), use.used_mib * MIB


def _one_of(metric: Metric, of: tuple[str, ...], states: tuple[str, ...], present: str) -> Iterator[Sample]:
    for state in states:
        yield metric, (*of, state), state == present


def _leases(state: State, now: Now) -> Iterator[Sample]:
    phases: dict[str, int] = dict.fromkeys(get_args(Phase), 0)
    for lease in state.durable.leases.values():
        phases[lease.phase] += 1
    yield from ((table.LEASES, (phase,), count) for phase, count in phases.items())
    # They lie in the order of their arrival, whatever their priority.
    oldest = next(iter(state.durable.tickets.values()), None)
    yield table.OLDEST, (), (now.at_ms - oldest.queued_at_ms) / 1000 if oldest is not None else 0


def _gpu(gpu: GpuView) -> Iterator[Sample]:
    here = (gpu.uuid,)
    yield table.GPU_INFO, (gpu.uuid, str(gpu.index), gpu.name), 1
    yield from _one_of(table.GPU_STATE, here, GPU_STATES, gpu.state)
    yield table.GPU_CLOSED, here, bool(gpu.problem)
    sizes_mib = (
        (table.GPU_TOTAL, gpu.total_mib),
        (table.GPU_USED, gpu.used_mib),
        (table.GPU_RESERVED, gpu.reserved_mib),
        (table.GPU_FREE, gpu.free_mib),
        (table.GPU_GRANTED, gpu.granted_mib),
        (table.GPU_GRANTABLE, gpu.grantable_mib),
        (table.GPU_UNEXPLAINED, gpu.unexplained_mib),
    )
    yield from ((metric, here, mib * MIB) for metric, mib in sizes_mib if mib is not None)
    if gpu.utilization_percent is not None:
        yield table.GPU_UTILIZATION, here, gpu.utilization_percent / 100
    if gpu.temperature_c is not None:
        yield table.GPU_TEMPERATURE, here, gpu.temperature_c
    if gpu.power_w is not None:
        yield table.GPU_POWER, here, gpu.power_w
