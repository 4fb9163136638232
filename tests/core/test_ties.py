"""Bare leases and tickets that are tied to a process: they end with it, and with nothing that a clock says."""

from __future__ import annotations

import pytest

from supervisor.core.facts import LeaseEnded, LeaseGranted, TicketEnded
from supervisor.core.inputs import CallerGone, ProcessEnded
from supervisor.core.model import Tie
from supervisor.core.replies import Granted, Renewed
from tests.core.box import Box

JOB = Tie(4_711, 86_400, "boot")
OTHER = Tie(4_711, 99_999, "boot")


def test_a_tied_lease_does_not_expire_and_ends_at_once_with_its_process():
    box = Box()
    request = box.ask(None, tie=JOB, ttl_ms=10_000)
    granted = box.replies[request]
    assert isinstance(granted, Granted)
    assert granted.expires_at_ms is None
    renewed = box.renew(request)
    assert isinstance(renewed, Renewed)
    assert renewed.expires_at_ms is None

    box.advance(86_400)
    assert list(box.state.durable.leases) == ["l1"]
    box.facts.clear()
    box.feed(ProcessEnded(JOB))

    assert [(fact.id, fact.reason) for fact in box.facts if isinstance(fact, LeaseEnded)] == [("l1", "process_ended")]
    assert not box.state.ids_by_tie


def test_a_later_process_with_the_same_pid_ends_nothing():
    box = Box()
    box.ask(None, tie=JOB)

    assert box.feed(ProcessEnded(OTHER)) == []
    assert list(box.state.durable.leases) == ["l1"]


def test_all_that_is_tied_to_one_process_ends_with_it_and_the_queue_moves_on_to_the_living():
    box = Box()
    box.ask(None, tie=JOB)
    dead = box.ask(None, tie=JOB, wait_ms=60_000)
    alive = box.ask(None, tie=OTHER, wait_ms=60_000)

    box.feed(ProcessEnded(JOB))

    assert (box.code(dead), box.code(alive)) == ("lease_ended", "Granted")
    ended = [(f.id, f.reason) for f in box.facts if isinstance(f, TicketEnded | LeaseEnded)]
    assert ended == [("l2", "process_ended"), ("l1", "process_ended")]
    assert [f.id for f in box.facts if isinstance(f, LeaseGranted)] == ["l1", "l3"]
    assert list(box.state.ids_by_tie) == [OTHER]


def test_after_a_restart_the_process_of_a_lease_and_of_a_ticket_are_to_be_watched_again():
    box = Box()
    box.ask(None, tie=JOB)
    box.ask(None, tie=OTHER, on_busy="ticket")

    box.restart(down_s=7_200)
    assert box.state.ids_by_tie == {JOB: {"l1": None}, OTHER: {"l2": None}}
    box.snapshot()
    box.advance(7_200)
    assert list(box.state.durable.leases) == ["l1"], "it gets no TTL from a restart"

    box.feed(ProcessEnded(JOB))
    assert box.state.durable.tickets["l2"].window_until_ms is not None


def test_an_answer_that_was_lost_keeps_a_tied_lease_for_one_claim_window_only():
    """Its process lives and knows no token: without a bound, nobody could end the lease but an operator."""
    box = Box()
    request = box.ask(None, tie=JOB, scope="key", body="body")
    box.feed(CallerGone(request, "l1"))

    box.advance(9)
    assert box.state.durable.leases
    box.advance(2)
    assert not box.state.durable.leases


def test_of_two_answers_with_one_key_the_lost_one_takes_nothing_from_the_other():
    box = Box()
    box.ask(None, tie=JOB, scope="key", body="body")
    again = box.ask(None, tie=JOB, scope="key", body="body")
    box.feed(CallerGone(again, "l1"))

    box.advance(3_600)
    assert list(box.state.durable.leases) == ["l1"]


@pytest.mark.parametrize("tie", [pytest.param(JOB, id="tied"), pytest.param(None, id="with a TTL")])
def test_a_lost_answer_takes_nothing_from_one_that_was_given_before_a_restart(tie: Tie | None):
    box = Box()
    box.ask(None, tie=tie, scope="key", body="body")
    box.restart()
    box.snapshot()
    again = box.ask(None, tie=tie, scope="key", body="body")
    box.feed(CallerGone(again, "l1"))

    box.advance(299)
    assert list(box.state.durable.leases) == ["l1"]


def test_a_retry_with_the_key_keeps_a_tied_lease_for_as_long_as_its_process_lives():
    box = Box()
    request = box.ask(None, tie=JOB, scope="key", body="body")
    box.feed(CallerGone(request, "l1"))
    again = box.ask(None, tie=JOB, scope="key", body="body")

    assert box.code(again) == "Granted"
    box.advance(3_600)
    assert list(box.state.durable.leases) == ["l1"]
