"""A kill has left when ``perform`` returns, whatever our threads are doing; its answer comes as ever."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from supervisor.core.inputs import ActionDone
from supervisor.core.replies import KillContainer
from supervisor.engine.calls import Calls
from supervisor.engine.kills import AT_ONCE, QuickKills
from tests.engine.conftest import socket_path
from tests.engine.inbox import Inbox

ID = "a" * 64


class Engine:
    """A listener that answers nothing by itself."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._listener.settimeout(0)

    def arrived(self) -> tuple[socket.socket, bytes]:
        """Return a connection and what was sent on it. Raises ``BlockingIOError`` if there is nothing yet."""
        line, _ = self._listener.accept()
        return line, line.recv(4096, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory):
    made = Engine(socket_path(tmp_path_factory))
    yield made
    made.close()


@pytest.fixture
def calls(engine: Engine):
    made = Calls(engine.url, after=lambda _: None)
    made.connected("1.41")
    yield made
    made.close()


def test_a_kill_is_on_the_socket_when_perform_returns(engine: Engine, calls: Calls):
    inbox = Inbox()

    calls.perform(KillContainer(ID), inbox)

    line, request = engine.arrived()
    assert request.startswith(f"POST /v1.41/containers/{ID}/kill HTTP/1.1\r\n".encode())
    assert request.endswith(b"\r\n\r\n")
    line.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert inbox.answer(ID) == ActionDone(ID, "kill", "done")
    line.close()


def test_a_connection_that_breaks_before_the_answer_is_a_failure_with_its_reason(engine: Engine, calls: Calls):
    inbox = Inbox()

    calls.perform(KillContainer(ID), inbox)
    engine.arrived()[0].close()

    done = inbox.answer(ID)
    assert done.outcome == "failed"
    assert done.message.startswith("the engine cannot be reached: ")


def test_so_many_kills_leave_at_once_and_the_next_when_one_is_answered(engine: Engine):
    quick = QuickKills(engine.url)
    quick.connected("1.41")
    lines = [quick.send(ID) for _ in range(AT_ONCE)]
    assert all(line is not None for line in lines)

    assert quick.send(ID) is None
    served, _ = engine.arrived()
    served.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert lines[0] is not None
    quick.finish(lines[0], 5)

    assert quick.send(ID) is not None


@pytest.mark.parametrize(
    ("url", "version", "close"),
    [
        pytest.param("tcp://127.0.0.1:1", "1.41", False, id="an engine that is no unix socket"),
        pytest.param("", "", False, id="an engine whose version is not known yet"),
        pytest.param("", "1.41", True, id="an engine that is not there"),
    ],
)
def test_what_cannot_leave_at_once_is_left_to_the_pool(engine: Engine, url: str, version: str, *, close: bool):
    quick = QuickKills(url or engine.url)
    quick.connected(version)
    if close:
        engine.close()

    assert [quick.send(ID) for _ in range(AT_ONCE + 1)] == [None] * (AT_ONCE + 1)
