"""What bare leases use of a GPU: their processes are in no target's container. Pure, and reads only.

A lease that is tied to a process has that one and its descendants. Of one that is not, nobody is told which processes
are its: those count that were not on its GPU yet when its room was verified, as what was there already is in the way of
everybody. After a restart nobody remembers who was there, so those count that started after the grant.
"""

from __future__ import annotations

from supervisor.core.model import Gpu, GpuProcess, Lease
from supervisor.core.processes import SeenProcess
from supervisor.core.state import State


def claimants(state: State, gpu: Gpu, process: GpuProcess) -> list[Lease]:
    """Return the bare leases that a process on ``gpu`` may belong to, the first granted first; none: it is nobody's."""
    leases = [
        lease
        for lease in state.durable.leases.values()
        if lease.target is None and gpu.uuid in lease.gpus and lease.phase == "ready"
    ]
    container = state.observed.containers.get(process.container or "")
    if not leases or (container is not None and container.target is not None):
        return []
    tied = [lease for lease in leases if lease.terms.tie is not None and _is_tied(state, lease, process)]
    return tied or [lease for lease in leases if lease.terms.tie is None and _came_after(state, lease, process)]


def _is_tied(state: State, lease: Lease, process: GpuProcess) -> bool:
    tie = lease.terms.tie
    if tie is None:
        return False
    if (process.pid, process.started) == (tie.pid, tie.started):
        return True
    described = _described(state, process)
    return any(one.descends_from(tie.pid, tie.started) for one in described)


def _came_after(state: State, lease: Lease, process: GpuProcess) -> bool:
    before = state.observed.before.get(lease.id)
    if before is not None:
        return (process.pid, process.started) not in before
    return any(one.started_wall_ms >= lease.granted_wall_ms for one in _described(state, process))


def _described(state: State, process: GpuProcess) -> list[SeenProcess]:
    identity = (process.pid, process.started)
    return [one for one in state.observed.processes if one.identity == identity]


def shares(processes: list[tuple[int, list[Lease]]]) -> dict[str, int]:
    """Divide what processes use (MiB, and the leases that each may belong to) among these leases, by their ids.

    Each is given up to what is reserved for it, the first granted first; what is more than all that goes to the last.
    """
    used: dict[str, int] = {}
    for mib, leases in processes:
        left = mib
        for lease in leases:
            room = left if lease.vram_mib is None else max(0, lease.vram_mib - used.get(lease.id, 0))
            part = min(left, room)
            used[lease.id] = used.get(lease.id, 0) + part
            left -= part
        used[leases[-1].id] += left
    return used
