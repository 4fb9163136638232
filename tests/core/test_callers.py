"""Who asked: limits per caller, decided where leases and tickets are, and the caller's name on what came of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.apply import replay
from supervisor.core.facts import GpuOpened, LeaseEnded, LeaseGranted, ResidencyEnded, TicketEnded
from supervisor.core.inputs import Evict, ForceRelease, Release
from supervisor.core.replies import Refused
from supervisor.core.state import State
from tests.core.box import Box, container

A, B, C = container("a"), container("b"), container("c")


def test_a_caller_at_its_limit_is_refused_and_another_is_not():
    box = Box(A, B, caller_leases=1)
    box.lease("a", caller="key ci")

    refused = box.ask("b", caller="key ci", on_busy="ticket")
    other = box.ask("b", caller="key ops", on_busy="ticket")

    assert (box.code(refused), box.code(other)) == ("caller_limit", "Queued")
    reply = box.replies[refused]
    assert isinstance(reply, Refused)
    assert reply.refusal.context == {"held": 1, "limit": 1}
    assert (reply.refusal.status, reply.refusal.retryable) == (429, True)


def test_a_ticket_counts_as_the_lease_that_it_becomes():
    """Else a caller with one lease and many tickets would come to have many leases, without anybody to refuse it."""
    box = Box(A, B, C, caller_leases=2)
    first = box.lease("a", caller="x")
    box.ask("b", caller="x", wait_ms=60_000, wait_ready=False)
    assert box.code(box.ask("c", caller="x", on_busy="ticket")) == "caller_limit"

    box.release(first)
    box.obey()

    assert [lease.target for lease in box.state.durable.leases.values()] == ["b"]
    assert box.code(box.ask("c", caller="x", on_busy="ticket")) == "Queued"


def test_places_in_the_queue_have_a_limit_of_their_own():
    box = Box(A, B, C, caller_tickets=1)
    box.lease("a", caller="x")
    queued = box.ask("b", caller="x", on_busy="ticket")

    assert box.code(queued) == "Queued"
    assert box.code(box.ask("c", caller="x", on_busy="ticket")) == "caller_limit"
    assert box.code(box.ask("c", caller="x")) == "gpu_busy", "who would not wait takes no place"

    box.release(queued)
    assert box.code(box.ask("c", caller="x", on_busy="ticket")) == "Queued"


def test_a_retry_with_its_key_takes_its_place_up_again_at_the_limit():
    box = Box(A, caller_leases=1)
    first = box.ask("a", caller="x", scope="s", body="b", wait_ready=False)
    again = box.ask("a", caller="x", scope="s", body="b", wait_ready=False)

    assert (box.code(first), box.code(again)) == ("Granted", "Granted")


def test_without_limits_nobody_is_counted_out():
    box = Box(A, B)
    box.lease("a", caller="x")
    assert [box.code(box.ask("b", caller="x", on_busy="ticket")) for _ in range(5)] == ["Queued"] * 5


def recount(state: State) -> tuple[dict[str, int], dict[str, int]]:
    """The obvious way to count, for the counters that are kept."""
    tickets = [ticket.terms.caller for ticket in state.durable.tickets.values()]
    held = [*tickets, *(lease.terms.caller for lease in state.durable.leases.values())]
    return {name: held.count(name) for name in held}, {name: tickets.count(name) for name in tickets}


@given(st.lists(st.tuples(st.sampled_from("abr"), st.sampled_from("xyz"), st.integers(0, 9)), max_size=25))
def test_the_counts_are_those_of_what_there_is_after_a_replay_too(steps):
    box = Box(A, B, caller_leases=3, caller_tickets=2)
    asked = [0]
    for what, caller, which in steps:
        if what == "r":
            box.release(asked[which % len(asked)])
        else:
            asked.append(box.ask(what, caller=caller, on_busy="ticket", wait_ready=False))
        box.obey()
        assert (dict(box.state.held_by), dict(box.state.tickets_by)) == recount(box.state)
        assert max(box.state.held_by.values(), default=0) <= 3
        assert max(box.state.tickets_by.values(), default=0) <= 2

    again = replay(box.state.settings, None, [box.journal])
    assert (again.held_by, again.tickets_by) == (box.state.held_by, box.state.tickets_by)


def test_who_asked_for_it_is_on_the_fact():
    box = Box(A, B, C)
    box.lease("a", caller="key ci")
    cancelled = box.ask("b", caller="key ci", on_busy="ticket")
    box.feed(Release(90, f"t{cancelled}", "uid 7"))
    box.feed(ForceRelease(91, "a", "key ops"))
    box.feed(Evict(92, "a", "uid 0"))

    by = [
        fact.terms.caller if isinstance(fact, LeaseGranted) else fact.caller
        for fact in box.facts
        if isinstance(fact, LeaseGranted | TicketEnded | LeaseEnded | ResidencyEnded | GpuOpened)
    ]
    assert by == ["key ci", "uid 7", "key ops", "uid 0"]


@pytest.mark.parametrize("way", ["expired", "evicted"])
def test_what_nobody_asked_for_has_nobody_s_name(way):
    box = Box(A, B)
    first = box.lease("a", caller="key ci")
    if way == "expired":
        box.advance(301)
    else:
        box.release(first)
        box.lease("b", caller="key ci")
    ended = [fact for fact in box.facts if isinstance(fact, LeaseEnded | ResidencyEnded)][-1]

    assert ended.caller == ""
