"""The seams between the owner of the state and the edges: what each promises the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from supervisor.core.facts import AnyFact
from supervisor.core.inputs import ActionDone, Input, Request
from supervisor.core.model import Now
from supervisor.core.replies import Action, Reply
from supervisor.core.state import State

T = TypeVar("T")
Post = Callable[[Input], None]
"""Puts an input into the inbox. May be called from any thread; never blocks, never raises."""


class JournalPort(Protocol):
    """Facts on disk. All but the sums block on the disk; one thread writes.

    A failed write or sync raises: the process must end, only a replay knows what is on disk.
    ``ballast_bytes``: how much of the headroom is for releases only.
    """

    ballast_bytes: int

    def write(self, facts: Sequence[AnyFact]) -> None: ...
    def headroom_bytes(self) -> int: ...
    def replenish(self) -> bool: ...
    def save_snapshot(self, payload: bytes, fact_seq: int) -> None: ...
    def history(self, after: int, limit: int) -> list[tuple[int, AnyFact]]: ...


class EnginePort(Protocol):
    """A container engine: it reports through ``post`` for ever and carries out actions in bounded threads."""

    def watch(self, post: Post) -> None:
        """Start reporting (returns at once): snapshots, containers, losses; reconnects for ever."""

    def perform(self, action: Action, done: Callable[[ActionDone], None]) -> None:
        """Carry out one call in the pool (returns at once); ``done`` is called exactly once, from any thread."""

    def logs(self, container_id: str, lines: int, timeout_s: float) -> str:
        """Return the last log lines of a container, or "" if they cannot be had in time. Blocks."""

    def close(self) -> None: ...


class BelowPort(Protocol):
    """A way to kill containers that does not go through the engine. May be used from any thread; never raises."""

    def kill(self, container_id: str) -> bool:
        """Kill everything in a container. Returns whether it was done; takes tenths of a millisecond."""

    def learn(self, cgroup_parent: str) -> None:
        """Take what an inspect says of where a container's cgroup lies."""

    def look_round(self) -> None:
        """Find out where the containers that run have their cgroups. Blocks for milliseconds."""


class UrgencyPort(Protocol):
    """Goes before others for a processor while it counts. May be used from any thread; never raises."""

    def listen(self) -> None:
        """Say that this thread hears first of what starts."""

    def hurry(self) -> None:
        """Say that something starts just now, which may have to be killed."""


class Desk(Protocol):
    """What the API needs of the supervisor. All coroutines belong to the event loop that owns the state."""

    def next_request_id(self) -> int: ...

    def now(self) -> Now:
        """The time, to tell callers the wall time of a supervisor time."""
        ...

    async def ask(self, request: Request) -> Reply:
        """Hand in a request and wait for its reply, which comes after its facts are on disk.

        Cancelling the wait hangs up: the supervisor is told ``CallerGone`` at once.
        """
        ...

    async def ask_and_see(self, request: Request, view: Callable[[State, Now, Reply], T]) -> tuple[Reply, T]:
        """Ask, and compute a view of the state in which the reply was decided: both come once all of it is on disk."""
        ...

    def hang_up(self, request_id: int, lease_id: str | None = None) -> None:
        """Say that a caller went away, or that an answer that granted ``lease_id`` could not be delivered."""

    async def read(self, view: Callable[[State, Now], T]) -> T:
        """Compute a view of the state; it is returned once everything it shows is on disk."""
        ...

    async def history(self, after: int, limit: int, target: str | None) -> list[tuple[int, AnyFact]]:
        """Facts with a sequence number above ``after``, oldest first, at most ``limit``."""
        ...

    async def next_fact(self, after: int, timeout_s: float) -> None:
        """Wait until a fact above ``after`` is on disk, or the time is over."""
