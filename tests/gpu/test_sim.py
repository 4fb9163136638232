"""Simulated GPUs: they follow what runs, and lie just as they are told to."""

from __future__ import annotations

import pytest

from supervisor.core.model import GpuProcess
from supervisor.core.values import BadValue
from supervisor.gpu.choice import Lies, parse_gpus
from supervisor.gpu.load import Load
from supervisor.gpu.reading import Reading
from supervisor.gpu.sim import PIDS_FROM, SimulatedGpus
from supervisor.gpu.sources import DriverGpus, open_gpus


class Sim:
    """Simulated GPUs as the setting has them, with a clock that stands still."""

    def __init__(self, text: str) -> None:
        self.now_s = 100.0
        choice = parse_gpus(text)
        self.gpus = SimulatedGpus(choice.simulated, choice.lies, monotonic_s=lambda: self.now_s)
        self.reported: list[Reading] = []
        self.gpus.start(self.reported.append)

    def read(self, *loads: Load) -> Reading:
        self.gpus.read_soon(loads)
        return self.reported[-1]

    def used(self, *loads: Load) -> list[int | None]:
        return [gpu.used_mib for gpu in self.read(*loads).gpus]


A = Load("a", ("SIM-0",), 10_000)
B = Load("b", ("SIM-0",), 8_000)


def test_a_first_reading_comes_by_itself_with_nothing_on_the_gpus():
    (first,) = Sim("sim:1x24576").reported

    assert [(gpu.used_mib, gpu.free_mib, gpu.processes) for gpu in first.gpus] == [(0, 24_576, ())]
    assert (first.began_s, first.problem) == (100.0, "")


@pytest.mark.parametrize(
    ("loads", "used"),
    [
        pytest.param((A,), [10_000, 0], id="what it declares"),
        pytest.param((A, B), [18_000, 0], id="two beside each other"),
        pytest.param((Load("a", ("SIM-1",)),), [0, 8_192], id="nothing declared is all of it"),
        pytest.param((Load("a", ("SIM-0", "SIM-1"), 100),), [100, 100], id="on each of its GPUs"),
        pytest.param((A, Load("b", ("SIM-0",))), [24_576, 0], id="never more than there is"),
        pytest.param((Load("a", ("GPU-gone",), 100),), [0, 0], id="a GPU that is not here"),
    ],
)
def test_memory_follows_what_runs(loads, used):
    assert Sim("sim:1x24576,1x8192").used(*loads) == used


def test_what_stopped_has_given_its_memory_back_by_the_next_reading():
    sim = Sim("sim:1x24576")

    assert [sim.used(A, B), sim.used(B), sim.used()] == [[18_000], [8_000], [0]]


def test_each_container_is_one_process_with_a_pid_of_its_own_that_no_real_process_can_have():
    sim = Sim("sim:2x24576")
    both = Load("both", ("SIM-0", "SIM-1"), 500)
    first, second = sim.read(A, both).gpus
    pid_a, pid_both = PIDS_FROM + 1, PIDS_FROM + 2

    assert first.processes == (
        GpuProcess(pid=pid_a, used_mib=10_000, container="a"),
        GpuProcess(pid=pid_both, used_mib=500, container="both"),
    )
    assert second.processes == (GpuProcess(pid=pid_both, used_mib=500, container="both"),)
    assert [process.pid for process in sim.read(both).gpus[0].processes or ()] == [pid_both]
    # /proc/sys/kernel/pid_max cannot be set beyond 2 ** 22.
    assert min(pid_a, pid_both, PIDS_FROM) > 2**22


def test_late_memory_stays_for_as_long_as_was_said_and_no_process_explains_it():
    sim = Sim("sim:1x24576,late=1500ms")
    sim.read(A, B)
    sim.now_s += 10
    (gpu,) = sim.read(B).gpus
    assert (gpu.used_mib, [process.container for process in gpu.processes or ()]) == (18_000, ["b"])

    sim.now_s += 1.4
    assert sim.used(B) == [18_000]
    sim.now_s += 0.2
    assert sim.used(B) == [8_000]


def test_memory_that_never_comes_back():
    sim = Sim("sim:1x24576,late=never")
    sim.read(A)
    sim.read()
    sim.now_s += 1e9

    assert sim.used() == [10_000]
    assert sim.used(Load("next", ("SIM-0",))) == [24_576]


def test_foreign_use_is_a_process_of_nobodys_on_every_gpu():
    sim = Sim("sim:1x24576,1x4096,foreign=6000")
    first, second = sim.read(A).gpus

    assert (first.used_mib, second.used_mib) == (16_000, 4_096)
    assert second.processes == (GpuProcess(pid=PIDS_FROM, used_mib=4_096),)


def test_nothing_is_reported_after_the_end():
    sim = Sim("sim:1x24576")
    sim.gpus.close()
    sim.gpus.read_soon((A,))

    assert len(sim.reported) == 1


@pytest.mark.parametrize(
    ("text", "lies"),
    [
        pytest.param("sim:1x8", Lies(), id="honest"),
        pytest.param("sim:1x8,late=2s", Lies(late_ms=2_000), id="late"),
        pytest.param("sim:1x8, late=never", Lies(late_ms=None), id="never"),
        pytest.param("sim:foreign=600,1x8,late=1500ms", Lies(late_ms=1_500, foreign_mib=600), id="several, anywhere"),
    ],
)
def test_lies_are_read_beside_the_sizes(text, lies):
    assert parse_gpus(text).lies == lies
    assert len(parse_gpus(text).simulated) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("sim:late=1s", "has no GPU in it", id="lies alone"),
        pytest.param("sim:1x8,later=1s", '"later=1s" is no lie', id="another word"),
        pytest.param("sim:1x8,late=soon", '"soon" is not a duration', id="no duration"),
        pytest.param("sim:1x8,foreign=6GiB", '"6GiB" is not a whole number', id="a unit"),
    ],
)
def test_lies_that_cannot_be_told_are_refused_with_what_can(text, message):
    with pytest.raises(BadValue) as caught:
        parse_gpus(text)

    assert message in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(("text", "kind"), [("auto", DriverGpus), ("nvml", DriverGpus), ("sim:1x8", SimulatedGpus)])
def test_a_choice_opens_the_gpus_that_it_names(text, kind):
    assert isinstance(open_gpus(parse_gpus(text)), kind)
