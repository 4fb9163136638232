"""Input/output errors: each ends the journal, none is retried, and what was acknowledged before is there afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.journal import JournalBroken
from tests.journal.facts import facts, open_journal, read_back
from tests.journal.memory_disk import MemoryDisk


class Failing:
    """Fails the nth operation of one kind with EIO, and counts all of them."""

    def __init__(self, kind: str, nth: int) -> None:
        self.kind = kind
        self.nth = nth
        self.counted = 0

    def __call__(self, operation: str, path: Path) -> None:
        if operation == self.kind:
            self.counted += 1
            if self.counted == self.nth:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def work(disk: MemoryDisk, acknowledge: Callable[[int], None]) -> None:
    journal = open_journal(disk, segment_bytes=2048, retain_bytes=4096)
    for turn in range(40):
        journal.write(facts(turn * 3, 3))
        acknowledge((turn + 1) * 3)
        journal.replenish()
        if turn % 8 == 7:
            journal.save_snapshot(str(journal.fact_seq).encode(), journal.fact_seq)


KINDS = ["write", "sync", "sync_directory", "rename", "allocate", "create"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_failure_ends_the_journal_and_a_restart_has_all_that_was_acknowledged(kind: str):
    counting = Failing(kind, 0)
    disk = MemoryDisk()
    disk.before = counting
    work(disk, lambda _: None)
    assert counting.counted > 5

    for nth in range(1, counting.counted + 1):
        disk = MemoryDisk()
        failing = Failing(kind, nth)
        disk.before = failing
        acknowledged = [0]
        with pytest.raises(JournalBroken, match="Input/output error"):
            work(disk, lambda count, at=acknowledged: at.append(count))
        assert failing.counted == nth, "nothing is tried again"
        for image in (disk.crash("lost"), disk.crash("kept"), disk.crash("torn")):
            journal = open_journal(image, segment_bytes=2048)
            assert journal.damage == ""
            assert acknowledged[-1] <= journal.fact_seq <= acknowledged[-1] + 3


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_after_a_failure_nothing_is_written_any_more(kind: str):
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write(facts(0, 2))
    disk.before = Failing(kind, 1)
    with pytest.raises(JournalBroken, match=r"facts cannot be written: .*Input/output error"):
        journal.write(facts(2, 2))
    disk.before = lambda operation, path: pytest.fail(f"{operation} after a failure")

    with pytest.raises(JournalBroken, match="takes no more facts"):
        journal.write(facts(2, 2))
    with pytest.raises(JournalBroken):
        journal.replenish()
    with pytest.raises(JournalBroken):
        journal.save_snapshot(b"", 2)
    journal.close()
    disk.before = lambda operation, path: None
    assert read_back(disk.crash("lost")) == facts(0, 2)


def test_facts_that_cannot_be_read_back_end_the_replay():
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write(facts(0, 2))
    journal.close()
    journal = open_journal(disk)
    segment = next(path for path in disk.names if path.suffix == ".segment")
    disk.names[segment].data[150] ^= 1

    with pytest.raises(JournalBroken, match="cannot be read any more"):
        list(journal.replay())
    disk.unlink(segment)
    with pytest.raises(JournalBroken, match="the journal cannot be read"):
        list(journal.replay())
