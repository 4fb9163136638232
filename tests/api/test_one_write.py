"""An answer that is there as a whole leaves in one write; every other one leaves as uvicorn sends it."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from supervisor.api.call import Call, Endpoint
from supervisor.api.problems import Answer
from supervisor.api.protocol import Limits, bounded
from tests.api.house import open_gate


def ignore(_code: str) -> None:
    """Nothing is counted here."""


class Wire(asyncio.Transport):
    """A transport that keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


ANSWER = Answer(201, b'{"token":"t"}', headers=((b"retry-after", b"5"),))


async def answered(request: bytes, *, of: Answer = ANSWER, by_hand: bool = False) -> Wire:
    """Return what was written in answer to a request, the usual way where ``by_hand`` says so."""

    async def handle(_call: Call) -> Answer:
        return of

    endpoint = Endpoint("/healthz", {"GET": handle}, open_gate(), ignore)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if by_hand:
            scope = {key: value for key, value in scope.items() if not key.startswith("gpu_supervisor.")}
        await endpoint(scope, receive, send)

    state = ServerState()
    state.default_headers = [(b"date", b"now")]
    # Without log_config=None it would change the logging of this whole process.
    config = Config(app, http=bounded(Limits(), ignore), lifespan="off", log_config=None)
    config.load()
    protocol = bounded(Limits(), ignore)(config, state, {}, asyncio.get_running_loop())
    wire = Wire()
    protocol.connection_made(wire)
    protocol.data_received(request)
    while state.tasks:
        await asyncio.gather(*state.tasks)
    protocol.connection_lost(ConnectionResetError())
    return wire


def test_an_answer_leaves_in_one_write_with_the_same_bytes_as_in_two():
    async def story() -> None:
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        whole, by_hand = await answered(request), await answered(request, by_hand=True)
        assert whole.writes == [b"".join(by_hand.writes)]
        assert len(by_hand.writes) == 2
        assert not whole.closed

    asyncio.run(story())


@pytest.mark.parametrize(
    ("request_", "of", "closed"),
    [
        pytest.param(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", ANSWER, False, id="to HEAD goes no body"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", ANSWER, True, id="HTTP/1.0 ends with its answer"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", ANSWER, True, id="the client wants an end"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            Answer(503, b"{}", headers=((b"connection", b"close"),)),
            True,
            id="the answer says that it is the last",
        ),
    ],
)
def test_what_is_special_leaves_as_it_would_without_us(request_: bytes, of: Answer, *, closed: bool):
    async def story() -> None:
        ours, by_hand = await answered(request_, of=of), await answered(request_, of=of, by_hand=True)
        assert ours.writes == by_hand.writes
        assert (ours.closed, by_hand.closed) == (closed, closed)

    asyncio.run(story())


def test_requests_behind_another_on_the_line_are_answered_too():
    async def story() -> None:
        wire = await answered(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        assert [write[:12] for write in wire.writes] == [b"HTTP/1.1 201"] * 3

    asyncio.run(story())
