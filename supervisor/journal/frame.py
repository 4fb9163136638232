"""The bytes of the journal: segment headers and records. Pure: bytes in, values out.

A *segment* is a header and records behind one another, then zeros to the end of the file. A *record* is one batch of
facts, written and synced as one::

    magic 4 | length 4 | facts 4 | seq 8 | fact_seq 8 | head_sum 4 | checksum 4 | msgpack of list[AnyFact]

Little-endian. ``length`` and ``facts`` are never 0; ``seq`` numbers the records; ``fact_seq`` is the number of the
first fact. Two checksums (CRC-32, zlib's) do two jobs. ``head_sum`` makes a header believable on its own, so that the
length of a record whose payload is bad can be trusted, and records behind damage can be found. ``checksum`` covers
header and payload and is seeded with the *stored* checksum of the record before it: a record is good only in its
place, and a record behind a bad one can still be verified.

Why all of this: msgpack decodes most bit flips without an error, and a plain length + crc frame reads a page of zeros
as valid records (the crc of nothing is 0).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import Literal
from zlib import crc32

from msgspec import Struct

#: The format of segments and snapshots that this code writes. It reads this and every older one.
FORMAT = 1

#: 0xC1 is never in UTF-8 text, and never begins a msgpack value: a payload of texts and numbers cannot hold a record's
#: header, whatever a caller put into the name of its owner.
MAGIC = b"\xc1rec"
HEAD = struct.Struct("<4sIIQQ")
SUMS = struct.Struct("<II")
WHOLE_HEAD = struct.Struct("<4sIIQQII")
RECORD_HEADER = WHOLE_HEAD.size

SEGMENT_MAGIC = b"gpusvjnl"
#: Any later format keeps these 128 bytes: magic, format, version at the start, their checksum at the end. So an old
#: version can always say which new one wrote a file.
HEADER = 128
VERSION_BYTES = 32
START = struct.Struct(f"<8sI{VERSION_BYTES}s")
PLACE = struct.Struct("<QQQqI")


class Chain(Struct, frozen=True):
    """Where the chain of records stands: what the next record must carry."""

    seq: int = 1
    fact_seq: int = 1
    checksum: int = 0


class Record(Struct, frozen=True, gc=False):
    """A record that verified. It occupies ``offset`` to ``end`` of its segment."""

    offset: int
    end: int
    seq: int
    fact_seq: int
    facts: int
    checksum: int

    @property
    def chain(self) -> Chain:
        return Chain(self.seq + 1, self.fact_seq + self.facts, self.checksum)

    def payload(self, data: bytes) -> memoryview:
        return memoryview(data)[self.offset + RECORD_HEADER : self.end]


class Ending(Struct, frozen=True):
    """How the good records of a segment end.

    ``clean``: zeros, or nothing. ``torn``: the last write did not get whole onto the disk; ``end`` is behind its last
    byte. ``damaged``: a bad record, and something behind it that was written after it was synced.
    """

    kind: Literal["clean", "torn", "damaged"]
    offset: int
    end: int = 0
    reason: str = ""


class SegmentHeader(Struct, frozen=True):
    """``index`` counts segments. ``chain`` is where the chain stood before its first record, ``at_ms`` when that was
    (supervisor time). Every record of a segment was written by ``version``.
    """

    format: int
    version: str
    index: int
    chain: Chain
    at_ms: int


def encode_record(payload: bytes, facts: int, chain: Chain) -> tuple[bytes, Chain]:
    """Return the bytes of the next record, and where the chain stands after it."""
    assert payload
    assert facts > 0
    head = HEAD.pack(MAGIC, len(payload), facts, chain.seq, chain.fact_seq)
    checksum = crc32(payload, crc32(head, chain.checksum))
    sums = SUMS.pack(crc32(head), checksum)
    return b"".join((head, sums, payload)), Chain(chain.seq + 1, chain.fact_seq + facts, checksum)


def read_head(data: bytes, offset: int) -> Record | None:
    """Return the header at ``offset`` if it is one, by its own sum; its payload is not looked at."""
    body = offset + RECORD_HEADER
    if body > len(data):
        return None
    magic, length, facts, seq, fact_seq = HEAD.unpack_from(data, offset)
    head_sum, checksum = SUMS.unpack_from(data, offset + HEAD.size)
    if magic != MAGIC or not length or not facts or crc32(data[offset : offset + HEAD.size]) != head_sum:
        return None
    return Record(offset, body + length, seq, fact_seq, facts, checksum)


def verifies(data: bytes, record: Record, seed: int) -> bool:
    """Return whether header and payload match the record's checksum, seeded with that of the record before it."""
    if record.end > len(data):
        return False
    head = data[record.offset : record.offset + HEAD.size]
    return crc32(record.payload(data), crc32(head, seed)) == record.checksum


def records(data: bytes, offset: int, chain: Chain) -> Iterator[Record]:
    """Yield the good records from ``offset`` on, up to the first place where there is none."""
    seq, fact_seq, checksum = chain.seq, chain.fact_seq, chain.checksum
    while True:
        record = read_head(data, offset)
        if record is None or record.seq != seq or record.fact_seq != fact_seq or not verifies(data, record, checksum):
            return
        yield record
        offset, seq, fact_seq, checksum = record.end, seq + 1, fact_seq + record.facts, record.checksum


def ends_of(data: bytes, offset: int, chain: Chain) -> tuple[array[int], Chain]:
    """Return where each of the good ``records`` ends, and where the chain stands behind the last.

    It asks the same in about half of the time: a start may find hundreds of thousands. Tests hold the two together.
    """
    ends = array("Q")
    seq, fact_seq, seed = chain.seq, chain.fact_seq, chain.checksum
    view, last, unpack = memoryview(data), len(data) - RECORD_HEADER, WHOLE_HEAD.unpack_from
    while offset <= last:
        magic, length, facts, found_seq, found_fact_seq, head_sum, checksum = unpack(data, offset)
        if magic != MAGIC or found_seq != seq or found_fact_seq != fact_seq or not length or not facts:
            break
        head, body = data[offset : offset + HEAD.size], offset + RECORD_HEADER
        end = body + length
        if crc32(head) != head_sum or end > len(data) or crc32(view[body:end], crc32(head, seed)) != checksum:
            break
        ends.append(end)
        offset, seed = end, checksum
        seq += 1
        fact_seq += facts
    return ends, Chain(seq, fact_seq, seed)


def payloads(data: bytes, start: int, ends: Iterable[int], at_once: int) -> Iterator[list[bytes]]:
    """Yield what is in records that verified, from ``start`` on: about ``at_once`` bytes each time."""
    some, enough = [], start + at_once
    for end in ends:
        some.append(data[start + RECORD_HEADER : end])
        start = end
        if end >= enough:
            yield some
            some, enough = [], end + at_once
    if some:
        yield some


def judge(data: bytes, offset: int, chain: Chain) -> Ending:
    """Say what the place is where the good records end: a clean end, a torn tail or damage.

    Only the last write can be torn, and a write is one record into zeros: behind a torn record there are zeros. So
    what lies behind it and was written later proves that the bad record had been synced, and is damage. One sound
    header is proof enough: it has a checksum of its own, and no payload can hold one (see ``MAGIC``).
    """
    end = offset + len(data[offset:].rstrip(b"\0"))
    if end == offset:
        return Ending("clean", offset)
    head = read_head(data, offset)
    if head is not None and (head.seq, head.fact_seq) != (chain.seq, chain.fact_seq):
        # Whole, but in the wrong place: no torn write makes a sound header with another number.
        reason = f"record {head.seq} stands where record {chain.seq} should"
        return Ending("damaged", offset, end, reason)
    if head is not None and head.end < end:
        return Ending("damaged", offset, end, f"record {chain.seq} does not match its checksum, and it is not the last")
    if head is None and next(heads(data, offset), None) is not None:
        return Ending("damaged", offset, end, f"record {chain.seq} has no readable header, and it is not the last")
    return Ending("torn", offset, end, f"record {chain.seq} was not written to its end")


def heads(data: bytes, offset: int) -> Iterator[Record]:
    """Yield every sound header from ``offset`` on, whatever stands between."""
    place = data.find(MAGIC, offset)
    while place >= 0:
        record = read_head(data, place)
        if record is not None:
            yield record
        place = data.find(MAGIC, place + 1)


def behind(data: bytes, offset: int, chain: Chain) -> Iterator[Record]:
    """Yield the records behind a bad place that verify in sequence.

    A record counts when its checksum follows from the stored one before it. That is known for the direct successor of
    the bad record (whose stored checksum may be sound) and for each record behind one with a sound header; the latter
    then stands verified only as a seed, not in its own payload, and is not yielded.
    """
    seed: int | None = None
    last_seq = chain.seq - 1
    if offset + RECORD_HEADER <= len(data):
        seed = SUMS.unpack_from(data, offset + HEAD.size)[1]
    for record in heads(data, offset):
        if record.seq <= last_seq:
            continue
        if seed is not None and verifies(data, record, seed):
            yield record
        seed, last_seq = record.checksum, record.seq


def encode_segment_header(header: SegmentHeader) -> bytes:
    place = PLACE.pack(header.index, header.chain.seq, header.chain.fact_seq, header.at_ms, header.chain.checksum)
    return seal(SEGMENT_MAGIC, header.format, header.version, place)


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """Return the header, or None if it is damaged. Of a later format only ``format`` and ``version`` mean anything."""
    opened = unseal(SEGMENT_MAGIC, data)
    if opened is None:
        return None
    format_, version, place = opened
    index, seq, fact_seq, at_ms, checksum = PLACE.unpack_from(place)
    return SegmentHeader(format_, version, index, Chain(seq, fact_seq, checksum), at_ms)


def seal(magic: bytes, format_: int, version: str, rest: bytes) -> bytes:
    """Return 128 bytes: magic, format, version, ``rest``, zeros, and the checksum of all that."""
    assert len(version.encode()) <= VERSION_BYTES
    start = START.pack(magic, format_, version.encode()) + rest
    body = start.ljust(HEADER - 4, b"\0")
    assert len(body) == HEADER - 4
    return body + struct.pack("<I", crc32(body))


def unseal(magic: bytes, data: bytes) -> tuple[int, str, bytes] | None:
    """Return format, version and the rest of a sealed header; None if it is damaged or something else."""
    if len(data) < HEADER or crc32(data[: HEADER - 4]) != struct.unpack_from("<I", data, HEADER - 4)[0]:
        return None
    found, format_, version = START.unpack_from(data)
    if found != magic:
        return None
    return format_, version.rstrip(b"\0").decode(errors="replace"), data[START.size : HEADER - 4]
