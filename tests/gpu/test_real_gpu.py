"""Measurements on a real GPU, and the same on the stand-in for its library, so that they are known to measure.

``pytest tests/gpu/test_real_gpu.py -s --gpu-figures FILE`` prints the figures and writes them, with the device's name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from supervisor.core.model import Gpu
from supervisor.gpu.located import Locator
from supervisor.gpu.nvml import started_of
from supervisor.gpu.proc_files import sees_host
from tests.conftest import IMAGE
from tests.gpu.nvml_stub import BIG, SMALL, Readings, Stub, reading

ROOT = Path(__file__).parents[2]
Figures = dict[str, Any]
#: What else happens on the machine meanwhile: a desktop's windows, say.
NOISE_MIB = 16
BACK_WITHIN_S = 30.0


class RealMachine:
    """This machine's driver, and processes that really hold memory."""

    name = "real"
    min_return_s = 0.0

    def __init__(self) -> None:
        self.environ = dict(os.environ)

    def hold(self, gpu: Gpu, size_mib: int) -> subprocess.Popen[str]:
        return _start([sys.executable, "-m", "tests.gpu.cuda_holder", str(size_mib)], CUDA_VISIBLE_DEVICES=gpu.uuid)

    def contain(self, gpu: Gpu, size_mib: int) -> dict[str, Any]:
        """This machine's own Python and CUDA, from inside: that needs no image, nor Docker's NVIDIA runtime."""
        return {
            "command": ["chroot", "/host", sys.executable, str(ROOT / "tests/gpu/cuda_holder.py"), str(size_mib)],
            "environment": {"CUDA_VISIBLE_DEVICES": gpu.uuid},
            "volumes": {"/": {"bind": "/host", "mode": "rw"}},
            "privileged": True,
        }

    def contained(self, pid: int, size_mib: int) -> None:
        """The driver notices for itself."""

    def ended(self) -> None:
        """The driver notices for itself."""


class PretendMachine:
    """The stand-in: its memory comes back a known while after the process has ended."""

    name = "pretended"
    min_return_s = 0.2

    def __init__(self, stub: Stub) -> None:
        self._stub, self.environ = stub, {**os.environ, **stub.environ}

    def hold(self, gpu: Gpu, size_mib: int) -> subprocess.Popen[str]:
        assert gpu.uuid == "GPU-big", "the one with the most room"
        process = _start([sys.executable, "-c", "print('held', flush=True); input()"])
        used = f"process 0 compute {process.pid} {size_mib << 20}"
        self._stub.say(used, gpus=(BIG.replace("24576 1000", f"24576 {1000 + size_mib}"), SMALL))
        return process

    def contain(self, _gpu: Gpu, _size_mib: int) -> dict[str, Any]:
        return {"command": ["sh", "-c", "echo held; exec cat"]}

    def contained(self, pid: int, size_mib: int) -> None:
        used = f"process 0 compute {pid} {size_mib << 20}"
        self._stub.say(used, gpus=(BIG.replace("24576 1000", f"24576 {1000 + size_mib}"), SMALL))

    def ended(self) -> None:
        threading.Timer(self.min_return_s, self._stub.say).start()


Machine = RealMachine | PretendMachine


def _start(command: list[str], **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture(params=["stub", pytest.param("real", marks=pytest.mark.nvidia)])
def machine(request: pytest.FixtureRequest) -> Machine:
    return RealMachine() if request.param == "real" else PretendMachine(request.getfixturevalue("stub"))


@pytest.fixture(scope="module")
def all_figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    figures: Figures = {}
    yield figures
    print(f"\n{json.dumps(figures, indent=2)}")
    # Only where this folder was named on the command line does the option exist (pytest loads its conftest early then).
    path = request.config.getoption("--gpu-figures", default=None)
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")


@pytest.fixture
def figures(all_figures: Figures, machine: Machine) -> Figures:
    """Where a test puts what it measured: apart for the real machine and the pretended one."""
    own: Figures = all_figures.setdefault(machine.name, {})
    return own


@contextmanager
def holding(machine: Machine, gpu: Gpu, size_mib: int) -> Iterator[subprocess.Popen[str]]:
    process = machine.hold(gpu, size_mib)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n", "libcuda could not allocate"
            yield process
        finally:
            process.kill()


@contextmanager
def container_on(machine: Machine, gpu: Gpu, size_mib: int) -> Iterator[Any]:
    client = docker.from_env()
    container = client.containers.run(IMAGE, detach=True, stdin_open=True, **machine.contain(gpu, size_mib))
    try:
        assert next(container.logs(stream=True, follow=True)).strip() == b"held", "libcuda could not allocate"
        container.reload()
        machine.contained(container.attrs["State"]["Pid"], size_mib)
        yield container
    finally:
        container.remove(force=True)
        client.close()


def roomiest(gpus: tuple[Gpu, ...]) -> Gpu:
    return max((gpu for gpu in gpus if gpu.state == "ok"), key=lambda gpu: gpu.free_mib or 0)


def used_on(readings: Readings, uuid: str) -> int:
    (used_mib,) = [gpu.used_mib for gpu in readings.read().gpus if gpu.uuid == uuid]
    assert used_mib is not None
    return used_mib


def end_by_exit(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def end_by_kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("part", [pytest.param(64, id="little"), pytest.param(2, id="half of what is free")])
@pytest.mark.parametrize("end", [end_by_exit, end_by_kill])
def test_memory_is_seen_to_be_taken_and_to_come_back_after_the_end(
    machine: Machine, end: Callable[[subprocess.Popen[str]], None], part: int, figures: Figures
):
    with reading(environ=machine.environ) as readings:
        gpu = roomiest(readings.next().gpus)
        assert gpu.free_mib is not None
        size_mib = gpu.free_mib // part
        before_mib = used_on(readings, gpu.uuid)
        with holding(machine, gpu, size_mib) as process:
            during = next(one for one in readings.read().gpus if one.uuid == gpu.uuid)
            began_s = time.monotonic()
            end(process)
            process.wait()
            gone_s = time.monotonic()
            machine.ended()
            while (after_mib := used_on(readings, gpu.uuid)) > before_mib + NOISE_MIB:
                assert time.monotonic() < gone_s + BACK_WITHIN_S, "the memory does not come back"
            back_s = time.monotonic()

    assert during.used_mib is not None
    assert during.used_mib >= before_mib + size_mib
    assert after_mib <= before_mib + NOISE_MIB
    assert back_s - gone_s >= machine.min_return_s
    figures.setdefault("memory", []).append(
        {
            "device": gpu.name,
            "end": end.__name__,
            "size_mib": size_mib,
            "before_mib": before_mib,
            "during_mib": during.used_mib,
            "after_mib": after_mib,
            "context_mib": during.used_mib - before_mib - size_mib,
            "end_took_ms": round((gone_s - began_s) * 1000, 1),
            "back_after_end_ms": round((back_s - gone_s) * 1000, 1),
        }
    )


def test_a_process_that_holds_memory_is_in_the_list_with_its_pid_its_memory_and_its_start(
    machine: Machine, figures: Figures
):
    size_mib = 256
    with reading(environ=machine.environ) as readings:
        gpu = roomiest(readings.next().gpus)
        with holding(machine, gpu, size_mib) as process:
            listed = next(one for one in readings.read().gpus if one.uuid == gpu.uuid).processes
            started = started_of(process.pid)

    own = [one for one in listed or () if one.pid == process.pid]
    figures["processes"] = {"told": listed is not None, "own_pid_listed": bool(own), "pids_are_the_hosts": sees_host()}
    # The driver lists the pids of the host: in a container with a pid namespace of its own, ours is another.
    if sees_host():
        assert [(one.kind, one.started) for one in own] == [("compute", started)]
        assert own[0].used_mib is None or own[0].used_mib >= size_mib
        figures["processes"]["own_mib"] = own[0].used_mib


@pytest.mark.engine
def test_a_container_on_the_gpu_is_known_by_its_process_and_its_memory_comes_back_when_it_is_killed(
    machine: Machine, figures: Figures
):
    size_mib = 512
    with reading(environ=machine.environ) as readings:
        gpu = roomiest(readings.next().gpus)
        before_mib = used_on(readings, gpu.uuid)
        with container_on(machine, gpu, size_mib) as container:
            located = Locator(host=sees_host()).locate(readings.read())
            during = next(one for one in located.gpus if one.uuid == gpu.uuid)
            began_s = time.monotonic()
            container.kill()
            container.wait()
            gone_s = time.monotonic()
            machine.ended()
            while used_on(readings, gpu.uuid) > before_mib + NOISE_MIB:
                assert time.monotonic() < gone_s + BACK_WITHIN_S, "the memory does not come back"
            back_s = time.monotonic()

    assert during.used_mib is not None
    assert during.used_mib >= before_mib + size_mib
    own = [one.container for one in during.processes or ()]
    figures["container"] = {
        "located": container.id in own,
        "kill_took_ms": round((gone_s - began_s) * 1000, 1),
        "back_after_end_ms": round((back_s - gone_s) * 1000, 1),
    }
    if sees_host():
        assert container.id in own


def test_each_call_has_its_cost(machine: Machine, figures: Figures):
    command = [sys.executable, "-m", "tests.gpu.call_costs", "200" if machine.name == "real" else "20"]
    ran = subprocess.run(command, cwd=ROOT, env=machine.environ, capture_output=True, text=True, check=True, timeout=50)

    costs = json.loads(ran.stdout)
    assert {"nvmlDeviceGetCount", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo_v2"} <= set(costs)
    assert all(0 < cost["median_us"] <= cost["max_us"] for cost in costs.values())
    figures["calls"] = costs


def test_a_whole_reading_has_its_cost(machine: Machine, figures: Figures):
    with reading(environ=machine.environ) as readings:
        first = readings.next()
        took_ms = sorted(readings.read().took_s * 1000 for _ in range(50))

    assert first.gpus
    assert took_ms[25] < 1000, "ten readings a second are asked for while memory is awaited"
    figures["reading"] = {
        "driver": first.driver,
        "cuda": first.cuda,
        "devices": [gpu.name for gpu in first.gpus],
        "problem": first.problem,
        "first_ms": round(first.took_s * 1000, 1),
        "median_ms": round(took_ms[25], 2),
        "max_ms": round(took_ms[-1], 2),
    }
