"""uvicorn's HTTP/1.1 protocol with the limits that it lacks: slow or endless headers and bodies, and too many of them.

uvicorn itself knows only an idle keep-alive limit and a count of requests. What is added:

- a deadline for a whole request head, for a whole body, and for a client that does not read its answer. They are
  plain fields that one sweep a second looks at: ten thousand connections cost no ten thousand timers;
- a largest head, and an end to a body that nobody wants. What a body may have is the app's business (``guard``);
- a connection over the limit is answered 503 and closed;
- who connected to a unix socket goes with each of its requests;
- pipelined requests behind a held one never stop the reading, so that its hang-up is noticed;
- an answer that is there as a whole is sent in one write.

Source: uvicorn 0.54, protocols/http/httptools_impl.py; llhttp, which does the parsing, bounds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from msgspec import Struct
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from supervisor.api.call import LINE, WHOLE, Line, refused, send_answer
from supervisor.api.problems import problem, refuse
from supervisor.core.errors import Refusal
from supervisor.peers import Peer, peer_of


class Limits(Struct, frozen=True):
    """Limits of one server. Times in seconds.

    ``head_bytes`` bounds the request line and all headers together. ``discard_bytes`` of a body whose request is
    answered already are read and dropped, so that its sender comes to reading the answer. ``told_so`` connections over
    the limit get an answer that says so; more are closed without one.
    """

    connections: int = 12_000
    told_so: int = 500
    head_s: float = 10.0
    body_s: float = 30.0
    write_s: float = 30.0
    idle_s: int = 30
    head_bytes: int = 32 * 1024
    discard_bytes: int = 4 * 1024 * 1024
    pipelined: int = 16
    pipelined_bytes: int = 64 * 1024
    sweep_s: float = 1.0


#: A connection over the limit is answered only if its request comes at once.
OVERLOADED_HEAD_S = 1.0


class BoundedProtocol(HttpToolsProtocol):
    """One connection. The first two are set on a subclass by ``bounded``: uvicorn makes the instances itself."""

    limits = Limits()
    on_refusal: Callable[[str], None]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = False
        self._head_bytes = 0
        self._discarded = 0
        self._in_head = False
        self._in_body = False
        self._read_by: float | None = None
        self._write_by: float | None = None
        self._unanswered: list[tuple[RequestResponseCycle, Line]] = []
        self._peer: Peer | None = None

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._peer = peer_of(transport.get_extra_info("socket"))
        self._begin_head(self.limits.head_s)
        count = len(self.connections)
        if count > self.limits.connections + self.limits.told_so:
            transport.abort()
        elif count > self.limits.connections:
            self.app = _overloaded
            self.on_refusal("overloaded")
            self._begin_head(OVERLOADED_HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_by = self._write_by = None
        # uvicorn tells only the newest request; a held one with another behind it would never hear of it.
        for cycle, line in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
            line.hang_up()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_head and not self._in_body and self._answered:
            self._begin_head(self.limits.head_s)
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.limits.head_bytes:
            self._cut(Refusal("headers_too_large", f"a request's headers have at most {self.limits.head_bytes} bytes"))
        elif self.pipeline and not self.transport.is_closing():
            self._bound_pipeline()

    @property
    def _answered(self) -> bool:
        """Whether no request is being worked on."""
        return self.cycle is None or self.cycle.response_complete

    def _begin_head(self, within_s: float) -> None:
        self._in_head, self._head_bytes = True, 0
        self._read_by = self.loop.time() + within_s

    def _bound_pipeline(self) -> None:
        # uvicorn stops reading while a request waits behind a held one, and would not notice that its caller hung up.
        self.flow.resume_reading()
        waiting = sum(len(cycle.body) for cycle, _ in self.pipeline)
        if len(self.pipeline) > self.limits.pipelined or waiting > self.limits.pipelined_bytes:
            self.transport.abort()

    # ---- the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["gpu_supervisor.peer"] = self._peer  # type: ignore[typeddict-unknown-key]  # ours
        if not self._in_head:  # behind another request that is still being worked on
            self._begin_head(self.limits.head_s)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._discarded = False, True, 0
        self._read_by = self.loop.time() + self.limits.body_s
        super().on_headers_complete()
        scope, line = cast(Scope, self.cycle.scope), Line()
        scope[WHOLE], scope[LINE] = partial(self._send_whole, self.cycle), line
        self._unanswered = [one for one in self._unanswered if not one[0].response_complete]
        self._unanswered.append((self.cycle, line))

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self._answered:
            self._discarded += len(body)
            if self._discarded > self.limits.discard_bytes:
                self.transport.abort()

    def on_message_complete(self) -> None:
        self._in_body, self._read_by = False, None
        super().on_message_complete()

    # ---- answers

    def _send_whole(
        self, cycle: RequestResponseCycle, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> bool:
        """Send head and body in one write. ``RequestResponseCycle.send`` needs two, each a system call that wakes the
        client, the first for half an answer: 30 us, a tenth of what a lease takes.
        """
        plain = cycle.keep_alive and cycle.scope["method"] != "HEAD"
        if not plain or cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
            return False
        head = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            if name == b"connection":
                return False
            head += (name, b": ", value, b"\r\n")
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        self.transport.write(b"".join((*head, b"\r\n", body)))
        cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.expect_100_continue:
            # Answered before it was asked for its body, a client may send it or not: the connection is of no use.
            self.transport.close()

    def pause_writing(self) -> None:
        self._write_by = self.loop.time() + self.limits.write_s
        super().pause_writing()

    def resume_writing(self) -> None:
        self._write_by = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's own words
        self._cut(Refusal("bad_request", "this is not an HTTP/1.1 request"))

    def _cut(self, refusal: Refusal) -> None:
        """Answer what is not a request, or never becomes one, and close. An answer under way is cut off instead."""
        if self.transport.is_closing():
            return
        if self._answered or (self._in_body and not self.cycle.response_started and not self.pipeline):
            self.on_refusal(refusal.code)
            answer = problem(refusal)
            head = b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(
                STATUS_LINE[answer.status] + head % (answer.content_type, len(answer.body)) + answer.body
            )
        self.transport.close()

    def shutdown(self) -> None:
        """End the connection when its answer is complete; a stream that has no end is told that its client is gone."""
        super().shutdown()
        if not self._answered and self.cycle.response_started:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.transport.close()

    # ---- the sweep

    def sweep(self, now: float) -> None:
        """Cut the connection off if a deadline has passed."""
        if self._write_by is None and self.transport.is_closing():
            self._write_by = now + self.limits.write_s  # for what is still to be sent
        if self._write_by is not None and now > self._write_by:
            # It does not read: whatever else were written would only wait in memory.
            self.transport.abort()
        elif self._read_by is not None and now > self._read_by:
            self._read_by = None
            what = "headers" if self._in_head else "body"
            self._cut(Refusal("request_timeout", f"the {what} of the request took too long"))


async def _overloaded(_scope: Scope, _receive: Receive, send: Send) -> None:
    close = ((b"connection", b"close"),)
    await send_answer(send, refused(refuse("overloaded", "too many connections are open", headers=close)))


def bounded(limits: Limits, on_refusal: Callable[[str], None]) -> type[BoundedProtocol]:
    """Return the protocol with these limits. ``on_refusal`` is told the codes of what it refuses by itself."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits, "on_refusal": staticmethod(on_refusal)})
