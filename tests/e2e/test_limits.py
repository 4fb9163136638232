"""At the limits: ten thousand waiters, a full disk, a damaged journal, and the other enforcement modes."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from tests.conftest import Stack, until
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]
Until = Callable[..., Any]
MakeServer = Callable[..., Server]
MakeStack = Callable[..., Stack]

WAITERS = 10_000


def test_ten_thousand_waiters_are_held_cheaply_and_served_in_order(make_server: MakeServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < WAITERS + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    server = make_server()
    token = server.lease(None, ttl_seconds=3600).json()["token"]
    before_kib = rss_kib(server.pid)
    asyncio.run(_crowd(server, token, before_kib))


async def _crowd(server: Server, token: str, before_kib: int) -> None:
    address = httpx.URL(server.url)
    gate = asyncio.Semaphore(200)
    callers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call() -> None:
        async with gate:
            reader, writer = await asyncio.open_connection(address.host, address.port)
            body = b'{"owner":"crowd","wait_seconds":600}'
            head = (
                f"POST /v1/lease HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            callers.append((reader, writer))

    await asyncio.gather(*(call() for _ in range(WAITERS)))
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        await asyncio.to_thread(until, lambda: queue_length(server) == WAITERS, 60, "the crowd in the queue")
        per_waiter_kib = (rss_kib(server.pid) - before_kib) / WAITERS
        print(f"{per_waiter_kib:.1f} KiB for each of {WAITERS} waiters")
        assert per_waiter_kib < 60
        renewals = []
        for _ in range(50):
            began = time.perf_counter()
            assert (await http.post(f"/v1/lease/{token}/renew")).status_code == 200
            renewals.append(time.perf_counter() - began)
        print(f"renewal beside them: {sorted(renewals)[25] * 1000:.1f} ms")
        reading = {asyncio.create_task(reader.readuntil(b"\r\n\r\n")): reader for reader, _ in callers}
        handovers = []
        for _ in range(20):
            began = time.perf_counter()
            assert (await http.delete(f"/v1/lease/{token}")).json() == {"released": True}
            done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED, timeout=20)
            handovers.append(time.perf_counter() - began)
            assert len(done) == 1, "one lease, one answer"
            head = (task := done.pop()).result()
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            token = json.loads(await reading.pop(task).readexactly(length))["token"]
        print(f"hand-over among them: {sorted(handovers)[10] * 1000:.1f} ms")
        for task in reading:
            task.cancel()
        for _, writer in callers:
            writer.close()
        await asyncio.to_thread(until, lambda: queue_length(server) == 0, 30, "all hang-ups being noticed")


def queue_length(server: Server) -> int:
    return len(server.http.get("/v1/status").json()["queue"])


def rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.root
def test_on_a_full_disk_releases_work_nothing_is_granted_and_it_recovers_by_itself(
    make_server: MakeServer, small_disk: Path, until: Until
) -> None:
    glutton = small_disk / "glutton"
    glutton.write_bytes(bytes(6 << 20))  # leaves room for one segment and the ballast, and for no second segment
    server = make_server(data_dir=small_disk / "data")
    token = server.lease(None, ttl_seconds=600).json()["token"]
    full = until(lambda: _use_up(server), 60, "the disk being found full")
    assert full.json()["code"] == "storage_full"
    assert server.http.get("/readyz").status_code == 503
    assert server.http.post(f"/v1/lease/{token}/renew").status_code == 200
    assert server.stop() == 0
    server.start(synced=False)
    until(lambda: server.http.get("/v1/status").json()["engine"]["synced"], 10, "being in sync")
    assert server.lease(None).json()["code"] == "storage_full", "a start on a full disk replays and runs like that"
    assert server.http.delete(f"/v1/lease/{token}").json() == {"released": True}
    glutton.unlink()

    assert until(lambda: (a := server.lease(None)).status_code == 201 and a, 15, "grants going on").status_code == 201


def _use_up(server: Server) -> httpx.Response | None:
    """Write long facts until the reserve is used up; return the refusal."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.lease(None, queue=True, owner="x" * 200), range(400)))
        taken = [answer.json()["token"] for answer in answers if answer.status_code == 202]
        list(pool.map(lambda token: server.http.delete(f"/v1/lease/{token}"), taken))
    return next((answer for answer in answers if answer.status_code == 503), None)


# ---- a damaged journal


def test_a_damaged_journal_starts_in_safe_mode_says_where_and_is_salvaged_by_a_command(
    make_server: MakeServer, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    stack, other = make_stack("single"), make_stack("single")
    server = make_server()
    until(lambda: server.target_state(other.target) == "stopped", 5, "the created target")
    token = server.lease(stack.target, ttl_seconds=3600).json()["token"]
    for _ in range(20):
        server.lease(None, queue=True)
    assert server.stop() == 0
    segment = next((server.data_dir / "journal").glob("*.log"), None) or next(
        path for path in sorted((server.data_dir / "journal").iterdir()) if path.stat().st_size > 1_000_000
    )
    content = bytearray(segment.read_bytes())
    used = len(content.rstrip(b"\0"))
    content[used * 3 // 4] ^= 0x40
    segment.write_bytes(content)

    server.start(synced=False)
    ready = until(lambda: (r := server.http.get("/readyz")).json()["engine"].startswith("in sync") and r, 10, "sync")
    assert (ready.status_code, "damage" in ready.text) == (503, True)
    assert server.lease(None).json()["code"] == "journal_damaged"
    assert server.http.post(f"/v1/lease/{token}/renew").status_code == 200
    assert api.inspect_container(stack.id("model"))["State"]["Running"], "a known holder keeps what it has"
    other.compose("up -d")
    until(lambda: not api.inspect_container(other.id("model"))["State"]["Running"], 5, "enforcement in safe mode")
    assert server.stop() == 0

    salvage = [sys.executable, "-m", "supervisor.cli", "journal", "salvage", "--data-dir", str(server.data_dir)]
    done = subprocess.run(salvage, capture_output=True, text=True, timeout=60, check=False, env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    server.start()
    assert server.http.post(f"/v1/lease/{token}/renew").status_code == 200


# ---- modes


def test_observe_only_watches(
    make_server: MakeServer, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    server = make_server("--enforce", "observe")
    stack, other = make_stack("single"), make_stack("single")
    stack.compose("up -d --wait")
    until(lambda: any(e["type"] == "ContainerSpared" for e in server.audit(stack.target)), 5, "the audit of it")
    assert api.inspect_container(stack.id("model"))["State"]["Running"]

    assert server.acquire(other.target).status_code == 200
    assert not api.inspect_container(stack.id("model"))["State"]["Running"], "a lease evicts it as ever"


def test_adopt_leases_what_was_started_and_refuses_the_next(
    make_server: MakeServer, make_stack: MakeStack, api: docker.APIClient, until: Until
) -> None:
    server = make_server("--enforce", "adopt")
    stack, other = make_stack("single"), make_stack("single")
    stack.compose("up -d --wait")
    assert server.target_state(stack.target) == "ready"
    lease = server.http.get("/v1/status").json()["leases"][0]
    assert (lease["target"], lease["expires_at"]) == (stack.target, None)
    other.compose("up -d --wait", codes=(1,))
    assert server.lease(other.target).json()["code"] == "gpu_busy"
    stack.compose("stop")
    # It lives as long as its containers, less the grace in which they may come back.
    assert server.target_state(stack.target) in {"down", "ready"}


# ---- without an engine


def test_it_serves_and_says_so_while_the_engine_is_away(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server("--host", "127.0.0.1", url=f"unix://{tmp_path}/nobody.sock", start=False)
    server.start(synced=False)

    assert server.http.get("/healthz").status_code == 200
    ready = server.http.get("/readyz")
    assert ready.status_code == 503
    assert "cannot be reached" in ready.text
    answer = server.lease(None)
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "engine_unavailable", True)
    assert any("not reached yet" in line for line in server.log)
    assert any("not in sync with the container engine" in line and "cannot be reached" in line for line in server.log)
    assert (server.data_dir / "journal").is_dir()


@pytest.mark.root
def test_a_supervisor_without_capabilities_says_what_it_cannot_do_of_what_is_configured(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Server.command
    poor = ["setpriv", "--bounding-set=-kill,-sys_ptrace"]
    monkeypatch.setattr(Server, "command", lambda self, *flags: [*poor, *full(self, *flags)])
    configured = ("--processes", "terminate", "--processes-allow", "exe=/usr/games/*")

    server = make_server("--gpus", "auto", *configured, synced=False)
    limited = until(
        lambda: [one for one in server.http.get("/v1/processes").json()["limited"] if "CAP_" in one], 10, "a look"
    )

    assert ["CAP_SYS_PTRACE" in limited[0], "CAP_KILL" in limited[1]] == [True, True]
    assert all(any(f"warning {one}" in line for line in server.log) for one in limited)
