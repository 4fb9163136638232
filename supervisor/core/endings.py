"""Giving back: release, force-release, evict, hanging up, processes that end, and waits that run out."""

from __future__ import annotations

from supervisor.core import policy
from supervisor.core.errors import Refusal
from supervisor.core.facts import GpuOpened
from supervisor.core.inputs import (
    CallerGone,
    Evict,
    ForceEnd,
    ForceRelease,
    OpenGpu,
    ProcessEnded,
    Release,
    ReleaseByKey,
)
from supervisor.core.leases import (
    end_lease,
    end_residency,
    end_target,
    end_ticket,
    ended_refusal,
    let_go,
    on_the_line,
    start_ttl,
    start_window,
)
from supervisor.core.replies import Released
from supervisor.core.requests import keep_ticket, not_your_turn, unknown_lease, wrong_with
from supervisor.core.txn import Txn

# ---- giving back


def release(txn: Txn, request: Release | ReleaseByKey) -> None:
    """End what has this token or key, and answer whoever is on the line for it: with a key that may be the caller's own
    first request, which nobody waits for any more.
    """
    state = txn.state
    if state.observed.safe_mode:
        refusal = policy.standstill(state)
        assert refusal is not None
        return txn.refuse(request.request_id, refusal)
    if isinstance(request, Release):
        id_ = state.ids_by_token.get(request.token_hash)
    else:
        id_ = state.ids_by_scope.get(request.scope)
    if id_ is None:
        return txn.reply(Released(request.request_id, released=False, reason="unknown_or_expired"))
    lease = state.durable.leases.get(id_)
    if lease is not None:
        end_lease(txn, lease, "released", ended_refusal("lease", "released"), caller=request.caller)
    else:
        cancelled = ended_refusal("ticket", "cancelled")
        end_ticket(txn, state.durable.tickets[id_], "cancelled", cancelled, caller=request.caller)
    return txn.reply(Released(request.request_id, released=True))


def force_release(txn: Txn, request: ForceRelease) -> None:
    state = txn.state
    if state.observed.safe_mode:
        return txn.refuse(request.request_id, policy.standstill(state) or unknown_lease())
    leases = list(state.durable.leases.values())
    if request.target is not None:
        leases = [lease for lease in leases if lease.target == request.target]
    if len({lease.target or lease.id for lease in leases}) > 1:
        names = sorted(lease.target or lease.id for lease in leases)
        detail = f"there are several leases: name one as target: {', '.join(names)}"
        return txn.refuse(request.request_id, Refusal("bad_request", detail, {"targets": names}))
    if not leases:
        return txn.reply(Released(request.request_id, released=False, reason="no_lease"))
    end_target(txn, leases[0], "forced", ended_refusal("lease", "forced"), caller=request.caller)
    return txn.reply(Released(request.request_id, released=True))


def force_end(txn: Txn, request: ForceEnd) -> None:
    """End exactly what has this id; other holders of its target keep theirs."""
    state = txn.state
    if state.observed.safe_mode:
        return txn.refuse(request.request_id, policy.standstill(state) or unknown_lease())
    lease, ticket = state.durable.leases.get(request.id), state.durable.tickets.get(request.id)
    if lease is None and ticket is None:
        return txn.reply(Released(request.request_id, released=False, reason="unknown_or_ended"))
    if lease is not None and request.only == "ticket":
        return txn.reply(Released(request.request_id, released=False, reason="granted"))
    if ticket is not None and request.only == "lease":
        return txn.reply(Released(request.request_id, released=False, reason="queued"))
    if lease is not None:
        end_lease(txn, lease, "forced", ended_refusal("lease", "forced"), caller=request.caller)
    else:
        assert ticket is not None
        end_ticket(txn, ticket, "forced", ended_refusal("ticket", "forced"), caller=request.caller)
    return txn.reply(Released(request.request_id, released=True))


def evict(txn: Txn, request: Evict) -> None:
    state = txn.state
    if state.observed.safe_mode:
        return txn.refuse(request.request_id, policy.standstill(state) or unknown_lease())
    if state.lease_of(request.target) is not None:
        detail = f"{request.target} is leased: release its lease first"
        return txn.refuse(request.request_id, Refusal("target_leased", detail))
    if request.target not in state.durable.residents:
        missing = wrong_with(state, request.target)
        if missing is not None and missing.code == "target_unknown":
            return txn.refuse(request.request_id, missing)
        return txn.reply(Released(request.request_id, released=False, reason="not_resident"))
    end_residency(txn, request.target, "operator", caller=request.caller)
    return txn.reply(Released(request.request_id, released=True))


def open_gpu(txn: Txn, request: OpenGpu) -> None:
    """Open a GPU that was closed because memory did not come back. What is really free decides over each grant."""
    observed = txn.state.observed
    gpu = next((gpu for gpu in observed.gpus if gpu.uuid == request.uuid), None)
    if gpu is None:
        known = ", ".join(gpu.uuid for gpu in observed.gpus) or "none"
        return txn.refuse(
            request.request_id, Refusal("not_found", f"there is no GPU {request.uuid}; known are: {known}")
        )
    if observed.dirty.pop(request.uuid, None) is None:
        return txn.reply(Released(request.request_id, released=False, reason="not_closed"))
    txn.emit(GpuOpened, uuid=request.uuid, reason="operator", caller=request.caller)
    return txn.reply(Released(request.request_id, released=True))


# ---- hanging up, and waits that run out


def caller_gone(txn: Txn, request: CallerGone) -> None:
    """A hang-up. A grant can meet an empty chair:

    1. the caller queues and hangs up; 2. a lease ends and its turn comes; 3. the grant is durable;
    4. the hang-up arrives behind it. So it ends a lease as well as a place in the queue, and an answer that
    could not be handed over (``lease_id``) is taken back.
    """
    state = txn.state
    caller = let_go(txn, request.request_id)
    if caller is None:
        if request.lease_id is not None and state.observed.handed.pop(request.request_id, None) == request.lease_id:
            if request.lease_id in state.observed.told:
                state.observed.told[request.lease_id] -= 1
            _take_back(txn, request.lease_id)
        return
    if on_the_line(txn, caller.id):
        return
    if caller.owns:
        _take_back(txn, caller.id)
    elif caller.id in state.durable.leases:
        lease = state.durable.leases[caller.id]
        # A claim that was never answered stays claimable for one window; a refreshed lease goes on as it was.
        if lease.answer_due:
            state.observed.timers.drop(("ready", lease.id))
            start_ttl(txn, lease)
        else:
            start_window(txn, lease)


def _take_back(txn: Txn, id_: str) -> None:
    """End what nobody can use: only the lost answer would have told its token. A key can fetch it again.

    Two requests with one key may have had the same answer, and only one of them was lost; the other may have been
    before a restart.
    """
    state = txn.state
    ticket = state.durable.tickets.get(id_)
    lease = state.durable.leases.get(id_)
    if ticket is not None and ticket.terms.scope is None:
        end_ticket(txn, ticket, "caller_gone", ended_refusal("ticket", "caller_gone"))
    elif lease is not None and (lease.terms.scope is not None or lease.token_known):
        if not lease.token_known and not state.observed.told.get(id_):
            state.observed.promised.pop(id_, None)
        start_window(txn, lease)
    elif lease is not None:
        end_lease(txn, lease, "caller_gone", ended_refusal("lease", "caller_gone"))


def process_ended(txn: Txn, ended: ProcessEnded) -> None:
    """End what was tied to a process that is gone. Tickets first: nothing is granted to a dead process in between."""
    state = txn.state
    if state.observed.safe_mode:
        return  # an end could not be written: known holders keep what they have
    tied = list(state.ids_by_tie.get(ended.tie, ()))
    detail = f"process {ended.tie.pid}, which it was tied to, has ended"
    refusal = Refusal("lease_ended", f"{detail}; ask for a new one", {"reason": "process_ended"})
    for ticket in [state.durable.tickets[id_] for id_ in tied if id_ in state.durable.tickets]:
        end_ticket(txn, ticket, "process_ended", refusal)
    for lease in [state.durable.leases[id_] for id_ in tied if id_ in state.durable.leases]:
        end_lease(txn, lease, "process_ended", refusal)


def wait_over(txn: Txn, request_id: int) -> None:
    """A caller's wait in the queue has run out."""
    state = txn.state
    caller = let_go(txn, request_id)
    ticket = state.durable.tickets.get(caller.id) if caller is not None else None
    if caller is None or ticket is None:
        return
    if caller.on_busy == "ticket":
        keep_ticket(txn, caller, ticket)
        return
    busy = not_your_turn(state, txn.now.at_ms, ticket)
    refusal = Refusal("scheduler_timeout", f"the wait ran out: {busy.detail}", busy.context)
    txn.refuse(caller.request_id, refusal)
    if caller.on_busy == "refuse" and not on_the_line(txn, ticket.id):
        end_ticket(txn, ticket, "scheduler_timeout", refusal)
