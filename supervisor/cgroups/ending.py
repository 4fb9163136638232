"""Kills every process of one cgroup, those of the cgroups below it too. Whose cgroup it is was made sure before.

With v2 that is one write, and the kernel sees to processes that are just being forked. With v1 every process of it gets
SIGKILL through a pidfd, until no new one turns up. (A fork of a process that has SIGKILL pending fails, so what is not
met in one round is in the next.) Where new ones do turn up, the cgroup is frozen for the rest; a frozen process of v1
dies only once it is thawed. It is not frozen from the start: freezing is no quicker than a signal, and the thaw of the
last frozen cgroup patches the kernel's code (kernel/cgroup/legacy_freezer.c, ``freezer_apply_state``: a static branch),
which took 75 ms at p99 in a burst of starts.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from supervisor.cgroups.trees import Tree
from supervisor.gpu.proc_files import ProcessFiles

#: What a cgroup that was removed answers: there is no such file in it, or its open files have nothing behind them.
GONE = frozenset({errno.ENOENT, errno.ENODEV})
#: A fork bomb is frozen by then, or the engine's own kill has to finish it.
ROUNDS = 8
#: This may be the thread that owns the state: what has more processes waits for the engine's kill.
PROCESSES_MAX = 256


def end_all(tree: Tree, cgroup: Path) -> bool:
    """Send SIGKILL to all in ``cgroup``. Returns whether there was anything to be killed, and we are not in it.

    Raises:
        OSError: the kernel does not let us, or the cgroup has gone (``GONE``).
    """
    # Each path that is looked up waits for whoever makes a cgroup at that moment: one, and all else from there.
    with _opened(cgroup) as folder:
        pids = _pids(folder)
        if not pids or os.getpid() in pids:
            return False
        if tree.version == 2:
            _write("cgroup.kill", b"1", folder)
            return True
        doomed = _end_those(folder, pids)
        try:
            _end_rest(folder, doomed)
        except OSError as error:
            # The last of them is gone already, and the engine was quick to remove the cgroup.
            if not doomed or error.errno not in GONE:
                raise
        return bool(doomed)


def _end_rest(folder: int, doomed: set[int]) -> None:
    """Kill what the doomed ones have forked since."""
    frozen = _read("freezer.self_freezing", folder).strip() == b"1"  # it was paused
    try:
        for _ in range(ROUNDS):
            fresh = set(_pids(folder)) - doomed
            if not fresh or len(doomed) > PROCESSES_MAX:
                break
            if not frozen:
                frozen = True
                _write("freezer.state", b"FROZEN", folder)
            doomed |= _end_those(folder, fresh)
    finally:
        if frozen:
            _write("freezer.state", b"THAWED", folder)


def _end_those(folder: int, pids: Collection[int]) -> set[int]:
    """Kill some processes of a cgroup. Returns those that got the signal.

    A process is killed that was met in the cgroup again, after its pidfd was opened: then the pid belonged to one that
    was in it. If that is another than the opened one, the opened one was reaped, the signal fails with ESRCH, and
    nobody is hit. A start time would say less, in ticks of 10 ms.

    Nothing of ``/proc/PID`` is asked: ``stat`` took 43 ms in a burst of starts, and ``cgroup`` waits for the lock of
    all cgroups (kernel/cgroup/cgroup.c, ``proc_cgroup_show``), which is held for 100 ms and more then.
    """
    with ExitStack() as closing:
        opened = {pid: pidfd for pid in pids if (pidfd := _open_process(pid, closing)) is not None}
        doomed = opened.keys() & _pids(folder)
        for pid in doomed:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(opened[pid], signal.SIGKILL)
    return doomed


def _open_process(pid: int, closing: ExitStack) -> int | None:
    if pid == 1:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    closing.callback(os.close, pidfd)
    return pidfd


def thaw_doomed(tree: Tree, cgroup: Path) -> None:
    """Let go of a cgroup whose processes all have SIGKILL pending, and which whoever sent it has left frozen.

    One that was paused has no such signal pending, and stays as it is. Raises ``OSError`` where the cgroup has gone.
    """
    if tree.version != 1:
        return
    with _opened(cgroup) as folder:
        if _read("freezer.self_freezing", folder).strip() == b"1":
            pids = _pids(folder)
            if pids and all(_is_doomed(pid) for pid in pids):
                _write("freezer.state", b"THAWED", folder)


def _is_doomed(pid: int) -> bool:
    """Return whether SIGKILL is on its way to a process, or it has ended. Source: proc_pid_status(5), ``ShdPnd``."""
    try:
        with ProcessFiles(pid) as files:
            status = files.read("status").decode(errors="replace")
    except (ProcessLookupError, PermissionError):
        return True
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in masks)


# ---- the kernel's files


@contextmanager
def _opened(path: str | Path, within: int | None = None) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=within)
    try:
        yield folder
    finally:
        os.close(folder)


def _pids(folder: int) -> list[int]:
    """Those of the processes in a cgroup, and in the cgroups below it; 0 stands for one of another pid namespace."""
    found = [pid for pid in map(int, _read("cgroup.procs", folder).split()) if pid]
    if os.fstat(folder).st_nlink > 2:  # a folder without folders has two links (fs/kernfs/dir.c)
        with os.scandir(folder) as entries:
            inner = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in inner:
            with suppress(FileNotFoundError), _opened(name, folder) as below:  # it may go while we look
                found += _pids(below)
    return found


def _read(name: str, folder: int) -> bytes:
    """Read a file anew: one that is read again in v1 tells what it told before (``cgroup_pidlist_start``)."""
    handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        parts = []
        while part := os.read(handle, 65_536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def _write(name: str, word: bytes, folder: int) -> None:
    """Write to a file: where there is none, none is made."""
    handle = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(handle, word)
    finally:
        os.close(handle)
