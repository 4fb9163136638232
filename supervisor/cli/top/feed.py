"""The way to the server while the screen is there: the event stream, and a look whenever something was decided.

While nothing is decided there is a look every two seconds, because times, memory and health run on. Targets and
processes are asked for only after an event, and every ten seconds: there may be hundreds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, TypeVar

import httpx
from msgspec.structs import replace

from supervisor.answers import Event, Events, ProcessesView, StatusView, TargetsView
from supervisor.asking import ANSWER_S, SILENCE_S, MessageReader, timeout
from supervisor.cli.audit import AGAIN_S
from supervisor.cli.connection import Server, checked, decoded, translated
from supervisor.cli.errors import Unreachable
from supervisor.cli.top.model import Picture
from supervisor.core.errors import SupervisorError

LOOK_S = 2.0
#: So often targets and processes are asked for although nothing was decided.
WHOLE_LOOK_S = 10.0
#: Events within this time of a look wait for the next one.
BURST_S = 0.1
#: So many events are kept to scroll through.
EVENTS_MAX = 500

T = TypeVar("T")


class Feed:
    """Reads until it is cancelled; ``show`` is given each new picture, ``now`` is the clock."""

    def __init__(self, server: Server, show: Callable[[Picture], None], now: Callable[[], datetime]) -> None:
        self._server = server
        self._show = show
        self._now = now
        self._client = server.async_client()
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._stirred = asyncio.Event()
        self._whole_at = -WHOLE_LOOK_S
        self.picture = Picture()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._look_on())
        finally:
            await self._client.aclose()

    def look_soon(self) -> None:
        """Look again now: something was done."""
        self._stirred.set()

    async def ask(
        self,
        method: str,
        path: str,
        type_: type[T],
        *,
        params: dict[str, Any] | None = None,
        json: dict[str, Any] | None = None,
    ) -> T:
        """Send one request and decode its answer. Raises ``SupervisorError``."""
        with translated(self._server):
            response = await self._client.request(method, path, params=params, json=json, timeout=timeout(ANSWER_S))
        return decoded(self._server, checked(self._server, response), type_)

    # ---- the status

    async def _look_on(self) -> None:
        while True:
            stirred = self._stirred.is_set()
            self._stirred.clear()
            try:
                await self._look(whole=stirred)
            except SupervisorError as error:
                if not self.picture.away:
                    self._put(replace(self.picture, away=str(error), away_since=self._now()))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._stirred.wait()
                await asyncio.sleep(BURST_S)
            except TimeoutError:
                pass

    async def _look(self, *, whole: bool) -> None:
        now_s = asyncio.get_running_loop().time()
        status = await self.ask("GET", "/v1/status", StatusView)
        targets, processes = self.picture.targets, self.picture.processes
        if whole or self.picture.away or now_s - self._whole_at >= WHOLE_LOOK_S:
            views = await self.ask("GET", "/v1/targets", TargetsView)
            targets = {view.name: view for view in views.targets}
            processes = await self.ask("GET", "/v1/processes", ProcessesView)
            self._whole_at = now_s
        self._put(replace(self.picture, status=status, targets=targets, processes=processes, away="", away_since=None))

    def _put(self, picture: Picture) -> None:
        self.picture = replace(picture, events=tuple(self._events))
        self._show(self.picture)

    # ---- the audit

    async def _follow(self) -> None:
        """Take every event, for ever, across restarts of the server; the look says that it is away."""
        while True:
            try:
                await self._listen()
            except Unreachable:
                pass
            except SupervisorError as error:
                self._put(replace(self.picture, away=str(error), away_since=self._now()))
            await asyncio.sleep(AGAIN_S)
            self._stirred.set()

    async def _listen(self) -> None:
        if not self._events:
            page = await self.ask("GET", "/v1/events", Events, params={"limit": 200})
            self._events.extendleft(page.events)
            after = page.after
        else:
            after = self._events[0].seq
        self._stirred.set()
        async for event in self._stream(after):
            self._events.appendleft(event)
            self._stirred.set()

    async def _stream(self, after: int) -> AsyncIterator[Event]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        reader = MessageReader()
        limits = timeout(SILENCE_S)
        with translated(self._server):
            async with self._client.stream("GET", "/v1/events", headers=headers, timeout=limits) as response:
                await self._must_be_good(response)
                async for line in response.aiter_lines():
                    data = reader.read(line)
                    if data is not None:
                        yield decoded(self._server, data.encode(), Event)

    async def _must_be_good(self, response: httpx.Response) -> None:
        if not response.is_success:
            await response.aread()
            checked(self._server, response)
