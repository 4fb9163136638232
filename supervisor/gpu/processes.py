"""Who a process is: its user, program, containers and ancestors, read from ``/proc``. Nothing here judges or signals.

Reading somebody's command line waits for a lock of his memory, and a process that is stuck in a GPU driver may hold it
for minutes: call this from a thread or a process that may be given up, never from an event loop.
"""

from __future__ import annotations

import os
import pwd
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from supervisor.core.values import shown
from supervisor.gpu.ancestry import Ancestor, ancestors_of, read_command
from supervisor.gpu.cgroup_ids import container_ids
from supervisor.gpu.proc_files import ProcessFiles, Stat

#: Processes whose ancestry is remembered, and users; a GPU has tens. The one seen longest ago is forgotten first.
REMEMBERED_MAX = 1024
#: PATH_MAX of Linux: nothing is cut but what escaping makes longer.
_PATH_MAX = 4096
_CGROUP_MAX = 1024
#: The kernel's mark on a program that was replaced on disk while it runs (fs/d_path.c), as by any update.
_REPLACED = " (deleted)"

_T = TypeVar("_T")


class ProcessStory(Struct, frozen=True, kw_only=True):
    """One process as it was found. (``pid``, ``started``) is its identity.

    ``started``: clock ticks since the boot as in ``/proc/PID/stat``; 0 where even that may not be read (``hidepid``).
    ``uid`` is the effective one, ``user`` its name on this host, else its digits; ``root``: one of its user ids is 0.
    ``executable``: the path as the process's own root sees it. ``cgroup``: its path in the deepest hierarchy.
    ``containers``: ids of containers, the outermost first (see ``container_ids``). ``ancestors``: the parent first, as
    they were when the process was first seen: one that has ended since still says where it came from.
    ``denied`` names the fields that may not be read and so are None or empty. All texts are escaped and cut.
    """

    pid: int
    started: int
    started_wall_ms: int
    name: str
    uid: int | None
    user: str | None
    root: bool | None
    executable: str | None
    command: tuple[str, ...]
    cgroup: str | None
    containers: tuple[str, ...]
    ancestors: tuple[Ancestor, ...]
    kernel_thread: bool = False
    denied: tuple[str, ...] = ()


class _Remembered(Struct):
    """What is read once for each identity: it costs the most, and a later look would know less."""

    started_wall_ms: int
    ancestors: tuple[Ancestor, ...]
    program: tuple[str, str | None, int] | None
    command: tuple[str, ...]


class ProcessReader:
    """Describes processes by their pids, cheaply for those that were seen before. Not for several threads at once.

    What a process may change (user, program, cgroup) is read at every look; its ancestry only once.

    Args:
        proc: a mounted proc file system of the pid namespace that the pids are of (see ``sees_host``).
        boot_wall_ms: returns the wall time of the boot, Unix milliseconds, as the clocks stand now.
        name_of_uid: returns a user's name or None; may be slow (a directory service), so it is asked once per user.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        *,
        boot_wall_ms: Callable[[], int] | None = None,
        name_of_uid: Callable[[int], str | None] | None = None,
    ) -> None:
        self._proc = proc
        self._boot_wall_ms = boot_wall_ms or _boot_wall_ms
        self._name_of_uid = name_of_uid or _name_of_uid
        self._tick_ms = 1000 / os.sysconf("SC_CLK_TCK")
        self._users: dict[int, str] = {}
        self._remembered: OrderedDict[tuple[int, int], _Remembered] = OrderedDict()

    def describe(self, pid: int) -> ProcessStory | None:
        """Return what can be known of a process; None if it is gone, or ends while it is looked at."""
        try:
            with ProcessFiles(pid, self._proc) as files:
                return self._describe(files, files.stat())
        except ProcessLookupError:
            return None
        except PermissionError:
            return _hidden(pid)

    def _describe(self, files: ProcessFiles, stat: Stat) -> ProcessStory:
        denied: list[str] = []

        def readable(field: str, read: Callable[[], _T]) -> _T | None:
            try:
                return read()
            except PermissionError:
                denied.append(field)
                return None

        uids = readable("user", lambda: _uids(files))
        executable = readable("executable", lambda: _executable(files))
        cgroups = readable("cgroup", lambda: files.read("cgroup").decode(errors="surrogateescape"))
        known = self._recall(files, stat)
        command = readable("command", lambda: self._command(files, stat, executable, known))
        return ProcessStory(
            pid=stat.pid,
            started=stat.started,
            started_wall_ms=known.started_wall_ms,
            name=shown(stat.name),
            uid=uids[1] if uids else None,
            user=self._user(uids[1]) if uids else None,
            root=0 in uids if uids else None,
            executable=executable,
            command=command or (),
            cgroup=_deepest(cgroups) if cgroups is not None else None,
            containers=container_ids(cgroups or ""),
            ancestors=known.ancestors,
            kernel_thread=stat.kernel_thread,
            denied=tuple(denied),
        )

    def _recall(self, files: ProcessFiles, stat: Stat) -> _Remembered:
        identity = (stat.pid, stat.started)
        known = self._remembered.get(identity)
        if known is None:
            known = self._remembered[identity] = _Remembered(
                started_wall_ms=self._boot_wall_ms() + round(stat.started * self._tick_ms),
                ancestors=ancestors_of(files, self._proc),
                program=None,
                command=(),
            )
            if len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(identity)
        return known

    def _command(self, files: ProcessFiles, stat: Stat, executable: str | None, known: _Remembered) -> tuple[str, ...]:
        """Return the command line, read again only after an exec: it is the one read that can hang.

        It is empty in the middle of an exec (tried on 6.18: name and program are new by then) and once a process has
        ended. That says nothing, so what was seen before stands, and the next look reads it again.
        """
        program = (stat.name, executable, stat.stack)
        if known.program != program and (command := read_command(files)):
            known.command = command
            known.program = program
        return known.command

    def _user(self, uid: int) -> str:
        if uid not in self._users:
            if len(self._users) >= REMEMBERED_MAX:
                self._users.clear()
            self._users[uid] = shown(self._name_of_uid(uid) or str(uid))
        return self._users[uid]


def _hidden(pid: int) -> ProcessStory:
    """A process that exists, and of which nothing may be read."""
    return ProcessStory(
        pid=pid,
        started=0,
        started_wall_ms=0,
        name="",
        uid=None,
        user=None,
        root=None,
        executable=None,
        command=(),
        cgroup=None,
        containers=(),
        ancestors=(),
        denied=("started", "name", "user", "executable", "command", "cgroup", "ancestors"),
    )


def _uids(files: ProcessFiles) -> tuple[int, ...]:
    """Return the real, effective, saved and file system user ids. (The folder's owner is root for many: proc(5).)"""
    for line in files.read("status").split(b"\n"):
        if line.startswith(b"Uid:"):
            return tuple(map(int, line.split()[1:5]))
    raise ProcessLookupError("it ended meanwhile")


def _executable(files: ProcessFiles) -> str | None:
    path = files.link("exe")
    return None if path is None else shown(path.removesuffix(_REPLACED), _PATH_MAX)


def _deepest(cgroups: str) -> str:
    """Return the path that says most, of one line per hierarchy."""
    paths = [line.split(":", 2)[2] for line in cgroups.split("\n") if line.count(":") >= 2]
    return shown(
        max(paths, key=lambda path: (len(container_ids(path)), path.count("/"), len(path)), default="/"), _CGROUP_MAX
    )


def _boot_wall_ms() -> int:
    return round((time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000)


def _name_of_uid(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
