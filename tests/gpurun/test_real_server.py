"""gpurun against a real supervisor: what the fake server cannot show to be true."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.documents.conftest import folder, free_port
from tests.e2e.conftest import Server, make_server
from tests.gpurun.conftest import CODE, PROMPT, Shell

__all__ = ["folder", "free_port", "make_server"]  # fixtures

pytestmark = [pytest.mark.engine, pytest.mark.timeout(90)]

#: As torchrun does it: workers in sessions of their own, ended when it is told to.
LAUNCHER = """
import os, signal, subprocess, sys
work = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'].split(',')[%d], flush=True); time.sleep(30)"
workers = [subprocess.Popen([sys.executable, "-ISc", work % rank], start_new_session=True) for rank in range(2)]
signal.signal(signal.SIGTERM, lambda *_: [worker.terminate() for worker in workers])
for worker in workers:
    worker.wait()
sys.exit(12)
"""


class Box:
    """A supervisor with two GPUs that can be killed and started again where it was."""

    def __init__(self, server: Server, port: int, socket: Path) -> None:
        self.server, self.socket = server, socket
        self.flags = ("--gpus", "sim:2x24576", "--port", str(port), "--socket", str(socket), "--ttl-min", "1s")
        server.start(*self.flags)

    def restart(self) -> None:
        self.server.stop(signal.SIGKILL)
        self.server.start(*self.flags)

    @property
    def leases(self) -> list[dict[str, object]]:
        return list(self.server.http.get("/v1/status").json()["leases"])


@pytest.fixture
def box(make_server: Callable[..., Server], folder: Path, free_port: Callable[[], int], monkeypatch) -> Box:
    box = Box(make_server(start=False), free_port(), folder / "gs.sock")
    monkeypatch.setenv("GPU_SUPERVISOR_URL", box.server.url)
    return box


@pytest.fixture
def tied(box: Box, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setenv("GPU_SUPERVISOR_URL", f"unix://{box.socket}")
    return box


def test_two_gpus_for_a_launcher_whose_workers_it_ends_itself(box: Box, spawn, until):
    process = spawn("-n", "2", "--vram", "8GiB", "--name", "train", "--", sys.executable, "-ISc", LAUNCHER)
    assert process.stdout is not None
    assert {process.stdout.readline() for _ in range(2)} == {"SIM-0\n", "SIM-1\n"}
    assert str(box.leases[0]["owner"]).endswith(":train")
    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 12
    assert box.leases == []


def test_nothing_is_lost_when_the_supervisor_is_killed_and_started_again(box: Box, spawn, until):
    holder = spawn("-n", "2", "--ttl", "2s", "--", "sh", "-c", "echo runs; read -r line; echo $line", stdin=-1)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "runs\n"
    (before,) = box.leases
    waiter = spawn("--json", "--", "echo", "mine")
    until(lambda: box.server.http.get("/v1/status").json()["queue"], 10, "its place")
    box.restart()

    assert [lease["id"] for lease in box.leases] == [before["id"]]
    expires = box.leases[0]["expires_at"]
    until(lambda: box.leases[0]["expires_at"] != expires, 10, "a renewal")
    assert holder.communicate("ends well", timeout=10)[0] == "ends well\n"
    out, err = waiter.communicate(timeout=20)
    assert (out, waiter.returncode) == ("mine\n", 0), err
    assert [json.loads(line)["event"] for line in err.splitlines()][-2:] == ["granted", "ended"]


def test_a_lease_over_the_socket_ends_with_a_gpurun_that_is_killed(tied: Box, spawn, until):
    process = spawn("--ttl", "1h", "--", "sh", "-c", "echo runs; exec sleep 30")
    assert process.stdout is not None
    process.stdout.readline()
    assert (tied.leases[0]["pid"], tied.leases[0]["expires_at"]) == (process.pid, None)
    process.kill()

    until(lambda: tied.leases == [], 5, "the end of the lease")


def test_a_lease_over_tcp_ends_by_its_ttl(box: Box, spawn, until):
    process = spawn("--ttl", "1s", "--", "sh", "-c", "echo runs; exec sleep 30")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()

    until(lambda: box.leases == [], 5, "the end of the lease")


def test_a_lease_that_is_taken_away_is_told(box: Box, spawn):
    process = spawn("--ttl", "1s", "--", "sh", "-c", 'trap "echo saved; exit" TERM; sleep 30 & echo runs; wait')
    assert process.stdout is not None
    process.stdout.readline()
    box.server.http.post("/release", json={"force": True})

    _, err = process.communicate(timeout=10)

    assert process.returncode == 5
    assert "the lease was lost (" in err


def test_ctrl_z_keeps_the_lease_for_longer_than_its_ttl_and_a_waiters_place(box: Box, shell: Shell, until):
    shell.type("gpurun -n 2 --ttl 3s -- sh -c 'echo runs; read -r line; echo got $line'\n")
    shell.until("runs\r\n")
    shell.type("\x1a")
    shell.until(PROMPT)
    expiries: set[object] = set()
    until(lambda: expiries.update(lease["expires_at"] for lease in box.leases) or len(expiries) > 4, 20, "renewals")
    (holder,) = box.leases

    shell.type("gpurun -- echo mine\n")
    shell.until("waiting for the GPU at place 1")
    shell.type("\x1a")
    shell.until(PROMPT)
    (place,) = box.server.http.get("/v1/status").json()["queue"]
    shell.type("fg %1\nit\n")
    shell.until("got it\r\n")
    shell.type("fg %2\n")
    shell.until("mine\r\n")
    shell.until(PROMPT)

    ids = [event["fields"].get("lease") for event in box.server.audit() if event["type"] == "LeaseGranted"]
    assert len(ids) == 2, (holder, place)
    assert box.leases == []


def test_a_gpurun_inside_another_runs_under_its_lease(box: Box, spawn, programs: Path):
    process = spawn("-n", "2", "-q", "--", "gpurun", "-n", "2", "-q", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")

    assert process.communicate(timeout=20)[0] == "SIM-0,SIM-1\n"
    assert sum(event["type"] == "LeaseGranted" for event in box.server.audit()) == 1


@pytest.mark.root
def test_a_server_that_cannot_know_our_processes_is_asked_for_a_ttl(tied: Box):
    """In a pid namespace of its own gpurun has another number than the supervisor knows it by."""
    arguments = ["--ttl", "9s", "--", "sh", "-c", "echo runs; read -r line"]
    process = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", CODE, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"runs\n"

    assert (tied.leases[0]["pid"], tied.leases[0]["ttl_seconds"]) == (None, 9)
    process.communicate(b"done\n", timeout=10)
    assert process.returncode == 0
