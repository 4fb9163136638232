"""The command against a real supervisor on a real engine: what the fake server cannot show to be true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.conftest import TESTS, Stack
from tests.e2e.conftest import Server, make_server, server

__all__ = ["make_server", "server"]  # fixtures

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]
MakeStack = Callable[..., Stack]
Until = Callable[..., Any]


@pytest.fixture
def environ(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """For the command in this process and in others: where the server is."""
    monkeypatch.setenv("GPU_SUPERVISOR_URL", server.url)
    monkeypatch.setenv("DOCKER_HOST", server.engine_url)
    return dict(os.environ)


def compose_up(stack: Stack, name: str) -> list[str]:
    file = TESTS / "stacks" / f"{name}.yml"
    return ["docker", "compose", "--ansi", "never", "-f", str(file), "-p", stack.project, "up", "--no-recreate"]


def known(server: Server, until: Until, stack: Stack) -> None:
    until(lambda: server.target_state(stack.target) == "stopped", 5, "the created target")


def in_stack(environ: dict[str, str], stack: Stack) -> dict[str, str]:
    return {**environ, "GPU_PREFIX": stack.prefix, "GPU_TARGET": stack.target}


def test_docker_compose_up_runs_under_a_lease_and_its_end_gives_the_lease_back(
    server: Server, make_stack: MakeStack, until: Until, environ, spawn, api: docker.APIClient
):
    stack = make_stack("single")
    known(server, until, stack)
    process = spawn(["acquire", stack.target, "--", *compose_up(stack, "single")], env=in_stack(environ, stack))

    assert process.stderr is not None
    until(lambda: server.target_state(stack.target) == "ready", 20, "the leased target")
    assert process.stdout is not None
    for line in process.stdout:  # what compose says once it follows the containers that the lease has started
        if "Attaching to" in line:
            break
    lease = server.http.get("/v1/status").json()["leases"][0]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)

    assert lease["target"] == stack.target
    # Compose's own status for an `up` that was interrupted; where the signal comes early it may end in a Go panic.
    assert process.returncode == (2 if "goroutine " in err else 128 + signal.SIGINT), err
    assert server.http.get("/v1/status").json()["leases"] == []
    assert api.inspect_container(stack.id("model"))["State"]["Status"] == "exited"


def test_a_job_that_ends_by_itself_ends_compose_up_with_0(
    server: Server, make_stack: MakeStack, until: Until, environ, spawn, monkeypatch
):
    monkeypatch.setenv("JOB_S", "2")
    stack = make_stack("job")
    known(server, until, stack)
    environ = {**in_stack(environ, stack), "JOB_S": "2"}
    process = spawn(["acquire", stack.target, "--", *compose_up(stack, "job")], env=environ)

    _, err = process.communicate(timeout=40)

    assert process.returncode == 0, err
    assert "lost" not in err
    assert server.audit(stack.target)[-1]["type"] != "ContainerRefused"


def test_every_answer_of_the_server_is_understood(
    server: Server, make_stack: MakeStack, until: Until, environ, run, tmp_path: Path
):
    one, other = make_stack("single"), make_stack("chain")
    for stack in (one, other):
        known(server, until, stack)

    assert "would be granted now" in run("acquire", one.target, "--dry-run")[1]
    status, token, _ = run("acquire", one.target, "--detach")
    assert status == 0

    status, out, _ = run("acquire", other.target, "--dry-run", "--json")
    assert (status, json.loads(out)["would"], json.loads(out)["ahead"][0]["target"]) == (3, "wait", one.target)
    assert run("acquire", other.target, "--dry-run")[1].startswith(f"{other.target} would have to wait: {one.target}")
    assert f"{one.target} holds the GPU" in run("queue")[1]
    assert f"{one.target}  ready" in run("status")[1]
    assert "1 of 1 running" in run("targets")[1]
    assert "next: gpu-supervisor acquire" in run("targets", other.target)[1]
    assert run("renew", token.strip())[1].startswith("renewed until ")
    status, _, err = run("evict", one.target)
    assert (status, "is leased: release its lease first" in err) == (1, True)
    assert run("release", token.strip())[1] == "released\n"
    assert "evicts" in run("acquire", other.target, "--dry-run")[1]
    assert run("evict", one.target)[0] == 0
    until(lambda: server.target_state(one.target) == "stopped", 10, "the end of the evicted target")
    assert run("evict", one.target)[0] == 1
    assert run("targets", one.target[:-1] + "x")[2].startswith("error: no container is labelled")
    assert f"did you mean {one.target}?" in run("evict", one.target[:-1] + "x")[2]
    assert json.loads(run("audit", "--json", "-n", "1")[1])["seq"]
    assert token.strip() not in "".join(map(str, (*run("status", "--json"), *run("audit", "--json"), *server.log)))


def test_two_who_want_the_gpu_get_it_one_after_the_other(
    server: Server, make_stack: MakeStack, until: Until, environ, spawn
):
    stack = make_stack("single")
    known(server, until, stack)
    first = spawn(["acquire", stack.target, "--owner", "ann", "--json"])
    assert first.stdout is not None
    lease = json.loads(first.stdout.readline())
    second = spawn(["acquire", "--bare", "--owner", "bob", "--", "echo", "mine"])
    assert second.stderr is not None
    waiting = second.stderr.readline()
    first.send_signal(signal.SIGINT)

    assert first.wait(20) == 0
    out, _ = second.communicate(timeout=20)
    assert (lease["owner"], lease["state"], out, second.returncode) == ("ann", "ready", "mine\n", 0)
    assert waiting.startswith(f"waiting for the GPU at place 1: {stack.target} holds the GPU (owner ann), until "), (
        waiting
    )


def test_a_watch_shows_a_grant_long_before_its_slow_look(
    server: Server, make_stack: MakeStack, until: Until, environ, run, spawn
):
    stack = make_stack("single")
    known(server, until, stack)
    process = spawn(["status", "--watch", "--json"])
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["leases"] == []
    token = run("acquire", stack.target, "--detach")[1].strip()

    states = []
    for line in process.stdout:
        states += [lease["state"] for lease in json.loads(line)["leases"]]
        if "ready" in states:
            break
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 0
    assert states[0] == "starting"
    assert run("release", token)[0] == 0


@pytest.mark.parametrize("how", ["http", "unix"])
def test_the_server_is_found_over_http_and_over_a_unix_socket(
    make_server: Callable[..., Server], tmp_path: Path, run, monkeypatch, how
):
    path = tmp_path / "gs.sock"
    server = make_server("--socket", str(path))
    monkeypatch.setenv("GPU_SUPERVISOR_URL", server.url if how == "http" else f"unix://{path}")

    status, out, _ = run("status")

    assert (status, out.startswith("gpu-supervisor ")) == (0, True)


def test_a_lease_tied_to_a_process_ends_with_it_and_the_next_in_the_queue_goes_on_at_once(
    make_server: Callable[..., Server], tmp_path: Path, until: Until, run, spawn, monkeypatch
):
    path = tmp_path / "gs.sock"
    server = make_server("--socket", str(path))
    monkeypatch.setenv("GPU_SUPERVISOR_URL", f"unix://{path}")
    with subprocess.Popen(["sleep", "60"]) as worker:
        try:
            tied = spawn(["acquire", "--bare", "--pid", str(worker.pid), "--owner", "ann"])
            (lease,) = until(lambda: server.http.get("/v1/status").json()["leases"], 10, "the tied lease")
            assert (lease["pid"], lease["expires_at"]) == (worker.pid, None)
            assert f"with process {worker.pid}" in run("status")[1]
            assert f"until process {worker.pid} ends" in run("queue")[1]
            waiting = spawn(["acquire", "--bare", "--owner", "bob", "--", "echo", "mine"])
            until(lambda: server.http.get("/v1/status").json()["queue"], 10, "the one who waits")
        finally:
            worker.kill()

    out, said = waiting.communicate(timeout=10)
    assert (waiting.returncode, out) == (0, "mine\n"), said
    assert tied.wait(10) == 0
    ended = next(fact for fact in server.audit() if fact["type"] == "LeaseEnded")
    assert ended["fields"]["reason"] == "process_ended"


def test_a_script_holds_the_gpu_for_as_long_as_it_lives(
    make_server: Callable[..., Server], tmp_path: Path, until: Until, run, monkeypatch
):
    path = tmp_path / "gs.sock"
    server = make_server("--socket", str(path))
    monkeypatch.setenv("GPU_SUPERVISOR_URL", f"unix://{path}")
    acquire = f'"{sys.executable}" -m supervisor.cli acquire --bare --pid $$ --detach'
    script = f'token=$({acquire}) || exit; echo "$token"; read line'
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        token = shell.stdout.readline().strip()
        assert token, "it was granted"
        assert run("renew", token)[1] == "renewed, and need not be: this lease has no TTL\n"

    until(lambda: not server.http.get("/v1/status").json()["leases"], 5, "the end of its lease")
    assert run("release", token)[0] == 1
