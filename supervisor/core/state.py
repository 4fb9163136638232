"""The state in its two halves, and the indexes that make looking things up cheap. Nothing in here decides.

``Durable`` changes only in ``apply``; ``Observed`` only in ``step``. The queue and the token and scope indexes
are derived from ``Durable`` and kept beside it: a replay rebuilds them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, OrderedDict, deque
from typing import Literal

from msgspec import Struct, field
from sortedcontainers import SortedKeyList

from supervisor.core.facts import AnyFact
from supervisor.core.inputs import ActionKind
from supervisor.core.labels import TargetSpec
from supervisor.core.model import (
    Bystander,
    Container,
    Ended,
    Enforcing,
    Gpu,
    Lease,
    Mode,
    Remembered,
    Resident,
    Terms,
    Ticket,
    Tie,
)
from supervisor.core.processes import Allowed, Finished, Policy, SeenProcess
from supervisor.core.timers import AT_REST, Timers

#: How many of those that had a GPU lately are remembered: the driver's accounts of that time come seconds later.
RAN_MAX = 1_024
#: How many of the processes that have ended are shown.
FINISHED_SHOWN = 100


class Settings(Struct, frozen=True, kw_only=True):
    """What the core is told once, at the start.

    ``aging_per_minute``: points of priority that a ticket gains per minute of waiting (0: plain priority, then FIFO).
    ``gpu_classes``: the GPUs (UUIDs or indices) of each class that has a name. ``headroom_mib`` of each GPU are never
    granted. Where no label says it: a target that was just loaded is not evicted for ``min_residency_ms``, is stopped
    after ``idle_timeout_ms`` without a lease, and is held for ``max_hold_ms`` at most while others wait (0: no limit).
    ``affinity_points``: how many points of priority a ticket for a loaded target counts more (with aging only).
    ``process_...``: what is done about processes on a GPU that stand by no lease; with ``terminate`` one that has been
    there for ``process_settle_ms`` is sent SIGTERM, and SIGKILL ``process_grace_ms`` later.
    ``caller_leases``: how many leases and tickets one caller may have together; ``caller_tickets``: how many of them
    may be tickets (0: no limit). A ticket counts as the lease that it becomes, so that a grant never has to look.
    """

    mode: Mode = "stop"
    aging_per_minute: float = 1.0
    claim_window_ms: int = 10_000
    ttl_min_ms: int = 10_000
    ttl_max_ms: int = 3_600_000
    queue_max: int = 20_000
    down_grace_ms: int = 30_000
    gone_grace_ms: int = 30_000
    fresh_ms: int = 10_000
    vram_return_ms: int = 5_000
    ended_ms: int = 600_000
    ended_max: int = 10_000
    keys_ms: int = 86_400_000
    label_prefix: str = "gpu."
    gpus: tuple[Gpu, ...] = (Gpu("auto"),)
    gpu_classes: dict[str, tuple[str, ...]] = {}
    placement: Literal["pack", "spread"] = "pack"
    headroom_mib: int = 0
    min_residency_ms: int = 0
    idle_timeout_ms: int = 0
    max_hold_ms: int = 0
    affinity_points: float = 0.0
    process_policy: Policy = "observe"
    process_grace_ms: int = 300_000
    process_settle_ms: int = 10_000
    process_allow: tuple[Allowed, ...] = ()
    process_spare_root: bool = True
    process_spare_graphics: bool = True
    caller_leases: int = 0
    caller_tickets: int = 0


class Durable(Struct):
    """What the journal says. Two supervisors with the same journal have equal ones.

    ``peaks``: the most that each target was seen to use (MiB).
    ``ended`` (by token hash, for minutes) and ``ended_keys`` (by idempotency scope, for a day) are oldest first.
    """

    fact_seq: int = 0
    time_ms: int = 0
    time_wall_ms: int = 0
    boot_id: str = ""
    boot_offset_ms: int = 0
    fence: int = 0
    arrivals: int = 0
    last_target: str | None = None
    leases: dict[str, Lease] = field(default_factory=dict)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    residents: dict[str, Resident] = field(default_factory=dict)
    ended: OrderedDict[str, Ended] = field(default_factory=OrderedDict)
    ended_keys: OrderedDict[str, Ended] = field(default_factory=OrderedDict)
    remembered: OrderedDict[str, Remembered] = field(default_factory=OrderedDict)
    first_sync_done: bool = False
    peaks: OrderedDict[str, int] = field(default_factory=OrderedDict)


class Run(Struct):
    """One run of a container as we came to know it.

    ``fresh``: it had run for less than ``Settings.fresh_ms`` when first seen. ``had_right``: it was allowed to
    run at some time, so it gets its own stop grace. ``judged``: its refusal was already recorded.
    ``spared``: mode observe left it alone, until a lease needs the room.
    ``hinted_after``: only an event told us so far; the run that an inspect showed before it.
    ``gpus``: where it runs, by what it had the right to; empty: wherever Docker put it. ``killed``: a kill was sent.
    """

    name: str
    fresh: bool
    had_right: bool = False
    judged: bool = False
    spared: bool = False
    hinted_after: str | None = None
    gpus: tuple[str, ...] = ()
    killed: bool = False


class Retry(Struct, frozen=True):
    """A call that changed nothing is not repeated before ``not_before_ms``."""

    failures: int
    not_before_ms: int
    error: str = ""


class Hold(Struct, frozen=True):
    """A caller on the line, waiting for the ticket or lease ``id``.

    ``owns``: nobody else knows the token yet, so its hang-up ends what it waits for.
    ``on_busy``: what it gets when its wait in the queue runs out; "keep": its ticket stays, it knows the token.
    ``terms``: what it asked for; a claim may differ from what its ticket was queued with.
    """

    request_id: int
    id: str
    owns: bool
    on_busy: Literal["refuse", "ticket", "keep"]
    terms: Terms


class Tally(Struct):
    """Refusals of one container place that keeps coming back: one fact a minute, with a count.

    ``last`` is the newest refusal that is not in a fact yet.
    """

    count: int = 0
    last: AnyFact | None = None


class RoomWait(Struct):
    """A lease's wait for memory. ``read``: the GPUs were read since."""

    since_ms: int
    read: bool = False


class Dirty(Struct, frozen=True):
    """A GPU that is closed because memory did not come back; it opens when ``need_mib`` (None: all of it) is free."""

    need_mib: int | None
    detail: str


class Suspect(Struct):
    """A process that stands by nothing. ``asked``: SIGTERM was decided; ``asked_ms``: when it had been sent.

    ``killed``: SIGKILL was decided. ``listings``: how often the engine had been listed when it was first seen;
    ``looks``: how often it was seen since that was done twice more.
    ``forbidden``: the kernel lets us send it nothing, so it is left alone.
    """

    since_ms: int
    listings: int
    looks: int = 0
    reported: bool = False
    asked: bool = False
    asked_ms: int | None = None
    killed: bool = False
    forbidden: bool = False


class Ran(Struct, frozen=True):
    """Who had ``gpus`` (UUIDs) for some time that is over, by the wall clock: a container of a target, or a bare lease.

    ``name``: the target, or the bare lease's owner.
    """

    name: str
    gpus: tuple[str, ...]
    since_wall_ms: int
    until_wall_ms: int
    container: str | None = None


class Stale(Struct):
    """Targets, and Compose projects, whose merged labels are out of date until this step settles."""

    targets: dict[str, None] = field(default_factory=dict)
    projects: dict[str, None] = field(default_factory=dict)


class Observed(Struct):
    """What Docker, the GPUs and the callers on the line showed us; gone with the process.

    ``calls``: what is under way with the engine, by container; ``repeated``: how many kills beside that one.
    ``unlabelled``: containers without a target whose service a labelled one depends on; started, never stopped.
    ``launched``: lease -> container -> the run it had before we started it for this lease ("" for what already ran).
    ``others``: all other containers, as they were last listed.
    ``promised``: until when its callers were last told that a lease lives, at least; that one which is tied
    to a process lives as long as that, when they were told.
    ``handed``: newest answers that told a token for the first time (request -> lease), in case they get lost.
    ``told``: how many such answers a lease's callers had that are not known to be lost, in an earlier life as well.
    ``dirty``: GPUs that are closed, by UUID. ``room``: leases for which all that must stop has stopped, and the memory
    is awaited.
    ``seen_on``: container -> the GPUs on which its processes were last seen.
    ``described``: processes that were looked at, by identity: when they were started, and when they were last seen
    (Unix milliseconds). ``ran``: who had a GPU lately. ``finished``: what the driver's accounts said lately.
    ``before``: bare lease -> the processes that were on its GPUs when its room was verified.
    ``listings``: how often everything that the engine has was taken over.
    ``prevented``: when a container was killed before it ran, as far as we know: that was its refusal.
    """

    containers: dict[str, Container] = field(default_factory=dict)
    by_target: dict[str, dict[str, None]] = field(default_factory=dict)
    unlabelled: dict[str, Container] = field(default_factory=dict)
    others: dict[str, Bystander] = field(default_factory=dict)
    specs: dict[str, TargetSpec] = field(default_factory=dict)
    stale: Stale = field(default_factory=Stale)
    runs: dict[str, Run] = field(default_factory=dict)
    calls: dict[str, ActionKind] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    retries: dict[str, Retry] = field(default_factory=dict)
    launched: dict[str, dict[str, str]] = field(default_factory=dict)
    expires: dict[str, int] = field(default_factory=dict)
    promised: dict[str, int] = field(default_factory=dict)
    holds: dict[int, Hold] = field(default_factory=dict)
    holds_of: dict[str, dict[int, None]] = field(default_factory=dict)
    handed: OrderedDict[int, str] = field(default_factory=OrderedDict)
    told: dict[str, int] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    down_since: dict[str, int] = field(default_factory=dict)
    timers: Timers = field(default_factory=Timers)
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str = ""
    dirty: dict[str, Dirty] = field(default_factory=dict)
    room: dict[str, RoomWait] = field(default_factory=dict)
    seen_on: dict[str, tuple[str, ...]] = field(default_factory=dict)
    before: dict[str, frozenset[tuple[int, int]]] = field(default_factory=dict)
    processes: tuple[SeenProcess, ...] = ()
    suspects: dict[tuple[int, int], Suspect] = field(default_factory=dict)
    process_limits: tuple[str, ...] = ()
    described: OrderedDict[tuple[int, int], tuple[int, int]] = field(default_factory=OrderedDict)
    ran: deque[Ran] = field(default_factory=lambda: deque(maxlen=RAN_MAX))
    finished: deque[Finished] = field(default_factory=lambda: deque(maxlen=FINISHED_SHOWN))
    synced: bool = False
    listings: int = 0
    ever_synced: bool = False
    engine_reason: str = "not connected yet"
    contact_at_ms: int | None = None
    storage_full: bool = False
    safe_mode: str = ""
    stopping: bool = False
    enforcing: Enforcing = Enforcing()
    prevented: dict[str, int] = field(default_factory=dict)

    @property
    def may_write(self) -> bool:
        """Whether what only the audit wants can be written down."""
        return not (self.storage_full or self.safe_mode or self.stopping)

    @property
    def at_rest(self) -> bool:
        """Whether all memory is back of what stopped running, or was to go."""
        return AT_REST not in self.timers.at

    @property
    def memory_wanted(self) -> bool:
        """Whether something waits for the next reading of the GPUs' memory."""
        return bool(self.room or self.dirty)

    @property
    def read_wanted(self) -> bool:
        """Whether somebody waits for the first reading since what must stop for it has stopped."""
        return not all(wait.read for wait in self.room.values())


#: Tickets that ask for the same thing: a target, or a bare lease's GPUs, size and class.
Lane = str | tuple[int, int | None, str | None]


def lane_of(terms: Terms) -> Lane:
    """Return the lane of a request: whoever is in the same one fits on the same GPUs at the same moments."""
    return terms.target if terms.target is not None else (terms.gpus, terms.vram_mib, terms.gpu_class)


class State:
    """Both halves, the settings, and the derived indexes. Owned and changed in place by one task."""

    def __init__(self, settings: Settings, durable: Durable | None = None) -> None:
        self.settings = settings
        self.durable = durable or Durable()
        self.observed = Observed(gpus=settings.gpus)
        self.queue: SortedKeyList = SortedKeyList(key=self.rank)
        self.lanes: dict[Lane, list[Ticket]] = {}
        self.ids_by_token: dict[str, str] = {}
        self.ids_by_scope: dict[str, str] = {}
        #: The processes to be watched, with the leases and tickets that are tied to each.
        self.ids_by_tie: dict[Tie, dict[str, None]] = {}
        #: Grows whenever there is another process to be watched, or one less.
        self.ties_changed = 0
        self.leases_by_target: dict[str, dict[str, None]] = {}
        #: How many leases and tickets, and how many tickets, each caller has; callers with none are not in it.
        self.held_by: Counter[str] = Counter()
        self.tickets_by: Counter[str] = Counter()
        self.windows: dict[str, None] = {}
        #: When the oldest of the remembered ends may be forgotten; the first fact looks at what was loaded.
        self.forget_at_ms: float = 0
        for ticket in self.durable.tickets.values():
            self.index_ticket(ticket)
        for lease in self.durable.leases.values():
            self.index_lease(lease)

    def rank(self, ticket: Ticket) -> tuple[float, float]:
        """Sort key, the head first. Linear aging keeps the order of two tickets for ever, so it never changes:

        ``priority + rate * waited`` of two tickets differs by ``priority - rate * queued_at``, a constant each. Times
        60,000, so that whole rates give whole numbers, and equal ranks are equal.
        """
        return self._rank(ticket.terms.priority, ticket.queued_at_ms, ticket.order)

    def _rank(self, priority: int, queued_at_ms: int, order: float) -> tuple[float, float]:
        return (self.settings.aging_per_minute * queued_at_ms - 60_000 * priority, order)

    def index_ticket(self, ticket: Ticket) -> None:
        self.queue.add(ticket)
        insort(self.lanes.setdefault(lane_of(ticket.terms), []), ticket, key=self.rank)
        self.ids_by_token[ticket.token_hash] = ticket.id
        if ticket.terms.scope:
            self.ids_by_scope[ticket.terms.scope] = ticket.id
        self._index_tie(ticket)
        _count(self.held_by, ticket.terms.caller, 1)
        _count(self.tickets_by, ticket.terms.caller, 1)
        if ticket.window_until_ms is not None:
            self.windows[ticket.id] = None

    def index_lease(self, lease: Lease) -> None:
        if lease.token_hash:
            self.ids_by_token[lease.token_hash] = lease.id
        if lease.terms.scope:
            self.ids_by_scope[lease.terms.scope] = lease.id
        if lease.terms.target is not None:
            self.leases_by_target.setdefault(lease.terms.target, {})[lease.id] = None
        self._index_tie(lease)
        _count(self.held_by, lease.terms.caller, 1)

    def unindex_ticket(self, ticket: Ticket) -> None:
        self.queue.remove(ticket)
        key = lane_of(ticket.terms)
        lane = self.lanes[key]
        del lane[bisect_left(lane, self.rank(ticket), key=self.rank)]
        if not lane:
            del self.lanes[key]
        self.windows.pop(ticket.id, None)
        _count(self.held_by, ticket.terms.caller, -1)
        _count(self.tickets_by, ticket.terms.caller, -1)
        self._forget_token(ticket)

    def unindex_lease(self, lease: Lease) -> None:
        if lease.terms.target is not None:
            self._drop_holder(lease.terms.target, lease.id)
        _count(self.held_by, lease.terms.caller, -1)
        self._forget_token(lease)

    def _drop_holder(self, target: str, lease_id: str) -> None:
        holders = self.leases_by_target[target]
        del holders[lease_id]
        if not holders:
            del self.leases_by_target[target]

    def _forget_token(self, held: Ticket | Lease) -> None:
        self.ids_by_token.pop(held.token_hash, None)
        if held.terms.scope:
            self.ids_by_scope.pop(held.terms.scope, None)
        tie = held.terms.tie
        if tie is not None and tie in self.ids_by_tie:
            tied = self.ids_by_tie[tie]
            tied.pop(held.id, None)
            if not tied:
                del self.ids_by_tie[tie]
                self.ties_changed += 1

    def _index_tie(self, held: Ticket | Lease) -> None:
        tie = held.terms.tie
        if tie is None:
            return
        if tie not in self.ids_by_tie:
            self.ids_by_tie[tie] = {}
            self.ties_changed += 1
        self.ids_by_tie[tie][held.id] = None

    def lease_of(self, target: str) -> Lease | None:
        """Return the lease of a target; of several holders the first, which leads them."""
        lease_id = next(iter(self.leases_by_target.get(target, ())), None)
        return self.durable.leases[lease_id] if lease_id else None

    def holders_of(self, target: str) -> list[Lease]:
        """Return all leases of a target, the first first."""
        return [self.durable.leases[id_] for id_ in self.leases_by_target.get(target, ())]

    def lead_of(self, lease: Lease) -> Lease:
        """Return the first lease of the same target: what is observed of the target is kept under it."""
        return (self.lease_of(lease.target) if lease.target is not None else None) or lease

    def leads(self, lease: Lease) -> bool:
        """Return whether a lease is the first of its target's; a bare one always is."""
        return lease.target is None or next(iter(self.leases_by_target[lease.target])) == lease.id

    def containers_of(self, target: str) -> list[Container]:
        return [self.observed.containers[id_] for id_ in self.observed.by_target.get(target, ())]

    def turn(self, rank: tuple[float, float], target: str | None) -> tuple[float, float]:
        """Sort key by which tickets are served: that of a loaded target counts for more, within a bound.

        Whoever waits gains on it by aging, so nobody is overtaken for longer than ``affinity_points`` take to age.
        """
        loaded = target in self.durable.residents or target in self.leases_by_target
        if self.settings.aging_per_minute <= 0 or not loaded:
            return rank
        return (rank[0] - 60_000 * self.settings.affinity_points, rank[1])

    def rank_of_next(self, priority: int, at_ms: int) -> tuple[float, float]:
        """Sort key that a ticket of ``priority`` would get if it was queued at ``at_ms``."""
        return self._rank(priority, at_ms, float("inf"))

    def position_of_next(self, priority: int, at_ms: int) -> int:
        """Place that such a ticket would get; O(log n)."""
        return int(self.queue.bisect_key_left(self.rank_of_next(priority, at_ms)))

    def position_with(self, ticket: Ticket, priority: int) -> int:
        """Place that a ticket of the queue would get with another priority; O(log n)."""
        place = int(self.queue.bisect_key_left(self._rank(priority, ticket.queued_at_ms, ticket.order)))
        return place - 1 if place > self.position(ticket) else place

    def position(self, ticket: Ticket) -> int:
        """Place in the queue, 0 is the head; O(log n)."""
        return int(self.queue.index(ticket))


def _count(counts: Counter[str], caller: str, change: int) -> None:
    counts[caller] += change
    if not counts[caller]:
        del counts[caller]


class Replaying(State):
    """A state that facts are replayed into. The queue and most indexes are of no use before the last fact: most tickets
    and leases have ended by then, and sorting each of them in and out takes half the time.
    """

    def index_ticket(self, ticket: Ticket) -> None:
        """Left to the state that is made of this one."""

    def unindex_ticket(self, ticket: Ticket) -> None:
        """It was not indexed."""

    def index_lease(self, lease: Lease) -> None:
        """Only what facts about a target's other holders are applied by."""
        if lease.terms.target is not None:
            self.leases_by_target.setdefault(lease.terms.target, {})[lease.id] = None

    def unindex_lease(self, lease: Lease) -> None:
        if lease.terms.target is not None:
            self._drop_holder(lease.terms.target, lease.id)
