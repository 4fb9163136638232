"""What the tripwire may hit, and what is written down of it: only what certainly may not run is ever refused."""

from __future__ import annotations

import pytest

from supervisor.core.facts import ContainerRefused, ResidencyEnded
from supervisor.core.inputs import ContainerSeen, EngineLost, StartHinted, StartPrevented
from supervisor.core.replies import KillContainer, StartContainer
from supervisor.core.tripwire import verdict
from tests.core.box import Box, container

A, B = container("a"), container("b")


def refusals(box: Box) -> list[ContainerRefused]:
    return [fact for fact in box.facts if isinstance(fact, ContainerRefused)]


def test_a_known_container_without_a_right_to_run_is_refused_out_of_sync_too():
    box = Box(A, B)
    box.lease("b")
    assert verdict(box.state, "a-main") == "refuse"

    box.feed(EngineLost("the daemon restarts"))

    assert verdict(box.state, "a-main") == "refuse"
    assert verdict(box.state, "b-main") == "leave"


def test_a_one_off_container_is_a_consumer_like_any_other():
    box = Box(A)
    box.add(container("a", id="run-1", one_off=True))

    assert verdict(box.state, "run-1") == "refuse"
    box.lease("a")
    assert verdict(box.state, "run-1") == "leave"


def test_who_is_not_known_or_has_no_target_is_never_refused():
    box = Box(A)
    box.feed(ContainerSeen(container("a", id="helper", target=None)))

    assert verdict(box.state, "helper") == "leave"
    assert verdict(box.state, "f" * 64) == "unknown"


def test_while_a_start_of_ours_is_on_its_way_its_container_is_left_even_if_the_lease_is_over():
    box = Box(A)
    request = box.ask("a")
    assert box.take() == [StartContainer("a-main")]
    assert verdict(box.state, "a-main") == "leave"

    box.release(request)

    assert verdict(box.state, "a-main") == "leave"
    box.done(StartContainer("a-main"), "timeout")
    assert verdict(box.state, "a-main") == "refuse"


def test_a_right_whose_end_is_not_on_disk_yet_counts_and_is_asked_for_again():
    box = Box(A, B)
    box.release(box.lease("a"))
    box.ask("b")
    ended = [fact for fact in box.facts if isinstance(fact, ResidencyEnded)]

    assert verdict(box.state, "a-main", ended) == "unknown"
    assert verdict(box.state, "a-main", refusals(box)) == "refuse", "nothing else holds it up"
    assert verdict(box.state, "b-main", ended) == "refuse", "nor what is another's"


def test_a_container_of_a_lease_that_still_waits_for_room_is_refused_and_one_with_room_is_not():
    box = Box(A, B)
    box.release(box.lease("b"))
    box.ask("a")
    assert verdict(box.state, "a-main") == "refuse", "b has not stopped yet"

    box.obey()

    assert verdict(box.state, "a-main") == "leave"


@pytest.mark.parametrize("mode", ["observe", "adopt"])
def test_in_the_other_modes_nothing_is_refused(mode: str):
    assert verdict(Box(A, mode=mode).state, "a-main") == "leave"


def test_before_the_first_look_is_over_nobody_is_refused():
    box = Box(synced=False, first=True)
    box.add(A)

    assert verdict(box.state, "a-main") == "leave"


def test_a_prevented_start_is_in_the_audit_like_any_refusal_and_counted_once():
    box = Box(A, B)
    box.lease("b")

    box.feed(StartPrevented("a-main"))
    box.feed(StartHinted("a-main", "late", 5))  # it had come further than it seemed

    assert [(fact.container, fact.reason, fact.action, fact.holder, fact.count) for fact in refusals(box)] == [
        ("a-main-1", "gpu_held", "kill", "b", 1)
    ]
    assert box.take() == [KillContainer("a-main")], "whatever was counted: what runs is killed"
    box.exit("a-main", 137)
    box.advance(61)
    assert len(refusals(box)) == 1


def test_a_later_start_of_the_same_container_is_another_refusal():
    box = Box(A)
    box.feed(StartPrevented("a-main"))
    box.advance(3)

    box.start("a-main")
    box.exit("a-main", 137)
    box.advance(61)

    assert [fact.count for fact in refusals(box)] == [1, 1]


def test_what_has_the_right_by_now_or_is_gone_was_not_refused():
    box = Box(A)
    box.lease("a")

    box.feed(StartPrevented("a-main"))
    box.feed(StartPrevented("nobody"))

    assert refusals(box) == []
