"""Snapshots shorten the replay, a bad one is passed over, a crash while one is saved costs nothing; old files go."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from supervisor.journal import Journal, JournalTooNew
from supervisor.journal.frame import Chain, seal
from supervisor.journal.snapshot import SNAPSHOT_MAGIC, Place, save
from tests.journal.facts import DATA, facts, open_journal, replayed
from tests.journal.memory_disk import MemoryDisk

JOURNAL = DATA / "journal"


def write(journal: Journal, first: int, count: int) -> None:
    for number in range(first, first + count):
        journal.write(facts(number, 1))


def snap(journal: Journal) -> None:
    journal.save_snapshot(str(journal.fact_seq).encode(), journal.fact_seq)


def names(disk: MemoryDisk, start: str = "", end: str = "") -> list[str]:
    return sorted(n for n in disk.list_directory(JOURNAL) if n.startswith(start) and n.endswith(end))


def state_of(disk: MemoryDisk) -> tuple[bytes | None, int, str]:
    """Open a journal; return its snapshot, the number of the last fact after a whole replay, and its damage."""
    journal = open_journal(disk)
    before = int(journal.snapshot or b"0")
    found = replayed(journal)
    journal.close()
    assert found == facts(before, len(found))
    return journal.snapshot, before + len(found), journal.damage


def two_snapshots() -> MemoryDisk:
    """40 facts in the first segments, a snapshot; 40 more and another; 5 more behind it."""
    disk = MemoryDisk()
    journal = open_journal(disk)
    write(journal, 0, 40)
    snap(journal)
    write(journal, 40, 40)
    snap(journal)
    write(journal, 80, 5)
    journal.close()
    return disk


def test_a_replay_begins_behind_the_newest_snapshot():
    journal = open_journal(two_snapshots())

    assert (journal.first, journal.snapshot, replayed(journal)) == (False, b"80", facts(80, 5))
    assert journal.fact_seq == 85


def test_a_snapshot_at_the_very_end_leaves_nothing_to_replay():
    disk = two_snapshots()
    journal = open_journal(disk)
    snap(journal)
    journal.close()

    assert state_of(disk) == (b"85", 85, "")


def test_a_snapshot_must_belong_to_the_last_fact_written():
    journal = open_journal(MemoryDisk())
    write(journal, 0, 3)

    with pytest.raises(AssertionError, match="belongs to the last fact"):
        journal.save_snapshot(b"", 2)


def test_before_the_first_fact_there_is_nothing_to_keep():
    disk = MemoryDisk()
    open_journal(disk).save_snapshot(b"", 0)

    assert names(disk, "snapshot") == []


def test_the_two_newest_snapshots_are_kept():
    disk = MemoryDisk()
    journal = open_journal(disk)
    for number in range(5):
        write(journal, number * 3, 3)
        snap(journal)

    assert names(disk, "snapshot") == ["snapshot-000000000012", "snapshot-000000000015"]


@pytest.mark.parametrize(
    ("bad", "uses"),
    [
        pytest.param(["snapshot-000000000080"], b"40", id="the newest"),
        pytest.param(["snapshot-000000000080", "snapshot-000000000040"], None, id="both"),
    ],
)
def test_a_damaged_snapshot_is_passed_over_for_an_older_one(
    bad: list[str], uses: bytes | None, caplog: pytest.LogCaptureFixture
):
    disk = two_snapshots()
    for name in bad:
        disk.names[JOURNAL / name].data[-1] ^= 1
    with caplog.at_level(logging.WARNING):
        assert state_of(disk) == (uses, 85, "")

    assert caplog.text.count("is damaged: it does not match its checksum") == len(bad)
    journal = open_journal(disk)
    snap(journal)
    assert names(disk, "snapshot") == [
        name for name in ("snapshot-000000000040", "snapshot-000000000080", "snapshot-000000000085") if name not in bad
    ]


def test_without_a_good_snapshot_and_without_the_beginning_nothing_is_replayed():
    disk = two_snapshots()
    for name in names(disk, "snapshot"):
        disk.names[JOURNAL / name].data[3] ^= 1
    disk.unlink(JOURNAL / "00000001.segment")

    journal = open_journal(disk)

    assert (journal.snapshot, replayed(journal), journal.first) == (None, [], False)
    assert "record 1 is due" in journal.damage


def test_snapshots_without_any_segment_are_damage():
    disk = two_snapshots()
    for name in names(disk, end=".segment"):
        disk.unlink(JOURNAL / name)

    journal = open_journal(disk)

    assert "the file is missing" in journal.damage
    assert (journal.snapshot, replayed(journal)) == (b"80", [])


def test_damage_that_the_newest_snapshot_covers_does_not_keep_anybody_from_starting():
    disk = two_snapshots()
    disk.names[JOURNAL / "00000001.segment"].data[300] ^= 1

    assert state_of(disk) == (b"80", 85, "")


def test_a_snapshot_of_a_later_format_is_refused_with_the_version_that_wrote_it():
    disk = two_snapshots()
    disk.names[JOURNAL / "snapshot-000000000099"] = MemoryDisk.holding(
        {JOURNAL / "x": seal(SNAPSHOT_MAGIC, 2, "4.0.0", b"") + b"..."}
    ).names[JOURNAL / "x"]

    with pytest.raises(JournalTooNew, match=r"written by gpu-supervisor 4\.0\.0"):
        open_journal(disk)


def test_a_crash_at_any_step_of_a_snapshot_costs_nothing():
    """Old and new snapshot both lead to the same facts, whatever of the new one is on disk, and of its clearing up."""
    chance = random.Random(7)
    disk = MemoryDisk()
    journal = open_journal(disk, retain_bytes=0)
    write(journal, 0, 40)
    snap(journal)
    write(journal, 40, 40)
    snap(journal)
    write(journal, 80, 40)
    steps: list[str] = []
    images: list[MemoryDisk] = []

    def cut(operation: str, path: Path) -> None:
        steps.append(operation)
        images.extend(
            [disk.crash("lost"), disk.crash("kept"), disk.crash("torn"), *(disk.crash(chance) for _ in "1234")]
        )

    disk.before = cut
    snap(journal)
    images.append(disk.crash("lost"))

    assert steps[:5] == ["create", "truncate", "write", "sync", "rename"]
    assert "unlink" in steps
    for image in images:
        snapshot, count, damage = state_of(image)
        assert (snapshot in (b"80", b"120"), count, damage) == (True, 120, "")
    assert state_of(images[-1])[0] == b"120"


# ---- retention


def segments_left(*, retain_ms: int = 10**9, retain_bytes: int = 10**9, snapshots: int = 3) -> list[int]:
    """Write 200 facts, 10 ms of supervisor time apart, a snapshot every 50; return which segments are left."""
    disk = MemoryDisk()
    journal = open_journal(disk, retain_ms=retain_ms, retain_bytes=retain_bytes)
    for turn in range(4):
        write(journal, turn * 50, 50)
        if turn < snapshots:
            snap(journal)
    assert state_of(disk.crash())[1:] == (200, "")
    first = journal.history(0, 1)[0][0]
    assert journal.history(first - 1, 1_000) == list(enumerate(facts(first - 1, 201 - first), first))
    return [int(name[:8]) for name in names(disk, end=".segment")]


@pytest.mark.parametrize(
    ("retain", "left"),
    [
        pytest.param({}, [1, 2, 3, 4, 5], id="nothing is too old or too much"),
        pytest.param({"retain_bytes": 0}, [3, 4, 5], id="no audit: what the older of two snapshots needs"),
        pytest.param({"retain_ms": 0}, [3, 4, 5], id="the same by age"),
        pytest.param({"retain_ms": 700}, [2, 3, 4, 5], id="younger than 700 ms at the last snapshot"),
        pytest.param({"retain_bytes": 3 * 4096}, [2, 3, 4, 5], id="three segments at the last snapshot"),
        pytest.param({"retain_bytes": 0, "snapshots": 1}, [1, 2, 3, 4, 5], id="one snapshot alone is not trusted"),
    ],
)
def test_old_segments_are_kept_as_the_audit_for_a_time_and_a_size(retain: dict[str, int], left: list[int]):
    assert segments_left(**retain) == left


def test_a_long_life_with_snapshots_stays_small_on_disk(tmp_path: Path):
    journal = Journal.open(tmp_path, version="0.1.0", segment_bytes=256 << 10, retain_bytes=1 << 20)
    batch = facts(0, 1_000)
    for _ in range(60):
        journal.write(batch)
        journal.replenish()
        journal.save_snapshot(b"state", journal.fact_seq)
    journal.close()

    assert sum(path.stat().st_size for path in (tmp_path / "journal").iterdir()) < 3 << 20


def test_a_snapshot_names_its_place():
    disk = MemoryDisk()
    path = save(disk, JOURNAL, b"x", Place(2, 500, Chain(9, 31, 7)), "0.1.0")

    assert path.name == "snapshot-000000000030"
    assert disk.crash().contents()[path].endswith(b"x")
