"""Every way in which the driver says no has a state and a sentence: what is wrong, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.core.model import Gpu
from supervisor.gpu.nvml_codes import ALL_GPUS, LOST
from supervisor.gpu.reading import Limits
from supervisor.gpu.verdict import complete, judged, why_no_reading
from supervisor.gpu.wire import Seen, Trouble
from tests.gpu.nvml_stub import BIG, LIBRARY, SMALL, Readings, Stub, reading

OK_SMALL = ("GPU-small", "ok", 8192)


@pytest.fixture(scope="module")
def shared_stub(build_stub, tmp_path_factory: pytest.TempPathFactory) -> Stub:
    return Stub(tmp_path_factory.mktemp("shared") / "driver", build_stub())


@pytest.fixture(scope="module")
def on_host(shared_stub: Stub) -> Iterator[Readings]:
    """One probe for the whole table: what is off is asked again at once, and nothing waits."""
    with reading(shared_stub, limits=Limits(off_s=0.0, refresh_s=0.0, pause_s=0.0)) as readings:
        readings.next()
        yield readings


@pytest.fixture(scope="module")
def in_container(shared_stub: Stub) -> Iterator[Readings]:
    with reading(shared_stub, limits=Limits(off_s=0.0, refresh_s=0.0, pause_s=0.0), in_container=True) as readings:
        readings.next()
        yield readings


# ---- all GPUs

OF_ALL = [
    pytest.param(9, False, "driver is installed but not loaded: load it (`modprobe nvidia`)", id="9: not loaded"),
    pytest.param(12, False, "no NVIDIA driver is installed: libnvidia-ml.so.1 is missing", id="12: no library"),
    pytest.param(12, True, "no NVIDIA driver is in this container: libnvidia-ml.so.1", id="12 in a container"),
    pytest.param(18, False, "was upgraded while its kernel module was loaded", id="18: upgraded"),
    pytest.param(4, False, "permits this user nothing: its devices /dev/nvidia*", id="4: no permission"),
    pytest.param(999, True, "`systemctl daemon-reload` on the host", id="999 in a container: daemon-reload"),
    pytest.param(999, False, 'nvmlInitWithFlags says "Unknown Error" (code 999)', id="999 on a host"),
    pytest.param(1, False, 'nvmlInitWithFlags says "Uninitialized" (code 1)', id="1: another"),
    pytest.param(17, False, 'nvmlInitWithFlags says "The operating system has blocked', id="17: another"),
    pytest.param(77, False, 'says "the stub\'s error 77" (code 77)', id="77: one that pynvml does not know"),
]


@pytest.mark.parametrize(("code", "contained", "sentence"), OF_ALL)
def test_without_the_library_no_gpu_can_be_read_and_the_sentence_says_why(
    code: int, contained: bool, sentence: str, shared_stub: Stub, on_host: Readings, in_container: Readings
):
    readings = in_container if contained else on_host
    shared_stub.say("fail nvmlDeviceGetCount_v2 * 9")
    readings.read()  # the library is shut down, and has to be set up again
    shared_stub.say(f"fail nvmlInitWithFlags * {code}")
    failed = readings.read()
    shared_stub.say()
    healed = readings.read()

    assert sentence in failed.problem
    assert [(gpu.uuid, gpu.state, gpu.total_mib) for gpu in failed.gpus] == [
        ("GPU-big", "unreadable", 24576),
        ("GPU-small", "unreadable", 8192),
    ]
    assert all(gpu.detail.endswith(f"cannot be read: {failed.problem}") for gpu in failed.gpus)
    assert all((gpu.used_mib, gpu.free_mib, gpu.processes) == (None, None, None) for gpu in failed.gpus)
    assert ([gpu.state for gpu in healed.gpus], healed.problem) == (["ok", "ok"], "")


@pytest.mark.parametrize("code", sorted(ALL_GPUS))
def test_what_one_gpu_is_asked_may_tell_of_all(code: int, shared_stub: Stub, on_host: Readings):
    shared_stub.say(f"fail nvmlDeviceGetPowerUsage 1 {code}")
    failed = on_host.read()
    shared_stub.say()

    assert [gpu.state for gpu in failed.gpus] == ["unreadable", "unreadable"]
    assert [gpu.state for gpu in on_host.read().gpus] == ["ok", "ok"]


def test_every_sentence_about_all_gpus_differs_from_the_others():
    told = [
        why_no_reading(Trouble("nvmlInitWithFlags", code, "?"), in_container=contained)
        for code in (4, 9, 12, 18, 999, 17)
        for contained in (False, True)
    ]
    assert len(set(told)) == 8, "12 and 999 differ in a container"


def test_a_machine_without_a_driver_has_no_gpus_and_a_reason(tmp_path: Path):
    # Where the machine has a driver, an empty folder would not hide it; a file that is no library does.
    (tmp_path / LIBRARY).write_text("no library")
    with reading(environ={"LD_LIBRARY_PATH": str(tmp_path)}) as readings:
        first, second = readings.next(), readings.read()

    assert (first.gpus, first.driver, first.cuda) == ((), "", "")
    assert first.problem == second.problem
    assert "libnvidia-ml.so.1 is missing" in first.problem


def test_a_driver_that_comes_later_is_found(stub: Stub):
    library = stub.folder / LIBRARY
    library.rename(stub.folder / "away")
    library.write_text("no library")
    with reading(stub) as readings:
        before = readings.next()
        (stub.folder / "away").rename(library)
        after = readings.read()

    assert "libnvidia-ml.so.1 is missing" in before.problem
    assert ([gpu.state for gpu in after.gpus], after.problem) == (["ok", "ok"], "")


def test_a_driver_without_gpus_says_so_and_finds_those_that_come(stub: Stub):
    stub.say(gpus=())
    with reading(stub, limits=Limits(refresh_s=0.0)) as readings:
        none = readings.next()
        stub.say()
        some = readings.read()

    assert none.gpus == ()
    assert "is loaded and lists no GPU" in none.problem
    assert [gpu.uuid for gpu in some.gpus] == ["GPU-big", "GPU-small"]


# ---- one GPU

HANDLE, UUID, MEMORY = "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo_v2"
PROCESSES = "nvmlDeviceGetComputeRunningProcesses_v3"

OF_ONE = [
    pytest.param(HANDLE, 15, "lost", "has fallen off the bus", id="15: fell off the bus"),
    pytest.param(MEMORY, 15, "lost", "has fallen off the bus", id="15: while it is read"),
    pytest.param(PROCESSES, 15, "lost", "has fallen off the bus", id="15: at the last question"),
    pytest.param(HANDLE, 16, "lost", "needs a reset before it can be used again", id="16: wants a reset"),
    pytest.param(UUID, 28, "lost", "is no longer found by the driver", id="28: not found"),
    pytest.param(HANDLE, 4, "unreadable", "may not be read by this user", id="4: not permitted at all"),
    pytest.param(UUID, 3, "unreadable", 'nvmlDeviceGetUUID says "Not Supported" (code 3)', id="3: without identity"),
    pytest.param(MEMORY, 999, "unreadable", 'nvmlDeviceGetMemoryInfo_v2 says "Unknown Error"', id="999: its memory"),
    pytest.param(MEMORY, 20, "unreadable", 'says "Insufficient Memory" (code 20)', id="20: its memory, otherwise"),
    pytest.param(HANDLE, 8, "unreadable", 'says "Insufficient External Power"', id="8: power cables"),
    pytest.param(HANDLE, 77, "unreadable", "the stub's error 77", id="77: one that pynvml does not know"),
    pytest.param(PROCESSES, 999, "ok", "does not tell everything", id="999: only what is nice to have"),
    pytest.param("nvmlDeviceGetMigMode", 4, "ok", "run the supervisor as root", id="4: only what is nice to have"),
    pytest.param("nvmlDeviceGetPowerUsage", 3, "ok", "", id="3: not supported"),
]


@pytest.mark.parametrize(("function", "code", "state", "sentence"), OF_ONE)
def test_what_is_wrong_with_one_gpu_concerns_no_other(
    function: str, code: int, state: str, sentence: str, shared_stub: Stub, on_host: Readings
):
    shared_stub.say()
    on_host.read()
    shared_stub.say(f"fail {function} 0 {code}")
    failed = on_host.read()
    shared_stub.say()
    healed = on_host.read()

    assert [(gpu.uuid, gpu.state, gpu.total_mib) for gpu in failed.gpus] == [("GPU-big", state, 24576), OK_SMALL]
    gpu = failed.gpus[0]
    assert gpu.name == "NVIDIA Stub 24"
    assert sentence in gpu.detail
    assert failed.problem == gpu.detail
    assert not gpu.detail or gpu.detail.startswith("GPU 0 (NVIDIA Stub 24, GPU-big) ")
    assert state == "ok" or (gpu.used_mib, gpu.free_mib, gpu.processes) == (None, None, None)
    assert ([gpu.state for gpu in healed.gpus], healed.problem) == (["ok", "ok"], "")


def test_in_a_container_that_lost_its_gpus_the_sentence_names_the_reload(shared_stub: Stub, in_container: Readings):
    shared_stub.say("fail nvmlDeviceGetHandleByIndex_v2 * 999")
    failed = in_container.read()
    shared_stub.say()

    assert [gpu.state for gpu in failed.gpus] == ["unreadable", "unreadable"]
    assert all("`systemctl daemon-reload` on the host" in gpu.detail for gpu in failed.gpus)


def test_a_partitioned_gpu_is_refused_plainly_and_read_all_the_same(shared_stub: Stub, on_host: Readings):
    shared_stub.say(gpus=(BIG.replace(" 0 NVIDIA", " 1 NVIDIA"), SMALL))
    seen = on_host.read()
    shared_stub.say()

    gpu, other = seen.gpus
    assert (gpu.state, gpu.total_mib, gpu.used_mib, other.state) == ("mig", 24576, 1000, "ok")
    assert gpu.detail == seen.problem
    assert (
        "is partitioned (MIG), and its partitions are not leased: turn MIG off (`nvidia-smi -i 0 -mig 0`" in gpu.detail
    )


def test_a_gpu_that_was_never_seen_well_is_listed_by_its_index(stub: Stub):
    stub.say("fail nvmlDeviceGetHandleByIndex_v2 1 15")
    with reading(stub) as readings:
        before = readings.next()
        stub.say()
        after = readings.read()

    assert [(gpu.uuid, gpu.state) for gpu in before.gpus] == [("GPU-big", "ok"), ("unknown-1", "lost")]
    assert before.gpus[1].detail.startswith("GPU 1 has fallen off the bus")
    assert [(gpu.uuid, gpu.state) for gpu in after.gpus] == [("GPU-big", "ok"), ("GPU-small", "ok")]


def test_a_gpu_that_is_not_listed_any_more_stays_with_its_name_and_size(stub: Stub):
    with reading(stub) as readings:
        readings.next()
        # What is left moves up: an index says nothing about who a GPU is.
        stub.say(gpus=(SMALL.replace("gpu 1", "gpu 0"),))
        alone = readings.read()
        still = readings.read()
        stub.say()
        back = readings.read()

    assert [(gpu.uuid, gpu.state, gpu.total_mib) for gpu in alone.gpus] == [OK_SMALL, ("GPU-big", "lost", 24576)]
    assert "GPU 0 (NVIDIA Stub 24, GPU-big) is no longer listed by the driver" in alone.problem
    assert still.gpus == alone.gpus
    assert [(gpu.uuid, gpu.state) for gpu in back.gpus] == [("GPU-big", "ok"), ("GPU-small", "ok")]


@pytest.mark.parametrize(
    ("refresh_s", "expected"),
    [pytest.param(0.0, ["nvmlShutdown", "nvmlInitWithFlags"], id="due"), pytest.param(600.0, [], id="not yet due")],
)
def test_while_a_gpu_is_lost_the_library_is_set_up_anew_now_and_then(refresh_s: float, expected: list[str], stub: Stub):
    stub.say("fail nvmlDeviceGetHandleByIndex_v2 1 15")
    with reading(stub, limits=Limits(refresh_s=refresh_s)) as readings:
        readings.next()
        stub.forget_calls()
        readings.read()

    functions = [call.function for call in stub.calls()]
    assert [name for name in functions if name in {"nvmlShutdown", "nvmlInitWithFlags"}] == expected


def test_while_all_is_well_the_library_stays_as_it_is(stub: Stub):
    with reading(stub, limits=Limits(refresh_s=0.0)) as readings:
        readings.next()
        readings.read()
        readings.read()

    functions = [call.function for call in stub.calls()]
    assert (functions.count("nvmlInitWithFlags"), functions.count("nvmlShutdown")) == (1, 0)


# ---- the pure part

KNOWN = {
    "GPU-a": Gpu("GPU-a", index=0, name="A", total_mib=100),
    "GPU-b": Gpu("GPU-b", index=1, name="B", total_mib=50),
}


@pytest.mark.parametrize("code", sorted(LOST))
def test_a_lost_gpu_keeps_who_it_is_and_forgets_what_it_had(code: int):
    known = Gpu("GPU-a", index=3, name="A", total_mib=100, used_mib=40, free_mib=60)
    gpu = judged(Seen(index=3, ended=Trouble("f", code, "?")), known, in_container=False)

    assert gpu == Gpu("GPU-a", index=3, name="A", total_mib=100, state="lost", detail=gpu.detail, accounting="unknown")
    assert gpu.detail.startswith("GPU 3 (A, GPU-a) ")


def test_a_gpu_without_a_uuid_is_not_taken_for_one_that_has_moved_to_another_index():
    lost = Seen(index=0, ended=Trouble("nvmlDeviceGetHandleByIndex", 15, "?"))
    moved = Seen(index=1, uuid="GPU-a", name="A", total_b=100 << 20)

    gpus = complete([lost, moved], {}, KNOWN, in_container=False)

    assert [(gpu.index, gpu.uuid, gpu.state) for gpu in gpus] == [
        (0, "unknown-0", "lost"),
        (1, "GPU-a", "ok"),
        (1, "GPU-b", "lost"),
    ]


def test_a_gpu_that_was_left_out_is_unreadable_and_says_why():
    seen = Seen(index=0, uuid="GPU-a", name="A", total_b=100 << 20)

    gpus = complete([seen], {1: "does not answer"}, KNOWN, in_container=False)

    detail = "GPU 1 (B, GPU-b) does not answer"
    assert gpus[1] == Gpu(
        "GPU-b", index=1, name="B", total_mib=50, state="unreadable", detail=detail, accounting="unknown"
    )
