"""The audit as it happens, across lines that are cut and supervisors that are restarted: no event is left out or twice.

Source: WHATWG HTML, "Server-sent events": a client sends the last id that it saw when it reconnects.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator
from typing import Any, NoReturn

import anyio
import httpx
import msgspec

from supervisor.answers import Event
from supervisor.asking import SILENCE_S, MessageReader, not_understood, timeout
from supervisor.client import asks
from supervisor.client.errors import SupervisorError, Unreachable
from supervisor.client.lines import AsyncLine, Line, Settings
from supervisor.client.retries import LONGEST_S

_EVENT = msgspec.json.Decoder(Event)


class Place:
    """Where somebody is in the audit, and how long the line has been cut.

    ``reconnect_s``: for how long a supervisor that is away is waited for; None: for ever.
    """

    def __init__(self, settings: Settings, after: int, target: str | None, reconnect_s: float | None) -> None:
        self.after = after
        self._settings, self._target, self._reconnect_s = settings, target, reconnect_s
        self._backoff = settings.retries.backoff()
        self._cut_s: float | None = None
        self._reader = MessageReader()

    def request(self) -> dict[str, Any]:
        """What httpx's ``stream`` is called with, to go on behind the last event."""
        self._reader = MessageReader()
        return {
            "method": "GET",
            "url": "/v1/events",
            "params": {"target": self._target} if self._target else None,
            "headers": {"Accept": "text/event-stream", "Last-Event-ID": str(self.after)},
            "timeout": timeout(SILENCE_S),
        }

    def opens(self, response: httpx.Response) -> bool:
        """Return whether this answer is a stream of events."""
        opens = response.is_success and "event-stream" in response.headers.get("content-type", "")
        self._settings.retries.met |= opens
        return opens

    def refuse(self, response: httpx.Response) -> NoReturn:
        """Raise what a whole answer says that is none."""
        self._settings.met(response)
        raise Unreachable(
            f"what answers at {self._settings.address.url} sends no events", "see whether a proxy does it"
        )

    def read(self, line: str) -> Event | None:
        """Return the event that ends with this line, if one does and it is new."""
        data = self._reader.read(line)
        if data is not None or line.startswith(":"):
            # An event, or a heartbeat: the line is sound. That it was opened says little.
            self._cut_s = None
            self._backoff.reset()
        if data is None:
            return None
        try:
            event = _EVENT.decode(data)
        except msgspec.DecodeError as error:
            why = not_understood(self._settings.address, error)
            raise Unreachable(why.message, why.hint) from error
        if event.seq <= self.after:
            return None
        self.after = event.seq
        return event

    def pause_s(self, error: SupervisorError | None) -> float:
        """Return how long to wait before the line is taken up again; raise ``error`` where it is not worth it."""
        now_s = self._settings.retries.clock()
        self._cut_s = now_s if self._cut_s is None else self._cut_s
        if error is not None and not self._settings.retries.worth_it(error, once=False):
            raise error
        if self._reconnect_s is not None and now_s - self._cut_s >= self._reconnect_s:
            raise error or Unreachable("the supervisor ends every stream at once", "see its log")
        return min(LONGEST_S, self._backoff.pause_s())


def follow(
    line: Line, after: int | None, target: str | None, reconnect_s: float | None
) -> Generator[Event, None, None]:
    """Yield every event above ``after`` (None: what comes from now on), until the caller has enough."""
    if after is None:
        after = line.ask(asks.audit(after=None, target=None, limit=1)).after
    place = Place(line.settings, after, target, reconnect_s)
    while True:
        trouble: SupervisorError | None = None
        try:
            with line.settings.translated(), line.http.stream(**place.request()) as response:
                if not place.opens(response):
                    response.read()
                    place.refuse(response)
                for text in response.iter_lines():
                    if (event := place.read(text)) is not None:
                        yield event
        except SupervisorError as error:
            trouble = error
        time.sleep(place.pause_s(trouble))


async def follow_async(
    line: AsyncLine, after: int | None, target: str | None, reconnect_s: float | None
) -> AsyncGenerator[Event, None]:
    """Yield as ``follow`` does, on an event loop."""
    if after is None:
        after = (await line.ask(asks.audit(after=None, target=None, limit=1))).after
    place = Place(line.settings, after, target, reconnect_s)
    while True:
        trouble: SupervisorError | None = None
        try:
            with line.settings.translated():
                async with line.http.stream(**place.request()) as response:
                    if not place.opens(response):
                        await response.aread()
                        place.refuse(response)
                    async for text in response.aiter_lines():
                        if (event := place.read(text)) is not None:
                            yield event
        except SupervisorError as error:
            trouble = error
        await anyio.sleep(place.pause_s(trouble))
