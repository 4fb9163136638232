"""A bare lease that ends with a process: the real server, its real socket, real processes, and kill -9."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Server

Until = Callable[..., object]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that live until they are told to end."""
    with contextlib.ExitStack() as stack:
        both = []
        for _ in range(2):
            one = stack.enter_context(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
            stack.callback(one.kill)
            both.append(one)
        yield both


def lease(socket: Path, **body: object) -> httpx.Response:
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://localhost", timeout=20
    ) as client:
        return client.post("/v1/lease", json={"owner": "test", **body})


def reasons(server: Server) -> list[str]:
    return [fact["fields"]["reason"] for fact in server.audit() if fact["type"] in {"LeaseEnded", "TicketEnded"}]


def test_the_end_of_a_process_hands_its_gpu_to_who_waits_within_a_moment(
    make_server: Callable[..., Server], tmp_path: Path, processes: list[subprocess.Popen[bytes]], until: Until
) -> None:
    socket = tmp_path / "gpu.sock"
    server = make_server("--socket", str(socket))
    assert lease(socket, pid=processes[0].pid).status_code == 201
    assert server.lease(None, pid=processes[0].pid).status_code == 400
    ticket = server.lease(None, queue=True).json()["token"]

    processes[0].kill()
    killed_s = time.monotonic()
    until(lambda: server.http.get(f"/v1/lease/{ticket}").json()["state"] == "claimable", 5, "its turn")
    assert time.monotonic() - killed_s < 0.9, "sooner than by looking once a second"
    assert reasons(server) == ["process_ended"]


def test_what_ends_while_the_supervisor_is_down_is_noticed_when_it_comes_back_and_what_lives_keeps_its_gpu(
    make_server: Callable[..., Server], tmp_path: Path, processes: list[subprocess.Popen[bytes]], until: Until
) -> None:
    dies, lives = processes
    socket = tmp_path / "gpu.sock"
    server = make_server("--gpus", "sim:2x8192", "--socket", str(socket))
    gone = lease(socket, pid=dies.pid).json()["token"]
    kept = lease(socket, pid=lives.pid).json()["token"]

    server.stop(signal.SIGKILL)
    dies.kill()
    dies.wait(10)
    server.start("--gpus", "sim:2x8192", "--socket", str(socket))

    assert server.http.get(f"/v1/lease/{gone}").json()["reason"] == "process_ended"
    seen = server.http.get(f"/v1/lease/{kept}").json()
    assert (seen["state"], seen["pid"], seen["expires_at"]) == ("ready", lives.pid, None)
    lives.kill()
    until(lambda: server.http.get(f"/v1/lease/{kept}").json()["state"] == "ended", 5, "the end of the other")
    assert reasons(server) == ["process_ended"] * 2
