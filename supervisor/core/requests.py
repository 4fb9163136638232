"""What callers ask for: acquire, claim with a token, renew.

A request is answered here, or its caller is kept on the line and answered when its turn comes (``settle``).
"""

from __future__ import annotations

import difflib
import shlex

from msgspec import to_builtins
from msgspec.structs import replace

from supervisor.core import policy, room, wishes
from supervisor.core.errors import Refusal
from supervisor.core.facts import LeaseRestarted, LeaseRetimed, TicketKept, TicketQueued
from supervisor.core.inputs import Acquire, Claim, Renew
from supervisor.core.leases import (
    answer,
    bound_wait,
    ended_refusal,
    grant,
    hold,
    promise,
    remember_handed,
    start_ttl,
    stop_ttl,
)
from supervisor.core.model import Lease, Terms, Ticket
from supervisor.core.replies import Queued, Renewed
from supervisor.core.room import Placement
from supervisor.core.state import Hold, State
from supervisor.core.targets import members, spec_of
from supervisor.core.txn import Txn
from supervisor.core.values import shown
from supervisor.core.wishes import Wish

# ---- acquire


def acquire(txn: Txn, request: Acquire) -> None:
    state = txn.state
    wish = wishes.wish_of(state, request.terms)
    known = state.ids_by_scope.get(request.terms.scope or "")
    lease = state.durable.leases.get(known or "")
    refusal = policy.standstill(state) if lease is None else _closed_to(state, lease)
    if refusal is None and known is not None:
        return _take_over(txn, request)
    if refusal is None and request.terms.scope is not None:
        refusal = _ended_with_key(txn, request.terms)
    if refusal is None:
        refusal = never(state, wish, request.terms.caller)
    if refusal is not None:
        return txn.refuse(request.request_id, refusal)
    terms = settled_terms(state, request.terms, priority_given=request.priority_given)
    found = find_place(state, txn.now.at_ms, wish, terms.priority)
    if isinstance(found, Placement):
        caller = Hold(request.request_id, request.id, owns=True, on_busy=request.on_busy, terms=terms)
        hold(txn, caller)
        grant(txn, id_=request.id, token_hash=request.token_hash, token_known=False, terms=terms, place=found)
        return None
    if is_final(found) or (request.wait_ms <= 0 and request.on_busy == "refuse"):
        return txn.refuse(request.request_id, found)
    return _enqueue(txn, request, terms)


def _closed_to(state: State, lease: Lease) -> Refusal | None:
    """Return why the caller of a lease that is there already cannot be answered; on a full disk it can.

    Where nothing becomes ready any more, it could only be held.
    """
    over = state.observed.safe_mode or state.observed.stopping
    return policy.standstill(state) if over and lease.phase != "ready" else None


def never(state: State, wish: Wish, caller: str) -> Refusal | None:
    """Return why a fresh request is refused whether or not it would wait; None if it is not."""
    return policy.standstill(state) or not_leasable(state, wish) or _over_limit(state, caller)


def _over_limit(state: State, caller: str) -> Refusal | None:
    """Return why a caller may have no more leases and tickets; None if it may."""
    held, limit = state.held_by[caller], state.settings.caller_leases
    if not limit or held < limit:
        return None
    detail = f"{caller or 'this caller'} has {held} leases and tickets, and may have {limit}: give one back first"
    return Refusal("caller_limit", detail, {"held": held, "limit": limit})


def find_place(state: State, now_ms: int, wish: Wish, priority: int) -> Placement | Refusal:
    """Return where a fresh request is granted at once, or why it is not: behind everybody who waits for the same."""
    refusal = policy.not_now(state)
    if refusal is not None:
        return refusal
    rank = state.rank_of_next(priority, now_ms)
    found = room.place(state, now_ms, wish, keep_off=policy.keep_off(state, wish, rank))
    return with_queue(state, found) if isinstance(found, Refusal) else found


def with_queue(state: State, refusal: Refusal) -> Refusal:
    """Add to a busy GPU's refusal how long the queue is, and until when the holder has it, as far as that is known."""
    if refusal.code != "gpu_busy":
        return refusal
    context = {**refusal.context, "queue_length": len(state.queue)}
    lease = context.pop("lease", None)
    if lease is not None:
        context["expires_at_ms"] = state.observed.expires.get(lease)
    return Refusal(refusal.code, refusal.detail, context)


def is_final(refusal: Refusal) -> bool:
    """Return whether waiting does not help."""
    return refusal.code in {"insufficient_vram", "gpu_unavailable"}


def settled_terms(state: State, terms: Terms, *, priority_given: bool) -> Terms:
    """Fill in what a request left open: the target's own priority, and a TTL within the configured bounds."""
    spec = spec_of(state, terms.target) if terms.target is not None else None
    priority = terms.priority if priority_given or spec is None else spec.priority
    return replace(terms, priority=priority, ttl_ms=clamp_ttl(state, terms.ttl_ms))


def clamp_ttl(state: State, ttl_ms: int) -> int:
    return max(state.settings.ttl_min_ms, min(ttl_ms, state.settings.ttl_max_ms))


def _enqueue(txn: Txn, request: Acquire, terms: Terms) -> None:
    state = txn.state
    full = queue_full(state, terms.caller)
    if full is not None:
        return txn.refuse(request.request_id, full)
    waits = request.wait_ms > 0
    txn.emit(TicketQueued, id=request.id, token_hash=request.token_hash, token_known=not waits, terms=terms)
    # It found no place just now, and another one who waits makes none for the others.
    txn.queue_stood_at = len(txn.out.facts)
    if waits:
        caller = Hold(request.request_id, request.id, owns=True, on_busy=request.on_busy, terms=terms)
        return hold(txn, caller, txn.now.at_ms + request.wait_ms)
    remember_handed(txn, request.request_id, request.id)
    return txn.reply(Queued(request.request_id, request.id, state.position(state.durable.tickets[request.id])))


def queue_full(state: State, caller: str) -> Refusal | None:
    if len(state.queue) >= state.settings.queue_max:
        return Refusal("queue_full", f"{len(state.queue)} tickets wait already, which is the configured limit")
    waiting, limit = state.tickets_by[caller], state.settings.caller_tickets
    if not limit or waiting < limit:
        return None
    detail = f"{caller or 'this caller'} has {waiting} places in the queue, and may have {limit}"
    return Refusal("caller_limit", detail, {"held": waiting, "limit": limit})


def _ended_with_key(txn: Txn, terms: Terms) -> Refusal | None:
    ended = txn.state.durable.ended_keys.get(terms.scope or "")
    if ended is None or ended.at_ms + txn.state.settings.keys_ms <= txn.now.at_ms:
        return None
    return _conflict(ended.body, terms) or ended_refusal(ended.what, ended.reason)


def _conflict(known_body: str | None, terms: Terms) -> Refusal | None:
    if known_body == terms.body:
        return None
    return Refusal("idempotency_conflict", "this Idempotency-Key was used with another request; use a new key")


def _take_over(txn: Txn, request: Acquire) -> None:
    """A retry with a key that has a ticket or a lease: it takes its place up again, with the same token."""
    state = txn.state
    id_ = state.ids_by_scope[request.terms.scope or ""]
    ticket = state.durable.tickets.get(id_)
    lease = state.durable.leases.get(id_)
    terms = (ticket or state.durable.leases[id_]).terms
    conflict = _conflict(terms.body, request.terms)
    if conflict is not None:
        return txn.refuse(request.request_id, conflict)
    caller = Hold(request.request_id, id_, owns=True, on_busy=request.on_busy, terms=terms)
    if lease is not None:
        return _wait_for(txn, lease, caller)
    assert ticket is not None
    if request.wait_ms > 0 or ticket.window_until_ms is not None:
        return hold(txn, caller, txn.now.at_ms + max(request.wait_ms, 1))
    return keep_ticket(txn, caller, ticket)


def keep_ticket(txn: Txn, caller: Hold, ticket: Ticket) -> None:
    if not ticket.token_known:
        txn.emit(TicketKept, id=ticket.id)
    remember_handed(txn, caller.request_id, ticket.id)
    txn.reply(Queued(caller.request_id, ticket.id, txn.state.position(txn.state.durable.tickets[ticket.id])))


def not_leasable(state: State, wish: Wish) -> Refusal | None:
    """Return why ``wish`` cannot be granted at all: unknown, absent, invalid, or too large; None if they can."""
    wrong = wrong_with(state, wish.target) if wish.target is not None else None
    return wrong or wishes.never(state, wish)


def wrong_with(state: State, target: str) -> Refusal | None:
    """Return what is wrong with a target: unknown, absent, or invalid; None if nothing is."""
    spec = spec_of(state, target)
    if spec is None or not members(state, target):
        return _missing(state, target)
    if not spec.valid:
        problems = [to_builtins(problem) for problem in spec.problems if problem.severity == "error"]
        detail = "; ".join(problem.message for problem in spec.problems if problem.severity == "error")
        return Refusal("target_invalid", f"the labels of {target} must be mended: {detail}", {"problems": problems})
    return None


def _missing(state: State, target: str) -> Refusal:
    if not state.observed.ever_synced:
        return Refusal("engine_unavailable", "the container engine has not been seen yet: no target is known")
    known = state.durable.remembered.get(target)
    if known is None and target not in state.observed.specs:
        near = difflib.get_close_matches(target, [*state.observed.specs, *state.durable.remembered], n=1)
        hint = f"did you mean {near[0]}?" if near else "create it first (docker compose create), or check the label"
        return Refusal(
            "target_unknown",
            f"no container is labelled {state.settings.label_prefix}target={target}; {hint}",
            {"target": target},
        )
    return Refusal("target_absent", f"{target} has no containers; create them with: {create_command(state, target)}")


def create_command(state: State, target: str) -> str:
    """Return what to type so that the containers of an absent target exist again."""
    known = state.durable.remembered.get(target)
    if known is None or not known.project:
        return "docker compose create"
    files = [word for file in known.config_files.split(",") if file for word in ("-f", shown(file, 500))]
    return shlex.join(["docker", "compose", "-p", shown(known.project), *files, "create"])


# ---- coming back with a token


def claim(txn: Txn, request: Claim) -> None:
    state = txn.state
    id_ = state.ids_by_token.get(request.token_hash)
    if id_ is None:
        return txn.refuse(request.request_id, _unknown_token(state, request))
    held = state.durable.leases.get(id_) or state.durable.tickets[id_]
    if request.target is not None and request.target != held.terms.target:
        detail = f"this token belongs to {held.terms.target or 'a bare lease'}, not to {request.target}"
        return txn.refuse(request.request_id, Refusal("target_mismatch", detail))
    if isinstance(held, Lease):
        closed = _closed_to(state, held)
        if closed is not None:
            return txn.refuse(request.request_id, closed)
        return _refresh(txn, request, held) if request.refresh else _rejoin(txn, request, held)
    return _claim_ticket(txn, request, held)


def _unknown_token(state: State, request: Claim) -> Refusal:
    ended = state.durable.ended.get(request.token_hash)
    if ended is not None and ended.reason == "ticket_expired":
        return Refusal("ticket_expired", "its turn came and was not claimed in time; ask for a new ticket")
    if ended is not None:
        return ended_refusal(ended.what, ended.reason)
    return unknown_lease() if not request.refresh else Refusal("lease_mismatch", "no lease or ticket has this token")


def unknown_lease() -> Refusal:
    return Refusal("lease_unknown", "no lease or ticket has this token: it has ended, or never was")


def _terms_of_claim(state: State, request: Claim, terms: Terms) -> Terms:
    return replace(
        terms,
        ttl_ms=terms.ttl_ms if request.ttl_ms is None else clamp_ttl(state, request.ttl_ms),
        wait_ready=terms.wait_ready if request.wait_ready is None else request.wait_ready,
        ready_timeout_ms=terms.ready_timeout_ms if request.ready_timeout_ms is None else request.ready_timeout_ms,
    )


def _claim_ticket(txn: Txn, request: Claim, ticket: Ticket) -> None:
    state = txn.state
    terms = _terms_of_claim(state, request, ticket.terms)
    caller = Hold(request.request_id, ticket.id, owns=False, on_busy="keep", terms=terms)
    busy = policy.standstill(state) or policy.not_now(state)
    if busy is None and ticket.window_until_ms is not None:
        # The window has reserved its room until it is claimed or lapses; only its GPU may have been lost or closed.
        found = room.place(state, txn.now.at_ms, wishes.wish_of(state, terms), own_id=ticket.id)
        if isinstance(found, Placement):
            hold(txn, caller)
            grant(txn, id_=ticket.id, token_hash=ticket.token_hash, token_known=True, terms=terms, place=found)
            return None
        busy = with_queue(state, found)
    if request.wait_ms > 0 and not state.observed.stopping:
        return hold(txn, caller, txn.now.at_ms + request.wait_ms)
    return txn.refuse(request.request_id, not_your_turn(state, txn.now.at_ms, ticket, busy))


def not_your_turn(state: State, now_ms: int, ticket: Ticket, busy: Refusal | None = None) -> Refusal:
    position = state.position(ticket)
    if busy is None:
        busy = why_waits(state, now_ms, ticket.terms, ticket.id)
    detail = f"{busy.detail}; place {position + 1} in the queue"
    return Refusal(busy.code, detail, {**busy.context, "queue_index": position})


def why_waits(state: State, now_ms: int, terms: Terms, own_id: str = "") -> Refusal:
    """Return why a ticket with ``terms`` is not served now, as far as it is not those ahead of it."""
    found = policy.standstill(state) or policy.not_now(state)
    if found is not None:
        return found
    place = room.place(state, now_ms, wishes.wish_of(state, terms), own_id=own_id)
    if isinstance(place, Refusal):
        return with_queue(state, place)
    return Refusal("gpu_busy", "its turn has not come", {"queue_length": len(state.queue)})


def _rejoin(txn: Txn, request: Claim, lease: Lease) -> None:
    """Claim of a ticket that is a lease already: its answer was lost, or it comes late."""
    terms = _terms_of_claim(txn.state, request, lease.terms)
    return _wait_for(txn, lease, Hold(request.request_id, lease.id, owns=False, on_busy="keep", terms=terms))


def _refresh(txn: Txn, request: Claim, lease: Lease) -> None:
    """The plain /acquire with the token of a lease: a new TTL, and a new start of a target that went down."""
    state = txn.state
    refusal = policy.standstill(state)
    lead = state.lead_of(lease)
    if refusal is not None and lead.id in state.observed.down_since:
        return txn.refuse(request.request_id, refusal)
    terms = _terms_of_claim(state, request, lease.terms)
    if terms.ttl_ms != lease.terms.ttl_ms and refusal is None:
        txn.emit(LeaseRetimed, id=lease.id, ttl_ms=terms.ttl_ms)
    if lead.id in state.observed.down_since:
        _restart(txn, lead)
    lease = state.durable.leases[lease.id]
    return _wait_for(txn, lease, Hold(request.request_id, lease.id, owns=False, on_busy="keep", terms=terms))


def _wait_for(txn: Txn, lease: Lease, caller: Hold) -> None:
    """Keep a caller of a lease on the line until its answer is due, which may be at once.

    Where that is earlier than the grant's own terms say, it is written down: after a restart nobody would know that
    its holder was told how long it has it.
    """
    if lease.target is not None and not caller.terms.wait_ready and not lease.answer_due:
        refusal = policy.standstill(txn.state)
        if refusal is not None:
            return txn.refuse(caller.request_id, refusal)
        txn.emit(LeaseRetimed, id=lease.id, ttl_ms=lease.terms.ttl_ms, answered=True)
        lease = txn.state.durable.leases[lease.id]
    stop_ttl(txn, lease)
    bound_wait(txn, lease, caller.terms)
    hold(txn, caller)
    return answer(txn, lease)


def _restart(txn: Txn, lease: Lease) -> None:
    assert lease.target is not None
    observed = txn.state.observed
    txn.emit(LeaseRestarted, id=lease.id, target=lease.target)
    observed.down_since.pop(lease.id, None)
    observed.launched.pop(lease.id, None)
    observed.timers.drop(("down", lease.id))
    txn.touch(lease.target)


def renew(txn: Txn, request: Renew) -> None:
    """Move a lease's expiry. Writes nothing: after a restart every lease gets a fresh TTL."""
    state = txn.state
    lease = state.durable.leases.get(state.ids_by_token.get(request.token_hash, ""))
    if lease is None:
        ended = state.durable.ended.get(request.token_hash)
        refusal = unknown_lease()
        if ended is not None:
            refusal = Refusal(
                "lease_unknown", f"this {ended.what} has ended ({ended.reason})", {"reason": ended.reason}
            )
        elif request.token_hash in state.ids_by_token:
            refusal = Refusal("lease_unknown", "this is a ticket, not yet a lease: there is nothing to renew")
        return txn.refuse(request.request_id, refusal)
    start_ttl(txn, lease)
    return txn.reply(Renewed(request.request_id, promise(txn, lease), lease.terms.ttl_ms, lease.ends_at_ms))
