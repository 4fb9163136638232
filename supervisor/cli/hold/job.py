"""The command as a job: a process group of its own, put into the terminal's foreground while we have that.

Like a shell's, but for one job. It knows nothing of leases.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from msgspec import Struct

from supervisor.cli.hold.terminal import Terminal

#: prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


class Ended(Struct, frozen=True):
    """``status`` as a shell says it: 128 and the number where a ``signal`` ended it (else 0).

    ``interrupted``: a Ctrl-C at the terminal, which only the command has seen, ended it.
    """

    status: int
    signal: int = 0
    interrupted: bool = False


class Stopped(Struct, frozen=True):
    signal: signal.Signals


def become(command: Sequence[str], program: str | None = None) -> NoReturn:
    """Be the command from here on (``program``: the file, where it is not to be found by its name).

    Raises:
        OSError: it cannot be run.
    """
    # What Python has changed for itself would be inherited.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    os.execvp(program or command[0], list(command))  # noqa: S606


def cannot_run(command: str, error: OSError) -> tuple[int, str]:
    """Return the exit status that shells have for it, and a sentence."""
    status = 127 if isinstance(error, FileNotFoundError) else 126
    return status, f"error: {command}: {(error.strerror or str(error)).lower()}"


class Job:
    """One running command. Its first process stays a zombie until ``close``: so its group's number stays its own."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: Terminal, *, foreground: bool) -> None:
        self.pid = process.pid
        self._process = process
        self._terminal = terminal
        #: Whether it is given the terminal when it goes on. One beside a pager only when it asks for it.
        self._foreground = foreground

    @classmethod
    def start(
        cls, command: Sequence[str], environ: Mapping[str, str] | None, terminal: Terminal, dies_with_us: int = 0
    ) -> Job:
        """Start it. ``dies_with_us``: the signal that it gets if we are killed; 0: none.

        Raises:
            OSError: it cannot be run.
        """
        foreground = terminal.alone and terminal.ours
        prctl = ctypes.CDLL(None).prctl if dies_with_us else None
        ours = os.getpid()

        def in_the_child() -> None:
            # The child does it as well as we: whoever is first, it never reads from behind, and we never signal a
            # group that is not there yet. Nothing in here may take a lock.
            os.setpgid(0, 0)
            if foreground:
                terminal.give_to(os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            if prctl is not None:
                prctl(_PR_SET_PDEATHSIG, dies_with_us)
                if os.getppid() != ours:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            process = subprocess.Popen(command, env=environ, preexec_fn=in_the_child)  # noqa: PLW1509, S603
        except OSError:
            if foreground:  # the group that had it is gone
                terminal.give_to(os.getpgrp())
            raise
        return cls(process, terminal, foreground=foreground)

    def change(self) -> Ended | Stopped | None:
        """Return what has become of it since the last look. An end is told again at each."""
        # Both at once, for of a zombie nobody can ask for stops alone (ECHILD). A stop stays to be seen, too.
        seen = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if seen is None:
            return None
        number = seen.si_status
        match seen.si_code:
            case os.CLD_STOPPED:
                try:
                    os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
                except ChildProcessError:  # killed between the two looks
                    return self.change()
                return Stopped(signal.Signals(number))
            case os.CLD_EXITED:
                return Ended(number)
        at_the_terminal = number == signal.SIGINT and self._terminal.group == self.pid
        return Ended(128 + number, number, interrupted=at_the_terminal)

    def send(self, number: int) -> None:
        """Signal everything in its group, as a terminal does."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def resume(self, *, needs_terminal: bool = False) -> None:
        """Let it go on, with the terminal if that is ours."""
        self._foreground |= needs_terminal
        if self._foreground and self._terminal.ours:
            self._terminal.give_to(self.pid)
        self.send(signal.SIGCONT)

    def step_back(self) -> None:
        """Take the terminal from it, if it has that."""
        self._terminal.take_from(self.pid)

    def close(self) -> None:
        """Forget a command that has ended."""
        self.step_back()
        self._process.wait()
