"""``GET /v1/processes`` as it is served, and the order and limits of what it shows."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from supervisor.answers import ProcessUse
from supervisor.api.views.processes import processes_view
from supervisor.core.inputs import ProcessesSeen, VramRead
from supervisor.core.model import Gpu, GpuProcess
from supervisor.core.processes import SeenProcess, Use
from tests.api.house import house, run
from tests.core.box import Box

CARD = Gpu("GPU-1", total_mib=24_576, used_mib=3_000, processes=(GpuProcess(pid=4_000, used_mib=2_048),))
OTHER = replace(CARD, uuid="GPU-2", index=1)
STRANGER = SeenProcess(
    pid=4_000, started=77, started_wall_ms=1, uses=(Use("GPU-1", 2_048),), denied=("executable",), root=False
)


def rows(*processes: SeenProcess) -> Any:
    box = Box(gpus=())
    box.feed(VramRead((CARD, OTHER)))
    box.feed(ProcessesSeen(processes))
    return processes_view(box.state, box.now).processes


def test_processes_come_by_gpu_then_the_largest_first():
    big = replace(STRANGER, pid=5_000, uses=(Use("GPU-1", 9_000),))
    other = replace(STRANGER, pid=3_000, uses=(Use("GPU-2", 1),))

    assert [row.pid for row in rows(other, STRANGER, big)] == [5_000, 4_000, 3_000]


def test_the_use_of_each_gpu_is_shown_and_one_unknown_makes_the_sum_unknown():
    (row,) = rows(replace(STRANGER, uses=(Use("GPU-1", 100), Use("GPU-2", None, "graphics"))))

    assert row.gpus == (ProcessUse("GPU-1", 100, "compute"), ProcessUse("GPU-2", None, "graphics"))
    assert row.used_mib is None


def test_what_may_not_be_read_is_null_and_said():
    (row,) = rows(replace(STRANGER, started=0))

    assert (row.started_at, row.user, row.executable) == (None, None, None)
    assert row.denied == ("executable",)


def test_the_route_answers_and_takes_no_parameters():
    async def story() -> None:
        async with house() as at:
            assert (await at.get("/v1/processes")).json()["policy"] == "observe"
            assert (await at.get("/v1/processes?all=1")).status_code == 400

    run(story())
