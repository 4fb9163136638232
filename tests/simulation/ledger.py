"""The slow and obvious twin of the supervisor's decisions: it reads the facts, and says which of them may not be.

It keeps its own books in plain dictionaries, knows nothing of ``apply`` or ``State``, and sorts the queue each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from supervisor.core.facts import (
    AnyFact,
    ContainerRefused,
    FirstSync,
    LeaseEnded,
    LeaseGranted,
    LeaseRestarted,
    LeaseTold,
    ResidencyBegan,
    ResidencyEnded,
    RoomVerified,
    TargetReady,
    TicketEnded,
    TicketKept,
    TicketMoved,
    TicketQueued,
    WindowOpened,
)
from supervisor.core.model import Terms
from supervisor.core.wishes import Wish

Verdict = Literal["yes", "no", "unknown"]


def fact_target(fact: LeaseGranted | WindowOpened) -> str | None:
    return fact.terms.target if isinstance(fact, LeaseGranted) else fact.target


def _terms(side: Place | Held | Home) -> Terms:
    return side.terms if not isinstance(side, Home) else Terms(target=side.target, owner="", priority=0, ttl_ms=0)


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
    gpus: tuple[str, ...] = ()
    vram_mib: int | None = None

    @property
    def target(self) -> str | None:
        return self.terms.target


class Held(Struct):
    """A lease as its facts tell of it."""

    id: str
    terms: Terms
    project: str
    fence: int
    gpus: tuple[str, ...] = ()
    vram_mib: int | None = None
    phase: Literal["making_room", "starting", "ready"] = "making_room"
    cold: bool = False
    warm: bool = False
    adopted: bool = False
    joins: str | None = None
    ends_at_ms: int | None = None
    restarted: bool = False

    @property
    def target(self) -> str | None:
        return self.terms.target


class Home(Struct):
    """A residency as its facts tell of it."""

    target: str
    project: str
    gpus: tuple[str, ...] = ()
    vram_mib: int | None = None


class Circumstances(Struct):
    """What was so when a fact was decided. ``dirty``: GPUs that are closed. ``usable_mib``: what leases get of each.

    ``wish``: what a request asks of the GPUs by its words and labels; ``able``: the GPUs that it could use some time.
    """

    synced: bool = True
    storage_full: bool = False
    safe_mode: bool = False
    stopping: bool = False
    dirty: frozenset[str] = frozenset()
    usable_mib: dict[str, int] = {}
    wish: Callable[[Terms], Wish] | None = None
    able: Callable[[Terms], set[str]] | None = None
    most_holders: Callable[[str], int] | None = None


class Ledger(Struct):
    """``ended``: ids of tickets and leases that are over; an id is never used again."""

    aging_per_minute: float
    affinity: float = 0.0
    tickets: dict[str, Place] = field(default_factory=dict)
    leases: dict[str, Held] = field(default_factory=dict)
    residents: dict[str, Home] = field(default_factory=dict)
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

    def holders_of(self, lease: Held) -> list[Held]:
        if lease.target is None:
            return [lease]
        return [other for other in self.leases.values() if other.target == lease.target]

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
            # A restart of a target begins from what is there.
            return "unknown" if (lease.warm and not lease.cold) or lease.restarted else "no"
        home = self.residents.get(target)
        return "yes" if home is not None and home.project == project else "no"

    def points(self, place: Place, at_ms: int) -> float:
        """The effective priority of a ticket: what was asked for, and what waiting has added."""
        return place.terms.priority + self.aging_per_minute * (at_ms - place.queued_at_ms) / 60_000

    def bonus(self, target: str | None, place: Place | None = None) -> float:
        """What the first ticket for a loaded target counts more: it saves a swap."""
        loaded = target is not None and (target in self.residents or self.lease_of(target) is not None)
        if self.aging_per_minute <= 0 or not loaded:
            return 0.0
        if place is not None:
            same = [other for other in self.in_order(self.at_ms) if other.target == target]
            if same[0] is not place:
                return 0.0
        return self.affinity

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
            case TicketMoved():
                self._grants_may_be_made(now)
                require(fact.id in self.tickets, "only a ticket that waits is moved")
                place = self.tickets[fact.id]
                require(not place.window, "whose turn has come is served as it is")
                require(place.terms.priority == fact.before != fact.priority, "a move changes a priority")
                place.terms = replace(place.terms, priority=fact.priority)
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
                for holder in self.holders_of(lease):
                    holder.phase = "ready"
                    self.ready.add(holder.id)
            case LeaseRestarted():
                lease = self._lease(fact.id)
                require(lease.phase == "ready", "only a target that was ready goes down and is restarted")
                for holder in self.holders_of(lease):
                    holder.phase, holder.restarted = "making_room", True
            case LeaseTold():
                lease = self._lease(fact.id)
                require(lease.ends_at_ms is None, "a holder is told once")
                require(self.tickets, "a holder is told when others wait")
                lease.ends_at_ms = fact.ends_at_ms
            case LeaseEnded():
                self._end(fact)
            case ResidencyBegan():
                require(self.lease_of(fact.target) is None, "a leased target is not resident")
                self.residents[fact.target] = Home(fact.target, fact.project, fact.gpus, fact.vram_mib)
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
        require(now.synced, "a window opens only when a claim could be granted")
        require(fact.id in self.tickets, "only a ticket that waits may claim")
        place = self.tickets[fact.id]
        lead = self.lease_of(place.target) if place.target is not None else None
        again = place.window
        require(again or lead or now.dirty.isdisjoint(fact.gpus), "no window opens on a GPU that is closed")
        if not again:
            self._nobody_is_overtaken(fact, place, 0, now)
        place.window, place.gpus, place.vram_mib = True, fact.gpus, fact.vram_mib
        if lead is None and not again:
            self._fits(place, now)

    def _grant(self, fact: LeaseGranted, now: Circumstances) -> None:
        self._grants_may_be_made(now)
        require(now.synced, "nothing is granted while not in sync")
        require(fact.joins or now.dirty.isdisjoint(fact.gpus), "a dirty GPU stays closed")
        require(fact.fence > self.fence, "fences only grow")
        require(fact.id not in self.ended, "what has ended is not granted")
        require(fact.id not in self.granted, "a lease is granted once")
        place = self.tickets.pop(fact.id, None)
        lead = self.lease_of(fact.terms.target) if fact.terms.target is not None else None
        require((lead.id if lead is not None else None) == fact.joins, "a lease of a leased target joins the first")
        if lead is not None:
            self._join(lead, fact, now)
        require(
            place is None or place.terms.priority == fact.terms.priority, "a lease has the priority that its ticket had"
        )
        if place is None or not place.window:
            self._nobody_is_overtaken(fact, place, fact.terms.priority, now)
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
            gpus=fact.gpus,
            vram_mib=fact.vram_mib,
            cold=fact.needs_cold_start,
            warm=fact.warm,
            adopted=fact.adopted,
            joins=fact.joins,
        )
        if lead is not None:
            self.leases[fact.id] = replace(self.leases[fact.id], phase=lead.phase, warm=lead.warm, cold=lead.cold)
            if lead.phase == "ready":
                self.ready.add(fact.id)
        self._fits(self.leases[fact.id], now)

    def _join(self, lead: Held, fact: LeaseGranted, now: Circumstances) -> None:
        require(
            fact.gpus == lead.gpus and fact.vram_mib == lead.vram_mib, "holders of one target have its room together"
        )
        require(fact.project == lead.project and not lead.adopted, "only a lease that was asked for is joined")
        holders = len(self.holders_of(lead))
        if now.most_holders is not None:
            require(holders < now.most_holders(lead.target or ""), "a target has no more holders than its labels allow")

    # ---- room

    def _nobody_is_overtaken(
        self, fact: LeaseGranted | WindowOpened, place: Place | None, priority: int, now: Circumstances
    ) -> None:
        """Someone further back, and a fresh caller too, goes first only on GPUs that no earlier ticket could use."""
        if now.able is None:
            return
        points = self.points(place, fact.at_ms) if place is not None else priority
        arrival = place.arrival if place is not None else float("inf")
        mine = (-round(points + self.bonus(fact_target(fact)), 6), arrival)
        for other in self.tickets.values():
            rank = (-round(self.points(other, fact.at_ms) + self.bonus(other.target, other), 6), other.arrival)
            if other is place or other.window or rank > mine:
                continue
            # What the step decided later may have ended what kept its target where it is.
            home = self.lease_of(other.target or "") or self.residents.get(other.target or "")
            able = now.able(other.terms)
            able = able & set(home.gpus) if home is not None and home.gpus else able
            require(able.isdisjoint(fact.gpus), f"nobody overtakes {other.id} on a GPU that it could use")

    def _fits(self, mine: Place | Held, now: Circumstances) -> None:
        """Whoever has room reserved on one GPU agrees to share it, and all of it together fits."""
        if now.wish is None:
            return
        held = {lease.target for lease in self.leases.values() if lease.target is not None}
        open_ = [place for place in self.tickets.values() if place.window and place.target not in held]
        windows = list({place.target or place.id: place for place in reversed(open_)}.values())
        for uuid in mine.gpus:
            usable_mib = now.usable_mib[uuid]
            leads = [lease for lease in self.leases.values() if self.holders_of(lease)[0] is lease]
            here = [other for other in (*leads, *windows) if uuid in other.gpus]
            if mine not in here:
                return  # it joined: its room was counted with the first
            for other in here:
                if other is not mine and (mine.target is None or other.target != mine.target):
                    require(self._agree(mine, other, now), f"{mine.id} and {other.id} do not share GPU {uuid}")
            sizes = [usable_mib if other.vram_mib is None else other.vram_mib for other in here]
            require(sum(sizes) <= usable_mib, f"GPU {uuid} is never over-committed: {sizes}")

    @staticmethod
    def _agree(one: Place | Held | Home, other: Place | Held | Home, now: Circumstances) -> bool:
        assert now.wish is not None
        wishes = [now.wish(_terms(side)) for side in (one, other)]
        first, second = wishes
        return first.sharing.accepts(second.target, second.groups) and second.sharing.accepts(
            first.target, first.groups
        )

    def _verify(self, fact: RoomVerified, now: Circumstances) -> None:
        lease = self._lease(fact.id)
        require(now.synced, "room is verified only while in sync")
        require(lease.phase == "making_room", "room is verified once")
        claimable = {place.target for place in self.tickets.values() if place.window}
        for home in self.residents.values() if now.wish is not None else ():
            if home.target in claimable:
                continue  # what may be claimed is not taken away
            if home.target != lease.target and (not home.gpus or not set(home.gpus).isdisjoint(lease.gpus)):
                require(self._agree(lease, home, now), "a grant evicts every resident that it does not share with")
        loading = [
            other.id
            for other in self.leases.values()
            if other.phase == "starting" and not other.adopted and not set(other.gpus).isdisjoint(lease.gpus)
            if other.target != lease.target
        ]
        require(not loading, f"one target at a time loads on a GPU: {loading}")
        for holder in self.holders_of(lease):
            holder.phase = "ready" if lease.target is None else "starting"
        if lease.target is None:
            self.ready.add(fact.id)

    def _end(self, fact: LeaseEnded) -> None:
        lease = self._lease(fact.id)
        if fact.reason == "max_hold":
            due = lease.ends_at_ms is not None and lease.ends_at_ms <= fact.at_ms
            require(due and self.tickets, "a hold is ended after its holder was told, and for somebody who waits")
        del self.leases[fact.id]
        self.ended[fact.id] = fact.reason
        others = lease.target is not None and self.lease_of(lease.target) is not None
        require(not others or not fact.resident, "a target that others hold is not resident")
        if fact.resident:
            untouched = lease.warm and lease.phase == "making_room" and not lease.cold and not lease.restarted
            whole = lease.phase == "ready" or lease.adopted or untouched
            require(whole, "a half-started target never becomes resident")
            require(lease.target is not None, "only a target can be resident")
            self.residents[lease.target or ""] = Home(lease.target or "", lease.project, lease.gpus, lease.vram_mib)
