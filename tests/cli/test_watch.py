"""``status --watch``: again when something changes, and only then; until Ctrl-C."""

from __future__ import annotations

import json
import signal

import msgspec
import pytest

from supervisor.answers import Events
from tests.cli.fake import FakeServer
from tests.cli.fake import Problem as Answer
from tests.cli.terminal import Terminal
from tests.cli.test_reading import LEASE, STATUS, document, event

FREE = msgspec.structs.replace(STATUS, leases=(), queue=())
RENEWED = msgspec.structs.replace(
    STATUS,
    leases=(msgspec.structs.replace(LEASE, expires_at="2001-01-02T04:00:00.000Z"),),
    gpus=(msgspec.structs.replace(STATUS.gpus[0], used_mib=1),),
)


@pytest.fixture
def watched(fake: FakeServer) -> FakeServer:
    fake.documents["/v1/status"] = document(STATUS)
    fake.documents["/v1/events"] = document(Events((event(1, "one"),), 41))
    return fake


def happen(fake: FakeServer, seq: int, status: object) -> None:
    fake.happen(seq, document(event(seq, "something")), {"/v1/status": document(status)})


def test_in_a_pipe_each_change_is_a_block_of_its_own_and_what_is_no_news_is_none(watched: FakeServer, spawn):
    process = spawn(["status", "--watch"])
    assert process.stdout is not None
    first = block(process)
    watched.until(lambda: watched.resumed_from == ["41"])

    happen(watched, 42, RENEWED)
    watched.until(lambda: watched.served.count("/v1/status") == 2)
    happen(watched, 43, FREE)
    second = block(process)
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 0
    assert "comfyui  ann    ready" in first
    assert "Leases:" not in second
    assert "Targets:" in second
    assert process.stdout.read() == ""


def block(process) -> str:
    """Read up to an empty line."""
    lines = []
    while (line := process.stdout.readline()).strip():
        lines.append(line)
    return "".join(lines)


def test_for_a_program_each_change_is_a_line_of_json(watched: FakeServer, spawn):
    process = spawn(["status", "--watch", "--json"])
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    happen(watched, 42, FREE)
    second = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)

    assert (process.wait(10), first, second) == (0, document(STATUS), document(FREE))


def test_a_burst_of_events_is_one_look(watched: FakeServer, spawn):
    process = spawn(["status", "--watch"])
    block(process)
    watched.until(lambda: watched.resumed_from)
    with watched.changed:
        for seq in range(42, 142):
            happen(watched, seq, FREE)
    block(process)
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 0
    assert watched.served.count("/v1/status") <= 3


def test_nothing_is_asked_while_nothing_happens(watched: FakeServer, spawn):
    process = spawn(["status", "--watch"])
    block(process)
    watched.until(lambda: watched.resumed_from)
    with watched.changed:
        assert not watched.changed.wait_for(lambda: watched.served.count("/v1/status") > 1, 0.5)


def test_a_stream_that_breaks_is_resumed_where_it_broke(watched: FakeServer, spawn):
    watched.streams = [[(42, document(event(42, "something")))]]
    process = spawn(["status", "--watch"])
    block(process)
    watched.until(lambda: watched.resumed_from == ["41", "42"])
    happen(watched, 43, FREE)

    assert "Leases:" not in block(process)


def test_a_server_that_goes_away_is_waited_for(watched: FakeServer, spawn):
    process = spawn(["status", "--watch"])
    block(process)
    watched.until(lambda: watched.resumed_from)
    with watched.changed:
        happen(watched, 42, FREE)
        watched.set_cut(True)
    assert process.stderr is not None
    assert "trying again" in process.stderr.readline()
    watched.set_cut(False)

    assert "the server answers again" in process.stderr.readline()
    assert "Leases:" not in block(process)


def test_a_terminal_is_drawn_anew_in_the_same_place_until_ctrl_c(watched: FakeServer):
    with Terminal(["status", "--watch"]) as terminal:
        terminal.until("Ctrl-C ends it")
        watched.until(lambda: watched.resumed_from)
        first = terminal.text
        happen(watched, 42, FREE)
        terminal.until("\x1b[1A\x1b[2K")  # a line up, which is emptied
        terminal.type(b"\x03")

        assert terminal.end() == 0
    assert "comfyui  ann    ready" in first
    assert "comfyui  ann    ready" not in terminal.text.removeprefix(first)
    assert terminal.shown.endswith("\x1b[?25h"), "the cursor is back"


def test_no_server_to_begin_with_is_an_error(run, monkeypatch):
    monkeypatch.setenv("GPU_SUPERVISOR_URL", "http://127.0.0.1:1")

    status, out, err = run("status", "--watch")

    assert (status, out) == (4, "")
    assert "gpu-supervisor serve" in err


def test_a_stream_that_is_refused_ends_the_watch(watched: FakeServer, run):
    watched.documents["/v1/events"] = Answer(401, "unauthorized", "who are you?")

    assert run("status", "--watch")[0] == 1
