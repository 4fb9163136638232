"""What follows from what happened: readiness, ends, refusals, room, and the next grant, run to a fixed point.

Only targets that were touched are judged, so a renewal costs nothing.
"""

from __future__ import annotations

from supervisor.core import policy
from supervisor.core.enforce import judge_runs
from supervisor.core.errors import Refusal
from supervisor.core.facts import LeaseTold, TargetDown, TargetReady
from supervisor.core.leases import (
    answer,
    end_lease,
    end_target,
    end_ticket,
    failure,
    grant,
    on_the_line,
    open_window,
    time_window,
)
from supervisor.core.making_room import make_room
from supervisor.core.model import Lease
from supervisor.core.occupants import stays_until_ms
from supervisor.core.requests import is_final, not_leasable
from supervisor.core.room import Placement, place
from supervisor.core.sightings import merge_stale
from supervisor.core.state import State
from supervisor.core.targets import (
    Standing,
    is_up,
    limit_ms,
    runs,
    standing,
    team_of,
)
from supervisor.core.txn import Txn
from supervisor.core.wishes import reach, wish_of

#: More rounds than any real history needs; reaching it means that two rules undo each other.
ROUNDS_MAX = 100


def settle(txn: Txn) -> None:
    """Apply the rules until nothing changes any more."""
    merge_stale(txn.state)
    for _ in range(ROUNDS_MAX):
        before = len(txn.out.facts)
        while txn.to_judge:
            target = next(iter(txn.to_judge))
            del txn.to_judge[target]
            judge(txn, target)
        if not txn.state.observed.safe_mode:
            make_room(txn)
            bound_holds(txn)
            advance_queue(txn)
        if len(txn.out.facts) == before and not txn.to_judge:
            return
    raise AssertionError("the rules do not settle")


# ---- one target


def judge(txn: Txn, target: str) -> None:
    """Judge one target: its lease, its residency, and every run of its containers."""
    state = txn.state
    lease = state.lease_of(target)
    if not state.observed.safe_mode and state.observed.synced:
        if lease is not None and lease.phase != "making_room":
            judge_lease(txn, lease)
        _watch_resident(txn, target)
    judge_runs(txn, target)
    for other in state.durable.leases.values():
        if other.phase == "starting" and other.target is not None:
            txn.out.touched.add(other.target)  # what its starts wait for may be gone


def judge_lease(txn: Txn, lease: Lease) -> None:
    now = standing(txn.state, lease)
    if now.state == "completed":
        end_target(txn, lease, "target_completed", Refusal("lease_ended", "its containers have all exited 0"))
    elif lease.phase == "ready":
        _watch_ready(txn, lease, now)
    elif now.state == "ready":
        _become_ready(txn, lease)
    elif lease.adopted:
        _watch_down(txn, lease, now, down=not runs(txn.state, lease.target or "", lease.project))
    elif now.state in {"failed", "unhealthy", "empty"}:
        reason, refusal = failure(txn, lease, now)
        end_target(txn, lease, reason, refusal, logs_of=now.culprit)
    else:
        _watch_down(txn, lease, now, down=now.state == "down")


def _become_ready(txn: Txn, lease: Lease) -> None:
    assert lease.target is not None
    took_ms = txn.now.at_ms - lease.granted_at_ms
    txn.emit(TargetReady, id=lease.id, target=lease.target, took_ms=took_ms)
    observed = txn.state.observed
    observed.timers.drop(("down", lease.id))
    observed.down_since.pop(lease.id, None)
    for holder in txn.state.holders_of(lease.target):
        observed.timers.drop(("ready", holder.id))
        answer(txn, holder)


def _watch_ready(txn: Txn, lease: Lease, now: Standing) -> None:
    """A leased target that was ready is not started again by us: it is down, for a while, and then its lease ends.

    During a recreate it is up as long as the old container is: the new one exists before the old one stops.
    """
    up = [c for c in txn.state.containers_of(lease.target or "") if c.project == lease.project and is_up(c)]
    _watch_down(txn, lease, now, down=not any(c.master and not c.one_off for c in up))


def _watch_down(txn: Txn, lease: Lease, now: Standing, *, down: bool) -> None:
    observed = txn.state.observed
    key = ("down", lease.id)
    if not down:
        observed.down_since.pop(lease.id, None)
        observed.timers.drop(key)
        return
    if lease.id not in observed.down_since and lease.phase == "ready":
        observed.down_since[lease.id] = txn.now.at_ms
        txn.emit(TargetDown, id=lease.id, target=lease.target, detail=now.detail or "its master does not run")
    if key not in observed.timers.at:
        observed.timers.set(key, txn.now.at_ms + txn.state.settings.down_grace_ms)


def down_over(txn: Txn, lease: Lease) -> None:
    """The grace of a target that is down is over."""
    now = standing(txn.state, lease)
    detail = now.detail or "its master does not run"
    if lease.phase == "ready" or lease.adopted:
        refusal = Refusal("lease_ended", f"{lease.target} went down: {detail}", {"reason": "target_down"})
        end_target(txn, lease, "target_down", refusal, logs_of=now.culprit)
    else:
        reason, refusal = failure(txn, lease, Standing("failed", detail, now.culprit))
        end_target(txn, lease, reason, refusal, logs_of=now.culprit)


def ready_over(txn: Txn, lease: Lease) -> None:
    """A caller waited for readiness for as long as it wanted to."""
    if lease.phase == "ready":
        return
    seconds = lease.terms.ready_timeout_ms // 1000
    what = lease.target or "a bare lease"
    if lease.phase == "making_room":
        detail = f"no room could be made for {what} in {seconds} s: {_who_stays(txn.state, lease)}"
    else:
        detail = f"{what} was not ready in {seconds} s"
    culprit = next((c.id for c in team_of(txn.state, lease) if c.master), None)
    refusal = Refusal("target_timeout", detail, {"target": lease.target})
    end_lease(txn, lease, "target_timeout", refusal, logs_of=culprit)


def _who_stays(state: State, lease: Lease) -> str:
    if not state.observed.synced:
        return f"not in sync with the container engine ({state.observed.engine_reason})"
    names = [c.name for c in state.observed.containers.values() if c.runs and c.target != lease.target]
    return f"still running: {', '.join(sorted(names))}" if names else "its memory did not come back"


def _watch_resident(txn: Txn, target: str) -> None:
    """A residency ends when nothing of the target has run for a while, in sync, or when nobody used it for long."""
    state = txn.state
    timers = state.observed.timers
    resident = state.durable.residents.get(target)
    if resident is None or runs(state, target, resident.project):
        timers.drop(("idle", target))
    elif ("idle", target) not in timers.at:
        timers.set(("idle", target), txn.now.at_ms + state.settings.gone_grace_ms)
    if resident is None:
        return
    # When it may first be evicted, whoever waits for its room is looked at again.
    young_until_ms = stays_until_ms(state, resident)
    if young_until_ms > txn.now.at_ms:
        timers.set(("young", target), young_until_ms)
    unused_ms = limit_ms(state, target, "idle_timeout_ms")
    if unused_ms and ("unused", target) not in timers.at:
        timers.set(("unused", target), max(txn.now.at_ms, resident.since_ms + unused_ms))


# ---- the queue


def bound_holds(txn: Txn) -> None:
    """Whoever renews for ever is told after two thirds of the target's limit, and ended after it, while others wait.

    Who held for long while nobody waited gets the last third from then on.
    """
    state = txn.state
    if not state.queue or policy.standstill(state) or not state.observed.synced:
        return
    wanted: set[str] | None = None
    for lease in list(state.durable.leases.values()):
        most_ms = limit_ms(state, lease.target, "max_hold_ms")
        if not most_ms or (lease.ends_at_ms or lease.granted_at_ms + most_ms * 2 // 3) > txn.now.at_ms:
            continue
        wanted = policy.wanted(state) if wanted is None else wanted
        if wanted.isdisjoint(lease.gpus):
            continue
        if lease.ends_at_ms is None:
            ends_at_ms = max(lease.granted_at_ms + most_ms, txn.now.at_ms + most_ms // 3)
            txn.emit(LeaseTold, id=lease.id, ends_at_ms=ends_at_ms, owner=lease.terms.owner, target=lease.target)
            state.observed.timers.set(("held", lease.id), ends_at_ms)
        else:
            detail = f"it was held for {most_ms // 1000} s, and others wait; ask for a new one"
            end_lease(txn, lease, "max_hold", Refusal("lease_ended", detail, {"reason": "max_hold"}))


def advance_queue(txn: Txn) -> None:
    """Serve the queue as far as there is room: whoever is on the line is granted, else a claim window opens."""
    if txn.queue_stood_at == len(txn.out.facts) and not txn.out.touched:
        return  # nothing has changed since it was found that nobody can be served
    while txn.state.queue and _serve_one(txn):
        pass
    txn.queue_stood_at = len(txn.out.facts)


def _serve_one(txn: Txn) -> bool:
    """Serve the first ticket that can be served; nobody goes first on a GPU that an earlier one could use.

    Returns False if there is none.
    """
    state = txn.state
    if policy.standstill(state) or policy.not_now(state):
        return False
    able = {gpu.uuid for gpu in state.observed.gpus if gpu.state == "ok"}
    taken: set[str] = set()
    for _, ticket in policy.in_turn(state):
        wish = wish_of(state, ticket.terms)
        refusal = not_leasable(state, wish)
        if refusal is not None:
            end_ticket(txn, ticket, refusal.code, refusal)
            return True
        callers = on_the_line(txn, ticket.id)
        if ticket.window_until_ms is not None and not callers:
            continue  # its room is reserved
        terms = callers[-1].terms if callers else ticket.terms
        keep_off = taken if ticket.window_until_ms is None else ()
        found = place(state, txn.now.at_ms, wish, keep_off=keep_off, own_id=ticket.id)
        if isinstance(found, Placement) and callers:
            known = ticket.token_known
            grant(txn, id_=ticket.id, token_hash=ticket.token_hash, token_known=known, terms=terms, place=found)
            return True
        if isinstance(found, Placement):
            open_window(txn, ticket, found)
            return True
        if is_final(found):
            end_ticket(txn, ticket, found.code, found)
            return True
        if ticket.window_until_ms is not None:
            continue  # the same: only what is in its way has not gone yet
        taken |= reach(state, wish)
        if taken >= able:
            return False
    return False


def window_over(txn: Txn, ticket_id: str) -> None:
    """A claim window has lapsed unclaimed: its ticket ends, and the next head is served."""
    state = txn.state
    ticket = state.durable.tickets.get(ticket_id)
    if ticket is None:
        return
    if policy.standstill(state) or policy.not_now(state):
        # Nobody could have claimed it now: it gets another window when it is over.
        time_window(txn, ticket_id)
        return
    detail = "its turn came and was not claimed in time; ask for a new ticket"
    end_ticket(txn, ticket, "ticket_expired", Refusal("ticket_expired", detail))
