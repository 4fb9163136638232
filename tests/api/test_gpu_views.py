"""What callers see of GPUs and sizes: promised, used, unexplained and left are four numbers, and so are declared and
seen.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from supervisor.answers import GpuUse
from supervisor.api.views.forecast import forecast_view
from supervisor.api.views.gpus import gpu_views
from supervisor.api.views.leases import queue_entries
from supervisor.api.views.sizes import spelled_size, suggested_label
from supervisor.api.views.targets import problems_of, target_view
from supervisor.core.inputs import VramRead
from supervisor.core.model import Gpu, GpuProcess, Sharing, Terms
from supervisor.core.problems import PROBLEMS
from supervisor.core.targets import Limit
from supervisor.core.values import UNLIMITED, parse_size_mib
from tests.api.looking import status_of
from tests.core.box import Box, container

ANY = Sharing(any=True)
CARD = Gpu("GPU-1", total_mib=24_576, used_mib=0, reserved_mib=500, free_mib=24_076, processes=())
OTHER = Gpu("GPU-2", index=1, total_mib=24_576, used_mib=0, processes=())


def busy(gpu: Gpu, *processes: tuple[int | None, str | None], more_mib: int = 0, **values: Any) -> Gpu:
    """A GPU with processes (MiB, container), and ``more_mib`` that none of them explains."""
    used_mib = sum(mib or 0 for mib, _ in processes) + more_mib
    shown = tuple(GpuProcess(pid=1 + n, used_mib=mib, container=of) for n, (mib, of) in enumerate(processes))
    free_mib = (gpu.total_mib or 0) - used_mib - (gpu.reserved_mib or 0)
    return replace(gpu, used_mib=used_mib, free_mib=free_mib, processes=shown, **values)


def seen(mib: int, **values: Any) -> Box:
    """A box whose target a was seen to use so much."""
    box = Box(container("a", **values), gpus=(CARD,))
    box.lease("a")
    box.feed(VramRead((busy(CARD, (mib, "a-main")),)))
    assert box.state.durable.peaks == {"a": mib}
    return box


# ---- GPUs


def test_a_gpu_shows_what_is_promised_used_unexplained_and_left_and_who_is_on_it():
    a, b = (container(name, vram_mib=8_000, coexist=ANY) for name in "ab")
    box = Box(a, b, gpus=(CARD,), headroom_mib=100)
    box.release(box.lease("a"))
    request = box.lease("b")
    box.feed(
        VramRead(
            (
                busy(
                    CARD,
                    (7_000, "a-main"),
                    (2_000, "b-main"),
                    (1_000, None),
                    more_mib=300,
                    utilization_percent=87,
                    temperature_c=61,
                    power_w=312,
                ),
            )
        )
    )

    (gpu,) = gpu_views(box.state)

    assert (gpu.total_mib, gpu.used_mib, gpu.reserved_mib, gpu.free_mib) == (24_576, 10_300, 500, 13_776)
    assert gpu.granted_mib == 16_000
    assert gpu.unexplained_mib == 300
    # Total, less what is in use, the driver's own, the headroom, and the loads that are still to come.
    assert gpu.grantable_mib == 24_576 - 10_300 - 500 - 100 - 1_000 - 6_000
    assert (gpu.utilization_percent, gpu.temperature_c, gpu.power_w) == (87, 61, 312)
    assert (gpu.lease, gpu.leases, gpu.residents) == (f"l{request}", (f"l{request}",), ("a",))
    assert gpu.targets == (
        GpuUse(target="a", reserved_mib=8_000, used_mib=7_000),
        GpuUse(target="b", reserved_mib=8_000, used_mib=2_000),
    )
    assert (gpu.state, gpu.problem) == ("ok", "")


def test_what_nobody_knows_is_null_and_not_nothing():
    box = Box(container("a"), gpus=(Gpu("auto"),))
    box.lease("a")

    (gpu,) = gpu_views(box.state)

    assert (gpu.total_mib, gpu.used_mib, gpu.free_mib, gpu.granted_mib) == (None, None, None, None)
    assert (gpu.grantable_mib, gpu.unexplained_mib) == (None, None)
    assert gpu.targets == (GpuUse(target="a", reserved_mib=None, used_mib=None),)


def test_a_driver_that_does_not_say_who_uses_how_much_leaves_that_open():
    box = Box(container("a", vram_mib=8_000), gpus=(CARD,))
    box.lease("a")
    box.feed(VramRead((Gpu("GPU-1", total_mib=24_576, used_mib=5_000),)))

    (gpu,) = gpu_views(box.state)

    assert gpu.targets == (GpuUse(target="a", reserved_mib=8_000, used_mib=None),)
    assert (gpu.free_mib, gpu.unexplained_mib) == (19_576, 0)


def test_several_gpus_each_have_their_own_leases():
    box = Box(container("a"), container("b", vram_mib=4_000), gpus=(CARD, OTHER))
    first, bare = box.lease("a"), box.ask(None, gpus=1, vram_mib=2_000)

    gpus = gpu_views(box.state)

    assert [(gpu.uuid, gpu.leases, gpu.granted_mib) for gpu in gpus] == [
        ("GPU-1", (f"l{first}",), 24_076),
        ("GPU-2", (f"l{bare}",), 2_000),
    ]
    assert [(gpu.grantable_mib, [use.target for use in gpu.targets]) for gpu in gpus] == [(0, ["a"]), (22_576, [])]


@pytest.mark.parametrize("state", ["lost", "mig", "unreadable"])
def test_a_gpu_that_cannot_be_used_says_so(state):
    box = Box(container("a"), gpus=(Gpu("GPU-1", state=state, detail="the driver says no"), OTHER))
    assert [(gpu.state, gpu.problem) for gpu in gpu_views(box.state)] == [(state, "the driver says no"), ("ok", "")]


def test_a_gpu_whose_memory_does_not_come_back_is_shown_as_dirty():
    box = Box(container("a"), container("b"), gpus=(CARD,))
    box.release(box.lease("a"))
    box.feed(VramRead((busy(CARD, (20_000, "a-main")),)))
    box.ask("b", wait_ms=600_000)
    box.obey()
    box.feed(VramRead((busy(CARD, more_mib=20_000),)))
    box.advance(10)
    (gpu,) = gpu_views(box.state)
    assert gpu.state == "dirty"
    assert "did not come back" in gpu.problem


# ---- the queue, and what would happen


def test_a_place_in_the_queue_shows_how_much_is_asked_for():
    box = Box(container("a"), container("b", vram_mib=9_000, all_devices=True), gpus=(CARD, OTHER))
    box.lease("a")
    box.ask("b", on_busy="ticket")
    box.ask(None, gpus=2, vram_mib=1_000, on_busy="ticket")
    entries = queue_entries(box.state, box.now)
    assert [(entry.target, entry.gpu_count, entry.vram_mib) for entry in entries] == [("b", 2, 4_500), (None, 2, 1_000)]


def forecast(box: Box, target: str | None, **terms: Any) -> str:
    asked = Terms(target=target, owner="bob", priority=0, ttl_ms=60_000, **terms)
    return forecast_view(box.state, box.now, asked, priority_given=False).why


def test_a_dry_run_speaks_of_as_many_gpus_as_there_would_be():
    box = Box(container("a", all_devices=True), container("b", max_holders=2), gpus=(CARD, OTHER))
    assert forecast(box, None, vram_mib=100) == "the GPU is free; the GPU would be yours"
    assert forecast(box, None, vram_mib=100, gpus=2) == "2 GPUs are free; they would be yours"
    assert forecast(box, "a") == "2 GPUs are free; a would be started"
    box.lease("b")
    assert forecast(box, "b") == "b is leased (owner ann), and may have more holders than 1; it would be shared"


# ---- sizes


@pytest.mark.parametrize(
    ("seen_mib", "declared_mib", "label"),
    [
        pytest.param(8_192, None, "gpu.vram: 8.5GiB", id="nothing is declared"),
        pytest.param(8_500, None, "gpu.vram: 8.75GiB", id="a twentieth more, and the next quarter"),
        pytest.param(300, None, "gpu.vram: 512MiB", id="less than a GiB"),
        pytest.param(9_300, 8_192, "gpu.vram: 9.75GiB", id="more than is declared"),
        pytest.param(8_192, 8_192, None, id="just what is declared"),
        pytest.param(4_000, 8_192, None, id="less than is declared"),
        pytest.param(23_900, None, None, id="all of it"),
        pytest.param(23_900, 8_192, None, id="all of it, and less is declared"),
    ],
)
def test_the_label_that_is_suggested_fits_what_was_seen(seen_mib, declared_mib, label):
    box = seen(seen_mib, vram_mib=declared_mib)
    view = target_view(box.state, "a")
    assert (view.seen_mib, view.vram_mib, view.suggested_label) == (seen_mib, declared_mib, label)


def test_what_was_never_seen_has_no_suggestion():
    assert suggested_label(Box(container("a")).state, "a") is None


def test_what_has_no_containers_has_no_label_to_be_mended():
    box = seen(8_192)
    box.remove("a-main")
    assert (box.state.durable.peaks, target_view(box.state, "a").suggested_label) == ({"a": 8_192}, None)


@pytest.mark.parametrize("size_mib", [256, 700, 1_024, 9_472, 16_384])
def test_a_size_is_spelled_as_labels_are_read(size_mib):
    assert parse_size_mib(spelled_size(size_mib)) == size_mib


def test_a_target_that_uses_more_than_it_declares_is_warned_of_everywhere():
    box = seen(9_300, vram_mib=8_192)

    (warning,) = problems_of(box.state, "a")

    assert (warning.code, warning.severity, warning.target) == ("uses_more_than_declared", "warning", "a")
    assert warning.code in PROBLEMS, "labels.md tells what it means"
    assert warning.message == "a was seen to use 9300 MiB, and declares 8192 MiB: the rest is missing for others"
    assert warning.hint == "declare what it uses, gpu.vram: 9.75GiB"
    assert target_view(box.state, "a").problems == (warning,)
    assert [brief.problems for brief in status_of(box).targets] == [(warning,)]
    asked = Terms(target="a", owner="bob", priority=0, ttl_ms=60_000)
    assert forecast_view(box.state, box.now, asked, priority_given=False).problems == (warning,)
    assert box.code(box.ask("a")) == "gpu_busy", "a warning keeps nobody from leasing"


def test_who_declares_less_than_the_whole_gpu_that_it_uses_is_told_to_leave_the_label_out():
    (warning,) = problems_of(seen(23_900, vram_mib=8_192).state, "a")
    assert warning.hint == "leave gpu.vram-mib and gpu.vram out: it needs its GPUs whole"


@pytest.mark.parametrize("declared_mib", [None, 9_300])
def test_what_declares_enough_or_nothing_is_not_warned_of(declared_mib):
    assert problems_of(seen(9_300, vram_mib=declared_mib).state, "a") == ()


# ---- targets


def test_a_target_shows_how_it_shares_where_it_is_and_for_how_long():
    says = {
        "coexist": Sharing(names=("ollama",), groups=("small",)),
        "groups": ("speech",),
        "max_holders": 3,
        "devices": ("1",),
        "idle_timeout_ms": 90_500,
        "max_hold_ms": 0,
    }
    box = Box(container("a", vram_mib=4_000, **says), gpus=(CARD, OTHER), min_residency_ms=60_000, max_hold_ms=5_000)
    first = box.lease("a")
    box.lease("a")

    view = target_view(box.state, "a")

    assert (view.coexist_with, view.groups, view.devices, view.gpus) == (
        "ollama, @small",
        ("speech",),
        ("1",),
        ("GPU-2",),
    )
    assert (view.holders, view.max_holders, view.lease) == (2, 3, f"l{first}")
    assert (view.idle_timeout_seconds, view.min_residency_seconds, view.max_hold_seconds) == (91, 60, None)


def test_a_target_without_such_labels_shows_what_that_means():
    box = Box(
        container("a"), container("b", all_devices=True, max_holders=UNLIMITED, gpu_class="high"), gpus=(CARD, OTHER)
    )
    a, b = (target_view(box.state, name) for name in "ab")
    assert (a.coexist_with, a.groups, a.devices, a.gpus, a.gpu_class) == ("none", (), (), (), None)
    assert (a.holders, a.max_holders, a.seen_mib, a.suggested_label) == (0, 1, None, None)
    limits: tuple[Limit, ...] = ("idle_timeout_ms", "min_residency_ms", "max_hold_ms")
    assert [getattr(a, name.replace("_ms", "_seconds")) for name in limits] == [None, None, None]
    assert (b.devices, b.max_holders, b.gpu_class) == (("all",), None, "high")


def test_a_resident_target_shows_where_it_stays():
    box = Box(container("a"), gpus=(CARD, OTHER))
    box.release(box.lease("a"))
    assert target_view(box.state, "a").gpus == ("GPU-1",)
