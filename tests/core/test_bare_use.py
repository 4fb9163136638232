"""What bare leases use counts once: as theirs while they have it, and as a stranger's where it is not."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.api.views.gpus import gpu_views
from supervisor.core.inputs import ProcessesSeen, VramRead
from supervisor.core.model import Gpu, GpuProcess, Tie
from supervisor.core.processes import Ancestor, SeenProcess, Use
from supervisor.core.replies import Granted
from supervisor.core.room import crowded_out
from supervisor.core.usage import free_mib, use_of
from tests.core.box import Box, container

GPU = Gpu("SIM-0", total_mib=24_576, used_mib=0, processes=())
TIE = Tie(50, 7, "boot")


def process(pid: int, mib: int, started: int = 7, **values: Any) -> GpuProcess:
    return GpuProcess(pid=pid, used_mib=mib, started=started, **values)


def read(box: Box, *processes: GpuProcess) -> Gpu:
    """A reading with these processes, and a look at them."""
    used_mib = sum(one.used_mib or 0 for one in processes)
    gpu = replace(box.state.observed.gpus[0], used_mib=used_mib, processes=processes)
    box.feed(VramRead((gpu,)))
    return gpu


def describe(box: Box, pid: int, *ancestors: int, started: int = 7, started_wall_ms: int = 0) -> None:
    line = tuple(Ancestor(one, 7, "sh") for one in ancestors)
    uses = (Use("SIM-0", 1),)
    seen = SeenProcess(pid=pid, started=started, uses=uses, ancestors=line, started_wall_ms=started_wall_ms)
    box.feed(ProcessesSeen((*box.state.observed.processes, seen)))


def outcome(box: Box, **values: Any) -> str:
    request = box.ask(None, **values)
    return box.code(request) if not hasattr(box.replies[request], "lease") else "granted"


def test_the_use_of_a_bare_lease_is_what_was_reserved_for_it_and_not_more_on_top():
    box = Box(gpus=(GPU,))
    box.ask(None, vram_mib=8_000)
    gpu = read(box, process(77, 6_000))

    assert use_of(box.state, gpu) == {"l1": 6_000}
    assert free_mib(box.state, gpu) == 24_576 - 8_000
    assert outcome(box, vram_mib=12_000) == "granted"


def test_one_that_uses_more_than_was_reserved_counts_with_what_it_uses():
    box = Box(gpus=(GPU,))
    box.ask(None, vram_mib=8_000)
    gpu = read(box, process(77, 10_000), process(78, 4_000))

    assert free_mib(box.state, gpu) == 24_576 - 14_000
    assert outcome(box, vram_mib=12_000) == "gpu_busy"


def test_what_was_there_before_the_lease_is_a_stranger_s_and_counts_beside_it():
    box = Box(gpus=(replace(GPU, used_mib=6_000, processes=(process(9, 6_000),)),))
    box.ask(None, vram_mib=8_000)
    gpu = read(box, process(9, 6_000), process(77, 8_000))

    assert use_of(box.state, gpu) == {None: 6_000, "l1": 8_000}
    assert outcome(box, vram_mib=12_000) == "gpu_busy"
    assert outcome(box, vram_mib=10_000) == "granted"


def test_a_lease_that_is_tied_to_a_process_has_its_tree_and_who_comes_beside_it_is_a_stranger():
    box = Box(gpus=(GPU,))
    box.ask(None, vram_mib=8_000, tie=TIE)
    gpu = read(box, process(50, 1_000), process(51, 2_000), process(60, 4_000))
    describe(box, 51, 50)
    describe(box, 60)

    assert use_of(box.state, gpu) == {"l1": 3_000, None: 4_000}


def test_two_leases_have_what_came_since_up_to_what_each_reserved():
    box = Box(gpus=(GPU,))
    box.ask(None, vram_mib=8_000)
    box.ask(None, vram_mib=4_000)
    gpu = read(box, process(77, 6_000), process(78, 3_000))

    assert use_of(box.state, gpu) == {"l1": 8_000, "l2": 1_000}
    assert free_mib(box.state, gpu) == 24_576 - 12_000


def test_after_a_restart_those_are_its_that_started_after_the_grant():
    box = Box(gpus=(GPU,))
    box.ask(None, vram_mib=8_000)
    granted_ms = box.state.durable.leases["l1"].granted_wall_ms
    box.restart()
    gpu = read(box, process(9, 1_000), process(77, 6_000), process(78, 500))
    describe(box, 9, started_wall_ms=granted_ms - 60_000)
    describe(box, 77, started_wall_ms=granted_ms + 2_000)

    assert use_of(box.state, gpu) == {None: 1_500, "l1": 6_000}, "and nobody knows when 78 was started"


def test_when_the_lease_ends_its_processes_are_strangers():
    box = Box(gpus=(GPU,))
    lease = box.ask(None, vram_mib=8_000)
    gpu = read(box, process(77, 6_000))
    box.release(lease)

    assert use_of(box.state, gpu) == {None: 6_000}
    assert not box.state.observed.before


def test_a_target_s_process_is_never_taken_for_a_bare_lease_s():
    box = Box(container("a", vram_mib=4_000), gpus=(GPU,))
    box.ask(None, vram_mib=8_000)
    gpu = read(box, process(5, 3_000, container="a-main"))

    assert use_of(box.state, gpu) == {"a": 3_000}


def test_a_bare_lease_is_no_target_whose_peak_is_remembered_or_whose_use_is_shown():
    box = Box(gpus=(GPU,))
    box.ask(None, vram_mib=8_000)
    read(box, process(77, 6_000))

    assert not box.state.durable.peaks
    assert [gpu.targets for gpu in gpu_views(box.state)] == [()]


def test_who_is_named_as_in_the_way_is_no_process_of_a_bare_lease():
    box = Box(gpus=(GPU,))
    box.ask(None, vram_mib=1_000, tie=TIE)
    read(box, process(9, 20_000), process(50, 1_000))
    (gpu,) = box.state.observed.gpus
    lease = box.state.durable.leases["l1"]

    refusal = crowded_out(box.state, gpu, replace(lease, id="l2", vram_mib=8_000))

    assert refusal is not None
    assert [one["pid"] for one in refusal.context["processes"]] == [9]


def test_who_waits_beside_a_lease_is_served_once_a_look_shows_whose_the_processes_are():
    box = Box(gpus=(GPU,))
    box.ask(None, vram_mib=8_000, tie=TIE)
    read(box, process(50, 1_000), process(51, 5_000))
    waits = box.ask(None, vram_mib=12_000, wait_ms=60_000)
    assert waits not in box.replies

    describe(box, 51, 50)

    assert isinstance(box.replies[waits], Granted)


# ---- the formula, told slowly

SIZES = st.lists(st.tuples(st.integers(500, 8_000), st.integers(0, 9_000)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(bare=SIZES, foreign=st.integers(0, 6_000), headroom=st.sampled_from((0, 1_000)))
def test_what_is_free_is_the_total_less_what_each_uses_or_reserved_and_less_what_strangers_use(
    bare: list[tuple[int, int]], foreign: int, headroom: int
):
    there = (process(1, foreign),) if foreign else ()
    box = Box(gpus=(replace(GPU, used_mib=foreign, processes=there),), headroom_mib=headroom)
    held: list[tuple[int, int]] = []
    for number, (reserved, used) in enumerate(bare):
        tie = Tie(100 + number, 7, "boot")
        if outcome(box, vram_mib=reserved, tie=tie) == "granted":
            held.append((reserved, min(used, reserved)))
            there = (*there, process(100 + number, held[-1][1]))
            gpu = read(box, *there)
            assert free_mib(box.state, gpu) == 24_576 - headroom - foreign - sum(max(each) for each in held)
    assert sum(max(each) for each in held) + foreign <= 24_576 - headroom
