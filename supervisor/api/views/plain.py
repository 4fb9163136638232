"""The status of the plain endpoints: the current target, its lease, the queue, every target in a word."""

from __future__ import annotations

from msgspec import UNSET, Struct
from msgspec.structs import replace

from supervisor.answers import PlainLease, PlainService, PlainState, PlainStatus, PlainTarget, PlainTicket
from supervisor.api.times import epoch_s
from supervisor.api.views.targets import known_targets, master_of, problems_of, target_state
from supervisor.core.model import Container, Lease, Now, Ticket
from supervisor.core.state import State
from supervisor.core.targets import members


class PlainView(Struct, frozen=True):
    """The status but for the last log lines of ``logs_of`` (a container; None where there is nothing to ask for)."""

    status: PlainStatus
    logs_of: str | None

    def with_logs(self, tail: str) -> PlainStatus:
        service = self.status.service
        if not tail or not isinstance(service, PlainService):
            return self.status
        return replace(self.status, service=replace(service, logs_tail=tail))


def plain_view(state: State, now: Now) -> PlainView:
    target = current_target(state)
    service = _service(state, target) if target is not None else None
    master = master_of(state, target) if target is not None else None
    status = PlainStatus(
        state=_state(state, now, target),
        service=service if service is not None else {},
        services={
            name: PlainTarget(target_state(state, name), problems_of(state, name)) for name in known_targets(state)
        },
    )
    # An engine that is not there would only be waited for.
    logs_of = master.id if master is not None and state.observed.synced else None
    return PlainView(status, logs_of)


def current_target(state: State) -> str | None:
    """Return the last target that was granted, while it has a lease or is resident."""
    target = state.durable.last_target
    if target is not None and (target in state.leases_by_target or target in state.durable.residents):
        return target
    return None


def _state(state: State, now: Now, target: str | None) -> PlainState:
    lease = _lease(state, target)
    expires_at_ms = state.observed.expires.get(lease.id) if lease is not None else None
    expires_at = epoch_s(now.wall_of(expires_at_ms)) if expires_at_ms is not None else None
    return PlainState(
        target=target,
        at=epoch_s(_since_wall_ms(state, target)),
        lease=PlainLease(lease.terms.owner, expires_at) if lease is not None else UNSET,
        queue=tuple(_ticket(state, now, ticket) for ticket in state.queue),
    )


def _lease(state: State, target: str | None) -> Lease | None:
    """Return the lease of the current target; where there is none, any other: somebody has a GPU."""
    lease = state.lease_of(target) if target is not None else None
    return lease or next(iter(state.durable.leases.values()), None)


def _since_wall_ms(state: State, target: str | None) -> int:
    lease = _lease(state, target)
    if lease is not None:
        return lease.granted_wall_ms
    resident = state.durable.residents.get(target or "")
    return resident.since_wall_ms if resident is not None else state.durable.time_wall_ms


def _ticket(state: State, now: Now, ticket: Ticket) -> PlainTicket:
    until_ms = ticket.window_until_ms
    if until_ms is not None:
        until_ms = state.observed.timers.at.get(("window", ticket.id), until_ms)
    return PlainTicket(
        owner=ticket.terms.owner,
        priority=ticket.terms.priority,
        target=ticket.terms.target,
        claim_expires_at=epoch_s(now.wall_of(until_ms)) if until_ms is not None else None,
    )


def _service(state: State, target: str) -> PlainService | None:
    team = members(state, target)
    if not team:
        return None
    master = master_of(state, target)
    checked = [container for container in team if container.healthcheck]
    return PlainService(
        status=_status(master) if master is not None else "",
        healthy_container_count=sum(1 for c in checked if c.runs and c.health == "healthy"),
        unhealthy_container_count=sum(1 for c in checked if c.runs and c.health == "unhealthy"),
        no_healthcheck_container_count=len(team) - len(checked),
        container_count=len(team),
    )


def _status(master: Container) -> str:
    return master.health if master.runs and master.health != "none" else master.status
