"""Giving back what was asked for with a key, by a caller that never heard of its token."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.core.facts import LeaseEnded, TicketEnded
from supervisor.core.inputs import CallerGone, ReleaseByKey, Started
from supervisor.core.replies import Granted, Queued, Refused, Released
from tests.core.box import Box, container

LLM = container("llm")
TTS = container("tts")
NOTHING = "unknown_or_expired"


def keyed(box: Box, target: str | None, **values: Any) -> int:
    return box.ask(target, scope="k", body="b", **values)


def left(box: Box) -> tuple[int, int]:
    return len(box.state.durable.leases), len(box.state.durable.tickets)


def reason_of(box: Box, request: int) -> object:
    reply = box.replies[request]
    assert isinstance(reply, Refused)
    return reply.refusal.context.get("reason")


@pytest.mark.parametrize(
    "asked", [{"on_busy": "ticket"}, {"wait_ms": 60_000}, {"wait_ms": 60_000, "on_busy": "ticket"}]
)
def test_a_place_in_the_queue_is_cancelled_by_its_key(asked: dict[str, Any]):
    box = Box(LLM, TTS)
    box.lease("llm")
    request = keyed(box, "tts", **asked)
    box.facts.clear()

    assert box.release_by_key("k") == Released(box.requests, released=True)
    assert [(type(fact), fact.reason) for fact in box.facts] == [(TicketEnded, "cancelled")]
    assert left(box) == (1, 0)
    if "wait_ms" in asked:
        assert (box.code(request), reason_of(box, request)) == ("lease_ended", "cancelled"), "it was still on the line"
    else:
        assert isinstance(box.replies[request], Queued)
    assert not box.state.observed.holds


def test_a_bare_lease_that_waits_for_its_room_is_ended_by_its_key_and_its_caller_is_told():
    box = Box(LLM)
    box.release(box.lease("llm"))
    request = keyed(box, None)
    assert (box.code(request), box.state.lease_of("llm")) == ("", None)
    assert [lease.phase for lease in box.state.durable.leases.values()] == ["making_room"]
    stops = box.take()
    assert stops

    assert box.release_by_key("k") == Released(box.requests, released=True)
    assert (box.code(request), reason_of(box, request)) == ("lease_ended", "released")
    assert left(box) == (0, 0)
    for stop in stops:  # what had to go for it has gone meanwhile, and nobody is granted anything by that
        box.exit(stop.id)
        box.done(stop)
    assert left(box) == (0, 0)


def test_a_lease_that_was_answered_is_ended_by_its_key_as_by_its_token():
    box = Box(LLM)
    request = keyed(box, "llm")
    box.obey()
    assert isinstance(box.replies[request], Granted)

    assert box.release_by_key("k") == Released(box.requests, released=True)
    assert [(fact.reason, fact.resident) for fact in box.facts if isinstance(fact, LeaseEnded)] == [("released", True)]


def test_again_does_no_harm_and_nothing_is_asked_for_by_it():
    box = Box(LLM, TTS)
    box.lease("llm")
    keyed(box, "tts", on_busy="ticket")
    box.release_by_key("k")
    box.facts.clear()

    for key in ("k", "nobody's", ""):
        assert box.release_by_key(key) == Released(box.requests, released=False, reason=NOTHING)
    assert (box.facts, left(box)) == ([], (1, 0))


def test_a_retry_behind_it_gets_nothing_more():
    box = Box(LLM, TTS)
    box.lease("llm")
    keyed(box, "tts", on_busy="ticket")
    box.release_by_key("k")

    assert box.code(keyed(box, "tts", on_busy="ticket")) == "lease_ended"
    assert left(box) == (1, 0)


@pytest.mark.parametrize("asked", [{"on_busy": "ticket"}, {"wait_ms": 60_000}])
@pytest.mark.parametrize("order", ["the hang-up first", "the release first"])
def test_a_caller_whose_line_is_cut_leaves_nothing_whichever_is_noticed_first(asked: dict[str, Any], order: str):
    box = Box(LLM, TTS)
    box.lease("llm")
    request = keyed(box, "tts", **asked)
    told = f"l{request}" if "on_busy" in asked else None
    inputs = [CallerGone(request, told), ReleaseByKey(900, "k")]
    for item in inputs if order == "the hang-up first" else reversed(inputs):
        box.feed(item)

    assert box.replies[900] == Released(900, released=True)
    assert left(box) == (1, 0)
    box.advance(3_600)
    assert (request in box.replies) == (order == "the release first" or "on_busy" in asked)


@pytest.mark.parametrize("order", ["the hang-up first", "the release first"])
def test_the_same_of_a_grant_whose_answer_is_lost(order: str):
    box = Box(LLM, TTS)
    request = keyed(box, "llm", wait_ready=False)
    inputs = [CallerGone(request, f"l{request}"), ReleaseByKey(900, "k")]
    for item in inputs if order == "the hang-up first" else reversed(inputs):
        box.feed(item)

    assert left(box) == (0, 0)
    assert box.replies[900] == Released(900, released=True)


def test_a_grant_that_a_slow_disk_holds_back_is_over_when_it_is_told():
    box = Box(LLM)
    box.sync = False
    request = keyed(box, "llm", wait_ready=False)
    box.feed(ReleaseByKey(900, "k"))
    assert box.replies == {}
    box.sync_now()

    assert isinstance(box.replies[request], Granted), "it was true when it was decided"
    assert box.replies[900] == Released(900, released=True)
    assert left(box) == (0, 0)


def test_it_is_found_after_a_restart_too():
    box = Box(LLM, TTS)
    box.lease("llm")
    keyed(box, "tts", on_busy="ticket")
    box.restart()

    assert box.release_by_key("k") == Released(box.requests, released=True)
    assert left(box) == (1, 0)


def test_the_next_in_the_queue_is_served_at_once():
    box = Box(LLM, TTS)
    keyed(box, "llm")
    box.obey()
    next_one = box.ask("tts", wait_ms=60_000)
    box.release_by_key("k")
    box.obey()

    assert box.code(next_one) == "Granted"


def test_behind_a_damaged_journal_nothing_ends():
    box = Box(LLM)
    keyed(box, "llm", wait_ready=False)
    box.feed(Started("boot", box.at_ms, "test", first=False, safe_mode="a bad record"))

    box.release_by_key("k")
    assert box.code(box.requests) == "journal_damaged"
    assert left(box) == (1, 0)
