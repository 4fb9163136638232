"""GPUs as people have them: several, shared, slow to give memory back, taken by others, and none at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.conftest import Stack
from tests.e2e.conftest import Server
from tests.gpu.nvml_stub import Stub, build, find_gcc

pytestmark = [pytest.mark.engine, pytest.mark.timeout(60)]
Until = Callable[..., Any]
MakeStack = Callable[..., Stack]
MakeServer = Callable[..., Server]


def known(server: Server, until: Until, *stacks: Stack) -> None:
    until(lambda: all(server.target_state(one.target) == "stopped" for one in stacks), 5, "the created targets")


def status_of(api: docker.APIClient, stack: Stack) -> str:
    return str(api.inspect_container(stack.id("model"))["State"]["Status"])


def moment(api: docker.APIClient, stack: Stack, name: str) -> float:
    """``StartedAt`` or ``FinishedAt`` of a stack's container, in seconds."""
    text = str(api.inspect_container(stack.id("model"))["State"][name])
    return datetime.fromisoformat(re.sub(r"\.(\d{6})\d*", r".\1", text).replace("Z", "+00:00")).timestamp()


def release(server: Server, token: str) -> None:
    assert server.http.post("/release", json={"lease_token": token}).json()["released"]


def gpus_of(server: Server) -> dict[str, list[str]]:
    """The GPUs of each lease's target."""
    leases = server.http.get("/v1/status").json()["leases"]
    return {lease["target"]: lease["gpus"] for lease in leases}


def test_two_targets_that_do_not_share_run_on_two_gpus_at_the_same_time(
    make_server: MakeServer, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    server = make_server("--gpus", "sim:2x24576")
    first, second, third = make_stack("single"), make_stack("single"), make_stack("single")
    known(server, until, first, second, third)

    assert server.acquire(first.target).status_code == 200
    assert server.acquire(second.target).status_code == 200

    assert (status_of(api, first), status_of(api, second)) == ("running", "running")
    assert gpus_of(server) == {first.target: ["SIM-0"], second.target: ["SIM-1"]}
    assert server.acquire(third.target).json()["code"] == "gpu_busy"
    full = [24_576, 24_576]
    until(lambda: [gpu["used_mib"] for gpu in server.http.get("/v1/status").json()["gpus"]] == full, 5, "both in use")


def test_targets_that_agree_and_fit_share_one_gpu_and_one_too_many_does_not(
    make_server: MakeServer, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    server = make_server("--gpus", "sim:1x24576")
    first, second, third = make_stack("sharing"), make_stack("sharing"), make_stack("sharing")
    known(server, until, first, second, third)

    token = server.lease(first.target).json()["token"]
    assert server.lease(second.target).status_code == 201
    assert (status_of(api, first), status_of(api, second)) == ("running", "running")
    assert server.acquire(third.target).json()["code"] == "gpu_busy"

    release(server, token)
    assert server.acquire(third.target).status_code == 200
    states = [status_of(api, one) for one in (first, second, third)]
    assert states == ["exited", "running", "running"]


def test_a_target_starts_only_when_the_memory_of_the_one_before_has_come_back(
    make_server: MakeServer, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    server = make_server("--gpus", "sim:1x24576,late=700ms")
    first, second = make_stack("single"), make_stack("single")
    known(server, until, first, second)
    token = server.lease(first.target).json()["token"]
    until(lambda: server.http.get("/v1/status").json()["gpus"][0]["used_mib"] == 24_576, 5, "a full GPU")
    release(server, token)

    answer = server.lease(second.target, wait_seconds=30)

    assert answer.status_code == 201, answer.text
    assert moment(api, second, "StartedAt") - moment(api, first, "FinishedAt") >= 0.7


def test_memory_that_never_comes_back_closes_the_gpu_and_the_refusal_says_so(
    make_server: MakeServer, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    server = make_server("--gpus", "sim:1x24576,late=never")
    first, second = make_stack("single"), make_stack("single")
    known(server, until, first, second)
    token = server.lease(first.target).json()["token"]
    until(lambda: server.http.get("/v1/status").json()["gpus"][0]["used_mib"] == 24_576, 5, "a full GPU")
    release(server, token)

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.lease, second.target, ready_timeout_seconds=7)
        until(lambda: server.http.get("/readyz").status_code == 503, 10, "a closed GPU")
        assert "SIM-0 is closed: the memory of GPU SIM-0 did not come back" in server.http.get("/readyz").text
        assert waiting.result().json()["code"] == "target_timeout"

    assert status_of(api, second) == "created"


def test_what_others_use_is_not_granted_and_the_refusal_names_them(
    make_server: MakeServer, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    server = make_server("--gpus", "sim:1x24576,foreign=16000")
    stack = make_stack("sharing")
    known(server, until, stack)

    answer = server.lease(stack.target, wait_seconds=30)

    assert (answer.status_code, answer.json()["code"]) == (503, "insufficient_vram")
    assert "16000 of 24576 MiB" in answer.json()["detail"]
    assert status_of(api, stack) == "created"


# ---- the driver's GPUs, with a stand-in for its library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gcc = find_gcc()
    if gcc is None:
        pytest.fail("no gcc to build the stand-in for libnvidia-ml.so.1: apt-get install gcc libc6-dev", pytrace=False)
    return build(tmp_path_factory.mktemp("nvml"), gcc)


@pytest.fixture
def driver(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """The driver that ``serve`` finds; it lists two GPUs, and no processes."""
    stub = Stub(tmp_path / "driver", library)
    monkeypatch.setenv("LD_LIBRARY_PATH", stub.environ["LD_LIBRARY_PATH"])
    return stub


def test_without_a_driver_it_says_so_everywhere_and_still_enforces(
    make_server: MakeServer, make_stack: MakeStack, driver: Stub, api: docker.APIClient, until: Until
) -> None:
    driver.say("fail nvmlInitWithFlags * 9")  # NVML_ERROR_DRIVER_NOT_LOADED
    server = make_server(start=False)
    server.start("--gpus", "auto", synced=False)
    stack = make_stack("single")
    known(server, until, stack)
    why = "the NVIDIA driver is installed but not loaded"

    (ready,) = (line for line in server.log if "ready: listening" in line)
    assert f"GPUs none ({why}" in ready
    health = server.http.get("/readyz")
    assert health.status_code == 503
    assert f"none known: {why}" in health.text
    answer = server.acquire(stack.target)
    assert (answer.status_code, answer.json()["code"]) == (503, "gpu_unavailable")
    assert why in answer.json()["detail"]
    assert "serve --gpus sim:1x24576" in answer.json()["detail"]

    stack.compose("up -d --wait", codes=(1,))
    until(lambda: status_of(api, stack) == "exited", 5, "the end of the unleased container")


def test_a_driver_that_is_loaded_later_opens_its_gpus(
    make_server: MakeServer, make_stack: MakeStack, driver: Stub, api: docker.APIClient, until: Until
) -> None:
    driver.say("fail nvmlInitWithFlags * 9")
    server = make_server(start=False)
    server.start("--gpus", "auto", synced=False)
    stack = make_stack("sharing")
    known(server, until, stack)
    assert server.acquire(stack.target).json()["code"] == "gpu_unavailable"

    driver.say()
    server.until_synced()

    assert server.acquire(stack.target).status_code == 200
    assert gpus_of(server)[stack.target] == ["GPU-big"], "the other one has 8192 MiB"


def test_a_lost_gpu_is_closed_and_the_other_goes_on(
    make_server: MakeServer, make_stack: MakeStack, driver: Stub, until: Until
) -> None:
    server = make_server("--gpus", "nvml")
    first, second = make_stack("single"), make_stack("single")
    known(server, until, first, second)
    driver.say("fail nvmlDeviceGetMemoryInfo_v2 0 15", "fail nvmlDeviceGetMemoryInfo 0 15")  # NVML_ERROR_GPU_IS_LOST
    until(lambda: "GPU-big is closed" in server.http.get("/readyz").text, 10, "a closed GPU")

    assert server.http.get("/readyz").status_code == 200
    assert server.acquire(first.target).status_code == 200
    assert gpus_of(server) == {first.target: ["GPU-small"]}
    assert server.acquire(second.target).json()["code"] == "gpu_busy"


def test_a_driver_that_hangs_holds_up_neither_the_start_nor_the_enforcement(
    make_server: MakeServer, make_stack: MakeStack, driver: Stub, api: docker.APIClient, until: Until
) -> None:
    driver.say("hang nvmlInitWithFlags *")
    server = make_server(start=False)
    server.start("--gpus", "auto", synced=False)
    stack = make_stack("single")
    known(server, until, stack)

    assert "they have not been read yet" in next(line for line in server.log if "ready: listening" in line)
    assert server.acquire(stack.target).json()["code"] == "gpu_unavailable"
    stack.compose("up -d --wait", codes=(1,))
    until(lambda: status_of(api, stack) == "exited", 5, "the end of the unleased container")
