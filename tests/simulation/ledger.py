"""The slow and obvious twin of the supervisor's decisions: it reads the facts, and says which of them may not be.

It keeps its own books in plain dictionaries, knows nothing of ``apply`` or ``State``, and sorts the queue each time.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from supervisor.core.facts import (
    AnyFact,
    ContainerRefused,
    FirstSync,
    LeaseEnded,
    LeaseGranted,
    LeaseRestarted,
    ResidencyBegan,
    ResidencyEnded,
    RoomVerified,
    TargetReady,
    TicketEnded,
    TicketKept,
    TicketQueued,
    WindowOpened,
)
from supervisor.core.model import Terms

Verdict = Literal["yes", "no", "unknown"]


class Violation(AssertionError):
    """A rule that must always hold did not."""


def require(holds: object, rule: str) -> None:
    if not holds:
        raise Violation(rule)


class Place(Struct):
    """A ticket as its facts tell of it."""

    id: str
    terms: Terms
    queued_at_ms: int
    arrival: int
    window: bool = False


class Held(Struct):
    """A lease as its facts tell of it."""

    id: str
    terms: Terms
    project: str
    fence: int
    vram_mib: int | None = None
    phase: Literal["making_room", "starting", "ready"] = "making_room"
    cold: bool = False
    warm: bool = False
    adopted: bool = False

    @property
    def target(self) -> str | None:
        return self.terms.target


class Circumstances(Struct):
    """What was so when a fact was decided."""

    synced: bool = True
    storage_full: bool = False
    safe_mode: bool = False
    stopping: bool = False
    dirty: bool = False


class Ledger(Struct):
    """``ended``: ids of tickets and leases that are over; an id is never used again."""

    aging_per_minute: float
    tickets: dict[str, Place] = field(default_factory=dict)
    leases: dict[str, Held] = field(default_factory=dict)
    residents: dict[str, str] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)
    ready: set[str] = field(default_factory=set)
    queued: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    fence: int = 0
    at_ms: int = 0
    first_sync_done: bool = False

    # ---- what the books say

    def lease_of(self, target: str) -> Held | None:
        return next((lease for lease in self.leases.values() if lease.target == target), None)

    def may_run(self, target: str, project: str) -> Verdict:
        """Say whether a container of ``target`` has the right to run. Unknown: it depends on what it did before."""
        if not self.first_sync_done:
            return "yes"
        lease = self.lease_of(target)
        if lease is not None:
            if lease.project != project:
                return "no"
            if lease.adopted or lease.phase != "making_room":
                return "yes"
            return "unknown" if lease.warm and not lease.cold else "no"
        return "yes" if self.residents.get(target) == project else "no"

    def points(self, place: Place, at_ms: int) -> float:
        """The effective priority of a ticket: what was asked for, and what waiting has added."""
        return place.terms.priority + self.aging_per_minute * (at_ms - place.queued_at_ms) / 60_000

    def in_order(self, at_ms: int) -> list[Place]:
        """Sort the queue by effective priority, then arrival. Rounded: two ways to the same sum differ in the end."""
        return sorted(self.tickets.values(), key=lambda place: (-round(self.points(place, at_ms), 6), place.arrival))

    # ---- one fact

    def take(self, fact: AnyFact, now: Circumstances) -> None:
        require(fact.at_ms >= self.at_ms, "supervisor time only grows")
        self.at_ms = fact.at_ms
        match fact:
            case FirstSync():
                require(not self.first_sync_done, "the very first sync happens once")
                self.first_sync_done = True
            case TicketQueued():
                self._queue(fact, now)
            case TicketKept():
                require(fact.id in self.tickets, "only a ticket that waits is kept")
            case WindowOpened():
                self._open(fact, now)
            case TicketEnded():
                require(fact.id in self.tickets, "a ticket ends exactly once")
                del self.tickets[fact.id]
                self.ended[fact.id] = fact.reason
            case LeaseGranted():
                self._grant(fact, now)
            case RoomVerified():
                self._verify(fact, now)
            case TargetReady():
                lease = self._lease(fact.id)
                require(lease.phase == "starting", "a target becomes ready after its room was verified, and once")
                lease.phase = "ready"
                self.ready.add(fact.id)
            case LeaseRestarted():
                lease = self._lease(fact.id)
                require(lease.phase == "ready", "only a target that was ready goes down and is restarted")
                lease.phase = "making_room"
            case LeaseEnded():
                self._end(fact)
            case ResidencyBegan():
                require(self.lease_of(fact.target) is None, "a leased target is not resident")
                self.residents[fact.target] = fact.project
            case ResidencyEnded():
                require(fact.target in self.residents, "a residency ends exactly once")
                del self.residents[fact.target]
            case ContainerRefused():
                self.refused[fact.container_id] = fact.reason
            case _:
                pass

    def _lease(self, id_: str) -> Held:
        require(id_ in self.leases, "nothing happens to a lease that is not held")
        return self.leases[id_]

    def _grants_may_be_made(self, now: Circumstances) -> None:
        require(not now.safe_mode, "nothing is granted behind a damaged journal")
        require(not now.storage_full, "nothing is granted or queued on a full disk")
        require(not now.stopping, "nothing is granted or queued while shutting down")

    def _queue(self, fact: TicketQueued, now: Circumstances) -> None:
        self._grants_may_be_made(now)
        require(fact.id not in self.queued | self.granted, "a ticket's id is used once")
        self.queued.add(fact.id)
        self.tickets[fact.id] = Place(fact.id, fact.terms, fact.at_ms, len(self.queued))

    def _open(self, fact: WindowOpened, now: Circumstances) -> None:
        self._grants_may_be_made(now)
        require(now.synced and not now.dirty, "a window opens only when a claim could be granted")
        require(fact.id in self.tickets, "only a ticket that waits may claim")
        require(not self.leases, "no window opens while the GPU is held")
        others = [place.id for place in self.tickets.values() if place.window and place.id != fact.id]
        require(not others, "one window at a time")
        place = self.tickets[fact.id]
        require(
            place.window or self.in_order(fact.at_ms)[0].id == fact.id, "the window opens for the head of the queue"
        )
        place.window = True

    def _grant(self, fact: LeaseGranted, now: Circumstances) -> None:
        self._grants_may_be_made(now)
        require(now.synced, "nothing is granted while not in sync")
        require(not now.dirty, "a dirty GPU stays closed")
        require(not self.leases, "two leases are never on the same exclusive GPU")
        require(fact.fence > self.fence, "fences only grow")
        require(fact.id not in self.ended, "what has ended is not granted")
        require(fact.id not in self.granted, "a lease is granted once")
        place = self.tickets.pop(fact.id, None)
        windows = [other.id for other in self.tickets.values() if other.window]
        require(not windows, "an open claim window is not withdrawn")
        if place is None:
            require(not self.tickets, "a fresh caller does not overtake the queue")
        elif not place.window:
            ahead = self.in_order(fact.at_ms)
            mine = round(self.points(place, fact.at_ms), 6)
            overtaken = ahead and (-round(self.points(ahead[0], fact.at_ms), 6), ahead[0].arrival) < (
                -mine,
                place.arrival,
            )
            require(not overtaken, "the head of the queue is not overtaken")
        self.fence = fact.fence
        self.granted.add(fact.id)
        if fact.terms.target is not None:
            resident = self.residents.pop(fact.terms.target, None)
            require((resident is not None) == fact.warm, "a lease is warm if its target was resident")
        self.leases[fact.id] = Held(
            id=fact.id,
            terms=fact.terms,
            project=fact.project,
            fence=fact.fence,
            vram_mib=fact.vram_mib,
            cold=fact.needs_cold_start,
            warm=fact.warm,
            adopted=fact.adopted,
        )

    def _verify(self, fact: RoomVerified, now: Circumstances) -> None:
        lease = self._lease(fact.id)
        require(now.synced, "room is verified only while in sync")
        require(lease.phase == "making_room", "room is verified once")
        others = [target for target in self.residents if target != lease.target]
        require(not others, "a grant evicts every other resident before its room is verified")
        lease.phase = "ready" if lease.target is None else "starting"
        if lease.target is None:
            self.ready.add(fact.id)

    def _end(self, fact: LeaseEnded) -> None:
        lease = self._lease(fact.id)
        del self.leases[fact.id]
        self.ended[fact.id] = fact.reason
        if fact.resident:
            untouched = lease.warm and lease.phase == "making_room" and not lease.cold
            whole = lease.phase == "ready" or lease.adopted or untouched
            require(whole, "a half-started target never becomes resident")
            require(lease.target is not None, "only a target can be resident")
            self.residents[lease.target or ""] = lease.project
