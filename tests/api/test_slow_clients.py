"""Clients that are slow, endless, many, or do not read: they are cut off, and nobody else notices."""

from __future__ import annotations

import asyncio
import time

import pytest

from supervisor.api.server import Limits
from tests.api.house import container, house, rest, run, until

QUICK = Limits(head_s=0.3, body_s=0.3, write_s=0.3, idle_s=1, sweep_s=0.05)
HEAD = b"POST /v1/lease HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


async def drip(writer: asyncio.StreamWriter, byte: bytes) -> None:
    """Send one byte after the other until the other side has had enough."""
    while not writer.is_closing():
        writer.write(byte)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("begin", "byte"),
    [
        pytest.param(b"", b"", id="nothing at all"),
        pytest.param(b"GET /", b"x", id="an endless path"),
        pytest.param(b"GET /status HTTP/1.1\r\nX: ", b"x", id="an endless header"),
        pytest.param(b"", b"\r\n", id="empty lines before the request"),
        pytest.param(HEAD + b"Content-Length: 1000\r\n\r\n", b" ", id="an endless body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="endless chunks"),
    ],
)
def test_a_request_that_never_comes_to_its_end_is_answered_408_and_closed(begin, byte):
    async def story() -> None:
        async with house(limits=QUICK) as it:
            reader, writer = await it.connect()
            writer.write(begin)
            dripping = asyncio.ensure_future(drip(writer, byte))
            answer = await rest(reader)
            dripping.cancel()
            writer.close()
            assert not answer or answer.startswith(b"HTTP/1.1 408 ")
            assert byte or b'"code":"request_timeout"' in answer

    run(story())


def test_a_second_request_on_a_connection_has_a_deadline_too():
    async def story() -> None:
        async with house(limits=QUICK) as it:
            reader, writer = await it.connect()
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert await reader.readuntil(b'{"status":"ok"}')
            writer.write(b"GET /healthz HTTP/1.1\r\n")
            async with asyncio.timeout(5):
                assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            writer.close()

    run(story())


def test_an_idle_connection_is_closed():
    async def story() -> None:
        async with house(limits=QUICK) as it:
            reader, writer = await it.connect()
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            async with asyncio.timeout(5):
                assert (await reader.read()).endswith(b'{"status":"ok"}')
            writer.close()

    run(story())


def test_a_held_request_has_no_deadline_of_these_even_if_its_caller_sends_a_stray_line():
    async def story() -> None:
        async with house(limits=QUICK) as it:
            token = (await it.lease("a")).json()["token"]
            reader, writer = await it.connect()
            raw = b'{"target":"b","wait_seconds":60}'
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b\r\n" % (len(raw), raw))
            await until(lambda: it.state.durable.tickets)
            held_since = time.monotonic()
            await until(lambda: time.monotonic() - held_since > 0.6)
            await it.client.delete(f"/v1/lease/{token}")
            assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
            writer.close()

    run(story())


def test_headers_without_end_are_answered_431():
    async def story() -> None:
        async with house() as it:
            reader, writer = await it.connect()
            writer.write(b"GET /status HTTP/1.1\r\nX: " + b"x" * 100_000)
            answer = await rest(reader)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert b'"code":"headers_too_large"' in answer

    run(story())


def test_a_body_that_is_not_wanted_is_dropped_for_a_while_and_then_cut_off():
    async def story() -> None:
        async with house(limits=Limits(discard_bytes=1_000_000)) as it:
            reader, writer = await it.connect()
            writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
            sent = 0
            async with asyncio.timeout(10):
                while not writer.is_closing() and sent < 500 * len(piece):
                    writer.write(piece)
                    sent += len(piece)
                    try:
                        await writer.drain()
                    except ConnectionError:
                        break
            writer.close()
            assert sent < 100 * len(piece)
            assert reader is not None
            assert (await it.get("/healthz")).status_code == 200

    run(story())


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked_or_refused_and_closed():
    async def story() -> None:
        async with house() as it:
            reader, writer = await it.connect()
            raw = b'{"target":"a"}'
            writer.write(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(raw))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(raw)
            assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
            writer.close()

            reader, writer = await it.connect()
            writer.write(HEAD + b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n")
            assert (await rest(reader)).startswith(b"HTTP/1.1 413 ")
            writer.close()

    run(story())


def test_a_client_that_does_not_read_is_cut_off_and_its_answer_does_not_stay():
    async def story() -> None:
        many = [container(f"t{number}") for number in range(400)]
        async with house(*many, limits=QUICK) as it:
            connections = len(it.state.observed.specs)
            assert connections == 400
            _, writer = await it.connect()
            transport = writer.transport
            transport.pause_reading()  # type: ignore[attr-defined]
            request = b"GET /v1/targets HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            async with asyncio.timeout(10):
                while not writer.is_closing():
                    writer.write(request)
                    try:
                        await writer.drain()
                    except ConnectionError:
                        break
                    await asyncio.sleep(0.01)
            writer.close()

    run(story())


def test_connections_over_the_limit_are_told_so_and_others_go_on():
    async def story() -> None:
        async with house(limits=Limits(connections=5, told_so=1)) as it:
            assert (await it.get("/healthz")).status_code == 200
            held = [await it.connect() for _ in range(4)]
            reader, writer = await it.connect()
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            async with asyncio.timeout(5):
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b'"code":"overloaded"' in answer
            assert b"retry-after" in answer
            told = await it.connect()
            untold, _ = await it.connect()
            async with asyncio.timeout(5):
                assert await untold.read() == b""
            told[1].close()
            assert (await it.get("/healthz")).status_code == 200
            for _, one in [*held, (reader, writer)]:
                one.close()

    run(story())


def test_five_hundred_slow_clients_do_not_slow_the_others():
    async def story() -> None:
        async with house() as it:
            token = (await it.lease("a")).json()["token"]
            slow = [await it.connect() for _ in range(500)]
            for _, writer in slow:
                writer.write(b"POST /v1/lease HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
            took = []
            for _ in range(50):
                for _, writer in slow[::50]:
                    writer.write(b"x")
                began = time.monotonic()
                assert (await it.post(f"/v1/lease/{token}/renew")).status_code == 200
                took.append(time.monotonic() - began)
            assert sorted(took)[len(took) // 2] < 1
            for _, writer in slow:
                writer.close()

    run(story())
