"""The few calls that the journal makes on a file system, so that tests can break every one of them.

Nothing here knows about records. Offsets and sizes are in bytes; every failure is an ``OSError``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol

ZEROS = bytes(1 << 20)


class Disk(Protocol):
    """``file`` is whatever ``open`` returned. Paths are joined by the caller, never resolved.

    What must be on disk must be synced: the data of a file by ``sync``, its name by ``sync_directory``.
    """

    def make_directories(self, path: Path) -> None:
        """Make a directory and those above it, where they are missing, durably."""
        ...

    def list_directory(self, path: Path) -> list[str]: ...
    def sync_directory(self, path: Path) -> None: ...
    def rename(self, old: Path, new: Path) -> None: ...
    def link(self, old: Path, new: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> int: ...
    def size(self, file: int) -> int: ...
    def read(self, file: int, size: int, offset: int) -> bytes:
        """Return up to ``size`` bytes; fewer only at the end of the file."""
        ...

    def write(self, file: int, data: bytes, offset: int) -> int:
        """Write what can be written and return how much that was, like ``pwrite``."""
        ...

    def allocate(self, file: int, size: int) -> None:
        """Make an empty file ``size`` zeros long, with blocks of its own, so that writing into it needs no space."""
        ...

    def truncate(self, file: int, size: int) -> None: ...
    def sync(self, file: int) -> None: ...
    def close(self, file: int) -> None: ...

    def lock(self, path: Path) -> int:
        """Take the one lock of this file, until it is closed or the process ends.

        Raises:
            BlockingIOError: another process has it.
        """
        ...


class OsDisk:
    """The real one. Directories are made 0700 and files 0600: facts name owners."""

    def make_directories(self, path: Path) -> None:
        # A synced file is lost all the same if the name of a new directory above it is not on disk.
        for missing in reversed([directory for directory in (path, *path.parents) if not directory.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
            self.sync_directory(missing.parent)

    def list_directory(self, path: Path) -> list[str]:
        return [entry.name for entry in path.iterdir()]

    def sync_directory(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def link(self, old: Path, new: Path) -> None:
        new.hardlink_to(old)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> int:
        flags = os.O_RDONLY if read_only else os.O_RDWR
        return os.open(path, flags | os.O_CREAT if create else flags, 0o600)

    def size(self, file: int) -> int:
        return os.fstat(file).st_size

    def read(self, file: int, size: int, offset: int) -> bytes:
        # One pread returns at most 2 GiB, and less where a signal comes in between.
        found = os.pread(file, size, offset)
        while len(found) < size and (more := os.pread(file, size - len(found), offset + len(found))):
            found += more
        return found

    def write(self, file: int, data: bytes, offset: int) -> int:
        return os.pwrite(file, data, offset)

    def allocate(self, file: int, size: int) -> None:
        # fallocate says at once whether there is room; the zeros turn its unwritten extents into written ones,
        # which makes each later sync a fifth cheaper (no extent conversion to be journalled by the file system).
        # glibc makes up for a file system that cannot do it, musl does not: the zeros alone must do there.
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        for offset in range(0, size, len(ZEROS)):
            write_all(self, file, ZEROS[: size - offset], offset)

    def truncate(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def sync(self, file: int) -> None:
        os.fdatasync(file)

    def close(self, file: int) -> None:
        os.close(file)

    def lock(self, path: Path) -> int:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(file)
            raise
        return file


def write_all(disk: Disk, file: int, data: bytes, offset: int) -> None:
    """Write all of ``data``. A short write goes on where it stopped; what stopped it shows in the next call."""
    done = disk.write(file, data, offset)
    while done < len(data):
        done += disk.write(file, data[done:], offset + done)


def read_file(disk: Disk, path: Path, size: int | None = None) -> bytes:
    """Return a file's first ``size`` bytes, or all of it."""
    file = disk.open(path, read_only=True)
    try:
        return disk.read(file, disk.size(file) if size is None else size, 0)
    finally:
        disk.close(file)


def remove_if_there(disk: Disk, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(path)
