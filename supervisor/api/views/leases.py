"""Leases and tickets as callers see them: how far, who is ahead, what they wait for, and until when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from msgspec import Struct

from supervisor.answers import Ahead, EndedView, LeaseState, LeaseView, QueueEntry, TicketView
from supervisor.api.times import rfc3339
from supervisor.core.model import Ended, Lease, Now, Terms, Ticket
from supervisor.core.requests import why_waits
from supervisor.core.state import State
from supervisor.core.targets import standing
from supervisor.core.wishes import Wish, wish_of

#: Names of those ahead that a ticket's view lists; its position counts them all.
AHEAD_MAX = 10


def held(state: State, now: Now, token_hash: str) -> LeaseView | TicketView | EndedView | None:
    """Return what a token stands for: a lease, a ticket, one that has ended, or None: nothing that is remembered."""
    id_ = state.ids_by_token.get(token_hash, "")
    lease = state.durable.leases.get(id_)
    if lease is not None:
        return lease_view(state, now, lease)
    ticket = state.durable.tickets.get(id_)
    if ticket is not None:
        return ticket_view(state, now, ticket)
    ended = state.durable.ended.get(token_hash)
    return _ended_view(ended) if ended is not None else None


def _ended_view(ended: Ended) -> EndedView:
    return EndedView(
        id=ended.id,
        what=ended.what,
        target=ended.target,
        consumer=ended.target,
        reason=ended.reason,
        ended_at=rfc3339(ended.wall_ms),
    )


def at(now: Now, at_ms: int | None) -> str | None:
    """Return a moment of supervisor time as callers read it."""
    return rfc3339(now.wall_of(at_ms)) if at_ms is not None else None


# ---- leases


def lease_state(state: State, lease: Lease) -> LeaseState:
    if lease.phase != "ready":
        return "starting"
    return "down" if state.lead_of(lease).id in state.observed.down_since else "ready"


def lease_view(state: State, now: Now, lease: Lease) -> LeaseView:
    expires_at_ms = state.observed.expires.get(lease.id)
    return LeaseView(
        id=lease.id,
        state=lease_state(state, lease),
        fence=lease.fence,
        target=lease.target,
        consumer=lease.target,
        owner=lease.terms.owner,
        priority=lease.terms.priority,
        granted_at=rfc3339(lease.granted_wall_ms),
        expires_at=at(now, expires_at_ms),
        ends_at=at(now, lease.ends_at_ms),
        ttl_seconds=lease.terms.ttl_ms // 1000,
        gpus=lease.gpus,
        cuda_visible_devices=visible_devices(lease),
        vram_mib=lease.vram_mib,
        adopted=lease.adopted,
        joined=is_joined(state, lease),
        pid=_pid(lease.terms),
        why=_why_not_ready(state, lease),
        until=at(now, _until(state, lease)),
    )


def _pid(terms: Terms) -> int | None:
    return terms.tie.pid if terms.tie is not None else None


def visible_devices(lease: Lease) -> str:
    """Return what ``CUDA_VISIBLE_DEVICES`` is for a process of this lease.

    Source: CUDA takes UUIDs there as NVML spells them (CUDA C++ programming guide, "CUDA environment variables").
    """
    return ",".join(lease.gpus)


def is_joined(state: State, lease: Lease) -> bool:
    """Return whether the target of a lease has other holders too."""
    return lease.target is not None and len(state.holders_of(lease.target)) > 1


def _until(state: State, lease: Lease) -> int | None:
    """Return when a lease's present state ends at the latest, in supervisor time, as far as a timer says."""
    timers = state.observed.timers.at
    what = "ready" if lease.phase != "ready" else "down"
    return timers.get((what, lease.id), state.observed.expires.get(lease.id))


def _why_not_ready(state: State, lease: Lease) -> str:
    """Return what a lease waits for, in one sentence; "" once it is ready."""
    if lease.phase == "ready":
        lead = state.lead_of(lease)
        if lead.id not in state.observed.down_since:
            return ""
        return standing(state, lead).detail or f"{lease.target} went down"
    if not state.observed.synced:
        return f"not in sync with the container engine ({state.observed.engine_reason})"
    if lease.phase == "making_room":
        dirty = [state.observed.dirty[uuid].detail for uuid in lease.gpus if uuid in state.observed.dirty]
        return "; ".join(dirty) or _room_awaited(state, lease)
    return standing(state, lease).detail or f"the containers of {lease.target} are starting"


def _room_awaited(state: State, lease: Lease) -> str:
    going = [c.name for c in state.observed.containers.values() if c.runs and c.target != lease.target]
    if going:
        return f"room is being made: {', '.join(sorted(going))} must stop first"
    return "room is being made: the memory of what was stopped has not come back yet"


# ---- tickets


def ticket_state(ticket: Ticket) -> LeaseState:
    return "queued" if ticket.window_until_ms is None else "claimable"


def ticket_view(state: State, now: Now, ticket: Ticket) -> TicketView:
    position = state.position(ticket)
    reason = Reasons(state, now).of(ticket)
    return TicketView(
        id=ticket.id,
        state=ticket_state(ticket),
        target=ticket.terms.target,
        consumer=ticket.terms.target,
        owner=ticket.terms.owner,
        priority=ticket.terms.priority,
        ttl_seconds=ticket.terms.ttl_ms // 1000,
        queued_at=rfc3339(ticket.queued_wall_ms),
        position=position,
        ahead=ahead_of(state, reason.holders, position),
        pid=_pid(ticket.terms),
        why=_why_here(reason, ticket, position),
        until=reason.until,
    )


def holders(state: State, wish: Wish) -> list[Lease]:
    """Return the leases on GPUs that a wish could use."""
    able = {gpu.uuid for gpu in wish.able}
    return [lease for lease in state.durable.leases.values() if not able.isdisjoint(lease.gpus)]


def ahead_of(state: State, leases: Sequence[Lease], position: int) -> tuple[Ahead, ...]:
    """Return who has the GPUs (``leases``), and the first of those before ``position`` in the queue."""
    first = [
        Ahead(lease.id, lease.target, lease.terms.owner, lease.terms.priority, lease_state(state, lease))
        for lease in leases[:AHEAD_MAX]
    ]
    tickets = islice(state.queue, min(position, AHEAD_MAX))
    return (*first, *(Ahead(t.id, t.terms.target, t.terms.owner, t.terms.priority, ticket_state(t)) for t in tickets))


class Reason(Struct, frozen=True):
    """What all tickets of one kind are told: what they need, why and until when they wait, and who has their GPUs."""

    gpu_count: int
    vram_mib: int | None
    why: str
    until: str | None
    holders: tuple[Lease, ...]


def kind_of(ticket: Ticket) -> tuple[Any, ...]:
    """Return a key that tickets share which wait for the same; one whose turn it is shares it with no other."""
    terms = ticket.terms
    own = ticket.id if ticket.window_until_ms is not None else None
    return (own, terms.target, terms.gpus, terms.vram_mib, terms.gpu_class)


class Reasons:
    """Why tickets wait, at one instant: found once for each kind, because thousands may wait for the same."""

    def __init__(self, state: State, now: Now) -> None:
        self._state, self._now = state, now
        self._known: dict[tuple[Any, ...], Reason] = {}

    def of(self, ticket: Ticket) -> Reason:
        kind = kind_of(ticket)
        reason = self._known.get(kind)
        if reason is None:
            reason = self._known[kind] = self._find(ticket)
        return reason

    def _find(self, ticket: Ticket) -> Reason:
        state, now = self._state, self._now
        wish = wish_of(state, ticket.terms)
        if ticket.window_until_ms is not None:
            why = "it is its turn: claim it"
        else:
            why = why_waits(state, now.at_ms, ticket.terms).detail
        leases = tuple(holders(state, wish))
        return Reason(wish.count, wish.need_mib, why, at(now, waits_until(state, ticket, leases)), leases)


def _why_here(reason: Reason, ticket: Ticket, position: int) -> str:
    """Return why a ticket waits at its place in the queue, in one sentence."""
    if position == 0 or ticket.window_until_ms is not None:
        return reason.why
    return f"{reason.why}; {position} ahead of it in the queue"


def waits_until(state: State, ticket: Ticket, leases: Iterable[Lease]) -> int | None:
    """Return the moment (supervisor time) at which something changes for a ticket at the latest, if one is known."""
    if ticket.window_until_ms is not None:
        return state.observed.timers.at.get(("window", ticket.id), ticket.window_until_ms)
    return held_until(state, leases)


def held_until(state: State, leases: Iterable[Lease]) -> int | None:
    """Return when the first of these leases ends unless it is renewed, in supervisor time; None if nobody can say."""
    expires = [state.observed.expires.get(lease.id) for lease in leases]
    return min((at_ms for at_ms in expires if at_ms is not None), default=None)


def queue_entries(state: State, now: Now) -> tuple[QueueEntry, ...]:
    """Return the whole queue in order, in one pass."""
    reasons = Reasons(state, now)
    return tuple(queue_entry(ticket, place, reasons.of(ticket)) for place, ticket in enumerate(state.queue))


def queue_entry(ticket: Ticket, position: int, reason: Reason) -> QueueEntry:
    return QueueEntry(
        id=ticket.id,
        state=ticket_state(ticket),
        target=ticket.terms.target,
        owner=ticket.terms.owner,
        priority=ticket.terms.priority,
        queued_at=rfc3339(ticket.queued_wall_ms),
        position=position,
        gpu_count=reason.gpu_count,
        vram_mib=reason.vram_mib,
        why=_why_here(reason, ticket, position),
        until=reason.until,
    )
