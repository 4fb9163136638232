"""What fits where: several GPUs, sharing, evictions, pins, classes, and what is in use by others."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core import occupants, room, usage, wishes
from supervisor.core.errors import Refusal
from supervisor.core.inputs import EngineSnapshot, OpenGpu, ProcessesSeen, VramRead
from supervisor.core.model import Bystander, Gpu, GpuProcess, Sharing, Terms
from supervisor.core.occupants import Occupant
from supervisor.core.processes import SeenProcess, Use
from supervisor.core.replies import Granted, Refused, Released, StartContainer, StopContainer
from supervisor.core.room import Placement, fewest_to_evict
from supervisor.core.state import State
from supervisor.core.wishes import Wish
from tests.core.box import Box, after, container, kinds

FIRST = Gpu("SIM-0", total_mib=24_576, used_mib=0, processes=())
SECOND = Gpu("SIM-1", index=1, total_mib=24_576, used_mib=0, processes=())
SMALL = Gpu("SIM-1", index=1, total_mib=8_192, used_mib=0, processes=())
ANY = Sharing(any=True)


def small(name: str, mib: int = 8_000, **values: Any) -> Any:
    """A target that shares its GPU with anybody."""
    return container(name, vram_mib=mib, **{"coexist": ANY, **values})


def where(box: Box, request: int) -> tuple[str, ...]:
    reply = box.replies[request]
    assert isinstance(reply, Granted), reply
    return reply.lease.gpus


def refusal(box: Box, request: int) -> Refusal:
    reply = box.replies[request]
    assert isinstance(reply, Refused), reply
    return reply.refusal


# ---- several GPUs


def test_two_targets_that_do_not_share_run_on_two_gpus_and_a_third_waits():
    box = Box(container("a"), container("b"), container("c"), gpus=(FIRST, SECOND))

    gpus = [where(box, box.lease(name)) for name in "ab"]

    assert gpus == [("SIM-0",), ("SIM-1",)]
    assert box.code(box.ask("c")) == "gpu_busy"


def test_a_target_that_is_loaded_stays_where_it_is():
    box = Box(container("a"), container("b"), gpus=(FIRST, SECOND))
    first = box.lease("a")
    box.release(box.lease("b"))
    box.release(first)

    again = box.lease("b")

    assert where(box, again) == ("SIM-1",)
    assert not [fact for fact in box.facts if type(fact).__name__ == "ResidencyEnded"]


@pytest.mark.parametrize(
    ("values", "gpus"),
    [
        pytest.param({"devices": ("1",)}, ("SIM-1",), id="by index"),
        pytest.param({"devices": ("SIM-1",)}, ("SIM-1",), id="by uuid"),
        pytest.param({"device_count": 1}, ("SIM-0",), id="count: Docker gives the first"),
        pytest.param({"device_count": 2}, ("SIM-0", "SIM-1"), id="count of two"),
        pytest.param({"all_devices": True}, ("SIM-0", "SIM-1"), id="all"),
    ],
)
def test_a_pinned_target_gets_its_own_gpus(values: dict[str, Any], gpus: tuple[str, ...]):
    box = Box(container("a", **values), container("b"), gpus=(FIRST, SECOND))

    assert where(box, box.lease("a")) == gpus


def test_a_pinned_target_waits_for_its_own_gpu_while_others_are_free():
    box = Box(container("a"), container("b", devices=("0",)), gpus=(FIRST, SECOND))
    box.lease("a")

    assert box.code(box.ask("b")) == "gpu_busy"


THIRD = Gpu("SIM-2", index=2, total_mib=24_576, used_mib=0, processes=())


@pytest.mark.parametrize(
    ("gpus", "held", "asked", "why"),
    [
        pytest.param((FIRST,), ({},), {}, "a holds the GPU (owner ann)", id="one GPU needs no number"),
        pytest.param(
            (FIRST, SECOND), ({}, {}), {}, "a holds GPU 0 (owner ann), b holds GPU 1 (owner ann)", id="all who have one"
        ),
        pytest.param(
            (FIRST, SECOND), ({"devices": ("1",)},), {"devices": ("1",)}, "a holds GPU 1 (owner ann)", id="the only one"
        ),
        pytest.param(
            (FIRST, SECOND, THIRD), ({"all_devices": True},), {}, "a holds GPUs 0, 1 and 2 (owner ann)", id="several"
        ),
        pytest.param(
            (FIRST, SECOND), ({"devices": ("1",)},), {"all_devices": True}, "a holds GPU 1 (owner ann)", id="of several"
        ),
    ],
)
def test_who_has_to_wait_hears_who_holds_which_gpus(gpus: Any, held: Any, asked: dict[str, Any], why: str):
    names = "ab"[: len(held)]
    holders = [container(name, **values) for name, values in zip(names, held, strict=True)]
    box = Box(*holders, container("last", **asked), gpus=gpus)
    for name in names:
        box.lease(name)

    assert refusal(box, box.ask("last")).detail == why


def test_a_second_caller_of_a_target_hears_which_gpu_it_has():
    box = Box(container("a", devices=("1",)), gpus=(FIRST, SECOND))
    box.lease("a")

    assert refusal(box, box.ask("a")).detail == "a holds GPU 1 (owner ann)"


@pytest.mark.parametrize(
    "values", [{"devices": ("7",)}, {"device_count": 3}], ids=["no such GPU", "more than there are"]
)
def test_a_pin_that_fits_no_gpu_is_refused_by_name(values: dict[str, Any]):
    box = Box(container("a", **values), gpus=(FIRST, SECOND))

    told = refusal(box, box.ask("a"))

    assert told.code == "gpu_unavailable"
    assert "which is not one GPU of this machine" in told.detail


def test_what_a_target_declares_is_spread_over_its_gpus():
    box = Box(small("a", 20_000, all_devices=True), small("b", 14_000, devices=("0",)), gpus=(FIRST, SECOND))

    lease = box.replies[box.lease("a")].lease

    assert (lease.gpus, lease.vram_mib) == (("SIM-0", "SIM-1"), 10_000)
    assert where(box, box.lease("b")) == ("SIM-0",)


@pytest.mark.parametrize(("name", "gpus"), [("high", ("SIM-0",)), ("low", ("SIM-1",)), ("art", ("SIM-1",))])
def test_a_class_leads_to_its_gpus(name: str, gpus: tuple[str, ...]):
    box = Box(container("a", gpu_class=name), gpus=(FIRST, SMALL), gpu_classes={"art": ("1",)})

    assert where(box, box.lease("a")) == gpus


def test_a_class_that_nobody_knows_is_refused_with_those_that_are_known():
    box = Box(container("a", gpu_class="hihg"), gpus=(FIRST,), gpu_classes={"art": ("0",)})

    told = refusal(box, box.ask("a"))

    assert (told.code, told.detail.count("art, high, low")) == ("gpu_unavailable", 1)


@pytest.mark.parametrize(("placement", "gpu"), [("pack", "SIM-0"), ("spread", "SIM-1")])
def test_placement_packs_or_spreads(placement: str, gpu: str):
    box = Box(small("a"), small("b"), gpus=(FIRST, SECOND), placement=placement)
    box.lease("a")

    assert where(box, box.lease("b")) == (gpu,)


def test_a_bare_lease_of_two_gpus_gets_two_and_never_more_than_there_are():
    box = Box(gpus=(FIRST, SECOND))
    box.ask(None, gpus=2, vram_mib=4_000)
    assert box.replies[1].lease.gpus == ("SIM-0", "SIM-1")

    assert refusal(box, box.ask(None, gpus=3)).code == "insufficient_vram"


@pytest.mark.parametrize(
    ("target", "ask", "advice"),
    [
        pytest.param("huge", {}, "lower gpu.vram-mib", id="a target declares it on its labels"),
        pytest.param(None, {"vram_mib": 50_000}, "ask for less", id="a bare lease has none"),
    ],
)
def test_who_needs_more_than_any_gpu_has_is_told_what_to_change(target, ask, advice):
    box = Box(container("huge", vram_mib=50_000))

    assert refusal(box, box.ask(target, **ask)).detail.endswith(advice + (" if it is too high" if target else ""))


def test_a_lost_gpu_is_closed_and_the_other_goes_on():
    lost = replace(FIRST, state="lost", detail="GPU SIM-0 fell off the bus")
    box = Box(container("a"), container("b", devices=("0",)), gpus=(lost, SECOND))

    assert where(box, box.lease("a")) == ("SIM-1",)
    told = refusal(box, box.ask("b"))
    assert (told.code, told.detail) == ("gpu_unavailable", "GPU SIM-0 fell off the bus")


# ---- sharing


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        pytest.param({"coexist": ANY}, {"coexist": ANY}, True, id="any and any"),
        pytest.param({"coexist": ANY}, {}, False, id="the other does not want to"),
        pytest.param({"coexist": Sharing(names=("b",))}, {"coexist": Sharing(names=("a",))}, True, id="by name"),
        pytest.param({"coexist": Sharing(names=("c",))}, {"coexist": ANY}, False, id="by another name"),
        pytest.param({"coexist": Sharing(groups=("tts",))}, {"coexist": ANY, "groups": ("tts",)}, True, id="by group"),
    ],
)
def test_two_share_a_gpu_when_both_agree(one: dict[str, Any], other: dict[str, Any], agree: bool):
    box = Box(container("a", vram_mib=8_000, **one), container("b", vram_mib=8_000, **other))
    box.lease("a")

    assert box.code(box.lease("b")) == ("Granted" if agree else "gpu_busy")


def test_two_that_agree_do_not_share_when_they_do_not_fit():
    box = Box(small("a", 16_000), small("b", 16_000))
    box.lease("a")

    assert box.code(box.ask("b")) == "gpu_busy"


def test_who_declares_nothing_needs_all_of_it():
    box = Box(small("a"), container("b", coexist=ANY))
    box.lease("a")

    assert box.code(box.ask("b")) == "gpu_busy"


def test_a_bare_lease_with_a_size_shares_with_those_that_let_it():
    box = Box(
        small("a"), container("b", vram_mib=8_000, coexist=Sharing(groups=("bare",))), container("c", vram_mib=100)
    )
    for name in "ab":
        box.lease(name)
    box.ask(None, vram_mib=4_000)
    assert isinstance(box.replies[box.requests], Granted), "both of them take in bare leases"
    alone = Box(container("c", vram_mib=100))
    alone.lease("c")

    assert alone.code(alone.ask(None, vram_mib=4_000)) == "gpu_busy"


def test_one_at_a_time_loads_on_a_gpu():
    box = Box(small("a"), small("b"))
    first = box.ask("a", wait_ms=60_000)
    box.ask("b", wait_ms=60_000)
    starts = [action.id for action in box.take()]
    assert starts == ["a-main"], "b has its room, and waits until a is loaded"

    box.start("a-main")

    assert box.code(first) == "Granted"
    assert [action.id for action in box.take()] == ["b-main"]


def test_a_resident_that_shares_stays_and_one_that_does_not_goes():
    box = Box(small("a"), container("b", vram_mib=8_000), small("c"))
    box.release(box.lease("a"))
    box.release(box.lease("c"))
    assert set(box.state.durable.residents) == {"a", "c"}

    box.lease("b")

    assert set(box.state.durable.residents) == set()


def test_the_fewest_go_and_of_those_the_least_recently_used():
    box = Box(small("a"), small("b"), small("c"), small("d", 8_192))
    for name in "abc":
        box.release(box.lease(name))
        box.advance(1)
    box.release(box.lease("a"))

    box.lease("d")

    assert set(box.state.durable.residents) == {"a", "c"}, "a was used again after b"


@pytest.mark.parametrize(
    ("sizes", "spare", "going"),
    [
        pytest.param({"a": 4, "b": 4}, 8, (), id="all stay"),
        pytest.param({"a": 4, "b": 4}, 4, ("a",), id="the oldest"),
        pytest.param({"a": 1, "b": 4}, 3, ("b",), id="one large one rather than two"),
        pytest.param({"a": 2, "b": 2, "c": 5}, 0, ("a", "b", "c"), id="all go"),
        pytest.param({"a": 2}, -1, None, id="not even then"),
    ],
)
def test_fewest_to_evict(sizes: dict[str, int], spare: int, going: tuple[str, ...] | None):
    assert fewest_to_evict(sizes, spare) == going


def test_a_target_that_was_just_loaded_is_not_evicted_before_its_time():
    box = Box(container("a", min_residency_ms=60_000), container("b"))
    box.release(box.lease("a"))
    waiter = box.ask("b", wait_ms=600_000, wait_ready=False)
    assert box.code(waiter) == ""

    box.advance(59)
    assert box.code(waiter) == ""
    box.advance(2)

    assert box.code(waiter) == "Granted"


def test_a_resident_that_nobody_leases_is_stopped_after_its_idle_timeout():
    box = Box(container("a", idle_timeout_ms=30_000))
    box.release(box.lease("a"))

    box.advance(31)

    assert [(fact.target, fact.reason) for fact in box.facts if type(fact).__name__ == "ResidencyEnded"] == [
        ("a", "unused")
    ]
    assert [action.kind for action in box.take()] == ["stop"]


def test_a_lease_starts_the_idle_timeout_anew():
    box = Box(container("a", idle_timeout_ms=30_000))
    box.release(box.lease("a"))
    box.advance(20)
    box.release(box.lease("a"))
    box.advance(20)

    assert "a" in box.state.durable.residents


# ---- several holders


def test_a_second_caller_joins_at_once_and_the_target_is_released_when_the_last_one_goes():
    box = Box(container("a", max_holders=2), container("b"))
    first, second = box.lease("a"), box.ask("a")
    assert [where(box, one) for one in (first, second)] == [("SIM-0",)] * 2
    assert box.code(box.ask("a")) == "gpu_busy", "two are all that the label allows"

    box.release(first)
    assert "a" not in box.state.durable.residents

    box.release(second)
    assert "a" in box.state.durable.residents


def test_who_would_join_waits_behind_those_who_wait_for_the_gpu_within_a_bound():
    box = Box(container("a", max_holders=9), container("b"), aging_per_minute=1, affinity_points=1.0)
    first = box.lease("a")
    swap = box.ask("b", wait_ms=3_600_000, wait_ready=False)
    box.advance(30)
    second = box.ask("a", wait_ready=False)
    assert box.code(second) == "Granted", "b has waited for half a minute more, a point is one"

    box.advance(45)
    third = box.ask("a", wait_ms=3_600_000, wait_ready=False)
    assert box.code(third) == "", "holders that join one after the other would keep b waiting for ever"
    box.release(first)
    box.release(second)

    assert (box.code(swap), box.code(third)) == ("Granted", "")


def test_who_joins_a_target_that_starts_is_answered_when_it_is_ready():
    box = Box(container("a", max_holders=3))
    first, second = box.ask("a"), box.ask("a")
    assert (box.code(first), box.code(second)) == ("", "")

    box.obey()

    assert (box.code(first), box.code(second)) == ("Granted", "Granted")


def test_the_first_holder_may_go_while_the_target_starts():
    box = Box(container("a", max_holders=2))
    first, second = box.ask("a"), box.ask("a")
    box.release(first)

    box.obey()

    assert box.code(second) == "Granted"
    assert box.state.lease_of("a").id == f"l{second}"


def test_what_the_first_holder_had_started_is_not_started_again_when_it_goes():
    depends_on = after("init", "service_completed_successfully")
    box = Box(container("a", max_holders=2, depends_on=depends_on), container("a", "init", max_holders=2))
    first, second = box.ask("a"), box.ask("a")
    (action,) = box.take()
    box.start("a-init")
    box.done(action)
    box.exit("a-init", 0)

    box.release(first)

    assert [action.id for action in box.obey()] == ["a-main"]
    assert box.code(second) == "Granted"


def test_the_grace_of_a_target_that_is_down_goes_on_when_its_first_holder_goes():
    box = Box(container("a", max_holders=2))
    first, _ = box.lease("a"), box.lease("a")
    box.exit("a-main", 1)
    box.advance(20)
    box.release(first)
    box.advance(11)

    assert not box.state.durable.leases


def test_who_joins_a_target_that_is_to_start_cold_starts_it_cold_when_the_first_one_goes():
    box = Box(container("a", max_holders=2))
    box.ask("a")
    box.start("a-main", health="unhealthy")
    first = box.ask("a", wait_ready=False)
    box.ask("a", wait_ready=False)
    box.take()
    assert [lease.needs_cold_start for lease in box.state.durable.leases.values()] == [True, True]
    box.release(first)
    box.exit("a-main", 143)
    box.done(StopContainer("a-main", 10))

    assert box.take() == [StartContainer("a-main")]


def test_a_target_that_fails_ends_all_its_holders():
    box = Box(container("a", max_holders=2), container("b"))
    first, second = box.ask("a"), box.ask("a")
    box.obey()

    box.exit("a-main", 1)
    box.advance(31)

    assert kinds(box.facts).count("LeaseEnded") == 2
    assert not box.state.durable.leases
    assert {box.code(first), box.code(second)} == {"Granted"}


def test_holders_survive_a_restart_together():
    box = Box(container("a", max_holders=2))
    box.lease("a")
    box.ask("a")

    box.restart()
    box.snapshot()

    assert [lease.phase for lease in box.state.durable.leases.values()] == ["ready", "ready"]


# ---- bounded holds


def test_who_holds_for_long_is_told_after_two_thirds_and_ended_at_the_end_while_others_wait():
    box = Box(container("a", max_hold_ms=90_000), container("b"))
    first = box.lease("a")
    waiter = box.ask("b", wait_ms=600_000, wait_ready=False)

    for _ in range(61):
        box.advance(1)
        box.renew(first)
    (told,) = [fact for fact in box.facts if type(fact).__name__ == "LeaseTold"]
    assert told.ends_at_ms - box.at_ms <= 30_000
    for _ in range(30):
        box.advance(1)
        box.renew(first)

    assert [fact.reason for fact in box.facts if type(fact).__name__ == "LeaseEnded"] == ["max_hold"]
    assert box.code(waiter) == "Granted"


def test_while_nobody_waits_a_hold_goes_on_and_then_gets_the_last_third():
    box = Box(container("a", max_hold_ms=90_000), container("b"))
    box.lease("a")
    box.advance(250)
    waiter = box.ask("b", wait_ms=600_000, wait_ready=False)

    box.advance(29)
    assert box.code(waiter) == ""
    box.advance(2)

    assert box.code(waiter) == "Granted"


# ---- the queue over several GPUs


def test_someone_further_back_goes_first_only_on_gpus_that_no_earlier_ticket_could_use():
    box = Box(container("a"), container("b", devices=("0",)), container("c"), container("d"), gpus=(FIRST, SECOND))
    box.lease("a")  # on the first
    pinned = box.ask("b", wait_ms=600_000, wait_ready=False)
    other = box.ask("c", wait_ms=600_000, wait_ready=False)
    assert (box.code(pinned), where(box, other)) == ("", ("SIM-1",))

    free = box.ask("d", wait_ms=600_000, wait_ready=False)
    box.release(other)

    assert where(box, free) == ("SIM-1",)
    assert box.code(pinned) == ""


def test_the_head_is_not_starved_by_smaller_ones():
    box = Box(small("a", 12_000), small("big", 20_000), small("c", 4_000))
    first = box.lease("a")
    large = box.ask("big", wait_ms=600_000, wait_ready=False)

    little = box.ask("c", wait_ms=600_000, wait_ready=False)
    assert (box.code(large), box.code(little)) == ("", ""), "c would fit beside a, and big was first"
    box.release(first)

    assert (box.code(large), box.code(little)) == ("Granted", "Granted")


def test_an_open_window_keeps_its_room_and_others_may_open_beside_it():
    box = Box(small("a", 12_000), small("b", 12_000), small("c", 12_000), small("x", 24_000))
    holder = box.lease("x")
    tickets = [box.ask(name, on_busy="ticket") for name in "abc"]
    box.release(holder)

    windows = [fact.id for fact in box.facts if type(fact).__name__ == "WindowOpened"]
    assert windows == [f"l{tickets[0]}", f"l{tickets[1]}"]
    assert box.code(box.ask("c")) == "gpu_busy"

    assert box.code(box.claim(tickets[1], wait_ready=False)) == "Granted"


def test_a_target_that_is_seen_elsewhere_than_its_open_window_has_room_in_both_places():
    box = Box(container("a"), container("b"), gpus=(FIRST, SECOND), mode="observe")
    first, second = box.ask(None), box.ask(None)
    box.ask("a", on_busy="ticket")
    box.release(second)
    assert [ticket.window_gpus for ticket in box.state.durable.tickets.values()] == [("SIM-1",)]
    box.feed(VramRead((used(FIRST, (6_000, "a-main")), SECOND)))
    box.start("a-main")
    box.release(first)
    assert box.state.durable.residents["a"].gpus == ("SIM-0",)
    box.ask("b", on_busy="ticket")
    assert "a" not in box.state.durable.residents, "evicted: b gets the GPU whole"


def test_waiters_for_a_loaded_target_go_first_within_a_bound():
    box = Box(container("a"), container("b"), aging_per_minute=1, affinity_points=1.0)
    first = box.lease("a")
    swap = box.ask("b", wait_ms=3_600_000, wait_ready=False)
    box.advance(30)
    warm = box.ask("a", wait_ms=3_600_000, wait_ready=False)

    box.release(first)
    assert (box.code(warm), box.code(swap)) == ("Granted", ""), "b has waited for half a minute more, a point is one"

    box.advance(45)
    late = box.ask("a", wait_ms=3_600_000, wait_ready=False)
    box.release(warm)
    assert (box.code(swap), box.code(late)) == ("Granted", "")


# ---- what is in use


def used(gpu: Gpu, *processes: tuple[int, str | None], more_mib: int = 0) -> Gpu:
    """Return a reading: (MiB, container) of each process, and what no process explains."""
    seen = tuple(GpuProcess(pid=100 + at, used_mib=mib, container=of) for at, (mib, of) in enumerate(processes))
    return replace(gpu, used_mib=sum(mib for mib, _ in processes) + more_mib, processes=seen)


def test_what_a_game_uses_is_not_granted_and_its_process_is_named():
    box = Box(container("a", vram_mib=8_000))
    box.feed(VramRead((used(FIRST, (20_000, None)),)))

    told = refusal(box, box.ask("a", wait_ms=60_000))

    assert (told.code, told.context["foreign_mib"]) == ("insufficient_vram", 20_000)
    assert [process["pid"] for process in told.context["processes"]] == [100]


def test_who_is_in_the_way_is_told_with_his_name_and_what_he_has_the_largest_first():
    box = Box(container("a", vram_mib=20_000))
    game = SeenProcess(pid=101, started=0, uses=(Use("SIM-0", 9_000),), name="game", user="eve")
    miner = SeenProcess(pid=102, started=0, uses=(Use("SIM-0", 2_000),), name="\x1b[2Jx", containers=("m",))
    box.feed(EngineSnapshot(tuple(box.engine.values()), (Bystander("m", "miner"),)))
    box.feed(VramRead((used(FIRST, (500, None), (9_000, None), (2_000, "m")),)))
    box.feed(ProcessesSeen((game, miner)))

    told = refusal(box, box.ask("a"))

    assert told.detail == (
        "11500 of 24576 MiB on GPU SIM-0 are in use by what the supervisor may not stop: pid 101 (game of eve, 9000 "
        "MiB), pid 102 (\\x1b[2Jx in miner, 2000 MiB), pid 100 (500 MiB); a needs 20000 MiB; end that first"
    )
    assert told.context["processes"][0] == {
        "pid": 101,
        "used_mib": 9_000,
        "name": "game",
        "user": "eve",
        "container": None,
    }


def test_who_keeps_a_gpu_dirty_is_told_with_his_name():
    box = Box(container("a"), container("b"), gpus=(FIRST,))
    box.release(box.lease("a"))
    box.ask("b")
    left = replace(FIRST, used_mib=9_000, processes=(GpuProcess(pid=100, container="a-main"),))
    box.feed(VramRead((left,)))
    box.feed(ProcessesSeen((SeenProcess(pid=100, started=0, uses=(), name="python3", user="ann"),)))
    box.obey()
    box.advance(6)

    assert "pid 100 (python3 of ann in a-main-1) still hold it" in box.state.observed.dirty["SIM-0"].detail


def test_with_a_lease_in_the_way_a_request_queues_whatever_a_game_uses():
    box = Box(container("a", vram_mib=8_000), container("b", vram_mib=4_000))
    box.lease("b")
    box.feed(VramRead((used(FIRST, (20_000, None), (4_000, "b-main")),)))

    assert refusal(box, box.ask("a")).code == "gpu_busy"


def test_memory_that_is_on_its_way_back_is_waited_for_and_not_refused():
    box = Box(container("a", vram_mib=8_000), container("b"))
    box.release(box.lease("b"))
    request = box.ask("a", wait_ready=False)
    box.feed(VramRead((used(FIRST, more_mib=20_000),)))
    box.obey()
    assert box.state.lease_of("a").phase == "making_room"

    box.feed(VramRead((used(FIRST, more_mib=300),)))

    assert [action.id for action in box.take()] == ["a-main"]
    assert box.code(request) == "Granted"


def test_what_somebody_who_must_go_uses_still_makes_nobody_else_go_where_the_driver_does_not_say_whose_it_is():
    box = Box(small("a", 4_000), small("b", 16_000), small("c", 5_000), headroom_mib=1_024)
    box.release(box.lease("a"))
    box.release(box.lease("b"))
    box.feed(VramRead((replace(FIRST, used_mib=24_000, processes=None),)))
    box.ask("c", wait_ready=False)

    assert [action.id for action in box.take()] == ["b-main"]
    assert list(box.state.durable.residents) == ["a"]


def test_what_somebody_who_goes_had_reserved_still_explains_what_is_in_use_where_nothing_of_it_runs():
    box = Box(small("a", 4_000), small("b", 16_000), small("c", 5_000), headroom_mib=1_024)
    for name in ("a", "b"):
        box.release(box.lease(name))
        box.show(f"{name}-main", status="exited", health="none", exit_code=1, run="")
    box.advance(8)
    box.feed(VramRead((replace(FIRST, used_mib=24_000, processes=None),)))
    box.ask("c", wait_ready=False)

    assert list(box.state.durable.residents) == ["a"]


def test_what_a_target_that_starts_cold_still_uses_evicts_nobody_for_another_one():
    box = Box(small("a", 6_000), small("b", 8_000), small("c", 6_000))
    box.release(box.lease("b"))
    box.advance(1)
    box.release(box.lease("c"))
    box.feed(VramRead((used(FIRST, (16_000, "b-main"), (6_000, "c-main")),)))
    box.ask("a", wait_ready=False)
    assert list(box.state.durable.residents) == ["c"]

    assert box.code(box.ask("b", wait_ready=False)) != "gpu_busy"
    assert list(box.state.durable.residents) == ["c"]


def test_a_resident_that_uses_more_than_it_declared_counts_with_what_it_uses():
    box = Box(small("a", 4_000), small("b", 12_000))
    box.release(box.lease("a"))
    box.feed(VramRead((used(FIRST, (16_000, "a-main")),)))

    box.lease("b")

    assert "a" not in box.state.durable.residents, "16,000 and 12,000 do not fit"


def test_who_uses_too_much_goes_the_moment_that_it_can_be_told_and_no_gpu_is_closed_for_it():
    box = Box(small("a", 4_000), small("b", 4_000), small("c", 12_000), headroom_mib=1_024)
    for name in "ab":
        box.release(box.lease(name))
    box.show("b-main", status="exited", health="none", exit_code=1, run="")
    box.feed(VramRead((replace(FIRST, used_mib=24_500, processes=None),)))
    box.ask("c", wait_ready=False)
    assert list(box.state.durable.residents) == ["a", "b"], "it may be on its way back"

    box.advance(5)

    assert list(box.state.durable.residents) == ["b"]
    assert not box.state.observed.dirty


def test_a_load_that_is_still_to_come_is_kept_free():
    box = Box(small("a", 16_000), small("b", 12_000))
    box.lease("a")
    box.feed(VramRead((used(FIRST, (1_000, "a-main")),)))

    assert box.code(box.ask("b")) == "gpu_busy"
    assert usage.free_mib(box.state, FIRST) == 24_576 - 16_000


def test_the_headroom_is_never_granted():
    box = Box(container("a", vram_mib=24_000), headroom_mib=1_024)

    assert refusal(box, box.ask("a")).code == "insufficient_vram"


def test_the_peak_is_remembered_over_a_restart_and_written_in_steps():
    box = Box(container("a"))
    box.lease("a")
    for mib in (8_000, 8_010, 8_400, 5_000):
        box.feed(VramRead((used(FIRST, (mib, "a-main")),)))

    assert [fact.peak_mib for fact in box.facts if type(fact).__name__ == "UseSeen"] == [8_000, 8_400]
    box.restart()
    assert box.state.durable.peaks == {"a": 8_400}


def test_a_gpu_that_stays_full_is_closed_alone_and_an_operator_may_open_it():
    box = Box(container("a", devices=("0",)), container("b"), container("c"), gpus=(FIRST, SECOND))
    box.release(box.lease("a"))
    box.ask(None, gpus=2, wait_ready=False)
    box.feed(VramRead((used(FIRST, more_mib=12_000), SECOND)))
    box.obey()
    box.advance(6)
    assert list(box.state.observed.dirty) == ["SIM-0"]
    assert kinds(box.facts).count("GpuClosed") == 1
    box.release(box.requests)

    assert where(box, box.lease("b")) == ("SIM-1",), "the other GPU goes on"
    box.feed(OpenGpu(900, "SIM-0"))
    assert box.replies[900] == Released(900, released=True)
    assert not box.state.observed.dirty
    box.feed(OpenGpu(901, "SIM-7"))
    assert refusal(box, 901).code == "not_found"


def test_a_lease_whose_room_a_game_takes_meanwhile_ends_and_says_who():
    box = Box(container("a", vram_mib=8_000), container("b"))
    box.release(box.lease("b"))
    request = box.ask("a")
    box.feed(VramRead((used(FIRST, (20_000, None)),)))
    box.obey()

    box.advance(6)

    assert (refusal(box, request).code, box.state.observed.dirty) == ("insufficient_vram", {})


# ---- the slow twin


def slow_twin(state: State, wish: Wish) -> int | None:
    """Return the fewest evictions with which a wish for one GPU fits, by trying everything; None if it never does."""
    best: int | None = None
    for gpu in wish.able:
        if gpu.uuid not in wishes.reach(state, wish):
            continue
        others = [o for o in occupants.occupants(state) if o.is_on(gpu) and o.target != wish.target]
        held = [other for other in others if other.kind != "resident"]
        idle = [other for other in others if other.kind == "resident"]
        for number in range(len(idle) + 1):
            if any(_together(gpu, wish, [*held, *stay]) for stay in combinations(idle, len(idle) - number)):
                best = number if best is None else min(best, number)
                break
    return best


def _together(gpu: Gpu, wish: Wish, others: list[Occupant]) -> bool:
    total = gpu.total_mib or 0
    sizes = [total if other.need_mib is None else other.need_mib for other in others]
    need = total if wish.need_mib is None else wish.need_mib
    if others and (need >= total or max(sizes) >= total):
        return False
    agree = all(
        wish.sharing.accepts(other.target, other.groups) and other.sharing.accepts(wish.target, wish.groups)
        for other in others
    )
    return agree and need + sum(sizes) <= total


SHARINGS = st.sampled_from((Sharing(), ANY, ANY, Sharing(names=("t0", "t1", "t2")), Sharing(groups=("g",))))
TARGETS = st.lists(
    st.tuples(st.sampled_from((None, 2_000, 6_000, 8_000, 12_000, 20_000)), SHARINGS, st.sampled_from(((), ("g",)))),
    min_size=2,
    max_size=6,
)
MOVES = st.lists(st.tuples(st.sampled_from(("lease", "lease", "release")), st.integers(0, 5)), max_size=14)


@settings(max_examples=150, deadline=None)
@given(targets=TARGETS, moves=MOVES, gpus=st.sampled_from(((FIRST,), (FIRST, SECOND), (FIRST, SMALL))))
def test_what_the_slow_twin_finds_is_found_and_nothing_is_over_committed(
    targets: list[tuple[int | None, Sharing, tuple[str, ...]]], moves: list[tuple[str, int]], gpus: tuple[Gpu, ...]
):
    made = [container(f"t{at}", vram_mib=s[0], coexist=s[1], groups=s[2]) for at, s in enumerate(targets)]
    box = Box(*made, gpus=gpus)
    held: list[int] = []
    for move, number in moves:
        if move == "release" and held:
            box.release(held.pop(number % len(held)))
            box.obey()
            continue
        name = f"t{number % len(made)}"
        wish = wishes.wish_of(box.state, Terms(target=name, owner="", priority=0, ttl_ms=0))
        leased = box.state.lease_of(name) is not None
        found = room.place(box.state, box.at_ms, wish)
        expected = None if leased else slow_twin(box.state, wish)
        assert isinstance(found, Placement) == (expected is not None)
        if isinstance(found, Placement):
            assert len(found.evicts) == expected
            held.append(box.lease(name))
        box.obey()
        for gpu in box.state.observed.gpus:
            here = [lease.vram_mib or 0 for lease in box.state.durable.leases.values() if gpu.uuid in lease.gpus]
            assert sum(here) <= (gpu.total_mib or 0)
