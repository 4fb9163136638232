"""Facts become durable state: the one place where that state changes, live and in a replay alike.

Nothing in here decides: a fact carries every value that is needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from supervisor.core import facts as f
from supervisor.core.facts import AnyFact
from supervisor.core.model import Ended, Lease, Phase, Remembered, Resident, Ticket
from supervisor.core.remember import forget, remember_end
from supervisor.core.state import Durable, Replaying, Settings, State

REMEMBERED_MAX = 1_000

V = TypeVar("V")

#: What changes nothing by itself.
Audited = (
    f.SupervisorStopped
    | f.TargetDown
    | f.ContainerRefused
    | f.ContainerSpared
    | f.StopFailed
    | f.GpuClosed
    | f.GpuOpened
    | f.ProcessReported
    | f.ProcessSignalled
    | f.SignalFailed
    | f.ProcessMissed
)


def apply(state: State, fact: AnyFact) -> None:
    """Change the durable half of ``state`` (and the indexes over it) as ``fact`` says."""
    durable = state.durable
    durable.fact_seq += 1
    durable.time_ms = fact.at_ms
    durable.time_wall_ms = fact.wall_ms
    CHANGES[type(fact)](state, fact)
    if fact.at_ms > state.forget_at_ms:
        forget(state, fact.at_ms)


def apply_all(state: State, facts: Iterable[AnyFact]) -> None:
    """Do what ``apply`` does with each of them. How far they go is noted once, at the end: no change looks at it."""
    fact, count = None, 0
    for fact in facts:
        CHANGES[type(fact)](state, fact)
        if fact.at_ms > state.forget_at_ms:
            forget(state, fact.at_ms)
        count += 1
    if fact is not None:
        state.durable.fact_seq += count
        state.durable.time_ms = fact.at_ms
        state.durable.time_wall_ms = fact.wall_ms


# ---- what each kind of fact changes


def _queue(state: State, fact: f.TicketQueued) -> None:
    durable = state.durable
    durable.arrivals = order = durable.arrivals + 1
    ticket = Ticket(fact.id, order, fact.token_hash, fact.token_known, fact.terms, fact.at_ms, fact.wall_ms)
    durable.tickets[ticket.id] = ticket
    state.index_ticket(ticket)


def _keep_ticket(state: State, fact: f.TicketKept) -> None:
    _replace_ticket(state, replace(state.durable.tickets[fact.id], token_known=True))


def _move_ticket(state: State, fact: f.TicketMoved) -> None:
    ticket = state.durable.tickets[fact.id]
    _replace_ticket(state, replace(ticket, terms=replace(ticket.terms, priority=fact.priority)))


def _open_window(state: State, fact: f.WindowOpened) -> None:
    window = {"window_until_ms": fact.until_ms, "window_gpus": fact.gpus, "window_mib": fact.vram_mib}
    _replace_ticket(state, replace(state.durable.tickets[fact.id], **window))


def _replace_ticket(state: State, ticket: Ticket) -> None:
    state.unindex_ticket(state.durable.tickets[ticket.id])
    state.durable.tickets[ticket.id] = ticket
    state.index_ticket(ticket)


def _end_ticket(state: State, fact: f.TicketEnded) -> None:
    ticket = state.durable.tickets.pop(fact.id)
    state.unindex_ticket(ticket)
    remember_end(state, ticket, fact, "ticket")


def _grant(state: State, fact: f.LeaseGranted) -> None:
    durable = state.durable
    ticket = durable.tickets.pop(fact.id, None)
    if ticket is not None:
        state.unindex_ticket(ticket)
    durable.fence = fact.fence
    terms = fact.terms
    resident = None
    if terms.target is not None:
        resident = durable.residents.pop(terms.target, None)
        durable.last_target = terms.target
    lead = durable.leases[fact.joins] if fact.joins is not None else None
    before = lead or resident
    durable.leases[fact.id] = lease = Lease(  # by place: so many by name take six times as long
        fact.id,
        fact.fence,
        fact.token_hash,
        fact.token_known,
        terms,
        fact.project,
        fact.gpus,
        fact.vram_mib,
        lead.phase if lead is not None else "making_room",
        fact.at_ms,
        fact.wall_ms,
        lead.phase_at_ms if lead is not None else fact.at_ms,
        lead.needs_cold_start if lead is not None else fact.needs_cold_start,
        fact.adopted,
        lead.warm if lead is not None else fact.warm,
        loaded_at_ms=before.loaded_at_ms if before is not None and not fact.needs_cold_start else 0,
    )
    state.index_lease(lease)


def _verify_room(state: State, fact: f.RoomVerified) -> None:
    _enter(state, fact.id, "ready" if fact.target is None else "starting", fact.at_ms)


def _make_ready(state: State, fact: f.TargetReady) -> None:
    _enter(state, fact.id, "ready", fact.at_ms)


def _restart(state: State, fact: f.LeaseRestarted) -> None:
    leases = state.durable.leases
    for holder in state.holders_of(fact.target):  # all of them had their answer, whoever asked again
        leases[holder.id] = replace(holder, restarted=True, loaded_at_ms=0)
    _enter(state, fact.id, "making_room", fact.at_ms)


def _enter(state: State, lease_id: str, phase: Phase, at_ms: int) -> None:
    """All holders of a target enter a phase together."""
    leases = state.durable.leases
    target = leases[lease_id].terms.target
    for id_ in (lease_id,) if target is None else state.leases_by_target[target]:
        lease = leases[id_]
        # Once room is verified nothing old runs any more: a later restart of the target begins from what is there.
        cold = lease.needs_cold_start and phase == "making_room"
        loaded_at_ms = lease.loaded_at_ms or at_ms if phase == "ready" else lease.loaded_at_ms
        leases[id_] = replace(lease, phase=phase, phase_at_ms=at_ms, needs_cold_start=cold, loaded_at_ms=loaded_at_ms)


def _retime(state: State, fact: f.LeaseRetimed) -> None:
    lease = state.durable.leases[fact.id]
    wait_ready = lease.terms.wait_ready and not fact.answered
    terms = replace(lease.terms, ttl_ms=fact.ttl_ms, wait_ready=wait_ready)
    state.durable.leases[fact.id] = replace(lease, terms=terms)


def _tell(state: State, fact: f.LeaseTold) -> None:
    leases = state.durable.leases
    leases[fact.id] = replace(leases[fact.id], ends_at_ms=fact.ends_at_ms)


def _end_lease(state: State, fact: f.LeaseEnded) -> None:
    durable = state.durable
    lease = durable.leases.pop(fact.id)
    state.unindex_lease(lease)
    remember_end(state, lease, fact, "lease")
    target = lease.terms.target
    if fact.resident and target is not None:
        durable.residents[target] = Resident(
            target, lease.project, fact.at_ms, fact.wall_ms, lease.gpus, lease.vram_mib, lease.loaded_at_ms
        )


def _begin_residency(state: State, fact: f.ResidencyBegan) -> None:
    state.durable.residents[fact.target] = Resident(
        fact.target, fact.project, fact.at_ms, fact.wall_ms, fact.gpus, fact.vram_mib
    )


def _end_residency(state: State, fact: f.ResidencyEnded) -> None:
    state.durable.residents.pop(fact.target, None)


def _start(state: State, fact: f.SupervisorStarted) -> None:
    state.durable.boot_id = fact.boot_id
    state.durable.boot_offset_ms = fact.at_ms - fact.boot_ms


def _sync(state: State, _: f.FirstSync) -> None:
    state.durable.first_sync_done = True


def _remember_target(state: State, fact: f.TargetRemembered) -> None:
    known = Remembered(fact.name, fact.project, fact.working_dir, fact.config_files, fact.at_ms)
    _put_last(state.durable.remembered, fact.name, known)


def _see_use(state: State, fact: f.UseSeen) -> None:
    _put_last(state.durable.peaks, fact.target, fact.peak_mib)


def _put_last(kept: OrderedDict[str, V], name: str, value: V) -> None:
    kept[name] = value
    kept.move_to_end(name)
    if len(kept) > REMEMBERED_MAX:
        kept.popitem(last=False)


def _note(state: State, fact: Audited) -> None:
    """Such a fact is for the audit alone."""


#: A million facts are replayed, and a ``match`` asks one type after the other. A test holds that every kind of fact is
#: in here, with a function that takes it.
CHANGES: dict[type[f.Fact], Callable[[State, Any], None]] = {
    f.SupervisorStarted: _start,
    f.FirstSync: _sync,
    f.TicketQueued: _queue,
    f.TicketKept: _keep_ticket,
    f.TicketMoved: _move_ticket,
    f.WindowOpened: _open_window,
    f.TicketEnded: _end_ticket,
    f.LeaseGranted: _grant,
    f.RoomVerified: _verify_room,
    f.TargetReady: _make_ready,
    f.LeaseRestarted: _restart,
    f.LeaseRetimed: _retime,
    f.LeaseTold: _tell,
    f.LeaseEnded: _end_lease,
    f.ResidencyBegan: _begin_residency,
    f.ResidencyEnded: _end_residency,
    f.TargetRemembered: _remember_target,
    f.UseSeen: _see_use,
    **dict.fromkeys(get_args(Audited), _note),
}


# ---- snapshots


class _Frozen(Struct, kw_only=True):
    """A snapshot's shape. New fields have defaults; format 1 is readable for ever."""

    format: int = 1
    fact_seq: int
    time_ms: int
    time_wall_ms: int
    boot_id: str
    boot_offset_ms: int
    fence: int
    arrivals: int
    last_target: str | None
    first_sync_done: bool
    leases: list[Lease]
    tickets: list[Ticket]
    residents: list[Resident]
    ended: list[Ended]
    ended_keys: list[Ended]
    remembered: list[Remembered]
    peaks: list[tuple[str, int]] = []


def freeze(durable: Durable) -> bytes:
    """Encode the durable state as a snapshot (msgpack)."""
    return msgspec.msgpack.encode(
        _Frozen(
            fact_seq=durable.fact_seq,
            time_ms=durable.time_ms,
            time_wall_ms=durable.time_wall_ms,
            boot_id=durable.boot_id,
            boot_offset_ms=durable.boot_offset_ms,
            fence=durable.fence,
            arrivals=durable.arrivals,
            last_target=durable.last_target,
            first_sync_done=durable.first_sync_done,
            leases=list(durable.leases.values()),
            tickets=list(durable.tickets.values()),
            residents=list(durable.residents.values()),
            ended=list(durable.ended.values()),
            ended_keys=list(durable.ended_keys.values()),
            remembered=list(durable.remembered.values()),
            peaks=list(durable.peaks.items()),
        )
    )


def thaw(payload: bytes) -> Durable:
    """Decode a snapshot.

    Raises:
        msgspec.DecodeError: it is none, or of a shape that this version does not know.
    """
    frozen = msgspec.msgpack.decode(payload, type=_Frozen)
    if frozen.format != 1:
        raise msgspec.DecodeError(f"snapshot format {frozen.format}: this version reads format 1")
    return Durable(
        fact_seq=frozen.fact_seq,
        time_ms=frozen.time_ms,
        time_wall_ms=frozen.time_wall_ms,
        boot_id=frozen.boot_id,
        boot_offset_ms=frozen.boot_offset_ms,
        fence=frozen.fence,
        arrivals=frozen.arrivals,
        last_target=frozen.last_target,
        first_sync_done=frozen.first_sync_done,
        leases={lease.id: lease for lease in frozen.leases},
        tickets={ticket.id: ticket for ticket in frozen.tickets},
        residents={resident.target: resident for resident in frozen.residents},
        ended=OrderedDict((ended.token_hash, ended) for ended in frozen.ended),
        ended_keys=OrderedDict((ended.scope or "", ended) for ended in frozen.ended_keys),
        remembered=OrderedDict((known.name, known) for known in frozen.remembered),
        peaks=OrderedDict(frozen.peaks),
    )


def replay(settings: Settings, snapshot: bytes | None, batches: Iterable[Sequence[AnyFact]]) -> State:
    """Rebuild the state from a snapshot and the batches of facts after it."""
    state = Replaying(settings, thaw(snapshot) if snapshot is not None else None)
    apply_all(state, chain.from_iterable(batches))
    return State(settings, state.durable)
