"""How much of a GPU there is, what is in use of it, by whom, and what is free. Pure, and reads only.

Three numbers of a target are never mixed: what it *declares* (labels), what is *reserved* for it (written with its
grant, and kept while it is resident), and what it *uses* (read from the GPU). All are MiB on one GPU.
"""

from __future__ import annotations

from collections.abc import Collection

from supervisor.core.bare_use import claimants, shares
from supervisor.core.model import Gpu, GpuProcess, Lease
from supervisor.core.occupants import Occupant, occupants
from supervisor.core.state import State
from supervisor.core.targets import gpus_of, known_container, right_to_run
from supervisor.core.values import shown

#: Memory that an idle driver or desktop keeps: a GPU with less in use counts as free for whoever needs all of it.
IDLE_MIB = 1_024


def usable_mib(state: State, gpu: Gpu) -> int | None:
    """Return what leases can have of a GPU: all but what the driver keeps and the headroom; None if nobody knows."""
    if gpu.total_mib is None:
        return None
    return gpu.total_mib - (gpu.reserved_mib or 0) - state.settings.headroom_mib


def needed_on(state: State, gpu: Gpu, need_mib: int | None) -> int | None:
    """Return what a lease takes of ``gpu``: what was declared, else the whole; None if nobody knows its size."""
    return need_mib if need_mib is not None else usable_mib(state, gpu)


def is_whole(state: State, gpu: Gpu, need_mib: int | None) -> bool:
    usable = usable_mib(state, gpu)
    return need_mib is None or usable is None or need_mib >= usable


def closed(state: State, gpu: Gpu) -> str:
    """Return why nothing new is granted on a GPU, in a sentence; "" if it is open."""
    if gpu.state != "ok":
        return gpu.detail or f"GPU {gpu.uuid} is {gpu.state}"
    dirty = state.observed.dirty.get(gpu.uuid)
    return dirty.detail if dirty is not None else ""


# ---- what is in use


def use_of(state: State, gpu: Gpu) -> dict[str | None, int]:
    """Return what is used on a GPU by each target (name) and bare lease (id), as ``_user`` has them; None: by processes
    that belong to none. Unexplained use is not in it.
    """
    used: dict[str | None, int] = {}
    bare: list[tuple[int, list[Lease]]] = []
    for process in gpu.processes or ():
        leases = claimants(state, gpu, process)
        if leases:
            bare.append((process.used_mib or 0, leases))
            continue
        container = state.observed.containers.get(process.container or "")
        target = container.target if container is not None else None
        used[target] = used.get(target, 0) + (process.used_mib or 0)
    used.update(shares(bare))
    return used


def unexplained_mib(state: State, gpu: Gpu) -> int:
    """Return how much is in use that no process explains. Where the driver does not say what each uses, what is
    reserved explains as much as it can.
    """
    if gpu.used_mib is None:
        return 0
    known = sum(process.used_mib or 0 for process in gpu.processes or ())
    if is_silent(gpu):
        known = max(known, sum(other.need_mib or 0 for other in occupants(state) if other.is_on(gpu)))
    return max(0, gpu.used_mib - known)


def foreign_mib(state: State, gpu: Gpu) -> int:
    """Return what is in use on a GPU by none of ours: a game, a desktop, another user's process.

    What no process explains counts only once things are at rest: memory comes back some time after its process, and
    where the driver does not say who uses what, it may be that of a container which is yet to be stopped.
    """
    foreign = use_of(state, gpu).get(None, 0)
    unexplained = unexplained_mib(state, gpu) if state.observed.at_rest else 0
    return foreign if unexplained and is_silent(gpu) and _some_must_stop(state, gpu) else foreign + unexplained


def _some_must_stop(state: State, gpu: Gpu) -> bool:
    running = (container for container in state.observed.containers.values() if container.runs)
    return any(not right_to_run(state, one).may_run and gpu.uuid in gpus_of(state, one) for one in running)


def is_silent(gpu: Gpu) -> bool:
    """Return whether the driver does not say who uses how much of a GPU."""
    return gpu.processes is None or any(process.used_mib is None for process in gpu.processes)


def free_mib(state: State, gpu: Gpu, without: Collection[str] = ()) -> int | None:
    """Return what is free for a grant on a GPU, as it was last read; None if nobody can read it.

    ``total - used - sum(max(0, reserved_i - used_i)) - headroom``: foreign use and loads still to come both count.
    ``without``: ids of occupants whose own room is not kept from them (whoever asks).
    """
    usable = usable_mib(state, gpu)
    if usable is None or gpu.used_mib is None:
        return None
    return usable - gpu.used_mib - _still_to_come(state, gpu, without)


def _still_to_come(state: State, gpu: Gpu, without: Collection[str]) -> int:
    used = use_of(state, gpu)
    here = [other for other in occupants(state) if other.is_on(gpu) and other.id not in without]
    if is_silent(gpu) and gpu.used_mib is not None:
        return max(0, sum(needed_on(state, gpu, other.need_mib) or 0 for other in here) - gpu.used_mib)
    return sum(max(0, (needed_on(state, gpu, other.need_mib) or 0) - used.get(_user(other), 0)) for other in here)


def _user(other: Occupant) -> str:
    return other.target if other.target is not None else other.id


def takes(other: Occupant, used: dict[str | None, int]) -> int:
    """Return what an occupant of known size takes: what is reserved for it, or what it uses where that is more."""
    if other.starts_cold:
        return other.need_mib or 0
    return max(other.need_mib or 0, used.get(_user(other), 0))


def has_room(state: State, gpu: Gpu, need_mib: int | None, without: Collection[str]) -> bool:
    """Return whether ``gpu``, as it was last read, has the room that ``without`` needs beside all others."""
    if gpu.used_mib is not None and gpu.total_mib is not None and is_whole(state, gpu, need_mib):
        return gpu.used_mib <= IDLE_MIB
    free = free_mib(state, gpu, without)
    return free is None or free >= (need_mib or 0)


def whose(state: State, process: GpuProcess) -> dict[str, str | None]:
    """Return its ``name``, its ``user`` and the name of its container, as far as it was looked at."""
    pid, starts = process.pid, {process.started, 0}  # where a reading could not tell the start, it is 0
    seen = [
        one for one in state.observed.processes if one.pid == pid and (one.started in starts or not process.started)
    ]
    container = known_container(state, process.container) if process.container is not None else None
    return {
        "name": seen[0].name if seen else None,
        "user": seen[0].user if seen else None,
        "container": container.name if container is not None else process.container,
    }


def called(state: State, process: GpuProcess) -> str:
    """Name a process for people: ``pid 4711 (python3 of eve in notebook, 9000 MiB)``."""
    who = whose(state, process)
    parts = [
        shown(who["name"] or "", 40),
        f"of {shown(who['user'], 40)}" if who["user"] else "",
        f"in {shown(who['container'], 40)}" if who["container"] else "",
    ]
    told = [" ".join(filter(None, parts)), f"{process.used_mib} MiB" if process.used_mib is not None else ""]
    inside = ", ".join(filter(None, told))
    return f"pid {process.pid}" + (f" ({inside})" if inside else "")


# ---- where it is


def seen_on(state: State, target: str) -> tuple[str, ...]:
    """Return the GPUs on which processes of a target are seen."""
    seen = (state.observed.seen_on.get(container.id, ()) for container in state.containers_of(target))
    return tuple(dict.fromkeys(uuid for gpus in seen for uuid in gpus))


def who_is_where(gpus: tuple[Gpu, ...]) -> dict[str, tuple[str, ...]]:
    """Return the GPUs of each container that has a process on one."""
    found: dict[str, tuple[str, ...]] = {}
    for gpu in gpus:
        for container in {process.container for process in gpu.processes or () if process.container}:
            found[container] = (*found.get(container, ()), gpu.uuid)
    return found
