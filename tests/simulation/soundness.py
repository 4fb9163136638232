"""What is always true of the state by itself: its indexes, its timers, and that it is what its facts tell."""

from __future__ import annotations

from supervisor.core import policy, room, wishes
from supervisor.core.model import Now
from supervisor.core.state import State
from tests.simulation.ledger import Ledger, require


def check(state: State, books: Ledger, now: Now) -> None:
    """Compare the state with the books that were kept of its facts, and its parts with each other."""
    durable = state.durable
    for gpu in state.observed.gpus:
        leads = [lease for lease in durable.leases.values() if state.leads(lease)]
        sizes = [lease.vram_mib or 0 for lease in leads if gpu.uuid in lease.gpus]
        require(sum(sizes) <= (gpu.total_mib or 0), "what is reserved on a GPU is never more than it has")
    if not state.observed.safe_mode:
        require(durable.leases.keys() == books.leases.keys(), "the facts tell which leases are held")
        require(durable.tickets.keys() == books.tickets.keys(), "the facts tell which tickets wait")
        require(durable.residents.keys() == books.residents.keys(), "the facts tell which targets are resident")
        order = [place.id for place in books.in_order(now.at_ms)]
        require([ticket.id for ticket in state.queue] == order, "the queue is in the order of effective priorities")
    _check_indexes(state)
    _check_timers(state, now)
    _check_nobody_is_forgotten(state, now)


def _check_indexes(state: State) -> None:
    durable, observed = state.durable, state.observed
    held = [*durable.leases.values(), *durable.tickets.values()]
    tokens = {one.token_hash: one.id for one in held if one.token_hash}
    require(state.ids_by_token == tokens, "the index of tokens is that of what is held")
    scopes = {one.terms.scope: one.id for one in held if one.terms.scope}
    require(state.ids_by_scope == scopes, "the index of keys is that of what is held")
    running = {id_ for id_, container in observed.containers.items() if container.runs}
    require(observed.runs.keys() == running, "a run is known of every container that runs, and of no other")
    members = {id_ for ids in observed.by_target.values() for id_ in ids}
    require(observed.containers.keys() == members, "every labelled container belongs to its target")


def _check_nobody_is_forgotten(state: State, now: Now) -> None:
    """Walk the whole queue, as slowly as it gets: nobody is left waiting who could be served."""
    due_ms = state.observed.timers.next_at_ms
    if policy.standstill(state) or policy.not_now(state) or (due_ms is not None and due_ms <= now.at_ms):
        return  # what falls due at this very moment is still to come, and the queue is looked at then
    loaded, turns = {*state.durable.residents, *state.leases_by_target}, []
    for ticket in state.queue:
        warm = ticket.terms.target in loaded
        loaded.discard(ticket.terms.target or "")
        rank = state.rank(ticket)
        turns.append((state.turn(rank, ticket.terms.target) if warm else rank, ticket))
    taken: set[str] = set()
    for _, ticket in sorted(turns, key=lambda turn: turn[0]):
        if ticket.window_until_ms is None:
            wish = wishes.wish_of(state, ticket.terms)
            found = room.place(state, now.at_ms, wish, keep_off=taken, own_id=ticket.id)
            require(not isinstance(found, room.Placement), "nobody waits who could be served")
            taken |= wishes.reach(state, wish)


def _check_timers(state: State, now: Now) -> None:
    observed, durable = state.observed, state.durable
    timers = observed.timers
    require(len(timers.at) == len(timers.due), "every timer is due once")
    homes: dict[str, object] = {
        "lease": durable.leases,
        "window": durable.tickets,
        "hold": {str(id_) for id_ in observed.holds},
        "idle": durable.residents,
        "young": durable.residents,
        "unused": durable.residents,
        "tally": observed.tallies,
        "retry": observed.retries,
        "ready": durable.leases,
        "down": durable.leases,
        "vram": durable.leases,
        "held": durable.leases,
        "rest": {""},
        "process": {f"{pid}/{started}" for pid, started in observed.suspects},
    }
    for what, id_ in timers.at:
        require(id_ in homes[what], f"a {what} timer belongs to something that is there")  # type: ignore[operator]
    if observed.safe_mode or observed.stopping:
        return
    for lease in durable.leases.values():
        watched = lease.adopted or lease.terms.tie is not None
        if not watched and lease.id not in observed.holds_of:
            due_ms = timers.at.get(("lease", lease.id))
            require(due_ms is not None, "a lease that nobody is on the line for expires at some time")
            most_ms = now.at_ms + max(state.settings.ttl_max_ms, state.settings.claim_window_ms)
            require(due_ms is not None and due_ms <= most_ms, "no lease lives for ever")
    for ticket_id in state.windows:
        require(("window", ticket_id) in timers.at or not observed.synced, "an open window closes at some time")
    for caller in observed.holds.values():
        there = caller.id in durable.leases or caller.id in durable.tickets
        require(there, "a caller is on the line for something that is there")
