"""The files of a journal directory: which there are, and the room that is held in reserve.

00000001.segment ...    numbered without a gap; the last one is being written
spare                   zeros: the next segment, allocated ahead of need
ballast                 zeros: a smaller one, used only when the disk is full, so that a release can be written
snapshot-<fact_seq>     durable state up to a fact
*.torn                  what a crash left of an unfinished write, for whoever wants to look
*.new                   being made; worthless after a crash
damaged-<n>/            what ``salvage`` put aside
lock                    held by the one writer; its pid
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

from msgspec import Struct

from supervisor.journal.disk import ZEROS, Disk, read_file, remove_if_there, write_all
from supervisor.journal.frame import HEADER, SegmentHeader, decode_segment_header, encode_segment_header

#: No room: the file system is full, or a quota is.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

SEGMENT_NAME = re.compile(r"(\d{8,})\.segment")


class Segment(Struct, frozen=True):
    """One file of records. ``header`` is None where it is damaged."""

    path: Path
    index: int
    size: int
    header: SegmentHeader | None

    @property
    def name(self) -> str:
        return self.path.name


def segment_path(directory: Path, index: int) -> Path:
    return directory / f"{index:08d}.segment"


def list_segments(disk: Disk, directory: Path) -> list[Segment]:
    """Return the segments of a journal, oldest first, with what their headers say."""
    found = []
    for name in disk.list_directory(directory):
        matched = SEGMENT_NAME.fullmatch(name)
        if matched is not None:
            found.append(read_segment(disk, directory / name, int(matched[1])))
    return sorted(found, key=lambda segment: segment.index)


def read_segment(disk: Disk, path: Path, index: int) -> Segment:
    file = disk.open(path, read_only=True)
    try:
        header = decode_segment_header(disk.read(file, HEADER, 0))
        if header is not None and header.index != index:
            header = None  # a file under a wrong name is no better than a damaged one
        return Segment(path, index, disk.size(file), header)
    finally:
        disk.close(file)


class Reserve:
    """The two files of zeros that stand ready. Losing one to a full disk is no error; a failed sync is (OSError)."""

    def __init__(self, disk: Disk, directory: Path, spare_bytes: int, ballast_bytes: int) -> None:
        self._disk = disk
        self._directory = directory
        self._wanted = {"ballast": ballast_bytes, "spare": spare_bytes}
        self._sizes = {name: self._found(name, size) for name, size in self._wanted.items()}

    @property
    def room(self) -> int:
        """How many bytes of records fit into what stands ready."""
        return sum(size - HEADER for size in self._sizes.values() if size)

    def refill(self) -> bool:
        """Make what is missing, the ballast first. Return whether both stand ready."""
        for name, size in self._wanted.items():
            if not self._sizes[name]:
                if not self._make(name, size):
                    return False
                self._sizes[name] = size
        return True

    def take(self, header: SegmentHeader, need: int) -> Segment | None:
        """Turn zeros with room for ``need`` bytes of records into the next segment, durably, and return it.

        The spare is taken, or a file made for a batch that is larger; the ballast only where neither can be had.
        None: there is no room.
        """
        source = self._source(need)
        if source is None:
            return None
        path, target = self._directory / source, segment_path(self._directory, header.index)
        file = self._disk.open(path)
        try:
            write_all(self._disk, file, encode_segment_header(header), 0)
            self._disk.sync(file)
            size = self._disk.size(file)
        finally:
            self._disk.close(file)
        # The header is on disk before the name is, and the name before any record: a segment is never half there.
        self._disk.rename(path, target)
        self._disk.sync_directory(self._directory)
        if source in self._sizes:
            self._sizes[source] = 0
        return Segment(target, header.index, size, header)

    def _source(self, need: int) -> str | None:
        if self._sizes["spare"] - HEADER >= need:
            return "spare"
        size = max(HEADER + need, self._wanted["spare"])
        if self._make("segment", size):
            return "segment"
        return "ballast" if self._sizes["ballast"] - HEADER >= need else None

    def _make(self, name: str, size: int) -> bool:
        path, new = self._directory / name, self._directory / f"{name}.new"
        try:
            file = self._disk.open(new, create=True)
            try:
                self._disk.allocate(file, size)
                self._disk.sync(file)
            finally:
                self._disk.close(file)
            self._disk.rename(new, path)
            self._disk.sync_directory(self._directory)
        except OSError as error:
            if error.errno not in FULL:
                raise
            remove_if_there(self._disk, new)
            return False
        return True

    def _found(self, name: str, size: int) -> int:
        """Return the size of a file of an earlier run, or 0. The header of one that was just being taken is undone."""
        path = self._directory / name
        try:
            data = read_file(self._disk, path)
        except FileNotFoundError:
            return 0
        if len(data) == size and not data[HEADER:].strip(b"\0"):
            return size
        self._disk.unlink(path)
        return 0


def put_file(disk: Disk, path: Path, data: bytes) -> None:
    """Write a whole file beside its place, sync it, rename it into place, sync the directory."""
    new = path.with_name(path.name + ".new")
    try:
        file = disk.open(new, create=True)
        try:
            disk.truncate(file, 0)
            write_all(disk, file, data, 0)
            disk.sync(file)
        finally:
            disk.close(file)
        disk.rename(new, path)
    except OSError:
        remove_if_there(disk, new)
        raise
    disk.sync_directory(path.parent)


def zero(disk: Disk, path: Path, start: int, end: int) -> None:
    """Overwrite part of a file with zeros, and sync it."""
    file = disk.open(path)
    try:
        for offset in range(start, end, len(ZEROS)):
            write_all(disk, file, ZEROS[: end - offset], offset)
        disk.sync(file)
    finally:
        disk.close(file)
