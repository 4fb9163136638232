"""The truth about containers, kept current without gaps: events are hints, inspect is the truth.

1. Open the event stream with an overlap (``since`` = now - 5 s: it is not subscribed yet when its headers arrive).
2. List everything, inspect what matters and what was known, post one ``EngineSnapshot``: in sync.
3. Every event of interest is one more inspect. The reader only decodes and queues: one that stalls slows every call to
   the engine by 100 ms. A start of a container that was inspected before is posted at once (``StartHinted``).
4. List again every 15 s, on overflow, and when something turns up that depends on something unknown. Until that is
   known too, what turned up is not posted (``newcomers``), unless it runs.
5. A ping every 2 s; without an answer the stream's socket is shut, because a hung engine never ends a stream.
6. When the stream breaks, or a list fails: ``EngineLost``, and from the start with a new connection, for ever.

Duplicates, losses and the order of events do not matter then. What does, is that what an old inspect saw never
overwrites what a newer one saw: ``Pending`` never hands out one container twice at a time.

Each container's inspect may block for as long as a start of it takes (it waits for the container's lock), so several
inspectors work in parallel, and one that gets no answer keeps what was known and is tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec
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
from supervisor.core.model import Bystander
from supervisor.engine.compose import PROJECT
from supervisor.engine.connection import Connection, decode
from supervisor.engine.errors import ContainerMissing, EngineError, EngineTimeout, EngineUnreachable
from supervisor.engine.events import EventHint, EventStream, translate
from supervisor.engine.inspect import INSPECTED, LISTED, Inspected, labelled, to_container
from supervisor.engine.newcomers import Newcomers
from supervisor.engine.pending import LIST, Pending
from supervisor.engine.roster import Known, Roster, bystanders, member_of, worth_inspecting
from supervisor.ports import UrgencyPort

logger = logging.getLogger(__name__)

OVERLAP_NS = 5 * 10**9
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0
INSPECTORS = 8
CLOSE_S = 1.0
#: How long an inspector leaves the interpreter to whoever decides what follows from an event.
YIELD_S = 0.002


class Pace(Struct, frozen=True):
    """How often, and how much. ``pending_max``: containers with news, before one list is cheaper."""

    ping_every_s: float = 2.0
    ping_limit_s: float = 2.0
    list_every_s: float = 15.0
    pending_max: int = 4096


class Session(Struct, eq=False):
    """One connection with its stream. ``missing``: what the list in progress still waits to be inspected."""

    connection: Connection
    stream: EventStream
    listed_at_s: float
    listed: frozenset[str] = frozenset()
    others: tuple[Bystander, ...] = ()
    missing: set[str] | None = None


class Watcher:
    """Posts what it sees, from threads of its own, until it is closed."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        pace: Pace,
        on_connect: Callable[[Connection], None] = lambda _: None,
        on_cgroup_parent: Callable[[str], None] = lambda _: None,
        urgency: UrgencyPort | None = None,
    ) -> None:
        """``on_connect`` hears of every new connection, before anything is posted about it; ``on_cgroup_parent`` of
        every place for a container's cgroup that its maker chose; ``urgency`` of every start.
        """
        self._urgency = urgency
        self._on_cgroup_parent = on_cgroup_parent
        self._url, self._prefix, self._pace, self._on_connect = url, prefix, pace, on_connect
        self._pending = Pending(pace.pending_max)
        self._roster = Roster()
        self._newcomers = Newcomers()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        # Held while something is recorded and posted, so that what is posted is in the order of what is known.
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._failures = 0
        self._ever_synced = False
        self._unsettled: set[str] = set()

    def watch(self, post: Callable[[Input], None]) -> None:
        self._post = post
        loops = [self._stay_connected, self._keep_watch, *([self._inspect_all] * INSPECTORS)]
        for loop in loops:
            thread = threading.Thread(target=loop, name=f"engine{loop.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def look_again(self, container_id: str) -> None:
        """Inspect one container soon: a call about it came back, and its events may be lost."""
        self._pending.hint(container_id)

    def close(self) -> None:
        """End all threads; one that waits for a hung engine is abandoned and ends at its time limit."""
        self._closed.set()
        self._pending.close()
        with self._lock:
            session = self._session
        if session is not None:
            session.stream.shut("closed")
        deadline_s = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    # ---- the connection and its stream

    def _stay_connected(self) -> None:
        if self._urgency is not None:
            self._urgency.listen()
        while not self._closed.is_set():
            try:
                self._follow(self._connected())
            except EngineError as error:
                self._lose(str(error))
            except Exception as error:
                # Ours, not the engine's: said out loud, and nothing is granted until it is over.
                logger.exception("watching the engine failed")
                self._lose(f"internal error: {error!r}")
            self._closed.wait(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 10)))
            self._failures += 1

    def _connected(self) -> Connection:
        try:
            return Connection(self._url)
        except EngineUnreachable as error:
            raise EngineUnreachable(f"{error} ({self._url})") from error

    def _follow(self, connection: Connection) -> None:
        """Follow one stream to its end, which raises."""
        try:
            stream = EventStream(connection, since_ns=time.time_ns() - OVERLAP_NS)
            try:
                self._on_connect(connection)
                with self._lock:
                    self._session = Session(connection, stream, listed_at_s=time.monotonic())
                if self._closed.is_set():
                    return
                self._pending.list_all()
                for line in stream.lines():
                    self._hear(line)
            finally:
                stream.close()
        finally:
            connection.close()

    def _lose(self, reason: str) -> None:
        with self._lock:
            self._session = None
            self._pending.done(LIST)
            if not self._closed.is_set():
                self._post(EngineLost(reason))

    def _hear(self, line: bytes) -> None:
        """The reader's part. It may only decode and queue; the look-ups are single ones, so they take no lock."""
        try:
            event = translate(line)
        except msgspec.DecodeError:
            self._pending.list_all()  # It says that something happened, if not what.
            return
        if event is None:
            return
        known = self._roster.known.get(event.id)
        if known is None and not self._concerns_us(event):
            return
        # Through the overlap, starts come up again whose outcome was inspected long ago: those are no news. The clocks
        # are one and the same; were they not, a hint would only come late or twice.
        if event.action == "rename" and known and known.container.target and event.name:
            self._post(ContainerRenamed(event.id, event.name))
        if event.action == "start" and known and known.container.target and event.at_ns > known.answered_ns:
            self._post(StartHinted(event.id, run=f"event {event.at_ns}", wall_ms=event.at_ns // 10**6))
            if self._urgency is not None:
                self._urgency.hurry()
        self._pending.hint(event.id)

    def _concerns_us(self, event: EventHint) -> bool:
        return labelled(event.attributes, self._prefix) or event.attributes.get(PROJECT) in self._roster.projects

    # ---- the inspectors

    def _inspect_all(self) -> None:
        while taken := self._pending.take():
            item, hinted = taken
            with self._lock:
                session = self._session
            try:
                if session is not None:
                    if item == LIST:
                        self._list(session)
                    else:
                        if hinted:
                            # A kill that the same event leads to is decided meanwhile: an inspect takes a millisecond
                            # of the interpreter, and would not let go of it for the thread that decides.
                            time.sleep(YIELD_S)
                        self._inspect(session, item, hinted=hinted)
            except Exception as error:
                logger.exception("inspecting %s failed", item)
                self._break(session, f"internal error: {error!r}")
            finally:
                if item != LIST or session is None:
                    self._pending.done(item)

    def _list(self, session: Session) -> None:
        """List, and hand out what is to be inspected. The list is done when the last of it was."""
        with self._lock:
            self._newcomers.begin()
        try:
            rows = decode(session.connection.get("/containers/json", {"all": 1}), LISTED)
        except EngineError as error:
            self._break(session, f"containers cannot be listed: {error}")
            return
        session.listed_at_s = time.monotonic()
        with self._lock:
            session.listed = worth_inspecting(rows, self._prefix)
            session.others = bystanders(rows, session.listed)
            session.missing = set(session.listed | self._roster.known.keys())
            # In this order: nobody can have taken one of them before it counts as missing.
            self._pending.add_bulk(session.missing)
            fresh = session.listed - self._roster.known.keys()
            projects = {row.id: (row.labels or {}).get(PROJECT, "") for row in rows if row.id in fresh}
            self._tell(self._newcomers.listed(session.listed, projects))
            self._finish_list(session)

    def _inspect(self, session: Session, container_id: str, *, hinted: bool) -> None:
        with self._lock:
            # An inspect that began before the list does not count for it.
            counts = session.missing is not None and container_id in session.missing
        seen: Inspected | None = None
        settled = True
        try:
            seen = decode(session.connection.get(f"/containers/{container_id}/json"), INSPECTED)
        except ContainerMissing:
            pass
        except EngineError as error:
            # A time-out is what a start that takes its time looks like; anything else leaves a container unjudged.
            level = logging.DEBUG if isinstance(error, EngineTimeout) else logging.WARNING
            logger.log(level, "container %s cannot be inspected, and is tried again: %s", container_id, error)
            settled = False
        with self._lock:
            if settled:
                self._record(session, container_id, seen, hinted=hinted)
                self._tell(self._newcomers.inspected(container_id))
            else:
                self._unsettled.add(container_id)
            if counts and session.missing is not None:
                session.missing.discard(container_id)
                self._finish_list(session)

    def _record(self, session: Session, container_id: str, seen: Inspected | None, *, hinted: bool) -> None:
        if seen is None:
            self._newcomers.held.pop(container_id, None)
            if self._roster.drop(container_id):
                self._post(ContainerGone(container_id))
            return
        member = member_of(seen.labels, self._prefix)
        if not self._roster.matters(member) and container_id not in session.listed:
            return
        if seen.host_config.cgroup_parent:
            self._on_cgroup_parent(seen.host_config.cgroup_parent)
        now_ns = time.time_ns()
        container = to_container(seen, prefix=self._prefix, wall_ms=now_ns // 10**6)
        before = self._roster.known.get(container_id)
        if self._roster.put(Known(container, member, now_ns)) and self._newcomers.expect(container):
            self._pending.list_all()
        if (before is None or container_id in self._newcomers.held) and self._newcomers.hold(container):
            return
        if not self._ever_synced:
            return  # The first snapshot comes at once and whole: who may stay is judged on all of it.
        # A hint is always answered, because ``StartHinted`` waits for the truth; a list only feeds the differences.
        if hinted or before is None or replace(before.container, age_ms=0) != replace(container, age_ms=0):
            self._post(ContainerSeen(container))

    def _tell(self, container_ids: list[str]) -> None:
        """What they depend on is known as well."""
        for known in filter(None, map(self._roster.known.get, container_ids)):
            if self._ever_synced:
                self._post(ContainerSeen(known.container))

    def _finish_list(self, session: Session) -> None:
        if session.missing:
            return
        session.missing = None
        if session is not self._session:
            return  # Its stream is gone, and so may be events since: only the next session's list will be whole.
        self._roster.prune()
        self._failures, self._ever_synced = 0, True
        early = self._newcomers.held.keys()
        containers = tuple(known.container for id_, known in self._roster.known.items() if id_ not in early)
        self._post(EngineSnapshot(containers, session.others))
        self._pending.done(LIST)

    # ---- the watchdog

    def _keep_watch(self) -> None:
        while not self._closed.wait(self._pace.ping_every_s):
            with self._lock:
                session = self._session
                again, self._unsettled = self._unsettled, set()
            if session is None:
                continue
            try:
                session.connection.ping(timeout_s=self._pace.ping_limit_s)
            except EngineError as error:
                self._break(session, f"a ping failed: {error}")
                continue
            except Exception as error:
                logger.exception("pinging the engine failed")
                self._break(session, f"internal error: {error!r}")
                continue
            self._post(EngineContact())
            for container_id in again:
                self._pending.hint(container_id)
            if time.monotonic() - session.listed_at_s > self._pace.list_every_s:
                self._pending.list_all()

    def _break(self, session: Session | None, reason: str) -> None:
        """Let the reader find the end of its stream, and with it the reason: one place tells of every loss."""
        if session is not None:
            session.stream.shut(reason)
