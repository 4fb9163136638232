"""Facts become durable state: the one place where that state changes, live and in a replay alike.

Nothing in here decides: a fact carries every value that is needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.facts import (
    AnyFact,
    ContainerRefused,
    ContainerSpared,
    FirstSync,
    GpuClosed,
    GpuOpened,
    LeaseEnded,
    LeaseGranted,
    LeaseRestarted,
    LeaseRetimed,
    LeaseTold,
    ProcessMissed,
    ProcessReported,
    ProcessSignalled,
    ResidencyBegan,
    ResidencyEnded,
    RoomVerified,
    SignalFailed,
    StopFailed,
    SupervisorStarted,
    SupervisorStopped,
    TargetDown,
    TargetReady,
    TargetRemembered,
    TicketEnded,
    TicketKept,
    TicketMoved,
    TicketQueued,
    UseSeen,
    WindowOpened,
)
from supervisor.core.model import Ended, Lease, Phase, Remembered, Resident, Ticket
from supervisor.core.state import Durable, Replaying, Settings, State

#: Ends that were answered with a refusal: an idempotent retry may try again.
REFUSALS = frozenset(
    {
        "scheduler_timeout",
        "shutting_down",
        "insufficient_vram",
        "target_absent",
        "target_failed",
        "target_invalid",
        "target_timeout",
        "target_unknown",
        "target_unhealthy",
    }
)

REMEMBERED_MAX = 1_000


def apply(state: State, fact: AnyFact) -> None:
    """Change the durable half of ``state`` (and the indexes over it) as ``fact`` says."""
    durable = state.durable
    durable.fact_seq += 1
    durable.time_ms = fact.at_ms
    durable.time_wall_ms = fact.wall_ms
    match fact:  # the frequent ones first: a million facts are replayed
        case TicketQueued():
            _queue(state, fact)
        case LeaseGranted():
            _grant(state, fact)
        case RoomVerified():
            _enter(state, fact.id, "ready" if fact.target is None else "starting", fact.at_ms)
        case TargetReady():
            _enter(state, fact.id, "ready", fact.at_ms)
        case LeaseEnded():
            lease = durable.leases.pop(fact.id)
            state.unindex_lease(lease)
            _remember_end(state, lease, fact, what_ended="lease")
            if fact.resident and lease.target is not None:
                durable.residents[lease.target] = Resident(
                    lease.target,
                    lease.project,
                    fact.at_ms,
                    fact.wall_ms,
                    lease.gpus,
                    lease.vram_mib,
                    lease.loaded_at_ms,
                )
        case ResidencyEnded():
            durable.residents.pop(fact.target, None)
        case TicketEnded():
            ticket = durable.tickets.pop(fact.id)
            state.unindex_ticket(ticket)
            _remember_end(state, ticket, fact, what_ended="ticket")
        case WindowOpened():
            window = {"window_until_ms": fact.until_ms, "window_gpus": fact.gpus, "window_mib": fact.vram_mib}
            _replace_ticket(state, replace(durable.tickets[fact.id], **window))
        case SupervisorStarted():
            durable.boot_id = fact.boot_id
            durable.boot_offset_ms = fact.at_ms - fact.boot_ms
        case FirstSync():
            durable.first_sync_done = True
        case TicketKept():
            _replace_ticket(state, replace(durable.tickets[fact.id], token_known=True))
        case TicketMoved():
            ticket = durable.tickets[fact.id]
            _replace_ticket(state, replace(ticket, terms=replace(ticket.terms, priority=fact.priority)))
        case LeaseRestarted():
            for holder in state.holders_of(fact.target):  # all of them had their answer, whoever asked again
                durable.leases[holder.id] = replace(holder, restarted=True, loaded_at_ms=0)
            _enter(state, fact.id, "making_room", fact.at_ms)
        case LeaseRetimed():
            lease = durable.leases[fact.id]
            wait_ready = lease.terms.wait_ready and not fact.answered
            durable.leases[fact.id] = replace(
                lease, terms=replace(lease.terms, ttl_ms=fact.ttl_ms, wait_ready=wait_ready)
            )
        case LeaseTold():
            durable.leases[fact.id] = replace(durable.leases[fact.id], ends_at_ms=fact.ends_at_ms)
        case ResidencyBegan():
            durable.residents[fact.target] = Resident(
                fact.target, fact.project, fact.at_ms, fact.wall_ms, fact.gpus, fact.vram_mib
            )
        case TargetRemembered():
            durable.remembered[fact.name] = Remembered(
                fact.name, fact.project, fact.working_dir, fact.config_files, fact.at_ms
            )
            durable.remembered.move_to_end(fact.name)
            if len(durable.remembered) > REMEMBERED_MAX:
                durable.remembered.popitem(last=False)
        case UseSeen():
            durable.peaks[fact.target] = fact.peak_mib
            durable.peaks.move_to_end(fact.target)
            if len(durable.peaks) > REMEMBERED_MAX:
                durable.peaks.popitem(last=False)
        case SupervisorStopped() | TargetDown() | ContainerRefused() | ContainerSpared() | StopFailed():
            pass  # for the audit alone
        case GpuClosed() | GpuOpened() | ProcessReported() | ProcessSignalled() | SignalFailed() | ProcessMissed():
            pass  # for the audit alone
        case _:
            assert_never(fact)
    if fact.at_ms > state.forget_at_ms:
        _forget(state, fact.at_ms)


def _queue(state: State, fact: TicketQueued) -> None:
    state.durable.arrivals += 1
    ticket = Ticket(
        id=fact.id,
        order=state.durable.arrivals,
        token_hash=fact.token_hash,
        token_known=fact.token_known,
        terms=fact.terms,
        queued_at_ms=fact.at_ms,
        queued_wall_ms=fact.wall_ms,
    )
    state.durable.tickets[ticket.id] = ticket
    state.index_ticket(ticket)


def _replace_ticket(state: State, ticket: Ticket) -> None:
    state.unindex_ticket(state.durable.tickets[ticket.id])
    state.durable.tickets[ticket.id] = ticket
    state.index_ticket(ticket)


def _grant(state: State, fact: LeaseGranted) -> None:
    durable = state.durable
    ticket = durable.tickets.pop(fact.id, None)
    if ticket is not None:
        state.unindex_ticket(ticket)
    durable.fence = fact.fence
    resident = None
    if fact.terms.target is not None:
        resident = durable.residents.pop(fact.terms.target, None)
        durable.last_target = fact.terms.target
    lead = durable.leases[fact.joins] if fact.joins is not None else None
    lease = Lease(
        id=fact.id,
        fence=fact.fence,
        token_hash=fact.token_hash,
        token_known=fact.token_known,
        terms=fact.terms,
        project=fact.project,
        gpus=fact.gpus,
        vram_mib=fact.vram_mib,
        phase=lead.phase if lead is not None else "making_room",
        granted_at_ms=fact.at_ms,
        granted_wall_ms=fact.wall_ms,
        phase_at_ms=lead.phase_at_ms if lead is not None else fact.at_ms,
        needs_cold_start=lead.needs_cold_start if lead is not None else fact.needs_cold_start,
        adopted=fact.adopted,
        warm=lead.warm if lead is not None else fact.warm,
        loaded_at_ms=_loaded_at_ms(fact, lead or resident),
    )
    durable.leases[lease.id] = lease
    state.index_lease(lease)


def _loaded_at_ms(fact: LeaseGranted, before: Lease | Resident | None) -> int:
    return before.loaded_at_ms if before is not None and not fact.needs_cold_start else 0


def _enter(state: State, lease_id: str, phase: Phase, at_ms: int) -> None:
    """All holders of a target enter a phase together."""
    leases = state.durable.leases
    target = leases[lease_id].terms.target
    for id_ in (lease_id,) if target is None else tuple(state.leases_by_target[target]):
        _enter_one(state, leases[id_], phase, at_ms)


def _enter_one(state: State, lease: Lease, phase: Phase, at_ms: int) -> None:
    # Once room is verified nothing old runs any more: a later restart of the target begins from what is there.
    cold = lease.needs_cold_start and phase == "making_room"
    loaded_at_ms = lease.loaded_at_ms or at_ms if phase == "ready" else lease.loaded_at_ms
    state.durable.leases[lease.id] = replace(
        lease, phase=phase, phase_at_ms=at_ms, needs_cold_start=cold, loaded_at_ms=loaded_at_ms
    )


def _remember_end(state: State, held: Ticket | Lease, fact: TicketEnded | LeaseEnded, *, what_ended: str) -> None:
    durable = state.durable
    ended = Ended(
        id=held.id,
        token_hash=held.token_hash,
        what="lease" if what_ended == "lease" else "ticket",
        reason=fact.reason,
        at_ms=fact.at_ms,
        wall_ms=fact.wall_ms,
        scope=held.terms.scope,
        body=held.terms.body,
        target=held.terms.target,
    )
    if held.token_hash:
        durable.ended[held.token_hash] = ended
        state.forget_at_ms = min(state.forget_at_ms, fact.at_ms + _slack(state.settings.ended_ms))
    # Whoever was told a lease or a ticket has had an answer, and a later failure is its end: a retry is no second one.
    answered = held.token_known or (isinstance(held, Lease) and held.answer_due)
    if held.terms.scope and (answered or fact.reason not in REFUSALS):
        durable.ended_keys[held.terms.scope] = ended
        state.forget_at_ms = min(state.forget_at_ms, fact.at_ms + _slack(state.settings.keys_ms))
    if max(len(durable.ended), len(durable.ended_keys)) > _slack(state.settings.ended_max):
        _forget(state, fact.at_ms)


def _forget(state: State, now_ms: int) -> None:
    """Drop what was remembered for long enough. Facts alone decide when, so that a replay forgets the same."""
    durable, settings = state.durable, state.settings
    state.forget_at_ms = min(
        _trim(durable.ended, now_ms, settings.ended_ms, settings.ended_max),
        _trim(durable.ended_keys, now_ms, settings.keys_ms, settings.ended_max),
    )


def _slack(amount: int) -> int:
    """Let a limit be passed by a sixteenth: what is over it is dropped in bulk, not with every fact."""
    return amount + amount // 16


def _trim(ended: OrderedDict[str, Ended], now_ms: int, keep_ms: int, most: int) -> float:
    """Drop what is too old or too much, once there is enough of it; return when the next one will be too old."""
    if len(ended) > _slack(most) or (ended and _oldest_ms(ended) + _slack(keep_ms) < now_ms):
        while ended and (len(ended) > most or _oldest_ms(ended) + keep_ms < now_ms):
            ended.popitem(last=False)
    return _oldest_ms(ended) + _slack(keep_ms)


def _oldest_ms(ended: OrderedDict[str, Ended]) -> float:
    return next(iter(ended.values())).at_ms if ended else float("inf")


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
    for batch in batches:
        for fact in batch:
            apply(state, fact)
    return State(settings, state.durable)
