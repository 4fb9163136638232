"""What people do with it: real stacks, a real engine, the real process."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import httpx
import pytest

from tests.conftest import Stack
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(150)]
Until = Callable[..., Any]
MakeStack = Callable[..., Stack]


def status_of(api: docker.APIClient, container_id: str) -> str:
    return str(api.inspect_container(container_id)["State"]["Status"])


def known(server: Server, until: Until, *targets: str) -> None:
    until(lambda: all(server.target_state(target) == "stopped" for target in targets), 5, "the created targets")


def test_a_target_is_leased_started_warm_after_release_and_evicted_for_the_next(
    server: Server, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    first, second = make_stack("single"), make_stack("single")
    known(server, until, first.target, second.target)

    answer = server.acquire(first.target)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["fence"], status_of(api, first.id("model"))) == (1, "running")
    assert server.target_state(first.target) == "ready"

    assert server.acquire(second.target).json()["code"] == "gpu_busy"
    assert server.http.post("/release", json={"lease_token": body["lease_token"]}).status_code == 200
    assert server.target_state(first.target) == "resident"

    answer = server.acquire(second.target)
    assert answer.status_code == 200, answer.text
    assert status_of(api, first.id("model")) == "exited"
    assert answer.json()["fence"] == 2
    sentences = [event["sentence"] for event in server.audit(first.target)]
    assert any("evicted" in sentence for sentence in sentences)


def test_a_stack_that_is_started_without_the_lease_is_killed_and_the_audit_says_why(
    server: Server, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    stack = make_stack("single")
    known(server, until, stack.target)
    stack.compose("up -d --wait", codes=(1,))
    container = stack.id("model")
    until(lambda: status_of(api, container) == "exited", 5, "the end of the unleased container")

    refused = next(event for event in server.audit(stack.target) if event["type"] == "ContainerRefused")
    assert "no_lease" in refused["sentence"] or "without" in refused["sentence"]
    why = server.http.get(f"/v1/why/{stack.target}")
    assert why.status_code == 200
    assert "acquire" in why.text

    stack.compose("up -d --force-recreate")
    anew = stack.id("model")
    until(lambda: status_of(api, anew) == "exited", 5, "the end of the one that Compose made anew")
    name = api.inspect_container(anew)["Name"].lstrip("/")
    said = server.http.get(f"/v1/why/{name}").json()["sentence"]
    assert said.startswith(f"container {name} of {stack.target} was killed"), (
        "under its name, not Compose's interim one"
    )


def test_compose_up_works_once_the_lease_is_held(
    server: Server, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    stack = make_stack("single")
    known(server, until, stack.target)
    assert server.acquire(stack.target, wait_ready=False).status_code == 200
    stack.compose("up -d --wait")

    assert status_of(api, stack.id("model")) == "running"


def test_a_waiter_is_answered_when_the_gpu_is_released(server: Server, make_stack: MakeStack, until: Until) -> None:
    first, second = make_stack("single"), make_stack("single")
    known(server, until, first.target, second.target)
    token = server.lease(first.target).json()["token"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.lease, second.target, wait_seconds=60)
        until(lambda: server.http.get("/v1/status").json()["queue"], 5, "the waiter")
        assert server.http.delete(f"/v1/lease/{token}").json() == {"released": True}
        answer = waiting.result(30)

    assert answer.status_code == 201, answer.text
    assert answer.json()["state"] == "ready"


def test_dependencies_are_started_in_order_and_one_shots_run_to_their_end(
    server: Server, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    chain = make_stack("chain")
    known(server, until, chain.target)

    answer = server.acquire(chain.target)

    assert answer.status_code == 200, answer.text
    started = {
        service: api.inspect_container(chain.id(service))["State"]["StartedAt"]
        for service in ("store", "migrate", "model", "web")
    }
    assert sorted(started, key=started.__getitem__) == ["store", "migrate", "model", "web"]


def test_a_master_that_stays_unhealthy_is_answered_with_its_last_words(
    server: Server, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    sick = make_stack("sick")
    known(server, until, sick.target)

    answer = server.acquire(sick.target)

    assert answer.status_code == 502
    assert answer.json()["code"] == "target_unhealthy"
    assert "cannot load the weights" in answer.text
    until(lambda: status_of(api, sick.id("model")) == "exited", 10, "the end of what was half started")


def test_a_job_that_is_done_gives_the_gpu_back_by_itself(server: Server, make_stack: MakeStack, until: Until) -> None:
    job = make_stack("job")
    known(server, until, job.target)

    assert server.acquire(job.target).status_code == 200

    until(lambda: not server.http.get("/v1/status").json()["leases"], 15, "the end of the job's lease")
    assert any("target_completed" in str(event) for event in server.audit(job.target))


def test_a_crash_loop_and_a_one_off_run_are_ended(
    server: Server, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    crash, single = make_stack("crash"), make_stack("single")
    known(server, until, crash.target, single.target)
    crash.compose("up -d")
    container = crash.id("model")
    until(lambda: status_of(api, container) == "exited", 15, "the end of the crash loop")
    single.compose("run -d --no-deps model sleep 3600")
    one_off = next(
        row["Id"]
        for row in api.containers(all=True, filters={"label": "com.docker.compose.oneoff=True"})
        if row["Labels"]["com.docker.compose.project"] == single.project
    )
    until(lambda: status_of(api, one_off) == "exited", 5, "the end of the one-off")
    assert status_of(api, container) == "exited"


def test_what_ran_before_the_very_first_start_becomes_resident(
    make_server: Callable[..., Server], make_stack: MakeStack, api: docker.APIClient
) -> None:
    stack = make_stack("single")
    stack.compose("up -d --wait")

    server = make_server()

    assert server.target_state(stack.target) == "resident"
    assert status_of(api, stack.id("model")) == "running"


def test_what_was_started_while_the_supervisor_was_down_is_stopped(
    make_server: Callable[..., Server], make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    stack = make_stack("single")
    server = make_server()
    assert server.stop() == 0
    stack.compose("up -d --wait")
    server.start()

    until(lambda: status_of(api, stack.id("model")) == "exited", 5, "its end")


def test_a_termination_answers_who_waits_exits_0_within_5_s_and_leaves_leases_and_containers(
    server: Server, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    first, second = make_stack("single"), make_stack("single")
    known(server, until, first.target, second.target)
    token = server.lease(first.target).json()["token"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.lease, second.target, wait_seconds=60)
        until(lambda: server.http.get("/v1/status").json()["queue"], 5, "the waiter")
        began = time.monotonic()
        status = server.stop(within_s=5)
        answer = waiting.result(5)

    assert (status, answer.status_code, answer.json()["code"]) == (0, 503, "shutting_down")
    assert time.monotonic() - began < 5
    assert status_of(api, first.id("model")) == "running"
    server.start()
    assert server.http.post(f"/v1/lease/{token}/renew").status_code == 200
    assert server.target_state(first.target) == "ready"


def test_a_caller_that_hangs_up_leaves_the_queue_within_a_second(
    server: Server, make_stack: MakeStack, until: Until
) -> None:
    stack = make_stack("single")
    known(server, until, stack.target)
    server.lease(None)
    address = httpx.URL(server.url)
    body = f'{{"target": "{stack.target}", "wait_seconds": 600}}'
    with socket.create_connection((address.host, address.port or 80)) as caller:
        caller.sendall(
            f"POST /v1/lease HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        until(lambda: server.http.get("/v1/status").json()["queue"], 5, "the waiter")
    until(lambda: not server.http.get("/v1/status").json()["queue"], 1.0, "its hang-up being noticed")


def test_a_second_supervisor_on_the_same_data_is_refused(server: Server) -> None:
    second = subprocess.run(
        server.command(), env=server.environment(), capture_output=True, text=True, timeout=30, check=False
    )

    assert second.returncode == 2
    assert str(server.pid) in second.stderr


def test_a_frozen_engine_delays_neither_renewals_nor_releases_nor_reads(
    make_server: Callable[..., Server], make_stack: MakeStack, private_engine: Any, until: Until
) -> None:
    server = make_server(url=private_engine.url)
    stack = make_stack("single", url=private_engine.url)
    known(server, until, stack.target)
    token = server.lease(stack.target).json()["token"]
    private_engine.freeze()
    slowest = 0.0
    for _ in range(20):
        began = time.monotonic()
        assert server.http.post(f"/v1/lease/{token}/renew").status_code == 200
        assert server.http.get("/status").status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    until(lambda: server.http.get("/readyz").status_code == 503, 8, "the loss being noticed")
    assert server.lease(stack.target).json()["code"] in {"engine_unavailable", "gpu_busy"}
    assert server.http.delete(f"/v1/lease/{token}").json() == {"released": True}
    assert server.lease(stack.target).json()["code"] == "engine_unavailable"
    private_engine.thaw()
    until(lambda: server.http.get("/readyz").status_code == 200, 10, "being in sync again")

    assert slowest < 0.5


def test_a_daemon_restart_starts_nothing_that_may_not_run(
    make_server: Callable[..., Server], make_stack: MakeStack, private_engine: Any, until: Until
) -> None:
    server = make_server(url=private_engine.url)
    crash, single = make_stack("crash", url=private_engine.url), make_stack("single", url=private_engine.url)
    known(server, until, crash.target, single.target)
    assert server.lease(single.target, ttl_seconds=600).status_code == 201
    crash.compose("up -d")
    container = crash.id("model")
    with private_engine.api() as engine:
        # Not in the middle of a start: 20.10 may call such a container "restarting" ever after, and nobody can end it.
        until(lambda: status_of(engine, container) == "exited", 15, "the end of what was not granted")
        first = engine.inspect_container(container)["State"]["StartedAt"]
    private_engine.kill()
    private_engine.start()
    until(lambda: server.http.get("/readyz").status_code == 200, 15, "being in sync again")
    with private_engine.api() as engine:
        until(lambda: status_of(engine, container) == "exited", 15, "the end of what a restart policy brought back")
        assert engine.inspect_container(container)["State"]["StartedAt"] != first


def test_a_retry_with_its_key_gets_the_same_token_after_a_kill_9(
    server: Server, make_stack: MakeStack, until: Until
) -> None:
    stack = make_stack("single")
    known(server, until, stack.target)
    key = {"Idempotency-Key": "job-42"}
    first = server.lease(stack.target, headers=key).json()
    server.stop(signal.SIGKILL)
    server.start()

    again = server.lease(stack.target, headers=key)

    assert (again.status_code, again.json()["token"], again.json()["fence"]) == (201, first["token"], first["fence"])
    assert server.lease(stack.target, headers=key, priority=3).json()["code"] == "idempotency_conflict"
    assert first["token"] not in "\n".join(server.log)
    assert all(
        first["token"].encode() not in path.read_bytes() for path in server.data_dir.rglob("*") if path.is_file()
    )


# ---- kill -9


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(make_server: Callable[..., Server]) -> None:
    """Twenty times: callers queue tickets and cancel some; the process is killed; every answer still holds."""
    server = make_server(start=False)
    held: dict[str, str] = {}
    gone: set[str] = set()
    unknown: set[str] = set()
    for round_ in range(20):
        server.start(synced=False)
        client = server.http
        for token, state in list(held.items()):
            found = client.get(f"/v1/lease/{token}").json().get("state")
            assert found in ({"ended"} if token in gone else {"queued", "claimable", "starting", "ready"}), (
                found,
                state,
            )
        server.until_synced()
        if round_ == 0:
            answer = client.post("/v1/lease", json={"owner": "holder", "ttl_seconds": 3600})
            assert answer.status_code == 201, answer.text
            held[answer.json()["token"]] = "lease"
        stop = threading.Event()
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(_load, server.url, held, gone, unknown, stop, worker) for worker in range(4)]
            threading.Event().wait(0.15 + 0.02 * round_)
            server.stop(signal.SIGKILL)
            stop.set()
            for job in jobs:
                job.result(20)
        for token in unknown:
            held.pop(token, None)  # its cancellation was not answered: it may have gone either way
        unknown.clear()
    assert len(held) > 40


def _load(
    url: str, held: dict[str, str], gone: set[str], unknown: set[str], stop: threading.Event, worker: int
) -> None:
    mine: list[str] = []
    with httpx.Client(base_url=url, timeout=5) as client:
        for count in range(10_000):
            if stop.is_set():
                return
            token = mine.pop(0) if count % 3 == 2 else ""
            try:
                if token:
                    if client.delete(f"/v1/lease/{token}").json().get("released"):
                        gone.add(token)
                else:
                    answer = client.post(
                        "/v1/lease", json={"owner": f"w{worker}", "queue": True, "priority": count % 7}
                    )
                    assert answer.status_code == 202, answer.text
                    mine.append(answer.json()["token"])
                    held[mine[-1]] = "ticket"
            except httpx.HTTPError:
                if token:
                    unknown.add(token)
                return
