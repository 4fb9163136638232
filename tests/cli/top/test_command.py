"""``gpu-supervisor top`` as a command: where it runs, what it costs the other commands, and a real terminal."""

from __future__ import annotations

import subprocess
import sys

from tests.cli.fake import FakeServer
from tests.cli.terminal import Terminal
from tests.cli.top.scenes import BUSY


def test_a_pipe_is_no_terminal(fake: FakeServer, run):
    status, out, err = run("top")
    assert (status, out) == (2, "")
    assert err == "error: top needs a terminal\nhint:  for a pipe there is: gpu-supervisor status --watch\n"


def test_no_other_command_pays_for_the_screen():
    count = "print(sum(name.startswith('textual') for name in sys.modules))"
    code = f"import sys, supervisor.cli as cli; cli.main(['--help']); {count}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout
    assert said.splitlines()[-1] == "0"


def test_a_terminal_is_left_as_it_was_and_is_never_sent_what_a_name_holds(fake: FakeServer):
    BUSY.said_by(fake)
    with Terminal(["top"], {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}) as terminal:
        terminal.until("comfyui")
        terminal.type(b"q")
        assert terminal.end() == 0
    assert "\x1b[2Jkcab" not in terminal.shown
    assert "\u202e" not in terminal.shown
    assert terminal.shown.rindex("\x1b[?1049l") > terminal.shown.index("\x1b[?1049h")


def test_without_a_server_there_is_an_error_and_no_screen(monkeypatch):
    with Terminal(["top"], {"GPU_SUPERVISOR_URL": "http://127.0.0.1:1"}) as terminal:
        assert terminal.end() == 4
    assert "no supervisor answers" in terminal.text
    assert "\x1b[?1049h" not in terminal.shown
