"""``pid`` of a bare lease, over the real unix socket and the real watch."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from supervisor.core.facts import LeaseEnded
from supervisor.core.state import State
from supervisor.peers import Peer
from tests.api.house import House, house, run, until


@pytest.fixture(autouse=True)
def _boot_of_the_house(monkeypatch):
    """The clock of a house says that this boot is called so."""
    monkeypatch.setattr("supervisor.peers.read_boot_id", lambda: "boot")


@contextlib.asynccontextmanager
async def on_socket(tmp_path: Path) -> AsyncIterator[tuple[House, httpx.AsyncClient]]:
    path = tmp_path / "gpu.sock"
    async with house(unix_socket=path) as it:
        await until(lambda: it.state.observed.synced)
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield it, client


@contextlib.contextmanager
def process():
    """A process that lives until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one:
        try:
            yield one
        finally:
            one.kill()


def ends(state: State) -> list[str]:
    return [ended.reason for ended in state.durable.ended.values()]


def test_the_end_of_the_process_ends_its_lease_at_once_and_serves_the_next(tmp_path):
    async def story() -> None:
        with process() as one:
            async with on_socket(tmp_path) as (it, client):
                body = {"owner": "ann", "pid": one.pid, "ttl_seconds": 10}
                leased = (await client.post("/v1/lease", json=body)).json()
                assert (leased["pid"], leased["expires_at"], leased["state"]) == (one.pid, None, "ready")
                seen = (await client.get(f"/v1/lease/{leased['token']}")).json()
                assert (seen["pid"], seen["expires_at"]) == (one.pid, None)
                renewed = (await client.post(f"/v1/lease/{leased['token']}/renew")).json()
                assert renewed["expires_at"] is None

                waits = asyncio.create_task(it.lease(wait_seconds=30))
                await until(lambda: it.state.durable.tickets)
                one.kill()
                after = await waits
                assert (after.status_code, after.json()["pid"]) == (201, None)
                gone = (await client.get(f"/v1/lease/{leased['token']}")).json()
                assert (gone["state"], gone["reason"]) == ("ended", "process_ended")
                sentences = [fact["sentence"] for fact in (await it.get("/v1/events")).json()["events"]]
                assert "the lease of ann on the GPU alone has ended with the process that it was tied to" in sentences

    run(story())


def test_a_ticket_of_a_process_that_ends_is_cancelled_and_its_caller_told(tmp_path):
    async def story() -> None:
        with process() as one, process() as other:
            async with on_socket(tmp_path) as (it, client):
                await it.lease()
                polled = (await client.post("/v1/lease", json={"pid": other.pid, "queue": True})).json()
                assert polled["pid"] == other.pid
                waits = asyncio.create_task(client.post("/v1/lease", json={"pid": one.pid, "wait_seconds": 30}))
                await until(lambda: len(it.state.durable.tickets) == 2)
                one.kill()
                told = await waits
                assert (told.status_code, told.json()["code"]) == (409, "lease_ended")
                assert f"process {one.pid}, which it was tied to, has ended" in told.json()["detail"]
                other.kill()
                await until(lambda: not it.state.durable.tickets)
                assert ends(it.state) == ["process_ended"] * 2

    run(story())


def test_a_process_that_dies_right_after_the_answer_does_not_keep_the_gpu(tmp_path):
    async def story() -> None:
        async with on_socket(tmp_path) as (it, client):
            for _ in range(5):
                with process() as one:
                    asked = asyncio.create_task(client.post("/v1/lease", json={"pid": one.pid, "wait_seconds": 10}))
                    await asyncio.sleep(0)
                    one.kill()
                    await asked
                await until(lambda: not it.state.durable.leases and not it.state.durable.tickets)

    run(story())


def test_over_tcp_a_process_is_refused_with_what_to_do_instead(tmp_path):
    async def story() -> None:
        async with on_socket(tmp_path) as (it, _client):
            with process() as one:
                refused = await it.lease(pid=one.pid)
            problem = refused.json()
            assert (refused.status_code, problem["code"], problem["field"]) == (400, "bad_request", "pid")
            assert "unix socket" in problem["detail"]
            assert "ttl_seconds" in problem["detail"]
            assert not it.state.durable.leases

    run(story())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param({"pid": 2**31 - 1}, "there is no process 2147483647", id="no such process"),
        pytest.param({"pid": 0}, "pid", id="zero"),
        pytest.param({"pid": 2**31}, "pid", id="larger than any pid"),
        pytest.param({"pid": "1"}, "pid", id="a number in quotes"),
        pytest.param({"pid": 1, "target": "a"}, "a target's lease ends with its containers", id="of a target"),
        pytest.param({"pid": 2**31 - 1, "dry_run": True}, "there is no process", id="a dry run"),
    ],
)
def test_what_is_no_process_of_a_bare_lease_is_refused_by_its_field(tmp_path, body, said):
    async def story() -> None:
        async with on_socket(tmp_path) as (it, client):
            refused = await client.post("/v1/lease", json=body)
            assert (refused.status_code, refused.json()["field"]) == (400, "pid")
            assert said in refused.json()["detail"]
            assert not it.state.durable.leases

    run(story())


def test_another_user_s_process_is_refused_whoever_sits_behind_the_socket(tmp_path, monkeypatch):
    async def story() -> None:
        with process() as one:
            monkeypatch.setattr("supervisor.api.protocol.peer_of", lambda _sock: Peer(one.pid, 12_345, 0))
            async with on_socket(tmp_path) as (it, client):
                refused = await client.post("/v1/lease", json={"pid": one.pid})
                problem = refused.json()
                assert (refused.status_code, problem["code"], problem["field"]) == (403, "forbidden", "pid")
                assert "user 12345" in problem["detail"]
                assert not it.state.durable.leases

    run(story())


def test_a_key_tells_processes_apart_and_hands_the_same_lease_to_a_retry(tmp_path):
    async def story() -> None:
        with process() as one, process() as other:
            async with on_socket(tmp_path) as (it, client):
                headers = {"Idempotency-Key": "k"}
                first = await client.post("/v1/lease", json={"pid": one.pid}, headers=headers)
                again = await client.post("/v1/lease", json={"pid": one.pid}, headers=headers)
                assert first.json()["token"] == again.json()["token"]
                conflict = await client.post("/v1/lease", json={"pid": other.pid}, headers=headers)
                assert conflict.json()["code"] == "idempotency_conflict"
                one.kill()
                await until(lambda: any(isinstance(fact, LeaseEnded) for fact in it.box.disk.facts))
                assert not it.state.durable.leases

    run(story())
