"""When GPUs are read and what of it is told: a slow driver holds up nobody, and no reading counts from too late."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from supervisor.core.inputs import VramRead
from supervisor.core.model import FinishedUse, Gpu, Now, Resident
from supervisor.core.state import Dirty, RoomWait, Run
from supervisor.gpu.load import Load
from supervisor.gpu.reading import Reading
from supervisor.readings import AWAITED_S, IDLE_S, Readings, loads
from tests.core.box import Box, container

GPU = Gpu("GPU-0", total_mib=24_576, used_mib=100, processes=())


class Driver:
    """GPUs that report when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[Load, ...]] = []
        self.report: Callable[[Reading], None] = lambda _: None

    def start(self, report: Callable[[Reading], None]) -> None:
        self.report = report

    def read_soon(self, told: Sequence[Load]) -> None:
        self.asked.append(tuple(told))

    def close(self) -> None:
        pass


class Scene:
    """Readings on a clock of the test's: ``at_s`` is its ``time.monotonic()``, and supervisor time is as late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.at_s)
        self.box = Box()
        self.driver = Driver()
        self.roused = 0
        self.readings = Readings(self.driver, self._rouse)
        self.readings.start(self.now)

    def _rouse(self) -> None:
        self.roused += 1

    @property
    def now(self) -> Now:
        return Now(int(self.at_s * 1000), 0)

    @property
    def observed(self) -> Any:
        return self.box.kernel.state.observed

    def ask(self) -> int:
        """Let it ask if that is due; return how often it has asked so far."""
        self.readings.ask_if_due(self.box.kernel.state, self.now)
        return len(self.driver.asked)

    def came(self, gpu: Gpu = GPU, began_s: float | None = None, problem: str = "") -> VramRead | None:
        began_s = self.at_s if began_s is None else began_s
        self.driver.report(Reading(gpus=(gpu,), began_s=began_s, took_s=0.0, problem=problem))
        return self.readings.take(self.observed)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_the_first_reading_is_told_and_wakes_the_owner(scene):
    assert scene.readings.take(scene.observed) is None
    scene.at_s += 3

    assert scene.came(problem="half of it") == VramRead((GPU,), 100_000, "half of it")
    assert scene.roused == 1


def test_what_is_reported_while_it_is_asked_wakes_nobody_up_and_what_another_thread_reports_does(scene):
    """Who asks looks for the answer right after; a turn more would keep the disk's thread from its work."""
    scene.came()
    roused = scene.roused
    scene.driver.read_soon = lambda _loads: scene.driver.report(Reading(gpus=(GPU,), began_s=scene.at_s, took_s=0.0))
    scene.at_s += IDLE_S
    scene.ask()
    assert scene.roused == roused

    def from_another_thread(_loads: object) -> None:
        child = threading.Thread(
            target=scene.driver.report, args=(Reading(gpus=(GPU,), began_s=scene.at_s, took_s=0.0),)
        )
        child.start()
        child.join()

    scene.readings.take(scene.observed)
    scene.driver.read_soon = from_another_thread
    scene.at_s += IDLE_S
    scene.ask()
    assert scene.roused == roused + 1


def test_a_driver_that_takes_its_time_is_not_asked_again_meanwhile(scene):
    scene.at_s += 3_600
    assert scene.ask() == 0

    scene.came()
    assert scene.ask() == 1


@pytest.mark.parametrize(("awaited", "every_s"), [(False, IDLE_S), (True, AWAITED_S)], ids=["idle", "awaited"])
def test_memory_is_read_now_and_then_and_often_while_it_is_awaited(scene, awaited, every_s):
    if awaited:
        scene.observed.dirty["GPU-0"] = Dirty(None, "it stays full")
    scene.came()
    scene.at_s += every_s - 0.01
    assert scene.ask() == 0

    scene.at_s += 0.02
    assert scene.ask() == 1


def test_memory_is_read_soon_after_a_container_started_or_stopped(scene):
    scene.came()
    scene.observed.runs["a-main"] = Run("1", fresh=True)
    assert (scene.ask(), scene.ask()) == (1, 1)

    scene.came()
    assert scene.ask() == 1
    del scene.observed.runs["a-main"]
    assert scene.ask() == 2


def test_a_lease_that_waits_for_a_reading_from_now_on_is_not_kept_waiting(scene):
    scene.came()
    scene.at_s += 0.001
    scene.observed.room["l1"] = RoomWait(scene.now.at_ms)
    assert scene.ask() == 1

    # The same again while that reading is on its way: it may have begun too early for the second one.
    assert scene.ask() == 1
    scene.at_s += 0.001
    scene.observed.room["l2"] = RoomWait(scene.now.at_ms)
    assert scene.ask() == 2


def test_a_reading_that_began_after_the_question_counts_from_the_very_moment_of_the_question(scene):
    scene.came()
    scene.at_s += 0.0015
    scene.observed.room["l1"] = RoomWait(scene.now.at_ms)
    scene.ask()
    scene.at_s += 0.2

    read = scene.came(began_s=100.0016)
    assert read is not None
    assert read.began_ms == scene.observed.room["l1"].since_ms


def test_a_reading_that_was_under_way_at_the_question_does_not_count_from_it(scene):
    scene.observed.room["l1"] = RoomWait(100_500)
    scene.at_s = 100.5
    scene.ask()

    early = scene.came(began_s=100.4)
    assert early is not None
    assert early.began_ms == 100_000
    late = scene.came(began_s=100.7)
    assert late is not None
    assert late.began_ms == 100_500


def test_a_machine_that_slept_through_a_reading_does_not_make_it_younger(scene):
    """Supervisor time counts the sleep, ``time.monotonic()`` does not: the reading began before the sleep."""
    scene.came()
    scene.at_s += 5
    scene.ask()
    asked_ms = scene.now.at_ms
    slept = replace(scene.now, at_ms=scene.now.at_ms + 3_600_000)
    scene.observed.room["l1"] = RoomWait(slept.at_ms)

    read = scene.came(began_s=scene.at_s + 0.01)
    assert read is not None
    assert read.began_ms == asked_ms < slept.at_ms


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({}, False, id="nothing new"),
        pytest.param({"utilization_percent": 99, "temperature_c": 80, "power_w": 300}, False, id="what flickers"),
        pytest.param({"used_mib": 101}, True, id="memory"),
        pytest.param({"processes": None}, True, id="processes"),
        pytest.param({"state": "lost"}, True, id="a lost GPU"),
    ],
)
def test_only_what_matters_is_told_at_once(scene, change, told):
    scene.came()
    assert (scene.came(replace(GPU, **change)) is not None) == told


def test_what_flickers_is_told_now_and_then_and_what_stays_the_same_never(scene):
    scene.came()
    scene.at_s += IDLE_S
    assert scene.came() is None
    assert scene.came(replace(GPU, temperature_c=60)) is not None


def test_the_same_as_before_is_told_to_whoever_waits_for_a_reading(scene):
    scene.came()
    scene.observed.room["l1"] = RoomWait(scene.now.at_ms)

    assert scene.came() is not None


def test_of_several_readings_the_newest_is_told(scene):
    scene.driver.report(Reading(gpus=(), began_s=100.0, took_s=0.0, problem="no driver"))

    assert scene.came() == VramRead((GPU,), 100_000)


# ---- what simulated GPUs are told


RUNS = {"status": "running", "run": "1"}


def told(*containers: Any, **settings: Any) -> tuple[Load, ...]:
    two = (Gpu("SIM-0", total_mib=24_576, used_mib=0), Gpu("SIM-1", 1, total_mib=24_576, used_mib=0))
    box = Box(*containers, gpus=two, **settings)
    box.kernel.state.durable.residents["b"] = Resident(
        target="b", project="b", since_ms=0, since_wall_ms=0, gpus=("SIM-1",)
    )
    for run in box.kernel.state.observed.runs.values():
        run.gpus = ()  # as after a restart, when nobody knows where they were allowed to run
    return loads(box.kernel.state)


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        pytest.param([container("a")], (), id="what does not run uses nothing"),
        pytest.param([container("a", **RUNS)], (Load("a-main", ("SIM-0",)),), id="nobody said where: the first"),
        pytest.param([container("b", **RUNS)], (Load("b-main", ("SIM-1",)),), id="a resident is where it was"),
        pytest.param([container("a", devices=("1",), **RUNS)], (Load("a-main", ("SIM-1",)),), id="where Docker put it"),
        pytest.param(
            [container("a", vram_mib=5_000, **RUNS), container("a", "side", **RUNS)],
            (Load("a-main", ("SIM-0",), 5_000),),
            id="a sidecar that declares nothing uses nothing",
        ),
        pytest.param(
            [container("a", vram_mib=5_000), container("a", "side", vram_mib=700, **RUNS)],
            (Load("a-side", ("SIM-0",), 700),),
            id="only what runs of a target",
        ),
        pytest.param(
            [container("a", vram_mib=5_001, all_devices=True, **RUNS)],
            (Load("a-main", ("SIM-0", "SIM-1"), 2_501),),
            id="its size is for all of its GPUs together",
        ),
        pytest.param(
            [container("a", "side", **RUNS), container("a", **RUNS)],
            (Load("a-main", ("SIM-0",)),),
            id="nothing declared: the master uses all",
        ),
    ],
)
def test_what_is_believed_of_the_containers_that_run(containers, expected):
    assert told(*containers, mode="observe") == expected


def test_what_was_seen_does_not_feed_on_itself(scene):
    box = Box(container("b", vram_mib=100, **RUNS), mode="observe", gpus=(GPU, replace(GPU, uuid="GPU-1", index=1)))
    state = box.kernel.state
    state.observed.seen_on["b-main"] = ("GPU-1",)

    assert loads(state) == (Load("b-main", ("GPU-0",), 100),)


def test_a_container_stays_where_it_was_allowed_to_run():
    box = Box(container("a", vram_mib=100, **RUNS), mode="observe", gpus=(GPU, replace(GPU, uuid="GPU-1", index=1)))
    state = box.kernel.state
    state.observed.runs["a-main"].gpus = ("GPU-1",)

    assert loads(state) == (Load("a-main", ("GPU-1",), 100),)


def test_who_has_ended_is_taken_from_every_reading_also_from_those_that_tell_nothing_new(scene):
    uses = [FinishedUse(gpu="GPU-0", pid=pid, started_wall_ms=0, ran_ms=1) for pid in (1, 2, 3)]
    for use in uses:
        scene.driver.report(Reading(gpus=(GPU,), finished=(use,), began_s=scene.at_s, took_s=0.0))
    scene.readings.take(scene.observed)
    assert scene.readings.take_finished() == tuple(uses)

    assert scene.came() is None
    assert scene.readings.take_finished() == ()
