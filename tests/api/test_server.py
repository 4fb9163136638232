"""The server on the wire: its sockets, its end, and many callers on the line."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
import time
from pathlib import Path

import httpx
import pytest

from supervisor.api.server import AddressUnusable, listening
from supervisor.core.replies import Renewed
from tests.api.house import ScriptedDesk, container, house, run, serving, until


async def nothing(_scope: object, _receive: object, send: object) -> None:
    raise AssertionError("nobody asks")


def listen_once(host: str = "127.0.0.1", port: int = 0, unix_socket: Path | None = None) -> None:
    with listening(host, port, unix_socket):
        pass


def test_it_listens_on_tcp_and_on_a_unix_socket_of_its_group_at_the_same_time(tmp_path):
    path = tmp_path / "gpu.sock"

    async def story() -> None:
        async with house(unix_socket=path) as it:
            assert it.addresses == [f"http://127.0.0.1:{it.port}", f"unix://{path}"]
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            token = (await it.lease("a")).json()["token"]
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                assert (await client.get(f"/v1/lease/{token}")).json()["state"] == "ready"
        assert not path.exists()

    run(story())


def test_a_socket_that_a_dead_server_left_behind_is_replaced(tmp_path):
    path = tmp_path / "gpu.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def story() -> None:
        async with house(unix_socket=path) as it:
            assert len(it.addresses) == 2

    run(story())


def test_a_socket_that_is_in_use_and_a_file_are_left_alone(tmp_path):
    path = tmp_path / "gpu.sock"
    file = tmp_path / "file"
    file.write_text("mine")

    async def story() -> None:
        async with house(unix_socket=path) as it:
            with pytest.raises(AddressUnusable, match="another server listens"):
                listen_once(unix_socket=path)
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                assert (await client.get("/healthz")).status_code == 200
            assert it.addresses
        with pytest.raises(AddressUnusable, match="is no socket"):
            listen_once(unix_socket=file)
        assert file.read_text() == "mine"
        with pytest.raises(AddressUnusable, match="cannot listen"):
            listen_once(unix_socket=tmp_path / "no folder" / "gpu.sock")

    run(story())


def test_an_address_that_is_taken_or_not_ours_is_refused_with_what_to_do():
    async def story() -> None:
        async with house() as it:
            with pytest.raises(AddressUnusable, match=f"127.0.0.1:{it.port}") as caught:
                listen_once(port=it.port)
            assert "--port" in caught.value.hint
        with pytest.raises(AddressUnusable, match="cannot listen"):
            listen_once(host="203.0.113.7")

    run(story())


def test_signals_are_left_to_whoever_runs_it():
    async def story() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        async with serving(nothing):
            assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before

    run(story())


def test_at_the_end_callers_on_the_line_are_answered_streams_end_and_it_is_quick():
    async def story() -> None:
        async with house() as it:
            await it.lease("a")
            waiting = [asyncio.ensure_future(it.lease("b", wait_seconds=600)) for _ in range(20)]
            following = asyncio.ensure_future(it.get("/v1/events", headers={"Accept": "text/event-stream"}))
            await until(lambda: len(it.state.observed.holds) == 20)
            await it.pump.shut_down("SIGTERM")
            for answer in await asyncio.gather(*waiting):
                assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
                assert answer.json()["retryable"] is True
            late = await it.lease("b")
            assert (late.status_code, late.json()["code"]) == (503, "shutting_down")
            assert "SupervisorStopped" in (await following).text
            began = time.monotonic()
        assert time.monotonic() - began < 3

    run(story())


def test_a_stream_that_has_no_reason_to_end_does_not_hold_the_end_up():
    async def story() -> None:
        async with house() as it:
            _, writer = await it.connect()
            writer.write(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
            await writer.drain()
            await it.get("/healthz")
            began = time.monotonic()
        assert time.monotonic() - began < 3
        writer.close()

    run(story())


def test_keep_alive_and_pipelined_requests_are_answered_in_order():
    async def story() -> None:
        desk = ScriptedDesk(lambda request: Renewed(request.request_id, 1, request.request_id * 1_000))
        from supervisor.api import build_app
        from tests.api.house import SECRET, Logs, TokenMint, open_gate

        app = build_app(desk, mint=TokenMint(SECRET), meter=desk.meter, logs=Logs(), gate=open_gate(), version="1")
        async with serving(app) as addresses:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(addresses[0].rpartition(":")[2]))
            one = b"POST /v1/lease/t/renew HTTP/1.1\r\nHost: localhost\r\n\r\n"
            writer.write(one * 5)
            for number in range(1, 6):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
                assert json.loads(await reader.readexactly(length))["ttl_seconds"] == number
            writer.close()

    run(story())


def test_a_flood_of_pipelined_requests_is_cut_off():
    async def story() -> None:
        async with house(container("a"), container("b")) as it:
            await it.lease("a")
            reader, writer = await it.connect()
            raw = b'{"target":"b","wait_seconds":600}'
            head = b"POST /v1/lease HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            writer.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(raw), raw))
            await until(lambda: it.state.durable.tickets)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
            async with asyncio.timeout(5):
                await until(lambda: not it.state.durable.tickets)
            writer.close()
            assert reader is not None

    run(story())
