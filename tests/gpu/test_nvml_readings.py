"""What the driver's library says arrives as it is, through the real pynvml in the real child process."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pynvml
import pytest
from msgspec.structs import replace

from supervisor.core.model import Gpu, GpuProcess
from supervisor.gpu.nvml import started_of
from supervisor.gpu.reading import Limits
from supervisor.gpu.verdict import PYNVML_ENOUGH
from tests.gpu.nvml_stub import BIG, SMALL, Stub, reading

MIB = 2**20
ME = os.getpid()


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


def big(**fields: object) -> Gpu:
    gpu = Gpu(
        "GPU-big",
        name="NVIDIA Stub 24",
        total_mib=24576,
        used_mib=1000,
        reserved_mib=300,
        free_mib=23276,
        utilization_percent=37,
        temperature_c=55,
        power_w=120,
        processes=(),
    )
    return replace(gpu, **fields)


def test_two_gpus_with_all_that_they_tell(stub: Stub):
    with reading(stub) as readings:
        seen = readings.next()

    assert seen.gpus == (
        big(),
        Gpu(
            "GPU-small",
            index=1,
            name="NVIDIA Stub 8",
            total_mib=8192,
            used_mib=0,
            reserved_mib=100,
            free_mib=8092,
            utilization_percent=0,
            temperature_c=30,
            power_w=9,
            processes=(),
        ),
    )
    assert (seen.problem, seen.driver, seen.cuda) == ("", "560.35.03", "12.6")
    assert 0 < seen.took_s < 25


def test_a_later_reading_has_what_changed(stub: Stub):
    with reading(stub) as readings:
        before = readings.next()
        stub.say(gpus=(BIG.replace("24576 1000", "24576 9000"), SMALL))
        after = readings.read()

    assert [gpu.used_mib for gpu in before.gpus] == [1000, 0]
    assert [gpu.used_mib for gpu in after.gpus] == [9000, 0]
    assert after.began_s > before.began_s + before.took_s


@pytest.mark.parametrize(
    ("lacks", "fields"),
    [
        pytest.param(
            ("WITHOUT_MEMORY_V2",), {"used_mib": 1300, "reserved_mib": None}, id="before 510: reserved counts as used"
        ),
        pytest.param(("WITHOUT_PROCESSES_V3",), {}, id="processes by version 2"),
        pytest.param(("WITHOUT_MIG",), {}, id="before MIG"),
    ],
)
def test_an_older_driver_is_read_by_its_older_functions(
    lacks: tuple[str, ...], fields: dict[str, object], build_stub: Callable[..., Path], tmp_path: Path
):
    stub = Stub(tmp_path / "old", build_stub(*lacks))
    stub.say(f"process 0 compute {ME} {500 * MIB}", gpus=(BIG,))
    with reading(stub) as readings:
        seen = readings.next()

    expected = (GpuProcess(pid=ME, used_mib=500, started=started_of(ME)),)
    assert seen.gpus == (big(processes=expected, **fields),)
    assert seen.problem == ""


#: As nvidia-ml-py 12.535 is.
NO_VERSION_2 = tuple(f"nvmlDeviceGet{kind}RunningProcesses_v2" for kind in ("Compute", "Graphics", "MPSCompute"))


def test_what_pynvml_lacks_and_the_driver_has_in_a_newer_version_is_not_missed(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pynvml_without(NO_VERSION_2, tmp_path, monkeypatch)
    with reading(stub) as readings:
        seen = readings.next()

    assert (seen.gpus[0], seen.problem) == (big(), "")


def test_a_pynvml_too_old_for_the_driver_is_said_with_what_to_install_and_not_silent(
    build_stub: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stub = Stub(tmp_path / "old", build_stub("WITHOUT_PROCESSES_V3"))
    stub.say(f"process 0 compute {ME} {500 * MIB}", gpus=(BIG,))
    pynvml_without(NO_VERSION_2, tmp_path, monkeypatch)
    with reading(stub) as readings:
        first, second = readings.next(), readings.read()

    assert first.gpus == second.gpus == (big(processes=None, detail=first.problem),)
    assert first.problem == second.problem
    for function in NO_VERSION_2:
        said = f"has no {function}; install {PYNVML_ENOUGH} or newer"
        assert f"GPU 0 (NVIDIA Stub 24, GPU-big) does not tell everything: this release of nvidia-ml-py {said}" in (
            first.problem
        )


def test_the_release_that_is_named_is_the_oldest_that_is_installed_with_us():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    assert f"nvidia-ml-py>={PYNVML_ENOUGH}" in project["dependencies"]


def pynvml_without(lacking: Iterable[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the child find a pynvml without these functions."""
    source = Path(pynvml.__file__).read_text()
    (folder / "pynvml.py").write_text(f"{source}\ndel {', '.join(lacking)}\n")
    monkeypatch.syspath_prepend(folder)


def test_a_card_that_drops_a_function_at_run_time_is_read_by_the_older_one(stub: Stub):
    stub.say("fail nvmlDeviceGetMemoryInfo_v2 * 13", "fail nvmlDeviceGetComputeRunningProcesses_v3 * 25", gpus=(BIG,))
    with reading(stub) as readings:
        seen = readings.next()
        stub.forget_calls()
        again = readings.read()

    assert seen.gpus == again.gpus == (big(used_mib=1300, reserved_mib=None),)
    functions = [call.function for call in stub.calls()]
    assert "nvmlDeviceGetMemoryInfo" in functions
    assert "nvmlDeviceGetMemoryInfo_v2" not in functions, "what is not there is not tried each time"


# ---- processes


def test_a_process_is_listed_once_with_its_memory_and_its_start(stub: Stub, sleeper: int):
    stub.say(
        f"process 0 compute {ME} {500 * MIB}",
        f"process 0 graphics {ME} {500 * MIB}",
        f"process 0 compute {sleeper} {MIB + 1}",
        f"process 0 mps {sleeper} {3 * MIB}",
        "process 1 compute 4194304 -1",
    )
    with reading(stub) as readings:
        on_big, on_small = (gpu.processes for gpu in readings.next().gpus)

    assert set(on_big) == {
        GpuProcess(pid=ME, used_mib=500, kind="graphics", started=started_of(ME)),
        GpuProcess(pid=sleeper, used_mib=3, started=started_of(sleeper)),
    }
    assert on_small == (GpuProcess(pid=4194304, used_mib=None, started=0),), "beyond the largest pid: it is gone"
    assert started_of(sleeper) >= started_of(ME) > 0


def test_memory_in_use_is_rounded_up(stub: Stub):
    stub.say(f"process 0 compute {ME} {MIB + 1}", gpus=(BIG,))
    with reading(stub) as readings:
        (process,) = readings.next().gpus[0].processes

    assert process.used_mib == 2


def test_a_list_that_grew_between_two_calls_is_asked_for_again(stub: Stub):
    stub.say(f"process 0 compute {ME} {MIB}", "short 0 3")
    with reading(stub) as readings:
        seen = readings.next()

    assert [process.pid for process in seen.gpus[0].processes] == [ME]
    assert seen.problem == ""


def test_a_list_that_never_stops_growing_is_given_up_and_said(stub: Stub):
    stub.say(f"process 0 compute {ME} {MIB}", f"process 0 graphics 1 {MIB}", "short 0 5")
    with reading(stub) as readings:
        seen = readings.next()

    assert seen.gpus[0].processes is None, "those that draw are not all that are there"
    assert seen.gpus[0].state == "ok"
    assert 'nvmlDeviceGetComputeRunningProcesses_v3 says "Insufficient Size" (code 7)' in seen.problem
    assert sum(call.function == "nvmlDeviceGetComputeRunningProcesses_v3" for call in stub.calls() if call.gpu == 0) > 5


def test_a_thousand_processes_are_listed(stub: Stub):
    stub.say(*(f"process 0 compute {4194304 + number} {MIB}" for number in range(1000)))
    with reading(stub) as readings:
        assert len(readings.next().gpus[0].processes) == 1000


def test_a_pid_that_is_used_again_has_another_start(tmp_path: Path):
    stat = tmp_path / "77" / "stat"
    stat.parent.mkdir()
    line = Path("/proc/self/stat").read_text()
    before, after = line.replace(f" {started_of(ME)} ", " 5000 "), line.replace(f" {started_of(ME)} ", " 5001 ")

    stat.write_text(before)
    first = started_of(77, tmp_path)
    stat.write_text(after)
    second = started_of(77, tmp_path)
    stat.unlink()

    assert (first, second, started_of(77, tmp_path)) == (5000, 5001, 0)


# ---- what cannot be had

TELEMETRY = ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage")
NO_TELEMETRY = {"utilization_percent": None, "temperature_c": None, "power_w": None}


def test_what_a_gpu_does_not_support_is_left_out_without_a_word_and_not_asked_again(stub: Stub):
    stub.say(*(f"fail {function} 0 3" for function in TELEMETRY))
    with reading(stub) as readings:
        first = readings.next()
        stub.forget_calls()
        second = readings.read()

    assert first.gpus[0] == second.gpus[0] == big(**NO_TELEMETRY)
    assert first.problem == second.problem == ""
    asked = {(call.function, call.gpu) for call in stub.calls()}
    assert not {(function, 0) for function in TELEMETRY} & asked
    assert {(function, 1) for function in TELEMETRY} <= asked, "the other GPU supports it"


def test_what_was_not_supported_is_asked_again_after_a_while(stub: Stub):
    stub.say(*(f"fail {function} 0 3" for function in TELEMETRY))
    with reading(stub, limits=Limits(off_s=0.0)) as readings:
        first = readings.next()
        stub.say()
        second = readings.read()

    assert (first.gpus[0], second.gpus[0]) == (big(**NO_TELEMETRY), big())


@pytest.mark.parametrize(
    ("function", "processes"),
    [
        pytest.param("nvmlDeviceGetComputeRunningProcesses_v3", None, id="those that compute: nobody is told"),
        pytest.param("nvmlDeviceGetGraphicsRunningProcesses_v3", (), id="those that draw"),
        pytest.param("nvmlDeviceGetMPSComputeRunningProcesses_v3", (), id="those behind MPS"),
    ],
)
def test_a_driver_that_does_not_list_processes_does_not_say_that_there_are_none(
    function: str, processes: tuple[GpuProcess, ...] | None, stub: Stub
):
    stub.say(f"fail {function} 0 3")
    with reading(stub) as readings:
        seen = readings.next()

    assert (seen.gpus[0], seen.problem) == (big(processes=processes), "")


def test_what_is_not_permitted_is_said_in_every_reading_and_not_asked_again(stub: Stub):
    stub.say("fail nvmlDeviceGetComputeRunningProcesses_v3 0 4", f"process 0 graphics {ME} {MIB}")
    with reading(stub) as readings:
        first = readings.next()
        stub.forget_calls()
        second = readings.read()

    assert first.gpus == second.gpus
    assert first.gpus[0] == big(processes=None, detail=first.problem)
    assert (first.problem, second.problem) == (first.gpus[0].detail,) * 2
    assert first.problem == (
        "GPU 0 (NVIDIA Stub 24, GPU-big) does not tell everything: nvmlDeviceGetComputeRunningProcesses_v3 says "
        '"Insufficient Permissions" (code 4); run the supervisor as root to have it'
    )
    assert ("nvmlDeviceGetComputeRunningProcesses_v3", 0) not in {(call.function, call.gpu) for call in stub.calls()}


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param(3, "", id="unified memory: not supported, not an error"),
        pytest.param(4, "GPU 0 (NVIDIA Stub 24, GPU-big) does not tell everything", id="not permitted"),
    ],
)
def test_a_gpu_without_sizes_is_still_a_gpu(code: int, problem: str, stub: Stub):
    stub.say(f"fail nvmlDeviceGetMemoryInfo_v2 0 {code}", f"fail nvmlDeviceGetMemoryInfo 0 {code}")
    with reading(stub) as readings:
        seen = readings.next()

    gpu = seen.gpus[0]
    assert (gpu.state, gpu.total_mib, gpu.used_mib, gpu.reserved_mib, gpu.free_mib) == ("ok", None, None, None, None)
    assert gpu.temperature_c == 55
    assert seen.problem.startswith(problem)
    assert bool(seen.problem) == bool(problem)


def test_a_driver_that_does_not_tell_its_cuda_version_is_read_all_the_same(stub: Stub):
    stub.say("fail nvmlSystemGetCudaDriverVersion_v2 * 13")
    with reading(stub) as readings:
        seen = readings.next()

    assert (seen.cuda, seen.driver, len(seen.gpus), seen.problem) == ("", "560.35.03", 2, "")


def test_a_name_that_cannot_be_decoded_costs_only_the_name(stub: Stub):
    state = (stub.folder / "state").read_bytes().replace(b"NVIDIA Stub 24", b"NVIDIA \xff\xfe")
    (stub.folder / "state").write_bytes(state)
    with reading(stub) as readings:
        seen = readings.next()

    assert [(gpu.uuid, gpu.name, gpu.state) for gpu in seen.gpus] == [
        ("GPU-big", "", "ok"),
        ("GPU-small", "NVIDIA Stub 8", "ok"),
    ]
    assert "nvmlDeviceGetName" in seen.problem


def test_what_the_library_prints_does_not_come_between(stub: Stub):
    stub.say("print NVRM:hello")
    with reading(stub) as readings:
        assert [gpu.state for gpu in readings.next().gpus] == ["ok", "ok"]
