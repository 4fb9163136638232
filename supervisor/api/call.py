"""One HTTP request on its way through: what came in, whether its caller is still on the line, and its one answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from supervisor.api.bodies import CallerHungUp, decode_body, decode_query, read_body
from supervisor.api.gate import CALLER, Caller, Gate
from supervisor.api.problems import Answer, RequestRefused, internal_error, problem, refuse
from supervisor.api.schemas import Body
from supervisor.core.inputs import Request
from supervisor.core.model import Now
from supervisor.core.replies import Granted, Queued, Reply
from supervisor.core.state import State
from supervisor.peers import Peer
from supervisor.ports import Desk

log = logging.getLogger(__name__)
B = TypeVar("B", bound=Body)
T = TypeVar("T")

#: Answers hold tokens and change by the moment.
COMMON_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
ENCODER = msgspec.json.Encoder()
#: Where a server can send an answer in one piece, this key of the scope has how: status, headers, body. It returns
#: False, and has sent nothing, where the usual way has to be gone.
WHOLE = "gpu_supervisor.send_whole"
SendWhole = Callable[[int, list[tuple[bytes, bytes]], bytes], bool]
#: Where a server tells by itself that a caller has gone, this key of the scope has the ``Line`` that it is on.
LINE = "gpu_supervisor.line"


class Line:
    """Whether a caller is still there. ``on_gone`` is called once when it is not any more."""

    __slots__ = ("gone", "on_gone")

    def __init__(self) -> None:
        self.gone = False
        self.on_gone: Callable[[], None] | None = None

    def hang_up(self) -> None:
        self.gone = True
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone()


class Call:
    """One request. ``on_lost`` is called if its answer does not reach the caller."""

    __slots__ = ("_line", "_on_lost", "_receive", "_watch", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self._line: Line | None = scope.get(LINE)
        self._watch: asyncio.Task[None] | None = None
        self._on_lost: Callable[[], None] | None = None

    # ---- what came in

    @property
    def caller(self) -> Caller:
        """Who asks. Only where a role is needed: what is open to everybody does not ask."""
        caller = self.scope[CALLER]
        assert isinstance(caller, Caller)
        return caller

    @property
    def peer(self) -> Peer | None:
        """The process at the other end of the unix socket; None over TCP."""
        peer = self.scope.get("gpu_supervisor.peer")
        assert peer is None or isinstance(peer, Peer)
        return peer

    def param(self, name: str) -> str:
        return str(self.scope["path_params"][name])

    def header(self, name: bytes) -> str | None:
        """Return a header, or None. One that is there twice is refused: which of them counts would be a guess."""
        values = [value for key, value in self.scope["headers"] if key == name]
        if len(values) > 1:
            raise refuse("bad_request", f"the header {name.decode()} is there {len(values)} times")
        return values[0].decode("latin-1").strip() if values else None

    def query(self, type_: type[B]) -> B:
        return decode_query(self.scope["query_string"], type_)

    async def body(self, type_: type[B]) -> B:
        """Return the body; one is needed."""
        raw = await read_body(self._receive)
        if not raw:
            raise refuse("bad_request", "a JSON object is needed as body", field="")
        return decode_body(raw, type_)

    async def body_or(self, default: B) -> B:
        """Return the body, or ``default`` where there is none."""
        raw = await read_body(self._receive)
        return decode_body(raw, type(default)) if raw else default

    # ---- the caller on the line

    async def hold(self, desk: Desk, request: Request) -> Reply:
        """Ask, and keep the caller on the line until the reply comes; see ``hold_and_see``."""
        reply, _ = await self.hold_and_see(desk, request, lambda _state, _now, _reply: None)
        return reply

    async def hold_and_see(
        self, desk: Desk, request: Request, view: Callable[[State, Now, Reply], T]
    ) -> tuple[Reply, T]:
        """Ask, and keep the caller on the line until the reply comes, with a view of the state that it was decided in.

        A plain ASGI endpoint is not cancelled when its client goes, so the disconnect is raced. It is watched until
        the answer is sent: a reply that comes, and finds nobody there any more, is taken back.

        Raises:
            CallerHungUp: the caller went first; the desk knows it already.
        """
        asker = asyncio.current_task()
        assert asker is not None, "a handler runs in a task"
        gone = False

        def hung_up() -> None:
            nonlocal gone
            gone = asker.cancel()  # tells the desk, if it has not answered

        line = self._watched()
        if line.gone:
            raise CallerHungUp
        line.on_gone = hung_up
        try:
            # In this very task: one more to wait for it would cost three rounds of the loop after every reply.
            reply, seen = await desk.ask_and_see(request, view)
        except asyncio.CancelledError:
            if gone and asker.uncancel() == 0:
                raise CallerHungUp from None
            raise
        finally:
            line.on_gone = None
        if isinstance(reply, Granted | Queued):
            handed = reply.lease.id if isinstance(reply, Granted) else reply.ticket_id
            self._on_lost = lambda: desk.hang_up(request.request_id, handed)
        return reply, seen

    def _watched(self) -> Line:
        """Return the caller's line. Where the server has none, a task listens for the end."""
        if self._line is None:
            self._line = Line()
            self._watch = asyncio.create_task(until_gone(self._receive))
            self._watch.add_done_callback(self._heard_the_end)
        return self._line

    def _heard_the_end(self, watch: asyncio.Task[None]) -> None:
        if self._line is not None and not watch.cancelled():
            self._line.hang_up()

    @property
    def hung_up(self) -> bool:
        return self._line is not None and self._line.gone

    def settled(self) -> None:
        """Say that the caller needs no answer to have what it was granted."""
        self._on_lost = None

    def lost(self) -> None:
        """Say that the answer cannot reach the caller."""
        if self._on_lost is not None:
            self._on_lost()
            self._on_lost = None

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()


async def until_gone(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


# ---- from a handler to ASGI

Handler = Callable[[Call], Awaitable[Answer]]


class Endpoint:
    """All methods of one path as one ASGI app, behind the gate. ``path`` is its pattern: a real one holds tokens.

    ``on_refusal`` is told the code of every problem that is answered.
    """

    def __init__(
        self, path: str, handlers: Mapping[str, Handler], gate: Gate, on_refusal: Callable[[str], None]
    ) -> None:
        self._path = path
        self._gate = gate
        self._on_refusal = on_refusal
        self._handlers = dict(handlers)
        if "GET" in handlers:
            self._handlers["HEAD"] = handlers["GET"]
        self._allow = ", ".join(sorted(self._handlers)).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive)
        try:
            answer = await self._answer(call)
            if call.hung_up:
                call.lost()
            elif not self._sent_whole(scope, answer):
                await send_answer(send, answer)
        except CallerHungUp:
            pass
        except BaseException:
            call.lost()
            raise
        finally:
            call.close()

    def _sent_whole(self, scope: Scope, answer: Answer) -> bool:
        send_whole: SendWhole | None = scope.get(WHOLE)
        return send_whole is not None and send_whole(answer.status, head_of(answer), answer.body)

    async def _answer(self, call: Call) -> Answer:
        handler = self._handlers.get(call.scope["method"])
        if handler is None:
            detail = f"this path takes {self._allow.decode()}"
            self._on_refusal("method_not_allowed")
            return refused(refuse("method_not_allowed", detail, headers=((b"allow", self._allow),)))
        try:
            self._gate.admit(call.scope, self._path)
            return await handler(call)
        except RequestRefused as refusal:
            self._on_refusal(refusal.refusal.code)
            return refused(refusal)
        except CallerHungUp:
            raise
        except Exception:
            log.exception("%s %s failed", call.scope["method"], self._path)
            call.lost()
            self._on_refusal("internal_error")
            return internal_error()


def refused(error: RequestRefused) -> Answer:
    return problem(error.refusal, error.headers)


def answer(value: object, status: int = 200) -> Answer:
    return Answer(status, ENCODER.encode(value))


def head_of(answer: Answer) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer; its own replace those that all answers have."""
    if not answer.headers and answer.status != 304:
        length = str(len(answer.body)).encode()
        return [(b"content-type", answer.content_type), (b"content-length", length), *COMMON_HEADERS]
    own = {name for name, _ in answer.headers}
    head = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.body)).encode()),
        *(header for header in COMMON_HEADERS if header[0] not in own),
        *answer.headers,
    ]
    # A length in it would be that of the whole. Source: RFC 9110, section 8.6.
    return head if answer.status != 304 else [header for header in head if header[0] != b"content-length"]


async def send_answer(send: Send, answer: Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": head_of(answer)})
    await send({"type": "http.response.body", "body": answer.body})
