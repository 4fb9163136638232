"""Every change of a byte is noticed. A torn tail is cut, damage starts the safe mode; neither passes for the other."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from supervisor.core.facts import AnyFact
from supervisor.journal import JournalDamaged
from supervisor.journal.frame import (
    HEADER,
    MAGIC,
    RECORD_HEADER,
    Chain,
    Record,
    SegmentHeader,
    decode_segment_header,
    encode_record,
    encode_segment_header,
    ends_of,
    judge,
    records,
)
from supervisor.journal.snapshot import Place, load, save
from tests.journal.facts import DATA, facts, open_journal, read_back, replayed
from tests.journal.memory_disk import MemoryDisk

JOURNAL = DATA / "journal"
SEGMENT = JOURNAL / "00000001.segment"


def log_of(batches: list[list[AnyFact]], size: int) -> tuple[bytes, list[Record]]:
    """Return a segment with these batches, ``size`` bytes long, and its records."""
    chain = Chain()
    parts = [encode_segment_header(SegmentHeader(1, "0.1.0", 1, chain, 0))]
    for batch in batches:
        record, chain = encode_record(msgspec.msgpack.encode(batch), len(batch), chain)
        parts.append(record)
    data = b"".join(parts).ljust(size, b"\0")
    assert len(data) == size
    return data, list(records(data, HEADER, Chain()))


def log_of_64_kib() -> tuple[bytes, list[Record]]:
    data, found = log_of([facts(n, 1 + n % 16) for n in range(151)], 65_536)
    assert 65_536 - found[-1].end < 2_000
    return data, found


def what_a_flip_does(data: bytearray, record: Record, chain: Chain) -> str:
    """Say what a replay makes of a record that may have been changed: all before it is as it was."""
    if next(records(data, record.offset, chain), None) is not None or ends_of(data, record.offset, chain)[0]:
        return "unnoticed"
    return judge(data, record.offset, chain).kind


def test_every_flip_of_a_bit_of_a_64_kib_log_is_detected():
    original, found = log_of_64_kib()
    data = bytearray(original)
    flips = 0

    def flip_all(start: int, end: int, outcome: Callable[[], str], expected: str) -> int:
        for place in range(start, end):
            for bit in range(8):
                data[place] ^= 1 << bit
                assert outcome() == expected, (place, bit)
                data[place] ^= 1 << bit
        return (end - start) * 8

    flips += flip_all(0, HEADER, lambda: str(decode_segment_header(data)), "None")
    chain = Chain()
    for record in found:
        outcome = lambda at=record, chain=chain: what_a_flip_does(data, at, chain)  # noqa: E731
        # The last record, and the zeros behind it, might as well be a write that a crash cut short: it is kept and cut.
        flips += flip_all(record.offset, record.end, outcome, "torn" if record is found[-1] else "damaged")
        chain = record.chain
    end = found[-1].end
    flips += flip_all(end, len(data), lambda: judge(data, end, chain).kind, "torn")

    assert flips == 524_288
    assert bytes(data) == original


def test_an_opening_makes_the_same_of_a_flip():
    """The test above looks at one record at a time: here whole journals are opened, with chance flips."""
    original, found = log_of_64_kib()
    chance = random.Random(64)
    for _ in range(300):
        data, place = bytearray(original), chance.randrange(len(original))
        data[place] ^= 1 << chance.randrange(8)
        disk = MemoryDisk.holding({SEGMENT: bytes(data)})
        journal = open_journal(disk, segment_bytes=65_536)
        good = [record for record in found if record.end <= place] if place >= HEADER else []

        assert bool(journal.damage) == (place < found[-1].offset)
        assert journal.fact_seq == sum(record.facts for record in good)
        assert any(path.suffix == ".torn" for path in disk.names) == (place >= found[-1].offset)


def test_every_flip_of_a_bit_of_a_snapshot_is_detected():
    disk = MemoryDisk()
    path = save(disk, JOURNAL, b"durable state" * 20, Place(1, 4_000, Chain(7, 21, 99)), "0.1.0")
    assert load(disk, path).problem == ""
    data = disk.names[path].data
    for place in range(len(data)):
        for bit in range(8):
            data[place] ^= 1 << bit
            assert load(disk, path).problem, (place, bit)
            data[place] ^= 1 << bit


# ---- a tail

BATCHES = [facts(0, 2), facts(2, 3), facts(5, 2)]


def ends() -> list[int]:
    return [record.end for record in log_of(BATCHES, 4096)[1]]


def cut(data: bytes, at: int) -> bytes:
    return data[:at].ljust(len(data), b"\0")


def put(data: bytes, at: int, what: bytes) -> bytes:
    return data[:at] + what + data[at + len(what) :]


@pytest.mark.parametrize(
    ("hurt", "survive", "expected"),
    [
        pytest.param(lambda d, e: d, 7, "clean", id="undamaged"),
        pytest.param(lambda d, e: d[: e[2]], 7, "clean", id="the file ends with its last record"),
        pytest.param(lambda d, e: d[: e[2]] + b"\0" * 9_999, 7, "clean", id="a longer tail of zeros"),
        pytest.param(lambda d, e: cut(d, e[1]), 5, "clean", id="a last write that left no trace"),
        pytest.param(lambda d, e: cut(d, e[2] - 1), 5, "torn", id="the last byte of the last write is missing"),
        pytest.param(lambda d, e: cut(d, e[1] + 1), 5, "torn", id="only the first byte of the last write is there"),
        pytest.param(lambda d, e: cut(d, e[1] + RECORD_HEADER), 5, "torn", id="only the header of the last write"),
        pytest.param(lambda d, e: d[: e[2] - 5], 5, "torn", id="the file ends in the last write"),
        pytest.param(
            lambda d, e: put(d, e[1], b"\0" * 20), 5, "torn", id="the first sector of the last write is missing"
        ),
        pytest.param(
            lambda d, e: put(d, e[1] + 60, b"\0" * 20), 5, "torn", id="a sector amid the last write is missing"
        ),
        pytest.param(lambda d, e: put(d, e[2] + 700, b"?"), 7, "torn", id="a stray byte in the zeros"),
        pytest.param(lambda d, e: put(d, 2_000, bytes(range(1, 200))), 7, "torn", id="garbage far behind"),
        pytest.param(
            lambda d, e: put(d, e[0], b"\0" * (e[1] - e[0])), 2, "damaged", id="a whole record zeroed, one behind"
        ),
        pytest.param(lambda d, e: put(d, e[0], b"\0" * (e[2] - e[0] - 9)), 2, "torn", id="zeroed but for the very end"),
        pytest.param(lambda d, e: put(d, e[0] + 60, b"!"), 2, "damaged", id="a bad payload amid"),
        pytest.param(lambda d, e: put(d, e[0] + 1, b"!"), 2, "damaged", id="a bad header amid"),
        pytest.param(lambda d, e: put(d, e[1] - 1, b"!"), 2, "damaged", id="a bad payload before the last"),
        pytest.param(lambda d, e: put(d, e[0] + 32, b"\xff\xff"), 2, "damaged", id="a bad checksum before the last"),
        pytest.param(lambda d, e: put(d, HEADER, d[e[0] : e[1]]), 0, "damaged", id="a record in another's place"),
        pytest.param(lambda d, e: put(d, e[2], d[HEADER : e[0]]), 7, "damaged", id="an old record behind the last"),
        pytest.param(lambda d, e: put(d, 20, b"!"), 0, "damaged", id="a bad segment header"),
        pytest.param(lambda d, e: b"\0" * len(d), 0, "damaged", id="nothing but zeros, not even a header"),
        pytest.param(lambda d, e: b"", 0, "damaged", id="an empty file"),
    ],
)
def test_a_hurt_segment(hurt: Callable[[bytes, list[int]], bytes], survive: int, expected: str):
    disk = MemoryDisk.holding({SEGMENT: hurt(log_of(BATCHES, 4096)[0], ends())})
    journal = open_journal(disk)

    assert replayed(journal) == facts(0, survive)
    assert bool(journal.damage) == (expected == "damaged")
    assert any(path.suffix == ".torn" for path in disk.names) == (expected == "torn")
    if expected != "damaged":
        journal.write(facts(survive, 2))
        assert read_back(disk.crash()) == facts(0, survive + 2)


def test_a_torn_tail_is_kept_in_a_side_file_and_said(caplog: pytest.LogCaptureFixture):
    data, found = log_of(BATCHES, 4096)
    start, end = found[2].offset, found[2].end
    disk = MemoryDisk.holding({SEGMENT: cut(data, end - 3)})
    with caplog.at_level(logging.WARNING):
        open_journal(disk)

    assert disk.crash().contents()[JOURNAL / f"{SEGMENT.name}.{start}.torn"] == data[start : end - 3].rstrip(b"\0")
    assert disk.crash().contents()[SEGMENT] == cut(data, start)
    assert f"cut an unfinished write off the journal: {SEGMENT.name}, byte {start}" in caplog.text


def test_only_the_newest_side_files_are_kept():
    data, found = log_of(BATCHES, 4096)
    old = {JOURNAL / f"{number:08d}.segment.128.torn": b"?" for number in range(100, 140)}
    disk = MemoryDisk.holding({SEGMENT: cut(data, found[2].end - 3), **old})
    open_journal(disk)

    assert len([path for path in disk.names if path.suffix == ".torn"]) == 16


def test_no_text_of_a_caller_can_pass_for_a_record():
    """An owner's name may hold anything that is text; a torn write of it must not start the safe mode."""
    hostile = (
        encode_record(b"\x91\x01", 1, Chain(5, 9, 0))[0].decode(errors="surrogateescape").encode("utf-8", "replace")
    )
    batch = [msgspec.structs.replace(facts(0, 1)[0], error=hostile.decode() * 3)]
    data, found = log_of([*BATCHES, batch], 4096)
    disk = MemoryDisk.holding({SEGMENT: put(cut(data, found[3].end - 1), found[3].offset, b"\0" * RECORD_HEADER)})

    assert data.count(MAGIC) == len(found)
    assert open_journal(disk).damage == ""


# ---- safe mode


def damaged() -> MemoryDisk:
    data, found = log_of(BATCHES, 4096)
    return MemoryDisk.holding({SEGMENT: put(data, found[1].offset + 60, b"!"), JOURNAL / "x.new": b"left over"})


def test_damage_is_a_sentence_that_says_where():
    assert open_journal(damaged()).damage == (
        f"00000001.segment, byte {ends()[0]}: record 2 does not match its checksum, and it is not the last"
    )


def test_in_safe_mode_what_is_good_is_replayed_and_read_and_nothing_is_written():
    disk = damaged()
    before = disk.contents()
    journal = open_journal(disk)

    assert not journal.first
    assert replayed(journal) == facts(0, 2)
    assert journal.history(0, 10) == list(enumerate(facts(0, 2), 1))
    assert (journal.headroom_bytes(), journal.replenish()) == (0, False)
    with pytest.raises(JournalDamaged, match=r"byte \d+: record 2 does not match"):
        journal.write(facts(2, 1))
    with pytest.raises(JournalDamaged):
        journal.save_snapshot(b"", 2)
    journal.close()
    assert {path: data for path, data in disk.contents().items() if path.name != "lock"} == before


@pytest.mark.parametrize(
    ("gone", "survive", "says"),
    [
        pytest.param(1, 0, "record 1 is due", id="the first segment"),
        pytest.param(2, 28, "segment 2 is missing before it", id="one amid"),
    ],
)
def test_a_missing_segment_is_damage(gone: int, survive: int, says: str):
    disk = MemoryDisk()
    journal = open_journal(disk, segment_bytes=2048)
    for number in range(100):
        journal.write(facts(number, 1))
    journal.close()
    disk.unlink(JOURNAL / f"{gone:08d}.segment")

    journal = open_journal(disk, segment_bytes=2048)

    assert says in journal.damage
    assert journal.fact_seq == len(replayed(journal)) > survive - 28


def test_a_torn_write_before_another_segment_is_damage():
    """A segment is begun when all before it is on disk, so a crash cannot have torn what is before it."""
    disk = MemoryDisk()
    journal = open_journal(disk, segment_bytes=2048)
    for number in range(30):
        journal.write(facts(number, 1))
    journal.close()
    data = disk.names[SEGMENT].data
    end = len(bytes(data).rstrip(b"\0"))
    data[end - 1] = 0

    assert "record" in open_journal(disk, segment_bytes=2048).damage


def test_zeros_where_the_last_segment_begins_are_damage_and_not_an_empty_journal():
    journal = open_journal(MemoryDisk.holding({SEGMENT: bytes(4096)}))

    assert (journal.damage, journal.first) == ("00000001.segment, byte 0: its header is damaged", False)


def test_a_segment_under_another_number_is_damage(tmp_path: Path):
    data, _ = log_of(BATCHES, 4096)

    assert open_journal(MemoryDisk.holding({JOURNAL / "00000002.segment": data})).damage
