"""A real HTTP receiver: it keeps what it is sent, and answers as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator

from msgspec import Struct


class Received(Struct, frozen=True):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def seq(self) -> int:
        return int(self.headers["x-gpu-supervisor-seq"])


class Receiver:
    """``answers``: statuses with headers, one for each request, then 200. ``HANG`` never answers; ``CUT`` hangs up."""

    HANG, CUT, ENDLESS = "hang", "cut", "endless"

    def __init__(self, *answers: str) -> None:
        self.got: list[Received] = []
        self.url = ""
        self._answers: Iterator[str] = iter(answers)
        self._news = asyncio.Event()

    async def count(self, wanted: int) -> list[Received]:
        """Wait until so many requests came, whole."""
        while len(self.got) < wanted:
            self._news.clear()
            await self._news.wait()
        return self.got

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.got.append(Received(method, path, headers, body))
            self._news.set()
            answer = next(self._answers, "200 OK")
            if answer == self.HANG:
                await reader.read()
            elif answer == self.ENDLESS:
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                while not writer.is_closing():
                    writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                    await writer.drain()
            elif answer != self.CUT:
                writer.write(f"HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def receiving(*answers: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver(*answers)
    served: list[asyncio.Task[None]] = []
    serve: Callable[..., None] = lambda *pair: served.append(asyncio.ensure_future(receiver._serve(*pair)))  # noqa: E731
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/T0/SECRET"
    try:
        yield receiver
    finally:
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)
