"""A full disk is foreseen: room is reserved, the ballast lets releases through, space that returns is taken again."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.journal import Journal, JournalBroken
from supervisor.journal.frame import HEADER
from tests.journal.facts import DATA, fact, facts, open_journal, read_back, replayed
from tests.journal.memory_disk import MemoryDisk

SEGMENT = 4096
BALLAST = 1024


def fill(disk: MemoryDisk) -> None:
    """Let somebody else take all the space that is left."""
    disk.capacity = disk.used


def write_until_broken(journal: Journal, start: int) -> int:
    """Write facts one by one until there is no room at all; return the number of the first that did not fit."""
    for number in range(start, start + 10_000):
        try:
            journal.write([fact(number)])
        except JournalBroken:
            return number
    raise AssertionError("the disk never got full")


def test_the_headroom_is_what_can_really_be_written():
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write([fact(0)])
    journal.replenish()
    fill(disk)
    promised, before = journal.headroom_bytes(), journal.fact_seq
    first_lost = write_until_broken(journal, before)
    record = 36 + 64

    assert promised >= SEGMENT - HEADER + BALLAST - HEADER
    assert (first_lost - before) * record > promised - 3 * record
    assert journal.headroom_bytes() < record
    assert read_back(disk.crash()) == facts(0, first_lost)


def test_a_full_disk_leaves_the_ballast_for_releases():
    disk = MemoryDisk()
    journal = open_journal(disk)
    fill(disk)
    number = 0
    while journal.headroom_bytes() >= journal.ballast_bytes:
        journal.write([fact(number)])
        assert not journal.replenish()
        number += 1

    journal.write([fact(number)])

    assert read_back(disk.crash()) == facts(0, number + 1)


def test_a_batch_that_does_not_fit_the_rest_of_the_segment_goes_to_the_ballast():
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write([fact(0, size=3_500)])
    fill(disk)
    journal.write([fact(1, size=600)])

    assert "ballast" not in disk.list_directory(DATA / "journal")
    assert journal.headroom_bytes() < journal.ballast_bytes


def test_the_reserve_is_taken_again_when_space_returns():
    disk = MemoryDisk()
    journal = open_journal(disk)
    full = journal.headroom_bytes()
    fill(disk)
    number = 0
    while journal.headroom_bytes() > 400:
        journal.write([fact(number)])
        number += 1
    assert not journal.replenish()
    assert "spare.new" not in disk.list_directory(DATA / "journal")

    disk.capacity = disk.used + BALLAST + 100
    assert not journal.replenish()
    assert {"ballast"} == {"ballast", "spare"} & set(disk.list_directory(DATA / "journal"))
    disk.capacity += SEGMENT

    assert journal.replenish()
    assert journal.headroom_bytes() > full
    journal.write([fact(number)])
    assert read_back(disk.crash()) == facts(0, number + 1)


def test_a_journal_opens_on_a_disk_without_a_free_byte():
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write(facts(0, 3))
    journal.close()
    disk.unlink(DATA / "journal" / "ballast")
    fill(disk)

    journal = open_journal(disk)

    assert replayed(journal) == facts(0, 3)
    assert 0 < journal.headroom_bytes() < SEGMENT
    assert not journal.replenish()
    journal.write([fact(3)])
    assert journal.history(3, 10) == [(4, fact(3))]


def test_a_torn_tail_is_cut_on_a_full_disk_too(caplog: pytest.LogCaptureFixture):
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write(facts(0, 3))
    disk.before = lambda operation, _: torn.append(disk.crash("torn")) if operation == "sync" else None
    torn: list[MemoryDisk] = []
    journal.write(facts(3, 3))
    fill(torn[0])
    with caplog.at_level(logging.WARNING):
        journal = open_journal(torn[0])

    assert replayed(journal) == facts(0, 3)
    assert "not kept, the disk is full" in caplog.text
    journal.write(facts(3, 1))
    assert read_back(torn[0].crash()) == facts(0, 4)


def test_a_first_start_on_a_full_disk_opens_and_cannot_write():
    journal = open_journal(MemoryDisk(capacity=0))

    assert (journal.first, journal.headroom_bytes(), journal.replenish()) == (True, 0, False)
    with pytest.raises(JournalBroken, match=r"facts cannot be written: .*No space left on device") as caught:
        journal.write([fact(0)])
    assert "df" in caught.value.hint


def test_a_snapshot_that_does_not_fit_is_only_logged(caplog: pytest.LogCaptureFixture):
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write(facts(0, 3))
    journal.save_snapshot(b"three", 3)
    journal.write(facts(3, 3))
    fill(disk)
    with caplog.at_level(logging.WARNING):
        journal.save_snapshot(b"six", 6)

    assert "no room for a snapshot of 3 bytes" in caplog.text
    journal.write(facts(6, 1))
    again = open_journal(disk.crash())
    assert (again.snapshot, replayed(again)) == (b"three", facts(3, 4))


# ---- short writes


@pytest.mark.parametrize("most", [1, 7, 36, 100])
def test_a_short_write_goes_on_where_it_stopped(most: int):
    disk = MemoryDisk()
    journal = open_journal(disk)
    disk.at_most = lambda path, size: min(size, most)
    journal.write(facts(0, 5))
    journal.write(facts(5, 5))

    assert read_back(disk.crash()) == facts(0, 10)


@pytest.mark.parametrize("most", [0, 1, 36, 200])
def test_a_write_that_stops_in_allocated_room_is_cut_back_before_anything_follows(most: int):
    """Where a file system copies on write, allocated bytes may fail with ENOSPC, too (btrfs, ZFS)."""
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write(facts(0, 5))
    allowed = [most]
    disk.at_most = lambda path, size: (allowed.pop() if allowed else 0) if path.name == "00000001.segment" else size
    journal.write(facts(5, 5))
    journal.write(facts(10, 5))

    assert "00000002.segment" in disk.list_directory(DATA / "journal")
    assert journal.history(0, 100) == list(enumerate(facts(0, 15), 1))
    for wreck in ("lost", "kept", *(random.Random(seed) for seed in range(40))):
        assert read_back(disk.crash(wreck)) == facts(0, 15)


def test_a_sync_that_finds_no_room_is_the_end():
    """A failed sync is never tried again, whatever it failed of."""
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write([fact(0)])

    def no_room(operation: str, _: Path) -> None:
        if operation == "sync":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.before = no_room
    with pytest.raises(JournalBroken):
        journal.write([fact(1)])


# ---- a real one


@pytest.fixture(name="small")
def _small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], check=True, timeout=10)
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True, timeout=10)


def open_small(mount: Path) -> Journal:
    return Journal.open(mount, version="0.1.0", segment_bytes=128 * 1024, ballast_bytes=64 * 1024)


@pytest.mark.root
def test_a_real_small_disk_fills_up_lets_releases_through_and_recovers(small: Path):
    journal = open_small(small)
    number = 0
    hog = small / "hog"
    hog.write_bytes(bytes(shutil.disk_usage(small).free))
    assert shutil.disk_usage(small).free == 0

    while journal.headroom_bytes() >= journal.ballast_bytes:
        journal.write(facts(number, 50))
        number += 50
    assert not journal.replenish()
    for _ in range(100):
        journal.write([fact(number)])
        number += 1
    journal.close()

    journal = open_small(small)
    assert replayed(journal) == facts(0, number)
    assert not journal.replenish()
    journal.write([fact(number)])
    hog.unlink()

    assert journal.replenish()
    assert journal.headroom_bytes() > 3 * journal.ballast_bytes
    journal.close()
    journal = open_small(small)
    assert replayed(journal) == facts(0, number + 1)
    journal.close()


@pytest.mark.root
def test_a_real_disk_that_is_full_to_the_last_byte_ends_the_journal_and_loses_nothing(small: Path):
    journal = open_small(small)
    (small / "hog").write_bytes(bytes(shutil.disk_usage(small).free))
    number = write_until_broken(journal, 0)
    with pytest.raises(JournalBroken, match="takes no more facts"):
        journal.write([fact(number)])
    journal.close()

    journal = open_small(small)
    assert replayed(journal) == facts(0, number)
    assert journal.headroom_bytes() < 200
    journal.close()
