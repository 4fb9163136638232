"""One process as its files under ``/proc`` show it: opened once, so that every read is about the same process.

Only reads and parses; what it means is in ``processes`` and ``reaper``. A read may block for as long as the process is
stuck in the kernel with its memory locked (``cmdline`` waits for that lock), so no event loop may call this.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from msgspec import Struct

#: include/linux/sched.h
_PF_KTHREAD = 0x00200000


class Stat(Struct, frozen=True):
    """What is used of ``/proc/PID/stat``. ``started`` is field 22: clock ticks from the boot to its start.

    ``stack`` is field 28, where its stack begins: elsewhere after each exec, by chance; 0 where it is hidden.

    (pid, started) is the identity of a process. A pid comes back only after all others were given out, which takes far
    longer than a tick (10 ms).
    """

    pid: int
    name: str
    state: str
    parent: int
    started: int
    kernel_thread: bool
    stack: int


def parse_stat(text: str) -> Stat:
    """Read one line of ``/proc/PID/stat``; the name is in parentheses and may hold more of them, and blanks.

    Raises:
        ValueError: it is no such line.

    Source: proc_pid_stat(5); fs/proc/array.c, ``do_task_stat``.
    """
    head, opening, rest = text.partition(" (")
    name, closing, tail = rest.rpartition(") ")
    fields = tail.split()
    if not opening or not closing or len(fields) < 26:
        raise ValueError("not a line of /proc/PID/stat")
    return Stat(
        pid=int(head),
        name=name,
        state=fields[0],
        parent=int(fields[1]),
        started=int(fields[19]),
        kernel_thread=bool(int(fields[6]) & _PF_KTHREAD),
        stack=int(fields[25]),
    )


class ProcessFiles:
    """The folder ``/proc/PID`` of one process, held open: its pid may be given out again, the folder is not.

    Reads after the process was reaped raise ``ProcessLookupError`` (tried: with the pid re-used as well).

    Raises:
        ProcessLookupError: there is no such process.
        PermissionError: /proc is mounted with ``hidepid`` and the process is somebody else's.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self.pid = pid
        try:
            self._folder = os.open(proc / str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise ProcessLookupError(f"no process {pid}") from None

    def __enter__(self) -> ProcessFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._folder)

    def read(self, name: str, limit: int = 1 << 16) -> bytes:
        """Return the first ``limit`` bytes of a file. Raises ``ProcessLookupError`` or ``PermissionError``."""
        try:
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            raise ProcessLookupError(f"process {self.pid} is gone") from None
        try:
            parts: list[bytes] = []
            while limit > 0 and (part := os.read(file, limit)):
                parts.append(part)
                limit -= len(part)
            return b"".join(parts)
        finally:
            os.close(file)

    def link(self, name: str) -> str | None:
        """Return where a link leads; None for a process without (a kernel thread, an ended one that nobody reaped)."""
        try:
            return os.fsencode(os.readlink(name, dir_fd=self._folder)).decode(errors="surrogateescape")
        except FileNotFoundError:
            return None

    def stat(self) -> Stat:
        """Return what ``stat`` says now. Raises ``ProcessLookupError`` or ``PermissionError``."""
        try:
            return parse_stat(self.read("stat").decode(errors="surrogateescape"))
        except ValueError:
            # An empty file: it ended between the open and the read.
            raise ProcessLookupError(f"process {self.pid} is gone") from None


def stat_of(pid: int, proc: Path = Path("/proc")) -> Stat | None:
    """Return what is known of a process, or None if it is gone or may not be read."""
    try:
        with ProcessFiles(pid, proc) as files:
            return files.stat()
    except (ProcessLookupError, PermissionError):
        return None


def sees_host(proc: Path = Path("/proc")) -> bool:
    """Return whether pids here are the host's: NVML always reports those (NVIDIA/nvidia-docker#1483).

    In a container without ``pid: host`` the same number is another process, and nothing may be said of it.
    Source: include/linux/proc_ns.h, ``PROC_PID_INIT_INO``; all kernels since 3.8 number the first namespace so.
    """
    try:
        return str((proc / "self/ns/pid").readlink()) == f"pid:[{0xEFFFFFFC}]"
    except OSError:
        return False
