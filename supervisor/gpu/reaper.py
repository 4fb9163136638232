"""Ends exactly one process: the one that was meant, never a later one with its pid. Whom to end is not decided here.

Whatever the caller thinks, some are never signalled: pid 1, kernel threads, this process and what it descends from.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
from pathlib import Path
from typing import Literal

from msgspec import Struct

from supervisor.gpu.proc_files import ProcessFiles, Stat, stat_of

logger = logging.getLogger(__name__)

Outcome = Literal["sent", "gone", "other_process", "forbidden", "unsupported"]

#: A chain of parents that is longer is none of ours: pids are read one after the other, and could form a ring.
_PARENTS_MAX = 256


class Signalling(Struct, frozen=True):
    """What became of one signal. ``detail`` says in a sentence why it was not sent.

    ``gone``: the process has ended (a zombie too). ``other_process``: its pid belongs to another one now.
    ``forbidden``: it is one that is never signalled, or the kernel refused. ``unsupported``: nothing could be tried.
    """

    outcome: Outcome
    detail: str = ""


class Reaper:
    """Sends SIGTERM or SIGKILL to a process by its identity (pid, started).

    Args:
        proc: the proc file system of our own pid namespace; with another one nothing is ever sent.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def terminate(self, pid: int, started: int, signal: int) -> Outcome:
        """Send SIGTERM or SIGKILL to the process with ``pid`` that started at tick ``started``; see ``Signalling``."""
        signalling = self.send(pid, started, signal)
        if signalling.outcome not in ("sent", "gone"):
            logger.warning(
                "not signalled pid=%d signal=%d outcome=%s: %s", pid, signal, signalling.outcome, signalling.detail
            )
        return signalling.outcome

    def send(self, pid: int, started: int, ending: int) -> Signalling:
        """Do what ``terminate`` does, and say in a sentence why nothing was sent. Never raises ``OSError``.

        A pid alone is a race. So:
        1. open a pidfd: it stays with the process that has the pid now, whoever that is;
        2. read the start time behind the pid: if it is the one we mean, was it ours that we opened?
        3. send through the pidfd. If the opened process was reaped between 1 and 2, and 2 read another one, this fails
           with ESRCH and nobody is hit; if it was not, its pid was not given out again, and 2 read the opened one.

        Source: pidfd_open(2) (Linux 5.3), pidfd_send_signal(2) (5.1).
        """
        assert ending in (signal.SIGTERM, signal.SIGKILL), "only the end of a process is sent"
        if pid <= 1:
            return Signalling("forbidden", f"pid {pid} is never signalled")
        if not started:
            return Signalling(
                "unsupported", f"the start time of process {pid} is not known, so it cannot be told apart"
            )
        if not hasattr(os, "pidfd_open"):
            return Signalling("unsupported", "this Python was built for a Linux without pidfd_open (5.3)")
        if (foreign := self._foreign_proc()) is not None:
            return foreign
        if pid in self._own_line():
            return Signalling("forbidden", f"process {pid} is the supervisor, or started it")
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            return _not_opened(pid, error)
        try:
            return self._judge(pid, started, pidfd) or _send(pid, pidfd, ending)
        finally:
            os.close(pidfd)

    def _judge(self, pid: int, started: int, pidfd: int) -> Signalling | None:
        """Return why the opened process is not signalled, or None if it is the one that is meant."""
        try:
            with ProcessFiles(pid, self._proc) as files:
                stat = files.stat()
        except (ProcessLookupError, PermissionError):
            # hidepid=2 hides even that there is such a process.
            if _has_ended(pidfd):
                return Signalling("gone", f"process {pid} has ended")
            return Signalling("forbidden", f"the start time of process {pid} may not be read (is /proc hidden?)")
        if (mismatch := _mismatch(stat, started)) is not None:
            return mismatch
        return Signalling("gone", f"process {pid} has ended") if _has_ended(pidfd) else None

    def _foreign_proc(self) -> Signalling | None:
        """Refuse a proc file system of another pid namespace: what it says of a pid is about another process."""
        try:
            own = (self._proc / "self").readlink().name
        except OSError:
            own = ""
        if own == str(os.getpid()):
            return None
        return Signalling("unsupported", f"{self._proc} does not show this pid namespace")

    def _own_line(self) -> set[int]:
        """Return our pid and those of all our ancestors, as they are now."""
        line: set[int] = set()
        pid = os.getpid()
        while pid and pid not in line and len(line) < _PARENTS_MAX:
            line.add(pid)
            stat = stat_of(pid, self._proc)
            pid = stat.parent if stat is not None else 0
        return line


def _mismatch(stat: Stat, started: int) -> Signalling | None:
    if stat.started != started:
        return Signalling(
            "other_process", f"pid {stat.pid} belongs to another process now: the one that was meant ended"
        )
    if stat.kernel_thread:
        return Signalling("forbidden", f"process {stat.pid} is a thread of the kernel")
    return None


def _has_ended(pidfd: int) -> bool:
    """Return whether every thread of it has ended, a zombie's too. Source: pidfd_open(2)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _not_opened(pid: int, error: OSError) -> Signalling:
    if error.errno == errno.ESRCH:
        return Signalling("gone", f"there is no process {pid}")
    # EINVAL, and ENOENT on newer kernels (tried on 6.18).
    if error.errno in (errno.EINVAL, errno.ENOENT):
        return Signalling("other_process", f"{pid} is a thread, not a process")
    # ENOSYS: an old kernel; EPERM: a seccomp filter that does not know the call; EMFILE: no descriptor is left.
    return Signalling("unsupported", f"no pidfd of process {pid} can be opened: {error.strerror}")


def _send(pid: int, pidfd: int, ending: int) -> Signalling:
    try:
        signal.pidfd_send_signal(pidfd, ending)
    except ProcessLookupError:
        return Signalling("gone", f"process {pid} has ended")
    except PermissionError:
        return Signalling("forbidden", f"process {pid} belongs to another user, and we may not signal it")
    except OSError as error:
        return Signalling("unsupported", f"no signal can be sent to process {pid}: {error.strerror}")
    return Signalling("sent")
