"""The dry run: what a request would be answered. That it comes true is a rule of the simulation."""

from __future__ import annotations

import pytest

from supervisor.core.apply import freeze
from supervisor.core.forecast import Forecast, forecast
from supervisor.core.inputs import EngineLost, StorageFull
from supervisor.core.model import Terms
from tests.core.box import Box, container

A, B = container("a", vram_mib=8_192), container("b")


def foresee(box: Box, target: str | None = "a", priority: int | None = None) -> Forecast:
    terms = Terms(target=target, owner="ann", priority=priority or 0, ttl_ms=300_000)
    before = freeze(box.state.durable)
    seen = forecast(box.state, box.now, terms, priority_given=priority is not None)
    assert freeze(box.state.durable) == before, "a dry run changes nothing"
    return seen


def test_a_free_gpu_is_granted_and_the_residents_that_go_are_named():
    box = Box(A, B)
    box.release(box.lease("b"))

    seen = foresee(box)

    assert (seen.would, seen.refusal, seen.gpus, seen.vram_mib) == ("grant", None, ("SIM-0",), 8_192)
    assert (seen.evicts, seen.start, seen.position) == (("b",), "cold", None)


def test_a_resident_is_warm_and_evicts_nobody():
    box = Box(A, B)
    box.release(box.lease("b"))

    seen = foresee(box, "b")

    assert (seen.would, seen.evicts, seen.start, seen.vram_mib) == ("grant", (), "warm", 24_576)


def test_an_unhealthy_resident_is_started_cold():
    box = Box(A, B)
    box.release(box.lease("b"))
    box.show("b-main", health="unhealthy")

    assert foresee(box, "b").start == "cold"


def test_a_target_that_may_have_more_holders_is_joined_and_one_that_may_not_is_waited_for():
    box = Box(container("a", vram_mib=8_192, max_holders=2))
    box.ask("a")  # its container is still being started

    seen = foresee(box)
    assert (seen.would, seen.start, seen.gpus, seen.vram_mib, seen.evicts) == ("grant", "joined", ("SIM-0",), 8_192, ())

    box.ask("a")
    assert (foresee(box).would, foresee(box).start) == ("wait", "cold")


def test_a_bare_lease_starts_nothing():
    seen = foresee(Box(A), None)

    assert (seen.would, seen.start, seen.vram_mib) == ("grant", None, 24_576)


@pytest.mark.parametrize(
    ("priority", "place"),
    [
        pytest.param(None, 2, id="behind everybody"),
        pytest.param(3, 1, id="between them"),
        pytest.param(5, 1, id="behind an equal that came first"),
        pytest.param(9, 0, id="the head"),
    ],
)
def test_a_busy_gpu_means_a_place_in_the_queue(priority: int | None, place: int):
    box = Box(A, B)
    box.lease("b")
    box.ask("a", on_busy="ticket", priority=5)
    box.ask(None, on_busy="ticket", priority=0)

    seen = foresee(box, priority=priority)

    assert seen.would == "wait"
    assert seen.refusal is not None
    assert seen.refusal.code == "gpu_busy"
    assert seen.position == place


def test_while_the_engine_is_away_a_request_waits():
    box = Box(A)
    box.feed(EngineLost("gone"))

    seen = foresee(box)

    assert seen.would == "wait"
    assert seen.refusal is not None
    assert seen.refusal.code == "engine_unavailable"


def test_what_would_be_refused_says_with_which_code():
    box = Box(A, container("big", vram_mib=99_999), container("sick", master=False), queue_max=1)
    refusals = {target: foresee(box, target).refusal for target in ("nobody", "big", "sick")}
    assert {target: refusal and refusal.code for target, refusal in refusals.items()} == {
        "nobody": "target_unknown",
        "big": "insufficient_vram",
        "sick": "target_invalid",
    }

    box.lease("a")
    box.ask("a", on_busy="ticket")
    full = foresee(box)
    assert (full.would, full.refusal and full.refusal.code) == ("refuse", "queue_full")

    box.feed(StorageFull(full=True))
    stood_still = foresee(box)
    assert (stood_still.would, stood_still.refusal and stood_still.refusal.code) == ("refuse", "storage_full")
