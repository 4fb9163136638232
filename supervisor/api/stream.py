"""The audit as it happens: ``GET /v1/events`` as server-sent events.

A client is a place in the journal, not a queue: it is sent what comes after the last fact that it got, as fast as it
reads. So a slow one costs nothing but its connection, a lost one resumes with ``Last-Event-ID``, and no fact is left
out or sent twice.

Source: WHATWG HTML, "Server-sent events": fields ``id``, ``event``, ``data``, ``retry``; a line that begins with a
colon is a comment; a client sends the last id that it saw when it reconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive, Scope, Send

from supervisor.api.audit import event
from supervisor.api.bodies import printable
from supervisor.api.call import COMMON_HEADERS, ENCODER, Call, Endpoint, Handler, refused, send_answer, until_gone
from supervisor.api.context import Context
from supervisor.api.problems import RequestRefused, refuse
from supervisor.api.reading import newest_seq
from supervisor.api.schemas import EventsQuery
from supervisor.core.facts import AnyFact
from supervisor.core.model import Now
from supervisor.core.state import State

HEARTBEAT_S = 15.0
CHUNK = 500
RETRY_MS = 1_000


class EventsEndpoint:
    """One path, two answers: a list, or a stream where the client accepts one."""

    def __init__(self, api: Context, path: str, listed: Handler) -> None:
        self._api = api
        self._path = path
        self._listed = Endpoint(path, {"GET": listed}, api.gate, api.meter.refusal)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        if scope["method"] != "GET" or b"text/event-stream" not in accept:
            await self._listed(scope, receive, send)
            return
        call = Call(scope, receive)
        try:
            self._api.gate.admit(scope, self._path)
            query = call.query(EventsQuery)
            about = printable("target", query.target) if query.target else None
            after = await self._begin(call, query)
        except RequestRefused as error:
            self._api.meter.refusal(error.code)
            await send_answer(send, refused(error))
            return
        await _while_there(receive, self._follow(scope, send, after, about))

    async def _begin(self, call: Call, query: EventsQuery) -> int:
        """Return the fact after which the stream begins: the last one seen, one that was named, or the newest."""
        seen = call.header(b"last-event-id")
        if seen is not None:
            if not (seen.isascii() and seen.isdigit() and len(seen) < 19):
                raise refuse("bad_request", "Last-Event-ID is not a number that was sent here")
            return int(seen)
        return query.after if query.after is not None else await newest_seq(self._api)

    async def _follow(self, scope: Scope, send: Send, after: int, about: str | None) -> None:
        """Send facts for ever, or until the supervisor stops, or the caller may not read them any more."""
        headers = [(b"content-type", b"text/event-stream"), *COMMON_HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _send(send, b"retry: %d\n\n" % RETRY_MS)
        newest, stopping = await self._api.desk.read(_progress)
        # A number from another journal, one that came further than this: there is nothing to resume.
        after = min(after, newest)
        while self._api.gate.still(scope, self._path):
            found = await self._api.desk.history(after, CHUNK, about)
            for seq, fact in found:
                await _send(send, _frame(seq, fact))
            if len(found) == CHUNK:
                after = found[-1][0]
                continue
            # Nothing else up to ``newest`` is about it: the next look begins behind that.
            after = max(newest, found[-1][0] if found else after)
            newest, stopping = await self._api.desk.read(_progress)
            if newest > after:
                continue
            if stopping:
                break
            await self._api.desk.next_fact(after, HEARTBEAT_S)
            newest, stopping = await self._api.desk.read(_progress)
            if newest <= after:
                await _send(send, b": still here\n\n")
        await send({"type": "http.response.body", "body": b""})


def _progress(state: State, _now: Now) -> tuple[int, bool]:
    return state.durable.fact_seq, state.observed.stopping


def _frame(seq: int, fact: AnyFact) -> bytes:
    # JSON escapes line breaks, so an event is one line of data.
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, type(fact).__name__.encode(), ENCODER.encode(event(seq, fact)))


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _while_there(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` until it is done or the client has gone."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(until_gone(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)
