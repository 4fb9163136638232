"""The API in front of the real pump, with a journal in memory and an engine that obeys, over real sockets.

A ``House`` is everything behind one address. ``ScriptedDesk`` answers what a test says, for the few replies that no
short story leads to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import httpx
import uvloop

from supervisor.api import build_app
from supervisor.api.gate import Gate
from supervisor.api.server import Limits, listening, serve_http
from supervisor.api.tokens import TokenMint
from supervisor.clock import Clock
from supervisor.core.apply import replay
from supervisor.core.facts import AnyFact
from supervisor.core.inputs import CallerGone, Request, Started
from supervisor.core.model import Container, Now
from supervisor.core.replies import Reply
from supervisor.core.state import Settings, State
from supervisor.gpu.sim import SimulatedGpus
from supervisor.kernel import Kernel
from supervisor.keys import KeyBook
from supervisor.metrics import Metrics
from supervisor.pump import Pump
from tests.core.box import container
from tests.runtime.test_pump import GPUS, Rig, rig

__all__ = ["House", "ScriptedDesk", "container", "house", "open_gate", "run", "serving", "until"]

SECRET = b"a secret of this test, thirty-two bytes"
DEADLINE_S = 20.0


def run(story: Coroutine[Any, Any, None]) -> None:
    """Run one story on the loop that ``serve`` runs on, bounded in time."""

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S * 2):
            await story

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def open_gate() -> Gate:
    """Return the gate of a supervisor without keys."""
    return Gate(KeyBook(Path("/nonexistent/tokens")))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # each turn lets server and pump run; neither has an event for it
            await asyncio.sleep(0.001)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Return all that still comes. Whoever is cut off while sending may get a reset, which overtakes the answer."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    except ConnectionError:
        return b""


class Logs:
    """Last words of containers; ``hang`` stands for an engine that does not answer."""

    def __init__(self) -> None:
        self.words = "cannot load the weights"
        self.hang = False
        self.broken = False
        self.asked = 0
        self.lines = 0

    async def __call__(self, container_id: str, lines: int) -> str:
        self.asked += 1
        self.lines = lines
        if self.hang:
            await asyncio.Event().wait()
        if self.broken:
            raise OSError("no such container")
        return f"{container_id}: {self.words}"


class House:
    def __init__(self, box: Rig, logs: Logs) -> None:
        self.box = box
        self.pump: Pump = box.pump
        self.logs = logs
        self.addresses: list[str] = []
        self.client: httpx.AsyncClient
        self.app: Any = None
        self.gone: list[CallerGone] = []
        hang_up = self.pump.hang_up

        def noting(request_id: int, lease_id: str | None = None) -> None:
            self.gone.append(CallerGone(request_id, lease_id))
            hang_up(request_id, lease_id)

        self.pump.hang_up = noting  # type: ignore[method-assign]

    @property
    def state(self) -> State:
        return self.pump.kernel.state

    @property
    def url(self) -> str:
        return self.addresses[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.client.post(path, json=body, **options)

    async def lease(self, target: str | None = None, key: str | None = None, **body: Any) -> httpx.Response:
        named = {"target": target} if target is not None else {}
        headers = {"Idempotency-Key": key} if key is not None else {}
        return await self.post("/v1/lease", {"owner": "ann", **named, **body}, headers=headers)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def serving(
    app: Any,
    limits: Limits | None = None,
    unix_socket: Path | None = None,
    on_refusal: Callable[[str], None] = lambda _code: None,
) -> AsyncIterator[list[str]]:
    """Serve an app; yields its addresses."""
    stop = asyncio.Event()
    ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    with listening("127.0.0.1", 0, unix_socket) as sockets:
        told = {"on_ready": ready.set_result, "on_refusal": on_refusal}
        web = asyncio.create_task(serve_http(app, sockets, limits=limits or Limits(), stop=stop, **told))
        await asyncio.wait((web, ready), return_when=asyncio.FIRST_COMPLETED)
        if web.done():
            web.result()
        try:
            yield ready.result()
        finally:
            stop.set()
            async with asyncio.timeout(DEADLINE_S):
                await web


@contextlib.asynccontextmanager
async def _box(
    containers: Iterable[Container], facts: list[AnyFact] | None, core: Settings | None
) -> AsyncIterator[Rig]:
    if facts is None and core is None:
        async with rig(*containers) as box:
            yield box
        return
    box = Rig(*containers)
    core = core or Settings(gpus=GPUS)
    state = replay(core, None, [facts or []])
    box.disk.facts = list(facts or [])
    clock = Clock(state.durable, "boot")
    box.pump = Pump(Kernel(state), box.disk, box.engine, SimulatedGpus(core.gpus), clock, lambda _facts: None)
    owner = asyncio.ensure_future(box.pump.run(Started("boot", clock.boot_ms(), "v", first=False)))
    box.engine.watch(box.pump.post)
    try:
        yield box
    finally:
        owner.cancel()
        await asyncio.gather(owner, return_exceptions=True)


@contextlib.asynccontextmanager
async def house(
    *containers: Container,
    limits: Limits | None = None,
    unix_socket: Path | None = None,
    secret: bytes = SECRET,
    facts: list[AnyFact] | None = None,
    core: Settings | None = None,
    **app: Any,
) -> AsyncIterator[House]:
    """Two stopped targets, a and b, unless told otherwise. ``facts``: the journal of one that ran before.

    ``core``: the core's settings, where one GPU is not enough.
    """
    async with _box(containers or (container("a"), container("b")), facts, core) as box:
        made = House(box, Logs())
        meter = Metrics(box.pump.kernel, box.pump.now, "1.2.3")
        options = {"gate": open_gate(), **app}
        built = build_app(box.pump, mint=TokenMint(secret), meter=meter, logs=made.logs, version="1.2.3", **options)
        made.app = built
        await until(lambda: made.state.durable.first_sync_done)
        async with contextlib.AsyncExitStack() as stack:
            made.addresses = await stack.enter_async_context(serving(built, limits, unix_socket, meter.refusal))
            client = httpx.AsyncClient(base_url=made.url, timeout=DEADLINE_S, trust_env=False)
            made.client = await stack.enter_async_context(client)
            yield made


class ScriptedDesk:
    """A desk with a real state that answers every request with what the test says, and remembers what it was asked."""

    def __init__(self, reply: Callable[[Request], Reply]) -> None:
        self.state = State(Settings(gpus=GPUS))
        self.asked: list[Request] = []
        self.gone: list[CallerGone] = []
        self._reply = reply
        self.meter = Metrics(Kernel(self.state), self.now, "1.2.3")

    def next_request_id(self) -> int:
        return len(self.asked) + 1

    def now(self) -> Now:
        return Now(1_000, 1_790_000_001_000)

    async def ask(self, request: Request) -> Reply:
        self.asked.append(request)
        return self._reply(request)

    async def ask_and_see(self, request: Request, view: Callable[[State, Now, Reply], Any]) -> tuple[Reply, Any]:
        reply = await self.ask(request)
        return reply, view(self.state, self.now(), reply)

    def hang_up(self, request_id: int, lease_id: str | None = None) -> None:
        self.gone.append(CallerGone(request_id, lease_id))

    async def read(self, view: Callable[[State, Now], Any]) -> Any:
        return view(self.state, self.now())

    async def history(self, after: int, limit: int, target: str | None) -> list[tuple[int, AnyFact]]:
        return []

    async def next_fact(self, after: int, timeout_s: float) -> None:
        await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def client(
        self, logs: Callable[[str], Awaitable[str]] | None = None, **options: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Speak to the app over it without a socket in between."""
        options = {"gate": open_gate(), **options}
        app = build_app(self, mint=TokenMint(SECRET), meter=self.meter, logs=logs or Logs(), version="1.2.3", **options)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            yield client
