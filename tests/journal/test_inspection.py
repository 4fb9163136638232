"""Show and verify: every record with its place, every bad place once, without a change and without the lock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.journal import Damage, Journal, Shown, Torn, show, verify
from supervisor.journal.frame import Chain, SegmentHeader, encode_segment_header
from tests.journal.facts import DATA, ONE_OF_EACH, facts, open_journal
from tests.journal.memory_disk import MemoryDisk

JOURNAL = DATA / "journal"
FIRST, SECOND = JOURNAL / "00000001.segment", JOURNAL / "00000002.segment"


def two_segments() -> MemoryDisk:
    """20 records of 3 facts: 14 in the first segment, 6 in the second."""
    disk = MemoryDisk()
    journal = open_journal(disk, segment_bytes=2700)
    for turn in range(20):
        journal.write(facts(turn * 3, 3))
    journal.close()
    return disk


def look(disk: MemoryDisk) -> list[str]:
    """Return what ``show`` yields in short: the number of a record's first fact (* behind damage), or what is wrong."""
    seen = []
    for item in show(DATA, version="0.1.0", disk=disk):
        match item:
            case Shown():
                seen.append(f"{item.fact_seq}{'*' if item.behind_damage else ''}")
            case Torn():
                seen.append(f"torn {item.name[:8]}")
            case Damage():
                seen.append(f"{item.name[:8]}: {item.reason}")
    return seen


def place_of(disk: MemoryDisk, seq: int) -> tuple[Path, int, int]:
    for item in show(DATA, version="0.1.0", disk=disk):
        if isinstance(item, Shown) and item.seq == seq:
            return JOURNAL / item.name, item.offset, item.bytes
    raise AssertionError


def hit(disk: MemoryDisk, seq: int, at: int = 50) -> None:
    path, offset, _ = place_of(disk, seq)
    disk.names[path].data[offset + at] ^= 0xFF


def test_show_gives_every_record_with_its_place_and_its_facts(tmp_path: Path):
    journal = Journal.open(tmp_path, version="0.1.0")
    journal.write(ONE_OF_EACH[:2])
    journal.write(ONE_OF_EACH[2:])

    first, second = show(tmp_path, version="0.1.0")

    assert isinstance(first, Shown)
    assert isinstance(second, Shown)
    assert (first.name, first.offset, first.seq, first.fact_seq, first.version) == (FIRST.name, 128, 1, 1, "0.1.0")
    assert (second.offset, second.seq, second.fact_seq) == (128 + first.bytes, 2, 3)
    assert first.facts + second.facts == ONE_OF_EACH
    journal.close()


@pytest.mark.parametrize(
    ("after", "limit", "numbers"),
    [
        pytest.param(0, 2, [1, 4], id="the first two records"),
        pytest.param(53, None, [52, 55, 58], id="from the record that holds the fact behind"),
        pytest.param(60, None, [], id="nothing behind the end"),
    ],
)
def test_show_can_be_narrowed(after: int, limit: int | None, numbers: list[int]):
    shown = show(DATA, version="0.1.0", after=after, limit=limit, disk=two_segments())

    assert [item.fact_seq for item in shown if isinstance(item, Shown)] == numbers


ALL = [str(number) for number in range(1, 61, 3)]


def behind(numbers: list[str]) -> list[str]:
    return [f"{number}*" for number in numbers]


NOT_LAST = "does not match its checksum, and it is not the last"


@pytest.mark.parametrize(
    ("hurt", "expected"),
    [
        pytest.param(lambda disk: None, ALL, id="nothing"),
        pytest.param(
            lambda disk: hit(disk, 3), [*ALL[:2], f"00000001: record 3 {NOT_LAST}", *behind(ALL[3:])], id="a payload"
        ),
        pytest.param(
            lambda disk: hit(disk, 3, at=32),
            [*ALL[:2], f"00000001: record 3 {NOT_LAST}", *behind(ALL[4:])],
            id="a stored checksum: the record behind it cannot be verified any more",
        ),
        pytest.param(
            lambda disk: hit(disk, 3, at=2),
            [*ALL[:2], "00000001: record 3 has no readable header, and it is not the last", *behind(ALL[3:])],
            id="a header",
        ),
        pytest.param(
            lambda disk: hit(disk, 14),
            [*ALL[:13], "00000001: record 14 was not written to its end", *behind(ALL[14:])],
            id="the last record of a segment that is not the last",
        ),
        pytest.param(lambda disk: hit(disk, 20), [*ALL[:19], "torn 00000002"], id="the very last record"),
        pytest.param(
            lambda disk: disk.names[SECOND].data.__setitem__(10, 0xFF),
            [*ALL[:14], "00000002: its header is damaged", *behind(ALL[14:])],
            id="a segment's header: its records go on where the segment before ended",
        ),
        pytest.param(
            lambda disk: disk.names[FIRST].data.__setitem__(10, 0xFF),
            ["00000001: its header is damaged", *behind(ALL)],
            id="the first segment's header",
        ),
        pytest.param(
            lambda disk: (hit(disk, 3), hit(disk, 17)),
            [
                *ALL[:2],
                f"00000001: record 3 {NOT_LAST}",
                *behind(ALL[3:16]),
                f"00000002: record 17 {NOT_LAST}",
                *behind(ALL[17:]),
            ],
            id="two places",
        ),
    ],
)
def test_show_goes_on_behind_damage(hurt: Callable[[MemoryDisk], None], expected: list[str]):
    disk = two_segments()
    hurt(disk)

    assert look(disk) == expected


def test_verify_counts_what_is_good():
    disk = two_segments()
    journal = open_journal(disk, segment_bytes=2700)
    journal.save_snapshot(b"sixty", 60)
    verdict = verify(DATA, version="0.1.0", disk=disk)

    assert verdict.ok
    assert (verdict.segments, verdict.records, verdict.facts, verdict.behind) == (2, 20, 60, 0)
    assert (verdict.first_fact, verdict.last_fact, verdict.versions) == (1, 60, ["0.1.0"])
    (seen,) = verdict.snapshots
    assert (seen.name, seen.fact_seq, seen.bytes, seen.problem) == ("snapshot-000000000060", 60, 5, "")
    assert (verdict.damages, verdict.torn, verdict.refused) == ([], None, "")


def test_verify_says_where_what_is_behind_and_that_a_start_would_grant_nothing():
    disk = two_segments()
    hit(disk, 3)
    verdict = verify(DATA, version="0.1.0", disk=disk)
    offset = place_of(disk, 2)[1] + place_of(disk, 2)[2]

    assert not verdict.ok
    assert [str(damage) for damage in verdict.damages] == [f"00000001.segment, byte {offset}: record 3 {NOT_LAST}"]
    assert (verdict.records, verdict.facts, verdict.behind) == (19, 57, 51)
    assert verdict.refused == str(verdict.damages[0])


def test_damage_that_a_snapshot_covers_spoils_the_audit_alone():
    disk = two_segments()
    open_journal(disk, segment_bytes=2700).save_snapshot(b"sixty", 60)
    hit(disk, 3)
    verdict = verify(DATA, version="0.1.0", disk=disk)

    assert (verdict.ok, len(verdict.damages), verdict.refused) == (False, 1, "")


def test_a_damaged_snapshot_is_not_ok():
    disk = two_segments()
    open_journal(disk, segment_bytes=2700).save_snapshot(b"sixty", 60)
    disk.names[JOURNAL / "snapshot-000000000060"].data[-1] ^= 1
    verdict = verify(DATA, version="0.1.0", disk=disk)

    assert (verdict.ok, verdict.refused) == (False, "")
    assert verdict.snapshots[0].problem == "it does not match its checksum"


def test_a_torn_tail_is_no_damage():
    disk = two_segments()
    hit(disk, 20)
    verdict = verify(DATA, version="0.1.0", disk=disk)

    assert verdict.ok
    assert verdict.torn is not None
    assert (verdict.torn.name, verdict.torn.reason) == (SECOND.name, "record 20 was not written to its end")


def test_verify_names_the_later_version_that_wrote_a_journal():
    header = encode_segment_header(SegmentHeader(2, "3.0.0", 1, Chain(), 0))
    verdict = verify(DATA, version="0.1.0", disk=MemoryDisk.holding({FIRST: header.ljust(4096, b"\0")}))

    assert not verdict.ok
    assert "written by gpu-supervisor 3.0.0" in verdict.refused


def test_looking_changes_nothing_and_needs_no_lock():
    disk = two_segments()
    hit(disk, 3)
    before = disk.contents()
    disk.before = lambda operation, path: pytest.fail(f"{operation} {path}")

    list(show(DATA, version="0.1.0", disk=disk))
    verify(DATA, version="0.1.0", disk=disk)

    assert disk.contents() == before


def test_where_there_is_no_journal_looking_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        verify(tmp_path, version="0.1.0")
    with pytest.raises(FileNotFoundError):
        list(show(tmp_path, version="0.1.0"))
