"""Watches the processes that leases are tied to, and tells the moment at which one ends. It decides nothing.

Which ones are watched follows from the state (``State.ids_by_tie``), so that a restart takes them up by itself. Owned
by the task that owns the state; not for other threads.

A process is watched through a pidfd, which becomes readable when it ends. Where none can be had, it is looked at once
a second instead: for ever where the kernel has none (before 5.3, gVisor), and until one can be had where no descriptor
is left.

Source: pidfd_open(2).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from supervisor.core.inputs import ProcessEnded
from supervisor.core.model import Tie
from supervisor.core.state import State
from supervisor.gpu.proc_files import ProcessFiles
from supervisor.ports import Post

log = logging.getLogger(__name__)

#: How often a process is looked at that has no pidfd.
POLL_S = 1.0
#: No such call: an old kernel, or a seccomp filter that does not know it.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EPERM})
#: The pid is a thread's now (ENOENT since 6.16 or so), so the process that had it is gone.
_NO_PROCESS = frozenset({errno.ESRCH, errno.EINVAL, errno.ENOENT})

_Life = Literal["lives", "ended", "unknown"]


def open_pidfd(pid: int) -> int:
    """Return a pidfd. Raises ``OSError``: ENOSYS where Python was built without them."""
    if not hasattr(os, "pidfd_open"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return os.pidfd_open(pid)


class PidWatch:
    """Posts ``ProcessEnded``, at least once for each process of ``follow`` that ends or has ended before."""

    def __init__(
        self,
        post: Post,
        boot_id: str,
        *,
        open_fd: Callable[[int], int] = open_pidfd,
        proc: Path = Path("/proc"),
    ) -> None:
        self._post, self._boot_id, self._open_fd, self._proc = post, boot_id, open_fd, proc
        self._loop = asyncio.get_running_loop()
        #: A process's pidfd, or None where it is looked at instead.
        self._watched: dict[Tie, int | None] = {}
        self._followed = -1
        self._unsupported = False
        self._next_look: asyncio.TimerHandle | None = None

    def follow(self, state: State) -> None:
        """Watch what leases and tickets are tied to now, and nothing else. Costs nothing while that stays the same."""
        if state.ties_changed == self._followed:
            return
        self._followed = state.ties_changed
        for tie in [tie for tie in self._watched if tie not in state.ids_by_tie]:
            self._drop(tie)
        for tie in state.ids_by_tie:
            if tie not in self._watched:
                self._watch(tie)
        self._look_later()

    def look(self) -> None:
        """Look at every process that has no pidfd, and try to get it one."""
        for tie in [tie for tie, pidfd in self._watched.items() if pidfd is None]:
            self._watch(tie)
        self._look_later()

    def close(self) -> None:
        for tie in list(self._watched):
            self._drop(tie)
        self._look_later()

    def _watch(self, tie: Tie) -> None:
        """Begin to watch a process, or say that it has ended.

        1. open a pidfd: it stays with the process that has the pid now; 2. read the start time behind the pid. If it is
        the one that is meant, its pid was never given out again, so it is that process which was opened.
        """
        pidfd = self._open(tie) if tie.boot == self._boot_id else "ended"
        life: _Life = "ended" if pidfd == "ended" else self._life(tie, zombies=pidfd is not None)
        if isinstance(pidfd, int) and life == "lives":
            self._watched[tie] = pidfd
            self._loop.add_reader(pidfd, self._tell, tie)
            return
        if isinstance(pidfd, int):
            os.close(pidfd)  # of another process, or nobody can say of which
        self._watched[tie] = None
        if life == "ended":
            self._tell(tie)

    def _open(self, tie: Tie) -> int | Literal["ended"] | None:
        """Return a pidfd, or None where none can be had now."""
        if self._unsupported:
            return None
        try:
            return self._open_fd(tie.pid)
        except OSError as error:
            if error.errno in _NO_PROCESS:
                return "ended"
            if error.errno in _UNSUPPORTED:
                self._unsupported = True
                log.warning(
                    "no pidfd can be had here (%s): processes that leases are tied to are looked at every %g s instead",
                    error.strerror,
                    POLL_S,
                )
            elif tie not in self._watched:
                log.warning("no pidfd of process %d yet (%s): it is tried again", tie.pid, error.strerror)
            return None

    def _life(self, tie: Tie, *, zombies: bool) -> _Life:
        """Return whether a process lives. ``zombies``: one that has ended counts while nobody has reaped it: its pidfd
        knows better, because the first thread may end before the others.
        """
        # Of the files of a process, stat waits for no lock that a stuck one may hold (fs/proc/array.c, do_task_stat).
        try:
            with ProcessFiles(tie.pid, self._proc) as files:
                stat = files.stat()
        except ProcessLookupError:
            return "ended"
        except OSError:
            return "unknown"  # no descriptor is left, or /proc was hidden since: it is looked at again
        return "lives" if stat.started == tie.started and (zombies or stat.state not in "ZX") else "ended"

    def _tell(self, tie: Tie) -> None:
        # Not watched any more: if something is tied to it later, that is told as well.
        self._drop(tie)
        self._post(ProcessEnded(tie))

    def _drop(self, tie: Tie) -> None:
        pidfd = self._watched.pop(tie, None)
        if pidfd is not None:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)

    def _look_later(self) -> None:
        """Look again in a while if anything has no pidfd."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if any(pidfd is None for pidfd in self._watched.values()):
            self._next_look = self._loop.call_later(POLL_S, self.look)
