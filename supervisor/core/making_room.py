"""From a grant to room for it: evict who is in the way, wait for what was stopped, believe only the GPU's reading."""

from __future__ import annotations

from supervisor.core import policy, room
from supervisor.core.facts import GpuClosed, RoomVerified
from supervisor.core.leases import answer, end_residency, end_target
from supervisor.core.model import Lease
from supervisor.core.state import Dirty, RoomWait, State
from supervisor.core.targets import gpus_of, helpers, is_awaited, right_to_run, runs, team_of
from supervisor.core.txn import Txn
from supervisor.core.usage import called, has_room


def make_room(txn: Txn) -> None:
    """Evict what is in the way of a granted lease, and verify that its room is there."""
    state = txn.state
    for lease in list(state.durable.leases.values()):
        if lease.phase != "making_room" or not state.leads(lease):
            continue
        # While not in sync, too: whoever has a lease may have its target started anew then.
        for container_id, run in state.observed.runs.items():
            if run.spared:
                txn.touch(state.observed.containers[container_id].target)
        if not state.observed.synced:
            _read_anew(state, lease)
            continue
        for target in policy.in_the_way(state, lease):
            end_residency(txn, target, "evicted", lease)
        if _others_are_gone(state, lease) and not _another_loads(state, lease):
            _verify_memory(txn, lease)
        else:
            _read_anew(state, lease)


def _read_anew(state: State, lease: Lease) -> None:
    """Wait for another reading: one from while others run, or might run unseen, says nothing about the time after."""
    state.observed.room.pop(lease.id, None)
    state.observed.timers.drop(("vram", lease.id))


def _others_are_gone(state: State, lease: Lease) -> bool:
    """Return whether nothing runs on the lease's GPUs that may not, and no call is under way that could change it.

    What is left of the target itself counts wherever it is: with the lease it would be in its right, on another GPU.
    """
    for container in state.observed.containers.values():
        own = container.target == lease.target
        if not own and set(lease.gpus).isdisjoint(gpus_of(state, container)):
            continue
        call = state.observed.calls.get(container.id)
        may_run = right_to_run(state, container).may_run
        if container.runs and not may_run:
            return False
        if call is not None and not (call == "start" and may_run and not own):
            return False
    return True


def _another_loads(state: State, lease: Lease) -> bool:
    """Return whether another target loads on one of the lease's GPUs: one at a time does, also where both would fit."""
    return any(
        other.phase == "starting" and not other.adopted and not set(other.gpus).isdisjoint(lease.gpus)
        for other in state.durable.leases.values()
        if other.target != lease.target
    )


def _verify_memory(txn: Txn, lease: Lease) -> None:
    """A stopped container is not freed VRAM: a reading of the GPU made after it stopped has the last word."""
    observed = txn.state.observed
    warm = lease.target is not None and runs(txn.state, lease.target, lease.project)
    key = ("vram", lease.id)
    if not warm and not _memory_is_there(txn, lease):
        if key not in observed.timers.at and not any(uuid in observed.dirty for uuid in lease.gpus):
            observed.timers.set(key, txn.now.at_ms + txn.state.settings.vram_return_ms)
        return
    observed.room.pop(lease.id, None)
    for uuid in lease.gpus:
        observed.dirty.pop(uuid, None)
    observed.timers.drop(key)
    txn.emit(RoomVerified, id=lease.id, target=lease.target)
    if lease.target is None:
        observed.before[lease.id] = frozenset(
            (process.pid, process.started)
            for gpu in observed.gpus
            if gpu.uuid in lease.gpus
            for process in gpu.processes or ()
        )
        observed.timers.drop(("ready", lease.id))
        answer(txn, txn.state.durable.leases[lease.id])
        return
    if warm:
        _count_as_launched(txn, lease)
    txn.touch(lease.target)


def _memory_is_there(txn: Txn, lease: Lease) -> bool:
    """Return whether a reading made since everything stopped shows the room; ask for one where there is none yet."""
    state = txn.state
    gpus = [gpu for gpu in state.observed.gpus if gpu.uuid in lease.gpus]
    if all(gpu.used_mib is None for gpu in gpus):
        return len(gpus) == len(lease.gpus)
    if not state.observed.room.setdefault(lease.id, RoomWait(txn.now.at_ms)).read:
        return False
    return len(gpus) == len(lease.gpus) and all(has_room(state, gpu, lease.vram_mib, {lease.id}) for gpu in gpus)


def _count_as_launched(txn: Txn, lease: Lease) -> None:
    """A warm target is not started over: what runs, and the one-shots that are done, stay as they are.

    A service that was stopped exits 0 as well: where readiness waits for its health it is started again.
    """
    team = team_of(txn.state, lease)
    launched = txn.state.observed.launched.setdefault(lease.id, {})
    for container in [*team, *helpers(txn.state, team)]:
        exited_0 = container.status == "exited" and container.exit_code == 0
        if container.runs or (exited_0 and not is_awaited(container, team)):
            launched[container.id] = ""


def memory_overdue(txn: Txn, lease: Lease) -> None:
    """What was stopped did not give its memory back in time.

    Where what nobody may stop has taken the room, there is none, and the lease ends. Else the GPUs are closed until
    their memory is back, or an operator says that they are clean.
    """
    state = txn.state
    short = [
        g for g in state.observed.gpus if g.uuid in lease.gpus and not has_room(state, g, lease.vram_mib, {lease.id})
    ]
    for gpu in short:
        crowded = room.crowded_out(state, gpu, lease)
        if crowded is not None:
            return end_target(txn, lease, "insufficient_vram", crowded)
    seconds = state.settings.vram_return_ms // 1000
    for gpu in short:
        held_by = ", ".join(called(state, process) for process in (gpu.processes or ())[:8])
        detail = (
            f"the memory of GPU {gpu.uuid} did not come back {seconds} s after everything on it was stopped"
            f"{f': {held_by} still hold it' if held_by else ''}; it opens by itself when it does"
        )
        state.observed.dirty[gpu.uuid] = Dirty(lease.vram_mib, detail)
        txn.emit(GpuClosed, uuid=gpu.uuid, detail=detail)
    return None
