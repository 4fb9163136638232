"""examples/client.py against the real supervisor on the real engine."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from supervisor import keys
from tests.conftest import Stack
from tests.e2e.conftest import Server

FILE = Path(__file__).parents[2] / "examples" / "client.py"

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def client() -> ModuleType:
    spec = importlib.util.spec_from_file_location("client", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(folder: Path, engine_url: str, label_prefix: str) -> Iterator[Server]:
    """It may be stopped and started again: over the socket it is found at the same place."""
    made = Server(folder / "data", engine_url, label_prefix)
    made.start("--ttl-min", "1s", "--socket", socket_of(made))
    yield made
    made.close()


def socket_of(server: Server) -> str:
    return str(server.data_dir.parent / "api.sock")


@pytest.fixture
def stack(make_stack: Callable[..., Stack], server: Server, until: Callable[..., Any]) -> Stack:
    made = make_stack("single")
    until(lambda: server.target_state(made.target) == "stopped", what="the supervisor seeing the target")
    return made


def leases(server: Server) -> list[dict[str, Any]]:
    return list(server.http.get("/v1/status").json()["leases"])


def test_a_lease_is_ready_inside_renewed_in_the_background_and_given_back(
    client: ModuleType, server: Server, stack: Stack, until: Callable[..., Any]
) -> None:
    with client.Lease(stack.target, owner="ann", ttl_s=1, url=server.url) as lease:
        (held,) = leases(server)
        assert (held["owner"], held["state"], held["fence"]) == ("ann", "ready", lease.fence)
        until(lambda: leases(server)[0]["expires_at"] > held["expires_at"], what="a renewal")
        assert not lease.lost.is_set()

    assert leases(server) == []
    assert server.target_state(stack.target) == "resident"


def test_it_sends_its_key_where_one_is_needed(
    client: ModuleType, server: Server, stack: Stack, until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.create(server.data_dir, "ci", "lease", (stack.target,))[1]
    until(lambda: server.http.get("/v1/status").status_code == 401, what="the supervisor seeing the key")
    with pytest.raises(client.Refused, match="a key is needed"), client.Lease(stack.target, url=server.url):
        pass
    with client.Lease(stack.target, ttl_s=1, url=server.url, key=key) as lease:
        assert lease.fence
    monkeypatch.setenv("GPU_SUPERVISOR_TOKEN", key)
    with client.Lease(stack.target, ttl_s=1, url=server.url):
        pass


def test_who_loses_the_lease_is_told(client: ModuleType, server: Server, stack: Stack) -> None:
    told = threading.Event()
    with client.Lease(stack.target, ttl_s=1, url=server.url, on_lost=told.set) as lease:
        server.http.post("/release", json={"force": True})

        assert told.wait(5)
        assert lease.lost.is_set()


def test_a_busy_gpu_is_refused_with_a_code_that_a_program_can_read(
    client: ModuleType, server: Server, stack: Stack
) -> None:
    with (
        client.Lease(stack.target, owner="ann", url=server.url),
        pytest.raises(client.Refused, match="holds the GPU") as caught,
        client.Lease(stack.target, owner="bob", wait_s=0, url=server.url),
    ):
        pass

    assert (caught.value.code, caught.value.retryable) == ("gpu_busy", True)


def test_ctrl_c_while_it_waits_leaves_no_place_behind(
    client: ModuleType, server: Server, stack: Stack, until: Callable[..., Any]
) -> None:
    def interrupt() -> None:
        until(lambda: server.http.get("/v1/status").json()["queue"], what="a place in the queue")
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    with client.Lease(stack.target, owner="ann", url=server.url):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt), client.Lease(stack.target, owner="bob", wait_s=60, url=server.url):
            pass
        thread.join(10)
        assert server.http.get("/v1/status").json()["queue"] == []


def test_who_waits_keeps_the_place_while_the_supervisor_is_killed_and_started_again(
    client: ModuleType, server: Server, stack: Stack, until: Callable[..., Any]
) -> None:
    url = f"unix://{socket_of(server)}"
    fences: list[int] = []

    def wait_for_it() -> None:
        with client.Lease(stack.target, owner="bob", url=url) as lease:
            fences.append(lease.fence)

    with client.Lease(stack.target, owner="ann", url=url) as first:
        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        until(lambda: server.http.get("/v1/status").json()["queue"], what="bob's place in the queue")
        assert server.process is not None
        server.process.kill()
        server.process.wait(10)
        server.start("--ttl-min", "1s", "--socket", socket_of(server))
        (waits,) = server.http.get("/v1/status").json()["queue"]
        assert waits["owner"] == "bob"

    waiter.join(20)
    assert fences == [first.fence + 1]


def run(server_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, FILE, *arguments],
        env={**os.environ, "GPU_SUPERVISOR_URL": server_url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_command_runs_under_the_lease_and_its_status_is_passed_on(server: Server, stack: Stack) -> None:
    done = run(server.url, stack.target, "--owner", "ann", "--", "sh", "-c", "echo hello; exit 7")

    assert (done.returncode, done.stdout) == (7, "hello\n"), done.stderr
    assert leases(server) == []


def test_a_command_is_ended_when_the_lease_is_lost(server: Server, stack: Stack) -> None:
    script = "import sys; print('up', flush=True); import time; time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, FILE, stack.target, "--ttl", "1", "--", sys.executable, "-c", script],
        env={**os.environ, "GPU_SUPERVISOR_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        server.http.post("/release", json={"force": True})
        _, said = process.communicate(timeout=20)

    assert process.returncode == 5
    assert "the lease was lost" in said


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        pytest.param(["nobody", "--", "true"], 1, "refused: no container is labelled", id="there is no such target"),
        pytest.param(["--wait", "1", "--", "true"], 2, "usage:", id="no target is named"),
    ],
)
def test_what_is_refused_for_good_is_said(server: Server, arguments: list[str], status: int, says: str) -> None:
    done = run(server.url, *arguments)

    assert done.returncode == status
    assert says in done.stderr


def test_no_supervisor_is_said(tmp_path: Path) -> None:
    done = run(f"unix://{tmp_path}/nobody.sock", "llm", "--", "true")

    assert done.returncode == 4
    assert "no supervisor answers" in done.stderr
