"""Who is on the GPUs, as callers see it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from supervisor.api.times import rfc3339
from supervisor.api.views.processes import SIMULATED, processes_view
from supervisor.core.inputs import ProcessesSeen, VramRead
from supervisor.core.model import FinishedUse, Gpu, GpuProcess
from supervisor.core.processes import Ancestor, SeenProcess, Use
from tests.core.box import Box, container

CARD = Gpu("GPU-1", total_mib=24_576, used_mib=4_000, processes=(GpuProcess(pid=9, used_mib=3_000),))


def box(**settings: Any) -> Box:
    """A box whose GPUs came with a reading, as a driver's do."""
    made = Box(container("a", vram_mib=4_000), gpus=(), **settings)
    made.feed(VramRead((CARD,)))
    return made


def seen(pid: int, mib: int | None, **values: Any) -> SeenProcess:
    uses = (Use("GPU-1", mib),)
    return SeenProcess(pid=pid, started=7, uses=uses, started_wall_ms=1_700_000_000_000, root=False, **values)


def test_processes_are_shown_by_size_with_what_they_stand_by():
    made = box()
    made.lease("a")
    stranger = seen(
        9, 3_000, name="python3", user="eve", command=("python3", "x.py"), ancestors=(Ancestor(3, 1, "sh"),)
    )
    made.feed(ProcessesSeen((seen(8, 100, containers=("a-main",)), stranger)))

    view = processes_view(made.state, made.now)

    assert [(one.pid, one.standing, one.target, one.used_mib) for one in view.processes] == [
        (9, "unapproved", None, 3_000),
        (8, "leased", "a", 100),
    ]
    first = view.processes[0]
    assert (first.user, first.command, first.started_at) == ("eve", "python3 x.py", "2023-11-14T22:13:20.000Z")
    assert [(each.pid, each.name) for each in first.ancestors] == [(3, "sh")]
    assert first.why_spared == "the policy is observe"
    (gpu,) = view.gpus
    assert (gpu.uuid, gpu.used_mib, gpu.total_mib, gpu.unexplained_mib, gpu.listed) == (
        "GPU-1",
        4_000,
        24_576,
        1_000,
        True,
    )
    assert (view.policy, view.limited) == ("observe", ())


def test_one_that_was_asked_to_end_says_when():
    made = box(process_policy="terminate", process_settle_ms=0)
    made.feed(ProcessesSeen((seen(9, 3_000),)))

    (one,) = processes_view(made.state, made.now).processes

    assert one.asked_to_end_at is not None
    assert not one.killed


def test_its_user_is_told_by_number_and_its_containers_by_name_where_one_is_known():
    made = box()
    made.feed(ProcessesSeen((seen(9, 3_000, uid=1_001, containers=("f" * 64, "a-main", "e" * 64)),)))

    (one,) = processes_view(made.state, made.now).processes

    known = made.state.observed.containers["a-main"].name
    assert (one.uid, one.container, one.containers) == (1_001, known, ("f" * 64, known, "e" * 64))


def test_what_whoever_looks_may_not_see_or_do_is_said():
    made = box()
    made.feed(ProcessesSeen((), limited=("it may not signal",)))

    assert processes_view(made.state, made.now).limited == ("it may not signal",)


def test_what_limits_the_view_is_said():
    made = box()
    made.feed(VramRead((replace(CARD, processes=None),), problem="GPU 2 fell off the bus"))

    view = processes_view(made.state, made.now)

    assert view.limited == ("GPU 2 fell off the bus", "the driver does not say what each process uses on GPU-1")
    assert [gpu.listed for gpu in view.gpus] == [False]


def test_simulated_processes_are_shown_and_said_to_be_simulated():
    made = Box(container("a", vram_mib=4_000), gpus=(Gpu("SIM-0", total_mib=24_576, used_mib=0, processes=()),))
    made.lease("a")
    listed = GpuProcess(pid=2**22 + 2, used_mib=4_000, container="a-main")
    made.feed(VramRead((replace(made.state.observed.gpus[0], used_mib=4_000, processes=(listed,)),)))

    view = processes_view(made.state, made.now)

    assert [(one.standing, one.target, one.used_mib, one.started_at) for one in view.processes] == [
        ("leased", "a", 4_000, None)
    ]
    assert view.limited == (SIMULATED,)


def test_who_came_and_went_unseen_is_shown_the_last_first_and_whether_such_can_be_found():
    made = box()
    made.feed(VramRead((replace(CARD, accounting="on"),)))
    made.lease("a")
    made.start("a-main")
    came = FinishedUse(gpu="GPU-1", pid=12, started_wall_ms=made.now.wall_ms, ran_ms=500, peak_mib=612, gpu_percent=38)
    elsewhere = replace(came, gpu="GPU-2", pid=13, container="f" * 64)
    made.feed(ProcessesSeen((), (came, elsewhere)))

    view = processes_view(made.state, made.now)

    assert [gpu.accounting for gpu in view.gpus] == ["on"]
    last, first = view.finished
    assert (last.pid, last.standing, last.container, last.meanwhile) == (13, "unapproved", "f" * 64, ())
    assert (first.pid, first.gpu, first.standing, first.meanwhile) == (12, "GPU-1", "unknown", ("a",))
    assert (first.peak_mib, first.gpu_percent, first.memory_percent) == (612, 38, None)
    assert (first.started_at, first.ended_at) == (rfc3339(made.now.wall_ms), rfc3339(made.now.wall_ms + 500))
