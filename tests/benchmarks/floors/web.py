"""The bare web server: Starlette function routes, msgspec in and out, uvloop and httptools, and nothing else.

``POST /renew/{token}``      answers what a renewal answers.
``POST /lease``              answers what a grant answers; ``/lease/{bytes}`` when so many bytes are synced to a file.
``POST /behind/{bytes}``     the same, synced by a thread, so that a slow disk holds up nothing else; all that have come
                             while it synced are synced together.
``POST /decide``             asks a kernel of ours, and answers what a grant answers when its facts are synced: by a
                             thread, which it waits for on the spot. ``DELETE /decide/{token}`` gives back. With
                             ``/decide/together`` all that have come while it synced are synced together. No guard, no
                             keys, no tokens, no log.
``POST /await``              answers when the next ``/behind`` is synced; ``GET /awaited``: whether somebody waits so.
``GET /same``                answers the bytes of a file.
``POST /hold``               answers never: somebody on the line, until he hangs up.

    python -m tests.benchmarks.floors.web --file FILE [--body FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvicorn
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.benchmarks.decide import Decider

ENCODER = msgspec.json.Encoder()
#: As long as a segment of the journal, and as full of zeros: a sync into it allocates nothing.
FILE_BYTES = 4 << 20


class Renewed(Struct):
    token: str
    expires_at: str
    ttl_seconds: int


class Asked(Struct):
    owner: str = "anonymous"
    target: str | None = None
    ttl_seconds: int = 300


class Granted(Struct):
    token: str
    id: str
    fence: int
    target: str | None
    consumer: str | None
    owner: str
    state: str
    granted_at: str
    expires_at: str
    ttl_seconds: int
    gpus: tuple[str, ...]
    vram_mib: int | None


class Released(Struct):
    released: bool


def _in(seconds: int) -> str:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return now.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class Floor:
    """The routes. ``file`` is what syncs go to: one write and one ``fdatasync`` per request, in the loop."""

    def __init__(self, file: Path, body: bytes) -> None:
        self._body = body
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._file, bytes(FILE_BYTES), 0)
        os.fsync(self._file)
        self._at = 0
        self._jobs: queue.SimpleQueue[tuple[int, Callable[[], object]]] = queue.SimpleQueue()
        self._gathered: list[tuple[int, asyncio.Future[None]]] = []
        self._syncs = False
        self._waiter: asyncio.Future[None] | None = None
        threading.Thread(target=self._sync_all, daemon=True).start()
        self._decider = Decider()
        self._written: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._deciding: list[asyncio.Future[None]] = []

    async def renew(self, request: Request) -> Response:
        await request.body()
        return _json(Renewed(request.path_params["token"], _in(300), 300))

    async def lease(self, request: Request) -> Response:
        raw = await request.body()
        asked = msgspec.json.decode(raw, type=Asked) if raw else Asked()
        if "bytes" in request.path_params:
            self._sync(request.path_params["bytes"])
        return self._granted(asked)

    async def behind(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=Asked)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gathered.append((request.path_params["bytes"], done))
        if not self._syncs:
            self._hand_over()
        await done
        return self._granted(asked)

    async def decide(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=Asked)
        token = self._decider.ask()
        self._decider.write(self._write_aside)
        return self._granted(asked, token)

    async def give_back(self, request: Request) -> Response:
        self._decider.give_back(request.path_params["token"])
        self._decider.write(self._write_aside)
        return _json(Released(released=True))

    async def decide_together(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=Asked)
        token = self._decider.ask()
        await self._decided()
        return self._granted(asked, token)

    async def give_back_together(self, request: Request) -> Response:
        self._decider.give_back(request.path_params["token"])
        await self._decided()
        return _json(Released(released=True))

    async def wait(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=Asked)
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter
        return self._granted(asked)

    async def awaited(self, _request: Request) -> Response:
        return _json(self._waiter is not None)

    def _hand_over(self) -> None:
        self._syncs = bool(self._gathered)
        if self._syncs:
            jobs, self._gathered = self._gathered, []
            loop = asyncio.get_running_loop()
            size = sum(count for count, _ in jobs)
            self._jobs.put((size, lambda: loop.call_soon_threadsafe(self._synced, jobs)))

    def _synced(self, jobs: list[tuple[int, asyncio.Future[None]]]) -> None:
        if self._waiter is not None:
            self._waiter.set_result(None)
            self._waiter = None
        for _, done in jobs:
            done.set_result(None)
        self._hand_over()

    def _granted(self, asked: Asked, token: str = "gs_floor0000000000000000000000000000000000000000") -> Response:
        return _json(
            Granted(
                *(token, "1f2e3d4c5b6a7988", 7, asked.target, asked.target, asked.owner, "ready"),
                *(_in(0), _in(asked.ttl_seconds), asked.ttl_seconds, ("SIM-0",), None),
            )
        )

    async def same(self, _request: Request) -> Response:
        return Response(self._body, media_type="application/json")

    async def hold(self, request: Request) -> Response:
        while not await request.is_disconnected():
            await request.receive()
        return Response()

    def _write_aside(self, record: bytes) -> None:
        self._jobs.put((len(record), lambda: self._written.put(None)))
        self._written.get()

    async def _decided(self) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deciding.append(done)
        if len(self._deciding) == 1:
            asyncio.get_running_loop().call_soon(self._write_together)
        await done

    def _write_together(self) -> None:
        """Hand over what has gathered, unless the last batch is not synced yet."""
        record = self._decider.record() if self._deciding else None
        if record is not None:
            answered, self._deciding = self._deciding, []
            loop = asyncio.get_running_loop()
            self._jobs.put((len(record), lambda: loop.call_soon_threadsafe(self._wrote, answered)))

    def _wrote(self, answered: list[asyncio.Future[None]]) -> None:
        self._decider.durable()
        for done in answered:
            done.set_result(None)
        self._write_together()

    def _sync_all(self) -> None:
        """The thread: sync so many bytes, and tell whoever waits for them."""
        while True:
            count, tell = self._jobs.get()
            self._sync(count)
            tell()

    def _sync(self, count: int) -> None:
        if self._at + count > FILE_BYTES:
            self._at = 0
        os.pwrite(self._file, b"x" * count, self._at)
        os.fdatasync(self._file)
        self._at += count


def _json(value: object) -> Response:
    return Response(ENCODER.encode(value), media_type="application/json")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--body", type=Path)
    options = parser.parse_args()
    floor = Floor(options.file, options.body.read_bytes() if options.body else b"{}")
    app = Starlette(
        routes=[
            Route("/renew/{token}", floor.renew, methods=["POST"]),
            Route("/lease", floor.lease, methods=["POST"]),
            Route("/lease/{bytes:int}", floor.lease, methods=["POST"]),
            Route("/behind/{bytes:int}", floor.behind, methods=["POST"]),
            Route("/decide", floor.decide, methods=["POST"]),
            Route("/decide/together", floor.decide_together, methods=["POST"]),
            Route("/decide/{token}", floor.give_back, methods=["DELETE"]),
            Route("/decide/together/{token}", floor.give_back_together, methods=["DELETE"]),
            Route("/await", floor.wait, methods=["POST"]),
            Route("/awaited", floor.awaited),
            Route("/same", floor.same),
            Route("/hold", floor.hold, methods=["POST"]),
        ]
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    settings = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        backlog=4096,
    )
    uvicorn.Server(settings).run(sockets=[listener])


if __name__ == "__main__":
    main()
