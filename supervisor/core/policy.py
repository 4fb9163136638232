"""Who goes next, what fits, whom to evict: the file to edit for a new policy. Pure, and reads only.

``room`` does the sums: what is on each GPU, and what fits beside it.
"""

from __future__ import annotations

from supervisor.core import room
from supervisor.core.errors import Refusal
from supervisor.core.model import Lease, Ticket
from supervisor.core.room import Wish
from supervisor.core.state import State


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
    return None


def head(state: State) -> Ticket | None:
    """Return the ticket whose turn is next: highest aged priority, then arrival."""
    return state.queue[0] if state.queue else None


def keep_off(state: State, wish: Wish, rank: tuple[float, float]) -> set[str]:
    """Return the GPUs of ``wish`` that somebody who is ahead of ``rank`` in the queue could use.

    The head of the queue is never overtaken by a smaller request behind it: only on GPUs that no earlier ticket could
    use may a later one go first. An open claim window has its room reserved already.
    """
    mine = room.reach(state, wish)
    taken: set[str] = set()
    for ticket in state.queue:
        if taken == mine or state.rank(ticket) > rank:
            break
        if ticket.window_until_ms is None:
            taken |= mine & room.reach(state, room.wish_of(state, ticket.terms))
    return taken


def in_the_way(state: State, now_ms: int, lease: Lease) -> list[str]:
    """Return the residents (by target) that ``lease`` evicts: who does not share with it, and what it takes to fit."""
    return room.evictions(state, now_ms, lease)
