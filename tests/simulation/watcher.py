"""A deterministic stand-in for ``supervisor/engine/watcher.py``: the same algorithm over a simulated engine.

Subscribe with an overlap, list, inspect what is listed and what was known, post the whole; every event is one more
inspect; a list every 15 s; a ping every 2 s; everything anew when the stream breaks. Never two inspects of one
container at a time. Threads, sockets and locks are the real one's business and are tested with it; here every delay,
loss, double and disorder comes from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.inputs import (
    ContainerGone,
    ContainerRenamed,
    ContainerSeen,
    EngineContact,
    EngineLost,
    EngineSnapshot,
    Input,
    StartHinted,
)
from supervisor.core.model import Container
from supervisor.engine.inspect import Listed, labelled
from supervisor.engine.roster import Known, Roster, member_of, worth_inspecting
from tests.simulation.containers import ApiError
from tests.simulation.engine import Event, SimEngine, Stream
from tests.simulation.timeline import Timeline

OVERLAP_MS = 5_000
PING_EVERY_MS, PING_LIMIT_MS, LIST_EVERY_MS = 2_000, 2_000, 15_000
INSPECT_LIMIT_MS = 10_000
BACKOFF_FIRST_MS, BACKOFF_MAX_MS = 100, 2_000


class Noise(Struct):
    """How bad the line to the engine is: chances per event, and the longest delays in milliseconds."""

    lost: float = 0.0
    doubled: float = 0.0
    event_ms: int = 3
    answer_ms: int = 8


class Session(Struct, eq=False):
    """One connection with its stream. ``missing``: what the list in progress still waits for."""

    missing: set[str] | None = None
    listed: frozenset[str] = frozenset()
    listed_at_ms: int = 0
    heard_ms: dict[str, int] = {}


class Watcher:
    """Posts what it sees until it is closed. ``inspected_ms``: when the newest answer about a container was made."""

    def __init__(
        self, timeline: Timeline, engine: SimEngine, rng: random.Random, noise: Noise, post: Callable[[Input], object]
    ) -> None:
        self._timeline, self._engine, self._rng, self._noise, self._post = timeline, engine, rng, noise, post
        self._roster = Roster()
        self._session: Session | None = None
        self._closed = False
        self._failures = 0
        self._ever_synced = False
        self._out: set[str] = set()
        self._again: dict[str, bool] = {}
        self._unsettled: set[str] = set()
        self._list_wanted = False
        self.inspected_ms: dict[str, int] = {}

    def watch(self) -> None:
        self._connect()
        self._ping_later()

    def close(self) -> None:
        self._closed = True
        self._session = None

    def look_again(self, container_id: str) -> None:
        """Inspect one container soon: a call about it came back, and its events may be lost."""
        self._hint(container_id, hinted=True)

    def shut(self, reason: str) -> None:
        """The line breaks: a proxy, a network, a socket that somebody closed."""
        if self._session is not None:
            self._lose(self._session, reason)

    def _after(self, most_ms: int, happen: Callable[[], object]) -> None:
        self._timeline.after(self._rng.randint(0, most_ms), lambda: None if self._closed else happen())

    # ---- the connection and its stream

    def _connect(self) -> None:
        if self._engine.power != "up":
            wait_ms = INSPECT_LIMIT_MS if self._engine.power == "hung" else 0
            self._timeline.after(wait_ms, lambda: None if self._closed else self._fail("the engine does not answer"))
            return
        session = Session(heard_ms={})
        self._session = session
        since_ms = self._timeline.wall_ms() - OVERLAP_MS
        # The engine flushes its headers before it subscribes: what happens in between is found in the overlap.
        stream = Stream(lambda event: self._receive(session, event), lambda: self._lose(session, "closed"))
        self._after(
            self._noise.event_ms,
            lambda: self._ask(
                lambda: self._engine.subscribe(since_ms, stream), lambda _: self._lose(session, "connection refused")
            ),
        )
        self._want_list()

    def _fail(self, reason: str) -> None:
        self._post(EngineLost(reason))
        delay_ms = min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** min(self._failures, 10))
        self._failures += 1
        self._timeline.after(delay_ms, lambda: None if self._closed else self._connect())

    def _lose(self, session: Session, reason: str) -> None:
        if session is self._session and not self._closed:
            self._session = None
            self._fail(reason)

    def _receive(self, session: Session, event: Event) -> None:
        """An event is on its way: it may be late, lost or doubled, but never overtakes one of the same container."""
        if self._closed or self._rng.random() < self._noise.lost:
            return
        for _ in range(2 if self._rng.random() < self._noise.doubled else 1):
            at_ms = self._timeline.at_ms + self._rng.randint(0, self._noise.event_ms)
            at_ms = max(at_ms, session.heard_ms.get(event.id, 0))
            session.heard_ms[event.id] = at_ms
            self._timeline.after(at_ms - self._timeline.at_ms, lambda: self._hear(session, event))

    def _hear(self, session: Session, event: Event) -> None:
        if session is not self._session:
            return
        known = self._roster.known.get(event.id)
        project = event.labels.get("com.docker.compose.project")
        if known is None and not labelled(event.labels, "gpu.") and project not in self._roster.projects:
            return
        if event.action == "rename" and known and known.container.target:
            self._post(ContainerRenamed(event.id, event.name))
        if event.action == "start" and known and known.container.target and event.at_ns > known.answered_ns:
            self._post(StartHinted(event.id, run=f"event {event.at_ns}", wall_ms=event.at_ns // 10**6))
        self._hint(event.id, hinted=True)

    # ---- lists and inspects

    def _want_list(self) -> None:
        session = self._session
        if session is None or session.missing is not None:
            self._list_wanted = session is not None
            return
        session.missing = set()
        session.listed_at_ms = self._timeline.at_ms

        def broken(_: ApiError | None) -> None:
            self._lose(session, "containers cannot be listed")

        self._after(self._noise.answer_ms, lambda: self._ask(lambda: self._list(session), broken))

    def _ask(self, take: Callable[[], object], failed: Callable[[ApiError | None], object] | None = None) -> None:
        self._engine.call(lambda: None if self._closed else take(), failed or (lambda _: None))

    def _list(self, session: Session) -> None:
        rows = [Listed(one.id, dict(one.recipe.labels)) for one in self._engine.containers.values()]
        self._after(self._noise.answer_ms, lambda: self._listed(session, rows))

    def _listed(self, session: Session, rows: list[Listed]) -> None:
        if session is not self._session:
            return
        session.listed = worth_inspecting(rows, "gpu.")
        session.missing = set(session.listed | self._roster.known.keys())
        for container_id in sorted(session.missing):
            self._hint(container_id, hinted=False)
        self._finish_list(session)

    def _hint(self, container_id: str, *, hinted: bool) -> None:
        if container_id in self._out:
            self._again[container_id] = hinted or self._again.get(container_id, False)
            return
        self._out.add(container_id)
        self._after(self._noise.answer_ms, lambda: self._inspect(container_id, hinted=hinted))

    def _inspect(self, container_id: str, *, hinted: bool) -> None:
        session = self._session
        if session is None:
            self._settle(container_id)
            return
        # An inspect that began before the list does not count for it.
        counts = session.missing is not None and container_id in session.missing
        answered = False

        def take() -> None:
            seen = self._engine.inspect(container_id)
            at_ms, at_ns = self._timeline.at_ms, self._timeline.wall_ms() * 10**6
            self._after(self._noise.answer_ms, lambda: answer(seen, at_ms, at_ns))

        def answer(seen: Container | None, at_ms: int, at_ns: int) -> None:
            nonlocal answered
            if answered:
                return
            answered = True
            if at_ns:
                self.inspected_ms[container_id] = at_ms
                self._record(session, container_id, seen, at_ns, hinted=hinted)
            else:
                self._unsettled.add(container_id)
            if counts and session.missing is not None:
                session.missing.discard(container_id)
                self._finish_list(session)
            self._settle(container_id)

        self._ask(take, lambda _: answer(None, 0, 0))
        if self._engine.power == "hung":
            self._timeline.after(INSPECT_LIMIT_MS, lambda: None if self._closed else answer(None, 0, 0))

    def _settle(self, container_id: str) -> None:
        self._out.discard(container_id)
        again = self._again.pop(container_id, None)
        if again is not None:
            self._hint(container_id, hinted=again)

    def _record(self, session: Session, container_id: str, seen: Container | None, at_ns: int, *, hinted: bool) -> None:
        if seen is None:
            if self._roster.drop(container_id):
                self._post(ContainerGone(container_id))
            return
        labels = self._engine.labels_of(container_id)
        member = member_of(labels, "gpu.")
        if not self._roster.matters(member) and container_id not in session.listed:
            return
        before = self._roster.known.get(container_id)
        if self._roster.put(Known(seen, member, at_ns)):
            self._want_list()
        if self._ever_synced and (
            hinted or before is None or replace(before.container, age_ms=0) != replace(seen, age_ms=0)
        ):
            self._post(ContainerSeen(seen))

    def _finish_list(self, session: Session) -> None:
        if session.missing or session.missing is None:
            return
        session.missing = None
        if session is not self._session:
            return
        self._roster.prune()
        self._failures, self._ever_synced = 0, True
        self._post(EngineSnapshot(tuple(known.container for known in self._roster.known.values())))
        if self._list_wanted:
            self._list_wanted = False
            self._want_list()

    # ---- the watchdog

    def _ping_later(self) -> None:
        self._timeline.after(PING_EVERY_MS, lambda: None if self._closed else self._ping())

    def _ping(self) -> None:
        self._ping_later()
        session = self._session
        if session is None:
            return
        if self._engine.power == "hung":
            self._timeline.after(PING_LIMIT_MS, lambda: self._unanswered(session))
            return
        if self._engine.power == "down":
            self._lose(session, "a ping failed")
            return
        self._post(EngineContact())
        again, self._unsettled = self._unsettled, set()
        for container_id in sorted(again):
            self._hint(container_id, hinted=True)
        if self._timeline.at_ms - session.listed_at_ms > LIST_EVERY_MS:
            self._want_list()

    def _unanswered(self, session: Session) -> None:
        if self._engine.power == "hung":
            self._lose(session, "a ping was not answered")
