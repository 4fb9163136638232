"""Reading a journal from the disk: where a replay starts, what is good, and how it ends. Changes nothing."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec import Struct

from supervisor.core.facts import AnyFact
from supervisor.journal.disk import Disk, read_file
from supervisor.journal.errors import JournalBroken, JournalTooNew
from supervisor.journal.frame import FORMAT, HEADER, Chain, Ending, Record, ends_of, judge, payloads, records
from supervisor.journal.segments import Segment, list_segments
from supervisor.journal.snapshot import Place, Snapshot, list_snapshots, load

FACTS = msgspec.msgpack.Decoder(list[AnyFact])
BATCHES = msgspec.msgpack.Decoder(list[list[AnyFact]])

#: So many bytes of records are decoded in one go: one of a few facts costs as much as the facts. More at a time are
#: no faster, and fall out of the processor's cache before they are applied.
AT_ONCE_BYTES = 16_384
#: How msgpack begins an array: this, and how many things are in it.
ARRAY = struct.Struct(">BI")
ARRAY_TAG = 0xDD

BEGINNING = Place(1, HEADER, Chain())

#: How the name of a marker ends that is there while ``salvage`` works.
UNFINISHED = ".unfinished"


class Run(Struct, frozen=True):
    """Good records of one segment, from ``start`` to ``end``; ``chain`` is where it stands before the first.

    ``ends``: where each of them ends. ``checksum``: that of all these bytes, which are read again for the replay.
    """

    segment: Segment
    start: int
    end: int
    chain: Chain
    ends: array[int]
    checksum: int


class Damage(Struct, frozen=True):
    """A bad place that is not the end: ``offset`` in the file ``name``, where record ``seq`` should be."""

    name: str
    offset: int
    seq: int
    reason: str

    def __str__(self) -> str:
        return f"{self.name}, byte {self.offset}: {self.reason}"


class Walk(Struct, frozen=True):
    """What was found from one place on: good runs, where they end, and what is there if it is no clean end."""

    runs: list[Run]
    end: Place
    torn: Ending | None = None
    damage: Damage | None = None


class Recovery(Struct, frozen=True):
    """All that an opening must know. ``bad_snapshots`` are damaged ones that were passed over."""

    segments: list[Segment]
    snapshot: Snapshot | None
    bad_snapshots: list[Snapshot]
    walk: Walk


def recover(disk: Disk, directory: Path, version: str) -> Recovery:
    """Find the newest good snapshot and what is good behind it.

    Raises:
        JournalTooNew: a file has a format that this version (``version``) does not know.
    """
    segments = list_segments(disk, directory)
    for segment in segments:
        header = segment.header
        if header is not None and header.format > FORMAT:
            raise JournalTooNew(segment.name, header.version, version, f"format {header.format} is unknown to it")
    for name in disk.list_directory(directory):
        if name.endswith(UNFINISHED):
            damage = Damage(name, 0, 0, "a salvage was interrupted: run it again")
            return Recovery(segments, None, [], Walk([], Place(0, 0, Chain()), damage=damage))
    bad: list[Snapshot] = []
    for path in list_snapshots(disk, directory):
        snapshot = load(disk, path)
        if not snapshot.problem:
            return Recovery(segments, snapshot, bad, walk(disk, segments, snapshot.place))
        if snapshot.format > FORMAT:
            raise JournalTooNew(path.name, snapshot.version, version, snapshot.problem)
        bad.append(snapshot)
    if not segments and not bad:
        return Recovery([], None, [], Walk([], Place(0, 0, Chain())))
    return Recovery(segments, None, bad, walk(disk, segments, BEGINNING))


def walk(disk: Disk, segments: Sequence[Segment], start: Place) -> Walk:
    """Verify everything from ``start`` on, up to the end or to the first bad place."""
    runs: list[Run] = []
    place = start
    todo = [segment for segment in segments if segment.index >= start.index]
    if not todo:
        return Walk(runs, place, damage=Damage(f"segment {start.index}", 0, start.chain.seq, "the file is missing"))
    for segment in todo:
        if segment.index != start.index:
            place = Place(place.index + 1, HEADER, place.chain)
        reason = misfit(segment, place)
        if reason:
            return Walk(runs, place, damage=Damage(segment.name, 0, place.chain.seq, reason))
        data = read_file(disk, segment.path)
        run, chain = measure(segment, data, place.offset, place.chain)
        runs.append(run)
        place = Place(segment.index, run.end, chain)
        ending = judge(data, run.end, chain)
        if ending.kind == "torn" and segment is todo[-1]:
            return Walk(runs, place, torn=ending)
        if ending.kind != "clean":
            # A segment is begun only when all before it is on disk: what is behind it cannot be a torn tail.
            return Walk(runs, place, damage=Damage(segment.name, ending.offset, chain.seq, ending.reason))
    return Walk(runs, place)


def misfit(segment: Segment, place: Place) -> str:
    """Return why a segment cannot be the one that ``place`` is in, or ""."""
    header = segment.header
    if segment.index != place.index:
        return f"segment {place.index} is missing before it"
    if header is None:
        return "its header is damaged"
    if place.offset == HEADER and header.chain != place.chain:
        return f"it begins with record {header.chain.seq}, and record {place.chain.seq} is due"
    return ""


def measure(segment: Segment, data: bytes, start: int, chain: Chain) -> tuple[Run, Chain]:
    """Return how far the records from ``start`` on are good, and where the chain stands there."""
    ends, behind = ends_of(data, start, chain)
    end = ends[-1] if ends else start
    return Run(segment, start, end, chain, ends, crc32(memoryview(data)[start:end])), behind


def facts_of(data: bytes, record: Record, segment: Segment, version: str) -> list[AnyFact]:
    """Decode the facts of a record that verified.

    Raises:
        JournalTooNew: ``version`` does not know one of them.
    """
    try:
        return FACTS.decode(record.payload(data))
    except msgspec.DecodeError as error:
        # The bytes are what was written (they match their checksum): whoever wrote them knew more than we do.
        written_by = segment.header.version if segment.header is not None else "another version"
        raise JournalTooNew(segment.name, written_by, version, f"record {record.seq}: {error}") from error


def replay(disk: Disk, runs: Sequence[Run], version: str) -> Iterator[list[AnyFact]]:
    """Yield the facts of each good record, one batch at a time.

    Raises:
        JournalTooNew: ``version`` does not know one of them.
        JournalBroken: the disk gives other bytes than a moment ago.
    """
    for run in runs:
        data = read_file(disk, run.segment.path, run.end)
        told = 0
        if crc32(memoryview(data)[run.start :]) == run.checksum:
            for batches in _many_at_once(data, run):
                yield from batches
                told += len(batches)
        if told < len(run.ends):  # record by record, to say which one it is
            yield from islice(_one_by_one(data, run, version), told, None)


def _many_at_once(data: bytes, run: Run) -> Iterator[list[list[AnyFact]]]:
    """Yield the batches of a run whose bytes are the very ones that verified, up to one that cannot be decoded."""
    for some in payloads(data, run.start, run.ends, AT_ONCE_BYTES):
        try:
            batches = BATCHES.decode(b"".join((ARRAY.pack(ARRAY_TAG, len(some)), *some)))
        except msgspec.DecodeError:
            return
        yield batches


def _one_by_one(data: bytes, run: Run, version: str) -> Iterator[list[AnyFact]]:
    end = run.start
    for record in records(data, run.start, run.chain):
        yield facts_of(data, record, run.segment, version)
        end = record.end
    if end != run.end:
        raise JournalBroken(f"{run.segment.name}, byte {end}", "a record that was good cannot be read any more")
