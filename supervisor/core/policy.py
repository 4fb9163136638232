"""Who goes next, what fits, whom to evict: the file to edit for a new policy. Pure, and reads only.

With one exclusive GPU a grant takes the whole of it; the declared sizes only say whether it can ever fit.
"""

from __future__ import annotations

from supervisor.core.errors import Refusal
from supervisor.core.model import Gpu, Lease, Resident, Ticket
from supervisor.core.state import State

#: Memory that an idle driver or desktop keeps: a GPU with less in use counts as free for whoever needs all of it.
IDLE_MIB = 1_024


def standstill(state: State) -> Refusal | None:
    """Return why nothing at all is granted or queued now, whoever asks; None if grants go on."""
    observed = state.observed
    if observed.stopping:
        return Refusal("shutting_down", "the supervisor is shutting down; try again when it is back")
    if observed.safe_mode:
        return Refusal(
            "journal_damaged",
            f"the journal is damaged, so nothing is granted: {observed.safe_mode}; "
            "see it with: gpu-supervisor journal verify",
        )
    if observed.storage_full:
        return Refusal("storage_full", "the disk of the data directory is full: free some space, grants resume by then")
    if not observed.gpus:
        return Refusal("gpu_unavailable", "no GPU is known; to try it without one: serve --gpus sim:1x24576")
    return None


def not_now(state: State) -> Refusal | None:
    """Return why no grant can be made at this moment although requests may queue; None if one can."""
    observed = state.observed
    if not observed.synced:
        return Refusal(
            "engine_unavailable",
            f"not in sync with the container engine ({observed.engine_reason}): nothing is granted",
        )
    if observed.gpu_dirty:
        return Refusal("gpu_dirty", observed.gpu_dirty)
    return None


def holder(state: State) -> Lease | None:
    """Return the lease that holds the GPU, if there is one."""
    return next(iter(state.durable.leases.values()), None)


def claimant(state: State) -> Ticket | None:
    """Return the ticket whose claim window is open, if there is one. It stays, whatever comes after it."""
    window = next(iter(state.windows), None)
    return state.durable.tickets[window] if window else None


def head(state: State) -> Ticket | None:
    """Return the ticket whose turn is next: highest aged priority, then arrival.

    The head is never overtaken by a smaller request behind it.
    """
    return state.queue[0] if state.queue else None


def needs_mib(declared: int | None, gpu: Gpu) -> int | None:
    """Return what a lease takes of ``gpu`` in MiB: what was declared, else the whole; None if nobody knows."""
    return declared if declared is not None else gpu.total_mib


def place(state: State, declared_mib: int | None) -> Gpu | Refusal:
    """Choose the GPU for a request of ``declared_mib`` (None: a whole one) by size alone: the first large enough."""
    gpus = state.observed.gpus
    for gpu in gpus:
        if declared_mib is None or gpu.total_mib is None or declared_mib <= gpu.total_mib:
            return gpu
    largest = max((gpu.total_mib or 0 for gpu in gpus), default=0)
    return Refusal(
        "insufficient_vram",
        f"{declared_mib} MiB are declared, and the largest GPU has {largest} MiB; lower gpu.vram-mib if it is too high",
        {"needed_mib": declared_mib, "largest_gpu_mib": largest},
    )


def in_the_way(state: State, target: str | None) -> list[Resident]:
    """Return the residents that a lease for ``target`` evicts: until sharing exists every other one, of any size."""
    return [resident for resident in state.durable.residents.values() if resident.target != target]


def memory_is_free(state: State, lease: Lease) -> bool:
    """Return whether the GPU of ``lease`` has the memory that it needs, as far as anybody can read it."""
    return all(has_room(gpu, lease.vram_mib) for gpu in state.observed.gpus if gpu.uuid in lease.gpus)


def has_room(gpu: Gpu, needed_mib: int | None) -> bool:
    """Return whether ``gpu``, as it was last read, has ``needed_mib`` free (None: nearly all of it)."""
    if gpu.total_mib is None or gpu.used_mib is None:
        return True
    if needed_mib is None or needed_mib >= gpu.total_mib:
        return gpu.used_mib <= IDLE_MIB
    return gpu.total_mib - gpu.used_mib >= needed_mib


def is_read(state: State, lease: Lease) -> bool:
    """Return whether anybody can read the memory of the GPU of ``lease``."""
    return any(gpu.uuid in lease.gpus and gpu.used_mib is not None for gpu in state.observed.gpus)
