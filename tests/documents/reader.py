"""A reader of the README who types everything: one folder, one shell, and what goes on in the background.

What is typed is what is written there, but for ``rewrites``: pairs of a text and what stands for it on this machine.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.documents.snippets import Command, Snippet, commands, same_shape

DONE = "__done__"
#: Commands that only look: what they show may come true a moment later, so they are typed again until it has.
LOOKS = (
    "gpu-supervisor why",
    "gpu-supervisor status",
    "gpu-supervisor queue",
    "gpu-supervisor targets",
    "curl -s local",
)
PATIENCE_S = 15.0
#: Without a terminal Docker carries stdout and stderr of a container as two streams: their lines keep no common order.
TWO_STREAMS = "docker compose run"


class Reader:
    """Use as a context: at its end everything in the background is ended, the latest first."""

    def __init__(self, folder: Path, environment: Mapping[str, str], rewrites: Sequence[tuple[str, str]] = ()) -> None:
        self.folder = folder
        self._rewrites = rewrites
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GPU_SUPERVISOR_")}
        self._environment = {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(folder / ".config"),
            "PYTHONUNBUFFERED": "1",
            "TZ": "UTC",
            **environment,
        }
        self._shell = self._spawn(["bash", "--norc", "--noprofile"])
        self._said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._stays: dict[str, tuple[int, Path]] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for name in reversed(list(self._stays)):
                pid, _log = self._stays[name]
                self.type(f"kill -{signal.SIGTERM.value} {pid} 2>/dev/null; wait {pid}")
        finally:
            # A supervisor that is left over would judge the next test's containers.
            os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.communicate(timeout=10)

    def follow(self, snippet: Snippet) -> None:
        """Do what a snippet says, and fail where something else is shown than it promises."""
        text = self.rewritten(snippet.text)
        where = f"README.md, line {snippet.line}"
        if snippet.role == "file":
            path = self.folder / snippet.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif snippet.role == "stays":
            self._leave_running(snippet.name, *commands(text), where=where)
        elif snippet.language == "console":
            for command in commands(text):
                self._expect(command, where)
        elif snippet.language == "sh":
            self._succeed(text, where)
        elif snippet.language == "python":
            (self.folder / "snippet.py").write_text(text)
            self._succeed(f"(cd {self.folder} && python3 snippet.py)", where)
        else:
            pytest.fail(f"{where}: nobody knows what to do with this {snippet.language} block")

    def rewritten(self, text: str) -> str:
        for written, here in self._rewrites:
            text = text.replace(written, here)
        return text

    def type(self, command: str, within_s: float = 60.0) -> tuple[int, list[str]]:
        """Run a command in the shell; return its status and what it shows."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n{DONE} %s\\n' $?\n")
        self._shell.stdin.flush()
        shown: list[str] = []
        deadline = time.monotonic() + within_s
        while True:
            try:
                line = self._said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no end within {within_s:g} s:\n$ {command}\n" + "\n".join(shown))
            if line.startswith(DONE):
                # The line break before the mark is ours.
                return int(line.split()[1]), shown[:-1] if shown and not shown[-1] else shown
            shown.append(line)

    # ---- inside

    def _expect(self, command: Command, where: str) -> None:
        deadline = time.monotonic() + (PATIENCE_S if command.text.startswith(LOOKS) else 0)
        pace = threading.Event()
        while True:
            status, shown = self.type(command.text)
            if status == 0 and shows(command, shown):
                return
            if time.monotonic() > deadline:
                break
            pace.wait(0.2)
        said, promised = "\n".join(shown), "\n".join(command.shows)
        pytest.fail(f"{where}\n$ {command.text}\nstatus {status}, shown:\n{said}\npromised:\n{promised}")

    def _succeed(self, script: str, where: str) -> None:
        # A block stops at its first failure, as its reader would; what it sets stays set.
        for command in _whole_commands(script):
            status, shown = self.type(command)
            if status != 0:
                pytest.fail(f"{where}: status {status} of\n$ {command}\n" + "\n".join(shown))

    def _leave_running(self, name: str, command: Command, *, where: str) -> None:
        log = self.folder / f".{name}"
        log.touch()
        _, shown = self.type(f"(exec {command.text}) >{log} 2>&1 & echo $!")
        self._stays[name] = (int(shown[-1]), log)
        self.wait_for(name, command.shows, where)

    def wait_for(self, name: str, promised: Sequence[str], where: str) -> None:
        """Wait until what goes on in the background has shown what was promised."""
        log = self._stays[name][1]
        deadline = time.monotonic() + PATIENCE_S
        pace = threading.Event()
        while not same_shape([*promised, "..."], log.read_text().splitlines()):
            if time.monotonic() > deadline:
                pytest.fail(f"{where}: {name} shows\n{log.read_text()}\npromised:\n" + "\n".join(promised))
            pace.wait(0.05)

    def _spawn(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _listen(self) -> None:
        assert self._shell.stdout is not None
        for line in self._shell.stdout:
            self._said.put(line.rstrip("\n"))


def shows(command: Command, shown: Sequence[str]) -> bool:
    """Return whether this is what the command promises to show."""
    if command.text.startswith(TWO_STREAMS):
        return all(same_shape(["...", line, "..."], shown) for line in command.shows)
    return same_shape(command.shows, shown)


def _whole_commands(script: str) -> list[str]:
    """Split a script where a line ends a command: not at a backslash, and not in the middle of a quoted text."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        if not line.endswith("\\") and pending.count("'") % 2 == 0 and pending.count('"') % 2 == 0:
            if pending.strip() and not pending.lstrip().startswith("#"):
                found.append(pending.rstrip("\n"))
            pending = ""
    return [*found, pending] if pending.strip() else found
