"""When the GPUs are read, what a reading is worth, and how it becomes an input. Owned by the task that owns the state.

A reading never blocks: it is asked for, and reported from whatever thread made it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from supervisor.core.inputs import VramRead
from supervisor.core.model import Container, FinishedUse, Gpu, Now, Terms
from supervisor.core.state import Observed, State
from supervisor.core.targets import spec_of
from supervisor.core.wishes import wish_of
from supervisor.gpu.load import Load
from supervisor.gpu.reading import Reading

#: How often memory is read while it is awaited, and otherwise, for whoever looks at the status.
AWAITED_S = 0.1
IDLE_S = 1.0


class GpuPort(Protocol):
    """GPUs that can be read. Nothing here waits for a driver."""

    def start(self, report: Callable[[Reading], None]) -> None:
        """Report a first reading, and later those that are asked for: from any thread, or before the call returns."""

    def read_soon(self, loads: Sequence[Load]) -> None:
        """Have a reading reported that begins after this call; several calls may share one.

        ``loads``: what the labelled containers that run are believed to use, for GPUs that only pretend.
        """

    def close(self) -> None:
        """Report nothing any more."""


class Readings:
    """Asks for readings and takes them. ``rouse`` wakes the owner up, from any thread."""

    def __init__(self, gpus: GpuPort, rouse: Callable[[], None]) -> None:
        self._gpus, self._rouse = gpus, rouse
        self._came: deque[Reading] = deque()
        self._asked: deque[tuple[float, int]] = deque()
        self._asked_at_s = 0.0
        self._asked_runs = 0
        self._asker: int | None = None
        self._bound_ms = 0
        self._told: VramRead | None = None
        self._told_at_s = 0.0
        self._finished: list[FinishedUse] = []

    def start(self, now: Now) -> None:
        """Begin: a first reading comes by itself."""
        self._note_asked(now)
        self._gpus.start(self._report)

    def due_at_s(self, observed: Observed) -> float:
        """Return when to ask next, in ``time.monotonic()``: at once where a lease waits for a reading from now on, and
        when a labelled container started or stopped.
        """
        waits = [wait.since_ms for wait in observed.room.values() if not wait.read]
        if self._asked:
            # One that begins after the last question is on its way: asking again makes it no faster.
            return 0.0 if waits and max(waits) > self._asked[-1][1] else math.inf
        # Whoever follows the audit hears what a target uses soon after it started. A count is cheap to compare in every
        # turn; where as many start as stop in one, the next reading comes soon enough.
        if waits or len(observed.runs) != self._asked_runs:
            return 0.0
        return self._asked_at_s + (AWAITED_S if observed.memory_wanted else IDLE_S)

    def ask_if_due(self, state: State, now: Now) -> None:
        if time.monotonic() >= self.due_at_s(state.observed):
            self._note_asked(now)
            self._asked_runs = len(state.observed.runs)
            self._asker = threading.get_ident()
            self._gpus.read_soon(loads(state))
            self._asker = None

    def take(self, observed: Observed) -> VramRead | None:
        """Return what came since the last call, if it says anything: memory, processes and states count at once, and
        what only flickers (load, temperature, power) is taken along now and then.
        """
        reading: Reading | None = None
        while self._came:
            reading = self._came.popleft()
            self._finished += reading.finished
            self._bound_ms = self._began_ms(reading.began_s)
        if reading is None:
            return None
        read = VramRead(reading.gpus, self._bound_ms, reading.problem)
        if not (observed.read_wanted or self._is_news(read)):
            return None
        self._told, self._told_at_s = read, time.monotonic()
        return read

    def take_finished(self) -> tuple[FinishedUse, ...]:
        """Return the processes that have ended, of all readings that were taken since the last call."""
        finished, self._finished = tuple(self._finished), []
        return finished

    def _is_news(self, read: VramRead) -> bool:
        told = self._told
        if told is None or told.problem != read.problem or _steady(told.gpus) != _steady(read.gpus):
            return True
        return told.gpus != read.gpus and time.monotonic() >= self._told_at_s + IDLE_S

    def _note_asked(self, now: Now) -> None:
        # ``now`` was read before this clock is: a reading that begins later by this one began after ``now`` as well.
        self._asked_at_s = time.monotonic()
        self._asked.append((self._asked_at_s, now.at_ms))

    def _began_ms(self, began_s: float) -> int:
        """Return a supervisor time at or before the beginning of a reading: that of the last question before it.

        A sum of the two clocks would be closer, and too late where the machine was suspended in between: only one of
        them counts that.
        """
        bound_ms = self._bound_ms
        while self._asked and self._asked[0][0] <= began_s:
            bound_ms = self._asked.popleft()[1]
        return bound_ms

    def _report(self, reading: Reading) -> None:
        self._came.append(reading)
        if threading.get_ident() != self._asker:  # who asks looks next for what came meanwhile
            self._rouse()


def _steady(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    return tuple(replace(gpu, utilization_percent=None, temperature_c=None, power_w=None) for gpu in gpus)


# ---- what simulated GPUs are used for


def loads(state: State) -> tuple[Load, ...]:
    """Return what the labelled containers that run are believed to use."""
    return tuple(load for target in state.observed.by_target for load in _loads_of(state, target))


def _loads_of(state: State, target: str) -> list[Load]:
    """Each container uses what it declares; where none of its target does, its master (or the first) uses all."""
    running = [container for container in state.containers_of(target) if container.runs]
    if not running:
        return []
    spec = spec_of(state, target)
    if spec is None or spec.vram_mib is None:
        first = min(running, key=lambda container: (not container.master, container.name))
        return [Load(first.id, _placed(state, first))]
    users = [(container, container.vram_mib, _placed(state, container)) for container in running]
    # What a target declares is for all of its GPUs together.
    return [Load(user.id, gpus, -(-mib // max(1, len(gpus)))) for user, mib, gpus in users if mib is not None]


def _placed(state: State, container: Container) -> tuple[str, ...]:
    """Return the GPUs that a container really is on: where it was when it had the right to run, or was put, or the
    first. Where it was *seen* does not count: simulated GPUs would only see what they said themselves.
    """
    target = container.target or ""
    run, lease = state.observed.runs.get(container.id), state.lease_of(target)
    if run is not None and run.gpus:
        return run.gpus
    if lease is not None:
        return lease.gpus
    resident = state.durable.residents.get(target)
    if resident is not None and resident.gpus:
        return resident.gpus
    wish = wish_of(state, Terms(target=target, owner="", priority=0, ttl_ms=0))
    return wish.pinned or tuple(gpu.uuid for gpu in state.observed.gpus[:1])
