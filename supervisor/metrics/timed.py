"""The edges with a stopwatch: the journal and the engine as they are, each call timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from supervisor.core.facts import AnyFact
from supervisor.core.inputs import ActionDone, Input, StartHinted
from supervisor.core.replies import Action
from supervisor.core.state import State
from supervisor.metrics import table
from supervisor.metrics.counts import Counts
from supervisor.ports import EnginePort, JournalPort, Post


class TimedJournal:
    """Implements ``JournalPort``. What is asked in every turn costs nothing more: it is the journal's own."""

    def __init__(self, journal: JournalPort, counts: Counts) -> None:
        self._journal, self._counts = journal, counts
        self.ballast_bytes = journal.ballast_bytes
        self.headroom_bytes = journal.headroom_bytes
        self._took_s: list[float] = []
        self.save_snapshot = journal.save_snapshot
        self.history = journal.history

    def write(self, facts: Sequence[AnyFact]) -> None:
        began_s = time.perf_counter()
        self._journal.write(facts)
        self._took_s.append(time.perf_counter() - began_s)

    def replenish(self) -> bool:
        """Replenish, and count how long the writes took: not before, because callers wait for them."""
        for took_s in self._took_s:
            self._counts.observe(table.JOURNAL_SYNC, took_s)
        self._took_s.clear()
        return self._journal.replenish()


class TimedEngine:
    """Implements ``EnginePort``. ``state`` is only read in ``perform``, which the task that owns it calls."""

    def __init__(self, engine: EnginePort, counts: Counts, state: State) -> None:
        self._engine, self._counts, self._state = engine, counts, state
        self.logs = engine.logs
        self.close = engine.close

    def watch(self, post: Post) -> None:
        self._engine.watch(self._noting_lag(post))

    def _noting_lag(self, post: Post) -> Post:
        def noting(item: Input) -> None:
            if isinstance(item, StartHinted):
                self._counts.observe(table.EVENT_LAG, time.time() - item.wall_ms / 1000)
            post(item)

        return noting

    def perform(self, action: Action, done: Callable[[ActionDone], None]) -> None:
        """Carry out a call, and note how long it took; of a kill also how long the container had lived by then."""
        container = self._state.observed.containers.get(action.id) if action.kind == "kill" else None
        started_wall_ms = container.started_wall_ms if container is not None else 0
        began_s = time.perf_counter()

        def timed(came: ActionDone) -> None:
            self._counts.call(came.kind, came.outcome, time.perf_counter() - began_s)
            if started_wall_ms and came.outcome in {"done", "gone"}:
                self._counts.observe(table.ENFORCEMENT, time.time() - started_wall_ms / 1000)
            done(came)

        self._engine.perform(action, timed)
