"""Who held each GPU lately, folded from the audit. Pure: facts go in, in order, and holds that have ended come out.

What still holds is in the state, and is not kept here twice: ``open`` only remembers where a lease or a residency
began until its end is told.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.facts import AnyFact, LeaseEnded, LeaseGranted, ResidencyBegan, ResidencyEnded
from supervisor.core.state import State

#: Ended holds that are kept; of more, the oldest are forgotten, and ``known_since_ms`` says so.
HOLDS_MAX = 2_000


class Held(Struct, frozen=True, kw_only=True):
    """A stretch of time in which a lease or a resident target had room on ``gpus`` (empty: nobody knows which).

    Supervisor time in milliseconds orders them; wall time, as it was told then, is for people. ``ended_ms`` None: it
    still holds.
    """

    kind: Literal["lease", "resident"]
    id: str | None
    target: str | None
    owner: str | None
    gpus: tuple[str, ...]
    began_ms: int
    began_wall_ms: int
    ended_ms: int | None = None
    ended_wall_ms: int | None = None
    reason: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return (self.kind, self.id or self.target or "")


class Timeline:
    """``seq``: the last fact that was taken. ``known_since_ms``: who held before it is not known; None: all is."""

    def __init__(self) -> None:
        self.seq = 0
        self.known_since_ms: int | None = None
        self._skipped = False
        self.ended: deque[Held] = deque()
        self.open: dict[tuple[str, str], Held] = {}

    def skip_to(self, seq: int) -> None:
        """Go on behind a fact that is further on: what was told up to it is not known."""
        self.seq, self._skipped = seq, True

    def take(self, seq: int, fact: AnyFact) -> None:
        """Take a fact; one that was taken before is passed over."""
        if seq <= self.seq:
            return
        if self._skipped or seq > self.seq + 1:  # retention deletes, and damage leaves out
            self.known_since_ms = fact.at_ms
            self.open.clear()
        self.seq, self._skipped = seq, False
        match fact:
            case LeaseGranted():
                if fact.terms.target is not None:
                    self._end(("resident", fact.terms.target), fact, "leased")
                self._begin(fact, "lease", fact.id, fact.terms.target, fact.terms.owner, fact.gpus)
            case LeaseEnded():
                ended = self._end(("lease", fact.id), fact, fact.reason)
                if fact.resident and ended is not None:
                    self._begin(fact, "resident", None, fact.target, None, ended.gpus)
            case ResidencyBegan():
                self._begin(fact, "resident", None, fact.target, None, fact.gpus)
            case ResidencyEnded():
                self._end(("resident", fact.target), fact, fact.reason)
            case _:
                pass

    def _begin(
        self,
        fact: AnyFact,
        kind: Literal["lease", "resident"],
        id_: str | None,
        target: str | None,
        owner: str | None,
        gpus: tuple[str, ...],
    ) -> None:
        held = Held(
            kind=kind,
            id=id_,
            target=target,
            owner=owner,
            gpus=gpus,
            began_ms=fact.at_ms,
            began_wall_ms=fact.wall_ms,
        )
        self.open[held.key] = held

    def _end(self, key: tuple[str, str], fact: AnyFact, reason: str) -> Held | None:
        held = self.open.pop(key, None)
        if held is None:
            return None
        ended = replace(held, ended_ms=fact.at_ms, ended_wall_ms=fact.wall_ms, reason=reason)
        self.ended.append(ended)
        if len(self.ended) > HOLDS_MAX:
            self.known_since_ms = self.ended.popleft().ended_ms
        return ended

    def forget(self, before_ms: int) -> None:
        """Drop what ended before a moment."""
        while self.ended and (self.ended[0].ended_ms or 0) < before_ms:
            self.ended.popleft()


def holding(state: State) -> list[Held]:
    """Return who has room on a GPU now."""
    durable = state.durable
    leases = [
        Held(
            kind="lease",
            id=lease.id,
            target=lease.target,
            owner=lease.terms.owner,
            gpus=lease.gpus,
            began_ms=lease.granted_at_ms,
            began_wall_ms=lease.granted_wall_ms,
        )
        for lease in durable.leases.values()
    ]
    residents = [
        Held(
            kind="resident",
            id=None,
            target=resident.target,
            owner=None,
            gpus=resident.gpus,
            began_ms=resident.since_ms,
            began_wall_ms=resident.since_wall_ms,
        )
        for resident in durable.residents.values()
    ]
    return [*leases, *residents]
