"""Kills every process of one cgroup, those of the cgroups below it too. Whose cgroup it is was made sure before.

With v2 that is one write, and the kernel sees to processes that are just being forked. With v1 every process of it gets
SIGKILL through a pidfd, until no new one turns up. (A fork of a process that has SIGKILL pending fails, so what is not
met in one round is in the next.) Where new ones do turn up, the cgroup is frozen for the rest; a frozen process of v1
dies only once it is thawed. It is not frozen from the start: freezing is no quicker than a signal, and the thaw of the
last frozen cgroup patches the kernel's code (kernel/cgroup/legacy_freezer.c, ``freezer_apply_state``: a static branch),
which took 75 ms at p99 in a burst of starts.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec import Struct

from supervisor.cgroups.trees import Tree
from supervisor.gpu.proc_files import ProcessFiles, stat_of

#: A fork bomb is frozen by then, or the engine's own kill has to finish it.
ROUNDS = 8
#: This may be the thread that owns the state: what has more processes waits for the engine's kill.
PROCESSES_MAX = 256


def end_all(tree: Tree, cgroup: Path) -> bool:
    """Send SIGKILL to all in ``cgroup``. Returns whether there was anything to be killed, and we are not in it.

    Raises:
        OSError: the kernel does not let us, or the cgroup has gone (``FileNotFoundError``; ``ENODEV`` from its files).
    """
    pids = _pids(cgroup)
    if not pids or os.getpid() in pids:
        return False
    if tree.version == 2:
        _write(cgroup / "cgroup.kill", b"1")
    else:
        _end_each(cgroup, pids)
    return True


def _end_each(cgroup: Path, pids: list[int]) -> None:
    freezer = cgroup / "freezer.state"
    frozen = (cgroup / "freezer.self_freezing").read_bytes().strip() == b"1"  # it was paused
    try:
        doomed = _end_those(cgroup, pids)
        for _ in range(ROUNDS):
            fresh = set(_pids(cgroup)) - doomed
            if not fresh or len(doomed) > PROCESSES_MAX:
                break
            if not frozen:
                frozen = True
                _write(freezer, b"FROZEN")
            doomed |= _end_those(cgroup, fresh)
    finally:
        if frozen:
            _write(freezer, b"THAWED")


def _end_those(cgroup: Path, pids: Collection[int]) -> set[int]:
    """Kill some processes of a cgroup. Returns those that got the signal."""
    with ExitStack() as closing:
        opened = [each for pid in pids if (each := _open(pid, closing)) is not None]
        still = set(_pids(cgroup))
        doomed = [one for one in opened if one.pid in still]
        for one in doomed:
            _end(one)
    return {one.pid for one in doomed}


class _Opened(Struct, frozen=True):
    """A process that was in the cgroup a moment ago. ``pidfd`` stays with it, whoever may have its pid later."""

    pid: int
    started: int
    pidfd: int


def _open(pid: int, closing: ExitStack) -> _Opened | None:
    stat = stat_of(pid)
    if stat is None or pid == 1:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    closing.callback(os.close, pidfd)
    return _Opened(pid, stat.started, pidfd)


def _end(one: _Opened) -> None:
    """Kill a process that was met in the cgroup again, after its pidfd was opened.

    Then the pid belonged to one that was in it. If that is another than the opened one, the opened one was reaped, the
    signal fails with ESRCH, and nobody is hit. The start time is compared as well, once more than needed.

    ``/proc/PID/cgroup`` is not asked: it waits for the lock of all cgroups (kernel/cgroup/cgroup.c,
    ``proc_cgroup_show``), which a burst of starts holds for 100 ms and more.
    """
    stat = stat_of(one.pid)
    if stat is not None and stat.started == one.started:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(one.pidfd, signal.SIGKILL)


def thaw_doomed(tree: Tree, cgroup: Path) -> None:
    """Let go of a cgroup whose processes all have SIGKILL pending, and which whoever sent it has left frozen.

    One that was paused has no such signal pending, and stays as it is. Raises ``OSError`` where the cgroup has gone.
    """
    if tree.version == 1 and (cgroup / "freezer.self_freezing").read_bytes().strip() == b"1":
        pids = _pids(cgroup)
        if pids and all(_is_doomed(pid) for pid in pids):
            _write(cgroup / "freezer.state", b"THAWED")


def _is_doomed(pid: int) -> bool:
    """Return whether SIGKILL is on its way to a process, or it has ended. Source: proc_pid_status(5), ``ShdPnd``."""
    try:
        with ProcessFiles(pid) as files:
            status = files.read("status").decode(errors="replace")
    except (ProcessLookupError, PermissionError):
        return True
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in masks)


def _write(file: Path, word: bytes) -> None:
    """Write to a file of the kernel's: where there is none, none is made."""
    handle = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, word)
    finally:
        os.close(handle)


def _pids(cgroup: Path) -> list[int]:
    return [pid for folder in _folders(str(cgroup)) for pid in _read_pids(folder)]


def _read_pids(folder: str) -> list[int]:
    """Those of the processes in one cgroup alone; 0 stands for one of another pid namespace."""
    with open(f"{folder}/cgroup.procs", "rb") as file:  # noqa: PTH123 - half the time
        return [pid for pid in map(int, file.read().split()) if pid]


def _folders(cgroup: str) -> Iterator[str]:
    """The cgroup, and those below it. A folder without folders has two links (fs/kernfs/dir.c)."""
    yield cgroup
    if os.stat(cgroup).st_nlink == 2:  # noqa: PTH116
        return
    with os.scandir(cgroup) as entries:
        inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for folder in inner:
        with suppress(FileNotFoundError):  # it went while we looked
            yield from _folders(folder)
