"""Whatever was acknowledged survives: a crash at every byte, between any two operations, and of the real process."""

from __future__ import annotations

import contextlib
import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.journal import Journal
from supervisor.journal.frame import HEADER, Chain, records
from tests.journal.facts import DATA, fact, facts, open_journal, read_back, replayed
from tests.journal.memory_disk import MemoryDisk, Wreck

JOURNAL = DATA / "journal"
SEGMENT = 8192


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Twenty thousand warnings of torn tails say nothing more than one."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def recorded() -> dict[Path, bytes]:
    """Return the files of a journal of three segments and some, batches of 1 to 5 facts of different sizes."""
    disk = MemoryDisk()
    journal = open_journal(disk, segment_bytes=SEGMENT)
    number = 0
    while number < 150:
        count = 1 + number % 5
        journal.write([fact(n, size=n * 37 % 200) for n in range(number, number + count)])
        number += count
    journal.close()
    return disk.contents()


def test_a_crash_at_every_byte_loses_no_whole_record():
    files = recorded()
    names = sorted(path for path in files if path.suffix == ".segment")
    prefixes = facts_before = 0
    chain = Chain()
    for index, name in enumerate(names):
        ends: dict[int, int] = {}
        for record in records(files[name], HEADER, chain):
            chain = record.chain
            ends[record.end] = chain.fact_seq - 1
        earlier = {path: files[path] for path in names[:index]}
        survive = facts_before
        for cut in range(HEADER, max(ends) + 1):
            survive = ends.get(cut, survive)
            image = MemoryDisk.holding({**earlier, name: files[name][:cut].ljust(len(files[name]), b"\0")})
            journal = open_journal(image, segment_bytes=SEGMENT)
            assert (journal.damage, journal.fact_seq) == ("", survive), (name, cut)
            prefixes += 1
            if cut % 101 == 0:
                assert [found.at_ms // 10 for found in replayed(journal)] == list(range(survive))
                journal.write([fact(survive)])
                assert read_back(image.crash(), segment_bytes=SEGMENT)[survive:] == [fact(survive)]
        facts_before = survive

    assert prefixes >= 20_000


# ---- between any two operations


class Session:
    """A journal at work on a disk whose power is cut, in thought, before every operation."""

    def __init__(self, seed: int, images_each: int) -> None:
        self.random = random.Random(seed)
        self.images_each = images_each
        self.disk = MemoryDisk()
        self.attempted = self.acknowledged = self.images = 0
        self.last_operation = ""

    def run(self) -> None:
        self.disk.before = self.cut
        journal = open_journal(self.disk, segment_bytes=2048, retain_bytes=6144)
        for turn in range(60):
            count = self.random.randint(1, 6)
            self.attempted = self.acknowledged + count
            journal.write(facts(self.acknowledged, count))
            self.acknowledged = self.attempted
            if turn % 3 == 0:
                journal.replenish()
            if turn % 10 == 9:
                journal.save_snapshot(str(self.acknowledged).encode(), self.acknowledged)

    def cut(self, operation: str, path: Path) -> None:
        self.last_operation = f"{operation} {path.name}"
        wrecks: list[Wreck | random.Random] = ["lost", "kept", "torn"]
        for wreck in wrecks + [self.random] * self.images_each:
            self.check(self.disk.crash(wreck))

    def check(self, image: MemoryDisk) -> None:
        self.images += 1
        found = replay_count(image)
        assert self.acknowledged <= found <= self.attempted, self.last_operation
        if self.images % 7 == 0:
            journal = open_journal(image, segment_bytes=2048)
            replayed(journal)
            journal.write([fact(found)])
            assert replay_count(image.crash()) == found + 1


def replay_count(image: MemoryDisk) -> int:
    """Open a crashed disk, check that it replays the first facts without a gap, and return how many."""
    journal = open_journal(image, segment_bytes=2048)
    assert journal.damage == ""
    before = int(journal.snapshot or b"0")
    found = replayed(journal)
    journal.close()
    assert found == facts(before, len(found))
    assert journal.first == (before + len(found) == 0)
    return before + len(found)


@pytest.mark.parametrize("seed", range(5))
def test_a_power_cut_between_any_two_operations_loses_nothing_acknowledged(seed: int):
    session = Session(seed, images_each=12)
    session.run()

    assert session.acknowledged > 150
    assert session.images > 3_000


def test_a_crash_while_a_crash_is_repaired_changes_nothing():
    """The tail is cut, the reserve made, leftovers removed: and the power goes again at each of these steps."""
    chance = random.Random(4)
    disk = MemoryDisk()
    journal = open_journal(disk, segment_bytes=2048)
    journal.write(facts(0, 3))
    wrecked: list[MemoryDisk] = []
    disk.before = lambda operation, path: (
        wrecked.extend(disk.crash(chance) for _ in range(12)) if operation == "sync" else None
    )
    journal.write(facts(3, 12))
    images = 0
    for wreck in wrecked:
        again: list[MemoryDisk] = []
        wreck.before = lambda operation, path, at=wreck, images=again: images.extend(
            [at.crash("lost"), at.crash("kept"), at.crash(chance), at.crash(chance)]
        )
        survived = replay_count(wreck)
        assert survived in (3, 15)
        for image in again:
            # What was whole on the platter stays; what was torn is cut, however often it is tried.
            assert replay_count(image) in (3, survived)
            images += 1

    assert images > 200


# ---- the real process

WRITER = """
import sys
from pathlib import Path
from supervisor.journal import Journal
from tests.journal.facts import facts
journal = Journal.open(Path(sys.argv[1]), version="0.1.0", segment_bytes=65536, ballast_bytes=8192)
count = sum(len(batch) for batch in journal.replay())
while True:
    journal.write(facts(count, 3))
    count += 3
    print(count, flush=True)
    journal.replenish()
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path):
    acknowledged = 0
    for kill_after in (1, 40, 300, 700):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        ) as writer:
            assert writer.stdout is not None
            with contextlib.closing(writer.stdout):
                for _ in range(kill_after):
                    acknowledged = int(writer.stdout.readline())
                writer.kill()
                # What was printed before the signal arrived was acknowledged, too.
                for line in writer.stdout:
                    acknowledged = int(line) if line.endswith(b"\n") else acknowledged
        journal = Journal.open(tmp_path, version="0.1.0", segment_bytes=65_536, ballast_bytes=8_192)
        found = replayed(journal)
        journal.close()

        assert acknowledged <= len(found) <= acknowledged + 3
        assert found == facts(0, len(found))
