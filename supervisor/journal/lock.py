"""The one-writer lock: an advisory ``flock`` that the kernel gives back however the process ends."""

from __future__ import annotations

import os
from pathlib import Path

from supervisor.journal.disk import Disk, read_file, write_all
from supervisor.journal.errors import JournalLocked
from supervisor.journal.segments import FULL

PID_BYTES = 32


def take_lock(disk: Disk, directory: Path) -> int:
    """Take the directory's lock and leave the pid in it; closing what is returned gives it back.

    Raises:
        JournalLocked: another process has it.
    """
    path = directory / "lock"
    try:
        file = disk.lock(path)
    except BlockingIOError as error:
        raise JournalLocked(directory, read_pid(disk, path)) from error
    try:
        write_all(disk, file, str(os.getpid()).encode().ljust(PID_BYTES), 0)
    except OSError as error:
        # On a full disk the file may have no block yet. Its pid is for people only.
        if error.errno not in FULL:
            disk.close(file)
            raise
    return file


def read_pid(disk: Disk, path: Path) -> int | None:
    """Return the pid that the lock's holder left, or None if it cannot be read."""
    try:
        text = read_file(disk, path, PID_BYTES).decode("ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
