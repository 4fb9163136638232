"""Who goes next, what fits, whom to evict: the file to edit for a new policy. Pure, and reads only.

``room`` does the sums: what is on each GPU, and what fits beside it.
"""

from __future__ import annotations

from supervisor.core import room, wishes
from supervisor.core.errors import Refusal
from supervisor.core.model import Lease, Ticket
from supervisor.core.state import State
from supervisor.core.wishes import Wish


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
        why = f": {observed.gpu_problem}" if observed.gpu_problem else ""
        return Refusal("gpu_unavailable", f"no GPU is known{why}; to try it without one: serve --gpus sim:1x24576")
    return None


def not_now(state: State) -> Refusal | None:
    """Return why no grant can be made at this moment although requests may queue; None if one can."""
    observed = state.observed
    if not observed.synced:
        return Refusal(
            "engine_unavailable",
            f"not in sync with the container engine ({observed.engine_reason}): nothing is granted",
        )
    return None


def in_turn(state: State) -> list[tuple[tuple[float, float], Ticket]]:
    """Return who may be served next, in the order of their turns: highest aged priority, then arrival.

    Of those who ask for the same thing only the first can be next, and who has an open claim window beside; so this
    takes as long as there are different things asked for, however many wait. The first ticket for each target that is
    loaded counts for more, within a bound: it saves a swap.
    """
    found = []
    for lane in state.lanes.values():
        for place, ticket in enumerate(lane):
            rank = state.rank(ticket)
            found.append((rank if place else state.turn(rank, ticket.terms.target), ticket))
            if ticket.window_until_ms is None:
                break
    return sorted(found, key=lambda one: one[0])


def keep_off(state: State, wish: Wish, rank: tuple[float, float]) -> set[str]:
    """Return the GPUs of ``wish`` that somebody who is ahead of ``rank`` in the queue could use.

    The head of the queue is never overtaken by a smaller request behind it: only on GPUs that no earlier ticket could
    use may a later one go first. An open claim window has its room reserved already.
    """
    mine = wishes.reach(state, wish)
    mine_at = state.turn(rank, wish.target)
    taken: set[str] = set()
    for turn, ticket in in_turn(state):
        if taken == mine or turn > mine_at:
            break
        if ticket.window_until_ms is None:
            taken |= mine & wishes.reach(state, wishes.wish_of(state, ticket.terms))
    return taken


def wanted(state: State) -> set[str]:
    """Return the GPUs that anybody in the queue waits for."""
    able = {gpu.uuid for gpu in state.observed.gpus if gpu.state == "ok"}
    found: set[str] = set()
    for _, ticket in in_turn(state):
        if ticket.window_until_ms is None:
            found |= wishes.reach(state, wishes.wish_of(state, ticket.terms))
        if found >= able:
            break
    return found


def in_the_way(state: State, lease: Lease) -> list[str]:
    """Return the residents (by target) that ``lease`` evicts: who does not share with it, and what it takes to fit."""
    return room.evictions(state, lease)
