"""The life of a lease: granted, answered, restarted, ended; and the callers on the line that wait for it."""

from __future__ import annotations

from typing import Any

from supervisor.core.errors import Refusal
from supervisor.core.facts import LeaseEnded, LeaseGranted, ResidencyEnded, TicketEnded, WindowOpened
from supervisor.core.model import Lease, Terms, Ticket
from supervisor.core.replies import Granted
from supervisor.core.room import Placement
from supervisor.core.state import Hold, Ran, State
from supervisor.core.targets import Standing, limit_ms, members, runs, spec_of
from supervisor.core.txn import Txn

#: How many delivered-for-the-first-time answers are remembered, in case they turn out to be lost.
HANDED_MAX = 20_000


# ---- callers on the line


def hold(txn: Txn, caller: Hold, deadline_ms: int | None = None) -> None:
    """Keep a caller on the line for the ticket or lease ``caller.id``."""
    observed = txn.state.observed
    observed.holds[caller.request_id] = caller
    observed.holds_of.setdefault(caller.id, {})[caller.request_id] = None
    if deadline_ms is not None:
        observed.timers.set(("hold", str(caller.request_id)), deadline_ms)


def let_go(txn: Txn, request_id: int) -> Hold | None:
    """Forget a caller: it was answered, or it hung up."""
    observed = txn.state.observed
    caller = observed.holds.pop(request_id, None)
    if caller is not None:
        observed.timers.drop(("hold", str(request_id)))
        rest = observed.holds_of[caller.id]
        del rest[request_id]
        if not rest:
            del observed.holds_of[caller.id]
    return caller


def on_the_line(txn: Txn, id_: str) -> list[Hold]:
    observed = txn.state.observed
    return [observed.holds[request_id] for request_id in observed.holds_of.get(id_, ())]


def refuse_all(txn: Txn, id_: str, refusal: Refusal, logs_of: str | None = None) -> None:
    for caller in on_the_line(txn, id_):
        let_go(txn, caller.request_id)
        txn.refuse(caller.request_id, refusal, logs_of)


# ---- granting


def grant(
    txn: Txn,
    *,
    id_: str,
    token_hash: str,
    token_known: bool,
    terms: Terms,
    place: Placement,
    adopted: bool = False,
) -> Lease:
    """Grant ``place``. Whether it may be granted was decided by the caller, in this same step."""
    state = txn.state
    spec = spec_of(state, terms.target) if terms.target is not None else None
    resident = state.durable.residents.get(terms.target) if terms.target is not None else None
    joins = place.joins is not None
    txn.emit(
        LeaseGranted,
        id=id_,
        fence=state.durable.fence + 1,
        token_hash=token_hash,
        token_known=token_known,
        terms=terms,
        project=spec.project if spec is not None else "",
        gpus=place.gpus,
        vram_mib=place.need_mib,
        needs_cold_start=not adopted
        and not joins
        and terms.target is not None
        and needs_cold_start(state, terms.target),
        adopted=adopted,
        warm=resident is not None,
        joins=place.joins,
    )
    timers = state.observed.timers
    timers.drop(("window", id_))
    if terms.target is not None:
        timers.drop_of(terms.target, "idle", "young", "unused")
    for caller in on_the_line(txn, id_):
        timers.drop(("hold", str(caller.request_id)))
    lease = state.durable.leases[id_]
    time_hold(txn, lease)
    for target in place.evicts:
        end_residency(txn, target, "evicted", lease)
    bound_wait(txn, lease, terms)
    txn.touch(lease.target)
    answer(txn, lease)
    return lease


def time_hold(txn: Txn, lease: Lease) -> None:
    """Wake up when the holder may have to be told that others wait, or its lease ends for them."""
    most_ms = limit_ms(txn.state, lease.target, "max_hold_ms")
    if most_ms:
        at_ms = lease.ends_at_ms or lease.granted_at_ms + most_ms * 2 // 3
        txn.state.observed.timers.set(("held", lease.id), max(at_ms, txn.now.at_ms + 1))


def bound_wait(txn: Txn, lease: Lease, terms: Terms) -> None:
    """See to it that a caller who waits for readiness (or a bare lease's room) does not wait for ever."""
    timers = txn.state.observed.timers
    key = ("ready", lease.id)
    if lease.phase == "ready" or lease.adopted or key in timers.at:
        return
    if terms.wait_ready or lease.target is None:
        timers.set(key, txn.now.at_ms + terms.ready_timeout_ms)


def needs_cold_start(state: State, target: str) -> bool:
    """Return whether what runs of the target must go before it is started.

    Resident and sound: it stays warm. Resident with an unhealthy master, or running without any right (its stop is
    on its way): it is stopped first and started cold.
    """
    if target in state.durable.residents:
        return any(container.master and container.health == "unhealthy" for container in members(state, target))
    return runs(state, target)


# ---- answering


def lease_state(txn: Txn, lease: Lease) -> str:
    """Return the state of a lease as callers see it."""
    if lease.phase != "ready":
        return "starting"
    return "down" if txn.state.lead_of(lease).id in txn.state.observed.down_since else "ready"


def answer(txn: Txn, lease: Lease) -> None:
    """Answer every caller whose wait for this lease is over; its TTL starts when the last one is answered."""
    due = [caller for caller in on_the_line(txn, lease.id) if _is_due(lease, caller.terms)]
    for caller in due:
        let_go(txn, caller.request_id)
    if due:
        start_ttl(txn, lease)
    for caller in due:
        if caller.owns:
            remember_handed(txn, caller.request_id, lease.id)
            remember_told(txn, lease)
        txn.reply(granted(txn, caller.request_id, lease))


def _is_due(lease: Lease, terms: Terms) -> bool:
    if lease.target is None:
        return lease.phase != "making_room"
    return lease.phase == "ready" or not terms.wait_ready


def granted(txn: Txn, request_id: int, lease: Lease) -> Granted:
    return Granted(request_id, lease, promise(txn, lease), lease_state(txn, lease))


def promise(txn: Txn, lease: Lease) -> int | None:
    """Return until when a caller may count on the lease; None if it has no TTL. Only a shorter TTL takes it back."""
    if lease.adopted:
        return None
    observed = txn.state.observed
    if lease.terms.tie is not None:
        observed.promised[lease.id] = txn.now.at_ms
        return None
    expires_at_ms = observed.expires.get(lease.id, txn.now.at_ms + lease.terms.ttl_ms)
    observed.promised[lease.id] = expires_at_ms
    return expires_at_ms


def start_ttl(txn: Txn, lease: Lease) -> None:
    """Let the lease expire one TTL from now; not at all while a caller of it is on the line, or where a process that
    is watched says when it ends.
    """
    if lease.terms.tie is not None:
        return stop_ttl(txn, lease)
    return _expire_at(txn, lease, txn.now.at_ms + lease.terms.ttl_ms)


def start_window(txn: Txn, lease: Lease) -> None:
    """Keep the lease for whoever may still fetch its answer, and for as long as anybody was promised."""
    if lease.terms.tie is not None and lease.id in txn.state.observed.promised:
        return stop_ttl(txn, lease)
    at_ms = txn.now.at_ms + txn.state.settings.claim_window_ms
    return _expire_at(txn, lease, max(at_ms, txn.state.observed.promised.get(lease.id, 0)))


def _expire_at(txn: Txn, lease: Lease, at_ms: int) -> None:
    if lease.adopted:
        return
    observed = txn.state.observed
    if lease.id in observed.holds_of:
        stop_ttl(txn, lease)
        return
    observed.expires[lease.id] = at_ms
    if not observed.safe_mode:  # an end could not be written: known holders keep what they have
        observed.timers.set(("lease", lease.id), at_ms)


def stop_ttl(txn: Txn, lease: Lease) -> None:
    txn.state.observed.expires.pop(lease.id, None)
    txn.state.observed.timers.drop(("lease", lease.id))


def remember_handed(txn: Txn, request_id: int, id_: str) -> None:
    handed = txn.state.observed.handed
    handed[request_id] = id_
    if len(handed) > HANDED_MAX:
        handed.popitem(last=False)


def remember_told(txn: Txn, lease: Lease) -> None:
    told = txn.state.observed.told
    told[lease.id] = told.get(lease.id, 0) + 1


# ---- ending


def end_lease(
    txn: Txn, lease: Lease, reason: str, refusal: Refusal, logs_of: str | None = None, *, caller: str = ""
) -> None:
    """End a lease and answer whoever is on the line for it. What still runs of a ready target becomes resident.

    A half-started target never becomes resident: its containers lose the right to run, and the plan stops them. While
    others hold the target, nothing becomes of it.
    """
    state = txn.state
    observed = state.observed
    led = lease.target is not None and state.leads(lease)
    rest = [other for other in state.holders_of(lease.target or "") if other.id != lease.id]
    txn.emit(
        LeaseEnded,
        id=lease.id,
        reason=reason,
        resident=not rest and _stays(txn, lease),
        owner=lease.terms.owner,
        target=lease.target,
        detail="" if reason in {"released", "forced", "expired", "caller_gone", "process_ended"} else refusal.detail,
        caller=caller,
    )
    if lease.target is None:
        observed.ran.append(Ran(lease.terms.owner, lease.gpus, lease.granted_wall_ms, txn.now.wall_ms))
    if led and rest:
        _hand_over_lead(state, lease, rest[0])
    observed.timers.drop_of(lease.id, "lease", "ready", "down", "vram", "held")
    kept: list[dict[str, Any]] = [
        observed.expires,
        observed.promised,
        observed.told,
        observed.launched,
        observed.down_since,
        observed.room,
        observed.before,
    ]
    for of in kept:
        of.pop(lease.id, None)
    for waiting in on_the_line(txn, lease.id):
        let_go(txn, waiting.request_id)
        if reason == "target_completed":
            txn.reply(Granted(waiting.request_id, lease, None, "ended", reason))
        else:
            txn.refuse(waiting.request_id, refusal, logs_of)
    txn.touch(lease.target)


def _hand_over_lead(state: State, before: Lease, after: Lease) -> None:
    """What is observed of a target is kept under its first lease: the next one takes it over."""
    observed = state.observed
    kept: list[dict[str, Any]] = [observed.launched, observed.down_since, observed.room]
    for of in kept:
        if before.id in of:
            of[after.id] = of.pop(before.id)
    for what in ("down", "vram"):
        at_ms = observed.timers.at.get((what, before.id))
        if at_ms is not None:
            observed.timers.set((what, after.id), at_ms)


def end_target(
    txn: Txn, lease: Lease, reason: str, refusal: Refusal, logs_of: str | None = None, *, caller: str = ""
) -> None:
    """End a lease for what became of its target: all other holders lose theirs as well."""
    state = txn.state
    for holder in reversed(state.holders_of(lease.target) if lease.target is not None else [lease]):
        end_lease(txn, holder, reason, refusal, logs_of, caller=caller)


def _stays(txn: Txn, lease: Lease) -> bool:
    if lease.target is None or not runs(txn.state, lease.target, lease.project):
        return False
    # One that went down, and is to be started again, is not what was warm any more.
    untouched = lease.warm and lease.phase == "making_room" and not lease.needs_cold_start and not lease.restarted
    return lease.phase == "ready" or lease.adopted or untouched


def end_residency(txn: Txn, target: str, reason: str, lease: Lease | None = None, *, caller: str = "") -> None:
    """End a residency. What runs of it loses the right to run; the plan stops it with its own grace."""
    txn.emit(
        ResidencyEnded,
        target=target,
        reason=reason,
        for_lease=lease.id if lease else None,
        for_target=lease.target if lease else None,
        for_owner=lease.terms.owner if lease else None,
        caller=caller,
    )
    # What was reserved for it explains no use any more; what it did use may still be on its way back.
    txn.stir()
    txn.state.observed.timers.drop_of(target, "idle", "young", "unused")
    txn.touch(target)


def end_ticket(txn: Txn, ticket: Ticket, reason: str, refusal: Refusal, *, caller: str = "") -> None:
    """End a ticket and answer whoever is on the line for it."""
    terms = ticket.terms
    txn.emit(TicketEnded, id=ticket.id, reason=reason, owner=terms.owner, target=terms.target, caller=caller)
    txn.state.observed.timers.drop(("window", ticket.id))
    refuse_all(txn, ticket.id, refusal)


def open_window(txn: Txn, ticket: Ticket, place: Placement) -> None:
    """Open the claim window of a ticket whose caller is not on the line, or open it afresh. It reserves ``place``."""
    txn.emit(
        WindowOpened,
        id=ticket.id,
        until_ms=time_window(txn, ticket.id),
        owner=ticket.terms.owner,
        target=ticket.terms.target,
        gpus=place.gpus,
        vram_mib=place.need_mib,
    )


def time_window(txn: Txn, ticket_id: str) -> int:
    """Let a claim window lapse one window from now, and return when."""
    until_ms = txn.now.at_ms + txn.state.settings.claim_window_ms
    txn.state.observed.timers.set(("window", ticket_id), until_ms)
    return until_ms


def failure(txn: Txn, lease: Lease, standing: Standing) -> tuple[str, Refusal]:
    """Return the reason and the refusal for a target that did not come up."""
    code = "target_unhealthy" if standing.state == "unhealthy" else "target_failed"
    observed = txn.state.observed
    culprit = observed.containers.get(standing.culprit or "") or observed.unlabelled.get(standing.culprit or "")
    context = {"target": lease.target, "container": culprit.name if culprit is not None else None}
    return code, Refusal(code, f"{lease.target} did not start: {standing.detail}", context)


def ended_refusal(what: str, reason: str) -> Refusal:
    return Refusal("lease_ended", f"this {what} has ended ({reason}); ask for a new one", {"reason": reason})
