"""Another place in the queue: an operator gives a ticket another priority. What it has aged stays."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import policy
from supervisor.core.facts import TicketMoved
from supervisor.core.inputs import Move
from supervisor.core.model import Ticket
from supervisor.core.replies import Moved
from supervisor.core.txn import Txn


def move(txn: Txn, request: Move) -> None:
    """Move a ticket whose turn has not come; the queue is served in its new order at once."""
    state = txn.state
    observed = state.observed
    closed = policy.standstill(state) if observed.safe_mode or observed.storage_full or observed.stopping else None
    if closed is not None:
        return txn.refuse(request.request_id, closed)
    ticket = state.durable.tickets.get(request.id)
    if ticket is None:
        reason = "granted" if request.id in state.durable.leases else "unknown_or_ended"
        return txn.reply(Moved(request.request_id, moved=False, reason=reason))
    if ticket.window_until_ms is not None:
        # Its room is reserved: it is served before any order counts.
        return txn.reply(Moved(request.request_id, moved=False, position=state.position(ticket), reason="claimable"))
    if request.only_look:
        position = state.position_with(ticket, request.priority)
        return txn.reply(Moved(request.request_id, moved=False, position=position, reason="dry_run"))
    if ticket.terms.priority != request.priority:
        _give(txn, ticket, request)
    position = state.position(state.durable.tickets[ticket.id])
    return txn.reply(Moved(request.request_id, moved=True, position=position))


def _give(txn: Txn, ticket: Ticket, request: Move) -> None:
    terms, priority = ticket.terms, request.priority
    txn.emit(
        TicketMoved,
        id=ticket.id,
        priority=priority,
        before=terms.priority,
        owner=terms.owner,
        target=terms.target,
        caller=request.caller,
    )
    observed = txn.state.observed
    for request_id in observed.holds_of.get(ticket.id, ()):  # a grant goes by what its caller has on the line
        caller = observed.holds[request_id]
        observed.holds[request_id] = replace(caller, terms=replace(caller.terms, priority=priority))
