"""Who has room reserved: leases, open claim windows and residents, each target once on a GPU. Pure, and reads only."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from supervisor.core.model import Gpu, Lease, Resident, Sharing, Ticket
from supervisor.core.state import State
from supervisor.core.targets import limit_ms, spec_of

ALONE = Sharing()


class Occupant(Struct, frozen=True):
    """Somebody who has room reserved: a lease, an open claim window, or a resident (which may be evicted).

    ``gpus`` empty: nobody knows where it is, so it counts everywhere. ``since_ms``: since when it is idle.
    ``stays_until_ms``: a resident that has only just been started is not evicted before. ``starts_cold``: what it uses
    now goes before it starts.
    """

    kind: Literal["lease", "window", "resident"]
    id: str
    target: str | None
    owner: str
    gpus: tuple[str, ...]
    need_mib: int | None
    sharing: Sharing
    groups: tuple[str, ...]
    since_ms: int = 0
    stays_until_ms: int = 0
    starts_cold: bool = False

    def is_on(self, gpu: Gpu) -> bool:
        return not self.gpus or gpu.uuid in self.gpus


def occupants(state: State) -> list[Occupant]:
    """Return everybody who has room reserved, each target once on a GPU: holders of one target have its room together,
    and who may claim it has what it has already.
    """
    durable = state.durable
    leases = [leased(state, lease) for lease in durable.leases.values() if state.leads(lease)]
    tickets = [durable.tickets[id_] for id_ in state.windows]
    windows: dict[str, Occupant] = {}
    for ticket in tickets:
        if ticket.terms.target not in state.leases_by_target:
            windows.setdefault(ticket.terms.target or ticket.id, _claiming(state, ticket))
    # One that was seen to run while its window was open may be elsewhere than the window.
    held = {target: set(window.gpus) for target, window in windows.items()}
    homes = durable.residents.values()
    residents = [
        _idle(state, home) for home in homes if not home.gpus or not held.get(home.target, set()) >= {*home.gpus}
    ]
    return [*leases, *windows.values(), *residents]


def _says(state: State, target: str | None, *, sized: bool) -> tuple[Sharing, tuple[str, ...]]:
    """Return with whom a target shares and its groups, as far as its containers are there to say so."""
    if target is None:
        return (Sharing(any=True) if sized else ALONE), ()
    spec = spec_of(state, target)
    return (spec.coexist, spec.groups) if spec is not None else (ALONE, ())


def leased(state: State, lease: Lease) -> Occupant:
    sized = lease.target is not None or lease.terms.vram_mib is not None
    sharing, groups = _says(state, lease.target, sized=sized)
    return Occupant(
        "lease",
        lease.id,
        lease.target,
        lease.terms.owner,
        lease.gpus,
        lease.vram_mib,
        sharing,
        groups,
        starts_cold=lease.needs_cold_start and lease.phase == "making_room",
    )


def _claiming(state: State, ticket: Ticket) -> Occupant:
    sharing, groups = _says(state, ticket.terms.target, sized=ticket.terms.vram_mib is not None)
    return Occupant(
        "window",
        ticket.id,
        ticket.terms.target,
        ticket.terms.owner,
        ticket.window_gpus,
        ticket.window_mib,
        sharing,
        groups,
    )


def _idle(state: State, resident: Resident) -> Occupant:
    sharing, groups = _says(state, resident.target, sized=True)
    return Occupant(
        "resident",
        resident.target,
        resident.target,
        "",
        resident.gpus,
        resident.vram_mib,
        sharing,
        groups,
        resident.since_ms,
        stays_until_ms(state, resident),
    )


def stays_until_ms(state: State, resident: Resident) -> int:
    """Return until when a resident is not evicted because it has only just been loaded; 0 if nobody knows when."""
    if not resident.loaded_at_ms:
        return 0
    return resident.loaded_at_ms + limit_ms(state, resident.target, "min_residency_ms")
