"""``acquire`` on a real terminal: one line that is kept up to date, and a terminal that is left as it was."""

from __future__ import annotations

import re

import pytest

from tests.cli.fake import FakeServer
from tests.cli.terminal import Terminal

WAITING = "waiting for ollama at place 1: comfyui holds the GPU (owner ann), until 2001-01-02 03:09:05 unless renewed"
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|9\d|4\d|38;[\d;]*)m")


@pytest.fixture
def busy(fake: FakeServer) -> FakeServer:
    fake.take()
    fake.until_at = "2001-01-02T03:09:05.000Z"
    return fake


def test_the_place_the_holder_and_the_time_are_one_line_that_is_rewritten(busy: FakeServer):
    with Terminal(["acquire", "ollama", "--", "echo", "it runs"]) as terminal:
        terminal.until("(0:00)")
        terminal.until("(0:01)")
        busy.end("t-other", "released")

        assert terminal.end() == 0
    waiting, _, granted = terminal.text.partition("ollama is ready: lease l_1 on SIM-0, fence 7")
    assert waiting.count(f"{WAITING} (0:00)") >= 1
    assert set(re.split(r"[\r\n]+", waiting)) <= {f"{WAITING} (0:0{second})" for second in range(10)} | {""}
    assert "it runs" in granted
    assert COLOURS.search(terminal.shown)
    assert HIDDEN in terminal.shown
    assert terminal.shown.rindex(SHOWN) < terminal.shown.index("it runs"), "the command gets the terminal as it was"


def test_without_colours_the_line_is_kept_up_to_date_all_the_same(busy: FakeServer):
    with Terminal(["acquire", "ollama", "--", "true"], {"NO_COLOR": "1"}) as terminal:
        terminal.until("(0:00)")
        busy.end("t-other", "released")

        assert terminal.end() == 0
    assert COLOURS.search(terminal.shown) is None
    assert HIDDEN in terminal.shown


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(busy: FakeServer):
    with Terminal(["acquire", "ollama", "--", "true"], {"TERM": "dumb"}) as terminal:
        terminal.until(f"{WAITING}\r\n")
        busy.end("t-other", "released")

        assert terminal.end() == 0
    assert "\x1b" not in terminal.shown


def test_a_ctrl_c_while_it_waits_gives_the_place_up_and_the_cursor_back(busy: FakeServer):
    with Terminal(["acquire", "ollama"]) as terminal:
        terminal.until("(0:00)")
        terminal.type(b"\x03")

        assert terminal.end() == 130
    assert "gave up waiting for ollama" in terminal.text
    assert terminal.shown.rindex(SHOWN) > terminal.shown.rindex(HIDDEN)
    assert busy.queue == []


def test_a_token_goes_into_a_pipe_without_anything_around_it(busy: FakeServer):
    with Terminal(["acquire", "ollama", "--detach"], piped=["stdout"]) as terminal:
        terminal.until("(0:00)")
        busy.end("t-other", "released")
        terminal.end()

        assert terminal.process.stdout is not None
        assert terminal.process.stdout.read() == b"t-1\n"
    assert "t-1" not in terminal.text
    assert "gpu-supervisor renew TOKEN" in terminal.text


def test_a_start_is_shown_with_what_it_waits_for_and_what_is_said_meanwhile_stays(fake: FakeServer):
    fake.starting = True
    with Terminal(["acquire", "comfyui"]) as terminal:
        terminal.until("starting comfyui: room is being made")
        fake.set_cut(True)
        terminal.until("its place in the queue is kept, trying again")
        with fake.changed:
            fake.starting = False
            fake.set_cut(False)
        terminal.until("held until Ctrl-C")
        terminal.type(b"\x03")

        assert terminal.end() == 0
    assert fake.ended == {"t-1": "released"}
