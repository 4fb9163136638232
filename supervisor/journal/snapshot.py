"""Snapshots: the caller's bytes, checksummed, with the place in the journal from which a replay goes on.

What is in the payload, and its format, are the caller's.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from zlib import crc32

from msgspec import Struct

from supervisor.journal.disk import Disk, read_file
from supervisor.journal.frame import FORMAT, HEADER, Chain, seal, unseal
from supervisor.journal.segments import put_file

SNAPSHOT_MAGIC = b"gpusvsnp"
PLACE = struct.Struct("<QQIQQQI")
SNAPSHOT_NAME = re.compile(r"snapshot-(\d+)")


class Place(Struct, frozen=True):
    """A place between two records: ``offset`` in segment number ``index``, and the chain there."""

    index: int
    offset: int
    chain: Chain


class Snapshot(Struct, frozen=True):
    """``payload`` is the state after the fact before ``place``. ``problem`` says why it cannot be used, or is ""."""

    path: Path
    format: int = 0
    version: str = ""
    place: Place = Place(0, 0, Chain())
    payload: bytes = b""
    problem: str = ""

    @property
    def fact_seq(self) -> int:
        return self.place.chain.fact_seq - 1


def save(disk: Disk, directory: Path, payload: bytes, place: Place, version: str) -> Path:
    """Put a snapshot into the directory, durably. Returns where it is."""
    chain = place.chain
    packed = PLACE.pack(
        chain.seq, chain.fact_seq, chain.checksum, place.index, place.offset, len(payload), crc32(payload)
    )
    path = directory / f"snapshot-{chain.fact_seq - 1:012d}"
    put_file(disk, path, seal(SNAPSHOT_MAGIC, FORMAT, version, packed) + payload)
    return path


def load(disk: Disk, path: Path) -> Snapshot:
    """Read one snapshot. A damaged one, or one of a later format, comes back without a payload."""
    data = read_file(disk, path)
    opened = unseal(SNAPSHOT_MAGIC, data[:HEADER])
    if opened is None:
        return Snapshot(path, problem="its header is damaged")
    format_, version, packed = opened
    if format_ > FORMAT:
        return Snapshot(path, format_, version, problem=f"its format {format_} is newer than {FORMAT}")
    seq, fact_seq, checksum, index, offset, length, payload_sum = PLACE.unpack_from(packed)
    place = Place(index, offset, Chain(seq, fact_seq, checksum))
    payload = data[HEADER:]
    if len(payload) != length or crc32(payload) != payload_sum:
        return Snapshot(path, format_, version, place, problem="it does not match its checksum")
    return Snapshot(path, format_, version, place, payload)


def list_snapshots(disk: Disk, directory: Path) -> list[Path]:
    """Return the paths of all snapshots, newest first."""
    found = [(int(m[1]), name) for name in disk.list_directory(directory) if (m := SNAPSHOT_NAME.fullmatch(name))]
    return [directory / name for _, name in sorted(found, reverse=True)]
