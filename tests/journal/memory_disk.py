"""A file system in memory that can be broken in every way the journal must survive, deterministically.

Nothing in here is random by itself: ``crash`` takes a ``random.Random``. It is the ``Disk`` of the simulation too.

What POSIX promises is all that it promises: data that was synced, and names whose directory was synced, survive a
crash. Of what was not, ``crash`` keeps any part: each sector of a write or not, each size change or not, the first so
many of the renames and removals.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

SECTOR = 512

Wreck = Literal["lost", "kept", "torn"]


@dataclass(eq=False)
class Node:
    """One file: ``data`` as a reader sees it, ``synced`` as the platter has it, ``unsynced`` what lies between.

    An unsynced change is (offset, bytes) or, for a new size, (size, None).
    """

    data: bytearray = field(default_factory=bytearray)
    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)
    locked: bool = False


Naming = tuple[tuple[Path, Node | None], ...]
"""Names that change together, or not at all: a rename is one new name and one that is gone."""


def change(data: bytearray, where: int, what: bytes | None) -> None:
    """Make one change to a file's bytes; a hole that it leaves is zeros."""
    if what is None:
        del data[where:]
        data.extend(bytes(where - len(data)))
        return
    if len(data) < where:
        data.extend(bytes(where - len(data)))
    data[where : where + len(what)] = what


class MemoryDisk:
    """Implements ``supervisor.journal.Disk``.

    ``capacity``: bytes that all files together may have; beyond it a write is short, then ENOSPC.
    ``before``: called with (operation, path) before each operation that changes something or syncs; it may raise, an
    ``OSError`` to have it fail, or an error of the test's own to "cut the power" there.
    ``at_most``: called with path and size of a write; what it returns is written of it (a short write).
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.before: Callable[[str, Path], None] = lambda operation, path: None
        self.at_most: Callable[[Path, int], int] = lambda path, size: size
        self.names: dict[Path, Node] = {}
        self.synced_names: dict[Path, Node] = {}
        self.directories: set[Path] = set()
        self._unsynced_names: list[Naming] = []
        self._opened: dict[int, tuple[Path, Node]] = {}
        self._last_file = 0

    @classmethod
    def holding(cls, files: Mapping[Path, bytes]) -> MemoryDisk:
        """Return a disk with these files on it, synced."""
        disk = cls()
        for path, data in files.items():
            disk.directories |= set(path.parents)
            disk.names[path] = Node(bytearray(data), bytearray(data))
        disk.synced_names = dict(disk.names)
        return disk

    def contents(self) -> dict[Path, bytes]:
        """Return every file as a reader sees it."""
        return {path: bytes(node.data) for path, node in self.names.items()}

    # ---- names

    def make_directories(self, path: Path) -> None:
        self.before("make_directories", path)
        self.directories |= {path, *path.parents}

    def list_directory(self, path: Path) -> list[str]:
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        files = [name.name for name in self.names if name.parent == path]
        return files + [name.name for name in self.directories if name.parent == path and name != path]

    def sync_directory(self, path: Path) -> None:
        self.before("sync_directory", path)
        here = [naming for naming in self._unsynced_names if naming[0][0].parent == path]
        self._unsynced_names = [naming for naming in self._unsynced_names if naming[0][0].parent != path]
        name_all(self.synced_names, here)

    def rename(self, old: Path, new: Path) -> None:
        self.before("rename", new)
        node = self._node(old)
        self._change_names((new, node), (old, None))

    def link(self, old: Path, new: Path) -> None:
        self.before("link", new)
        if new in self.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
        self._change_names((new, self._node(old)))

    def unlink(self, path: Path) -> None:
        self.before("unlink", path)
        self._node(path)
        self._change_names((path, None))

    def _change_names(self, *naming: tuple[Path, Node | None]) -> None:
        name_all(self.names, [naming])
        self._unsynced_names.append(naming)

    def _node(self, path: Path) -> Node:
        try:
            return self.names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    # ---- files

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> int:
        if create and path not in self.names:
            self.before("create", path)
            self._change_names((path, Node()))
        self._last_file += 1
        self._opened[self._last_file] = (path, self._node(path))
        return self._last_file

    def lock(self, path: Path) -> int:
        file = self.open(path, create=True)
        node = self._opened[file][1]
        if node.locked:
            del self._opened[file]
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
        node.locked = True
        return file

    def close(self, file: int) -> None:
        path, node = self._opened.pop(file)
        if path.name == "lock":
            node.locked = False

    def size(self, file: int) -> int:
        return len(self._opened[file][1].data)

    def read(self, file: int, size: int, offset: int) -> bytes:
        return bytes(self._opened[file][1].data[offset : offset + size])

    def write(self, file: int, data: bytes, offset: int) -> int:
        path, node = self._opened[file]
        self.before("write", path)
        size = min(self.at_most(path, len(data)), self._room_for(node, offset, len(data)))
        if size <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self._change(node, offset, bytes(data[:size]))
        return size

    def allocate(self, file: int, size: int) -> None:
        path, node = self._opened[file]
        self.before("allocate", path)
        if self._room_for(node, 0, size) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self._change(node, size, None)

    def truncate(self, file: int, size: int) -> None:
        path, node = self._opened[file]
        self.before("truncate", path)
        self._change(node, size, None)

    def sync(self, file: int) -> None:
        path, node = self._opened[file]
        self.before("sync", path)
        for where, what in node.unsynced:
            change(node.synced, where, what)
        node.unsynced.clear()

    @property
    def used(self) -> int:
        """Bytes in all files. One that is linked twice counts once."""
        return sum(len(node.data) for node in {id(node): node for node in self.names.values()}.values())

    def _room_for(self, node: Node, offset: int, size: int) -> int:
        """Return how many bytes of a write there is room for. What overwrites needs none."""
        if self.capacity is None:
            return size
        free = self.capacity - self.used
        return min(size, max(0, len(node.data) - offset + free))

    @staticmethod
    def _change(node: Node, where: int, what: bytes | None) -> None:
        change(node.data, where, what)
        node.unsynced.append((where, what))

    # ---- the end

    def crash(self, wreck: Wreck | random.Random = "lost") -> MemoryDisk:
        """Return the disk as the next boot finds it; this one is as it was, and can crash again otherwise.

        ``lost``: nothing that was not synced is there. ``kept``: everything is (a ``kill -9``). ``torn``: of the last
        unsynced write of each file the first half is, to the byte. A generator: any part of it, sector by sector.
        """
        after = MemoryDisk(self.capacity)
        after.directories = set(self.directories)
        named = {"lost": 0, "kept": len(self._unsynced_names), "torn": len(self._unsynced_names)}
        some = wreck.randint(0, len(self._unsynced_names)) if isinstance(wreck, random.Random) else named[wreck]
        names = dict(self.synced_names)
        name_all(names, self._unsynced_names[:some])
        nodes: dict[int, Node] = {}
        for name, node in names.items():
            if id(node) not in nodes:
                data = bytearray(node.synced)
                for change_ in survivors(node.unsynced, wreck):
                    change(data, *change_)
                nodes[id(node)] = Node(data, bytearray(data))
            after.names[name] = nodes[id(node)]
        after.synced_names = dict(after.names)
        return after


def name_all(names: dict[Path, Node], namings: Iterable[Naming]) -> None:
    for naming in namings:
        for path, node in naming:
            if node is None:
                names.pop(path, None)
            else:
                names[path] = node


def survivors(unsynced: list[tuple[int, bytes | None]], wreck: Wreck | random.Random) -> list[tuple[int, bytes | None]]:
    """Return which unsynced changes of a file a crash leaves, whole or in part."""
    if wreck == "lost":
        return []
    if wreck == "kept":
        return unsynced
    if wreck == "torn":
        return [*unsynced[:-1], *(torn(unsynced[-1]) if unsynced else [])]
    left: list[tuple[int, bytes | None]] = []
    for where, what in unsynced:
        if what is None:
            left += [(where, what)] if wreck.random() < 0.5 else []
            continue
        style = wreck.choice(("whole", "none", "prefix", "sectors", "sectors"))
        if style == "whole":
            left.append((where, what))
        elif style == "prefix":
            left.append((where, what[: wreck.randint(0, len(what))]))
        elif style == "sectors":
            left += [piece for piece in sectors(where, what) if wreck.random() < 0.5]
    return left


def torn(change_: tuple[int, bytes | None]) -> list[tuple[int, bytes | None]]:
    where, what = change_
    return [] if what is None else [(where, what[: len(what) // 2])]


def sectors(where: int, what: bytes) -> list[tuple[int, bytes]]:
    """Split a write where the disk's sectors end."""
    cuts = [where, *range((where // SECTOR + 1) * SECTOR, where + len(what), SECTOR), where + len(what)]
    return [(start, what[start - where : end - where]) for start, end in pairwise(cuts)]
