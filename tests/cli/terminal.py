"""A real pseudo-terminal with a command on it: what it shows is read as it comes, keys are typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress


class Terminal:
    """``shown`` is everything that came so far. stdin, stdout and stderr of the command are the terminal, or
    ``piped`` names what is a pipe instead. The test's own time limit bounds every wait.
    """

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str] = {}, piped: Sequence[str] = ()) -> None:
        ours, its = os.openpty()
        self.shown = ""
        self._terminal = os.fdopen(ours, "r+b", buffering=0)
        streams = {name: subprocess.PIPE if name in piped else its for name in ("stdin", "stdout", "stderr")}
        # A session of its own, with this terminal: a Ctrl-C that is typed reaches what runs in the foreground.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "supervisor.cli", *arguments],
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40", **environ},
            **streams,
        )
        os.close(its)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._terminal.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=10)

    def until(self, text: str) -> None:
        while text not in self.shown:
            more = self._read()
            assert more, f"it ended without showing {text!r}: {self.shown!r}"
            self.shown += more

    def type(self, keys: bytes) -> None:
        self._terminal.write(keys)

    def end(self) -> int:
        """Read what is still shown, and return the exit status."""
        while more := self._read():
            self.shown += more
        return self.process.wait(10)

    @property
    def text(self) -> str:
        """What was shown, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown)

    def _read(self) -> str:
        with suppress(OSError):  # EIO: everybody else has closed it
            return self._terminal.read(65536).decode(errors="replace")
        return ""
