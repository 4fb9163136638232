"""Moving a ticket: an operator changes its place in the queue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.facts import TicketMoved
from supervisor.core.inputs import EngineLost, Move, ShutDown, StorageFull
from supervisor.core.model import Terms, Ticket
from supervisor.core.replies import Moved
from supervisor.core.state import Settings, State
from tests.core.box import Box, container

A, B, C = container("a"), container("b"), container("c")


def test_a_moved_waiter_is_served_first_and_its_lease_has_the_new_priority():
    box = Box(A, B, C)
    held = box.lease("a")
    first = box.ask("b", wait_ms=60_000, wait_ready=False)
    moved = box.ask("c", wait_ms=60_000, wait_ready=False)
    box.feed(Move(77, f"l{moved}", 5))

    assert box.replies[77] == Moved(77, True, 0)
    (fact,) = [fact for fact in box.facts if isinstance(fact, TicketMoved)]
    assert (fact.id, fact.priority, fact.before, fact.owner, fact.target) == (f"l{moved}", 5, 0, "ann", "c")
    box.release(held)
    assert (box.code(moved), box.code(first)) == ("Granted", "")
    assert box.replies[moved].lease.terms.priority == 5


def test_what_a_ticket_has_aged_stays():
    box = Box(A, B, C, aging_per_minute=1)
    held = box.lease("a", ttl_ms=3_600_000)
    early = box.ask("b", wait_ms=10**7, wait_ready=False)
    box.advance(150)
    late = box.ask("c", wait_ms=10**7, wait_ready=False)
    box.feed(Move(77, f"l{late}", 2))
    assert box.replies[77] == Moved(77, True, 1)
    box.feed(Move(78, f"l{late}", 3))
    assert box.replies[78] == Moved(78, True, 0)
    box.release(held)

    assert (box.code(late), box.code(early)) == ("Granted", "")


def test_a_move_survives_a_restart():
    box = Box(A, B, C)
    box.lease("a")
    first, second = box.ask("b", on_busy="ticket"), box.ask("c", on_busy="ticket")
    box.feed(Move(77, f"l{second}", 7))
    box.restart()

    assert [ticket.id for ticket in box.state.queue] == [f"l{second}", f"l{first}"]


def test_a_dry_run_and_a_move_to_where_it_is_change_nothing():
    box = Box(A, B, C)
    box.lease("a")
    box.ask("b", on_busy="ticket")
    second = box.ask("c", on_busy="ticket")
    before = len(box.facts)
    box.feed(Move(77, f"l{second}", 1, only_look=True))
    box.feed(Move(78, f"l{second}", 0))

    assert box.replies[77] == Moved(77, False, 0, "dry_run")
    assert box.replies[78] == Moved(78, True, 1)
    assert len(box.facts) == before


def test_a_lease_an_unknown_id_and_a_ticket_whose_turn_has_come_are_not_moved():
    box = Box(A, B)
    held = box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    box.feed(Move(77, f"l{held}", 5))
    box.feed(Move(78, "nobody", 5))
    box.release(held)
    box.feed(Move(79, f"l{polled}", 5))

    assert [box.replies[number].reason for number in (77, 78, 79)] == ["granted", "unknown_or_ended", "claimable"]
    assert not any(isinstance(fact, TicketMoved) for fact in box.facts)


@pytest.mark.parametrize(
    ("closed", "code"),
    [
        pytest.param(StorageFull(True), "storage_full", id="it could not be written down"),
        pytest.param(ShutDown("SIGTERM"), "shutting_down", id="nothing is decided any more"),
    ],
)
def test_nothing_is_moved_while_nothing_can_be_written(closed, code):
    box = Box(A, B)
    box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    box.feed(closed)
    box.feed(Move(77, f"l{polled}", 5))

    assert box.code(77) == code


def test_an_engine_that_is_away_keeps_nobody_from_moving():
    box = Box(A, B)
    box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    box.feed(EngineLost("restarting"))
    box.feed(Move(77, f"l{polled}", 5))

    assert box.replies[77].moved


def ticket(order: int, priority: int, at_ms: int) -> Ticket:
    terms = Terms(target=None, owner="o", priority=priority, ttl_ms=1)
    name = str(order)
    return Ticket(
        id=name, order=order, token_hash=name, token_known=True, terms=terms, queued_at_ms=at_ms, queued_wall_ms=0
    )


@given(
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    tickets=st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 10**6)), min_size=1, max_size=20),
    which=st.integers(0, 19),
    priority=st.integers(-9, 9),
)
def test_the_place_that_is_foretold_is_the_one_that_a_queue_with_that_priority_has(rate, tickets, which, priority):
    state, then = State(Settings(aging_per_minute=rate)), State(Settings(aging_per_minute=rate))
    which %= len(tickets)
    for order, (asked, at_ms) in enumerate(tickets):
        state.index_ticket(ticket(order, asked, at_ms))
        then.index_ticket(ticket(order, priority if order == which else asked, at_ms))

    foretold = state.position_with(ticket(which, *tickets[which]), priority)
    assert foretold == [one.id for one in then.queue].index(str(which))
