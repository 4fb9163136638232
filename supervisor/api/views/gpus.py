"""The GPUs as callers see them: what is in use, what was promised to whom, and what is left."""

from __future__ import annotations

from supervisor.answers import GpuUse, GpuView
from supervisor.core.model import Gpu
from supervisor.core.occupants import Occupant, occupants
from supervisor.core.state import State
from supervisor.core.usage import closed, free_mib, is_silent, needed_on, unexplained_mib, use_of


def gpu_views(state: State) -> tuple[GpuView, ...]:
    everybody = occupants(state)
    return tuple(
        _gpu_view(state, gpu, [other for other in everybody if other.is_on(gpu)]) for gpu in state.observed.gpus
    )


def _gpu_view(state: State, gpu: Gpu, here: list[Occupant]) -> GpuView:
    leases = tuple(lease.id for lease in state.durable.leases.values() if gpu.uuid in lease.gpus)
    grantable_mib = free_mib(state, gpu)
    return GpuView(
        uuid=gpu.uuid,
        index=gpu.index,
        name=gpu.name,
        state="dirty" if gpu.state == "ok" and gpu.uuid in state.observed.dirty else gpu.state,
        total_mib=gpu.total_mib,
        used_mib=gpu.used_mib,
        reserved_mib=gpu.reserved_mib,
        free_mib=_free_mib(gpu),
        granted_mib=_granted_mib(state, gpu, here),
        grantable_mib=max(0, grantable_mib) if grantable_mib is not None else None,
        unexplained_mib=unexplained_mib(state, gpu) if gpu.used_mib is not None else None,
        utilization_percent=gpu.utilization_percent,
        temperature_c=gpu.temperature_c,
        power_w=gpu.power_w,
        lease=leases[0] if leases else None,
        leases=leases,
        residents=tuple(sorted(other.id for other in here if other.kind == "resident")),
        targets=_targets(state, gpu, here),
        problem=closed(state, gpu),
    )


def _free_mib(gpu: Gpu) -> int | None:
    if gpu.free_mib is not None or gpu.total_mib is None or gpu.used_mib is None:
        return gpu.free_mib
    return max(0, gpu.total_mib - gpu.used_mib - (gpu.reserved_mib or 0))


def _granted_mib(state: State, gpu: Gpu, here: list[Occupant]) -> int | None:
    """Return what is reserved on a GPU, open claim windows included; None where it is the whole of an unknown size."""
    sizes = [needed_on(state, gpu, other.need_mib) for other in here]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _targets(state: State, gpu: Gpu, here: list[Occupant]) -> tuple[GpuUse, ...]:
    """Return the targets that have room on a GPU or use it; one that was just stopped may use it without."""
    reserved = {other.target: needed_on(state, gpu, other.need_mib) for other in here if other.target is not None}
    used = use_of(state, gpu)
    targets = (target for target in used if target is not None and target not in state.durable.leases)
    names = sorted({*reserved, *targets})
    return tuple(
        GpuUse(
            target=name,
            reserved_mib=reserved.get(name, 0),
            used_mib=None if is_silent(gpu) and name not in used else used.get(name, 0),
        )
        for name in names
    )
