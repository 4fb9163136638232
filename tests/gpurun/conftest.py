"""gpurun as a process, and a shell with job control on a real terminal to run it in."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from supervisor.cli import gpurun_main, main
from tests.cli.conftest import Outcome, fake, no_settings, quick

__all__ = ["fake", "no_settings", "quick"]  # fixtures

ROOT = Path(__file__).parents[2]
CODE = "import sys; from supervisor.cli import gpurun_main; sys.exit(gpurun_main())"
PROMPT = "<at the prompt>"


@pytest.fixture(autouse=True)
def not_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPURUN_LEASE", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # what gpurun starts of itself looks nowhere else


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the front of the PATH with our programs, as an installation puts them there."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, function in (("gpurun", gpurun_main), ("gpu-supervisor", main)):
        code = f"import sys; from supervisor.cli import {function.__name__} as run; sys.exit(run())"
        (folder / name).write_text(f"#!/bin/sh\nexec {sys.executable} -P -c '{code}' \"$@\"\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def gpurun(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``gpurun("--", "true")`` in this process -> exit status, stdout, stderr."""

    def run_it(*arguments: str) -> Outcome:
        capfd.readouterr()
        status = gpurun_main(arguments)
        said = capfd.readouterr()
        return status, said.out, said.err

    return run_it


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """gpurun as a process of its own, without a terminal. What is left of it is killed."""
    made: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        made.append(
            subprocess.Popen(
                [sys.executable, "-c", CODE, *arguments],
                **{**pipes, "text": True, "start_new_session": True, **options},  # type: ignore[call-overload]
            )
        )
        return made[-1]

    yield start
    for process in made:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


class Shell:
    """An interactive bash on a terminal of its own. ``shown`` is everything that came so far.

    Waits look for what came since the last one; the test's own time limit bounds them.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.shown, self._seen = "", 0
        self.pid, terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], list(command), dict(environ))
        self._terminal = os.fdopen(terminal, "r+b", buffering=0)

    def until(self, text: str) -> str:
        """Return what was shown up to ``text``."""
        while (at := self.shown.find(text, self._seen)) < 0:
            more = self._read()
            assert more, f"it ended without showing {text!r}: {self.shown!r}"
            self.shown += more
        begin, self._seen = self._seen, at + len(text)
        return self.shown[begin : self._seen]

    def type(self, text: str) -> None:
        self._terminal.write(text.encode())

    def run(self, line: str) -> str:
        """Type a line, and return what is shown until the next prompt."""
        self.type(line + "\n")
        return self.until(PROMPT)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        """Read what is still shown, and return the exit status."""
        while more := self._read():
            self.shown += more
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        self._terminal.close()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def _read(self) -> str:
        with suppress(OSError):  # EIO: everybody else has closed it
            return self._terminal.read(65536).decode(errors="replace")
        return ""


@pytest.fixture
def on_a_terminal(programs: Path) -> Iterator[Callable[..., Shell]]:
    """``on_a_terminal("gpurun", ...)``: what runs on a terminal of its own, as the leader of a session."""
    made: list[Shell] = []

    def start(*command: str, **environ: str) -> Shell:
        plain = {"PS1": PROMPT, "TERM": "dumb", "PROMPT_COMMAND": "", "HISTFILE": "", "INPUTRC": "/dev/null"}
        made.append(Shell(command, {**os.environ, **plain, **environ}))
        return made[-1]

    yield start
    for shell in made:
        shell.close()


@pytest.fixture
def shell(on_a_terminal: Callable[..., Shell]) -> Shell:
    shell = on_a_terminal("bash", "--norc", "--noediting", "-i")
    shell.until(PROMPT)
    shell.run("stty -echo")
    return shell
