"""Writing, replaying, reading back; the one writer; upgrades and downgrades."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import msgspec
import pytest

from supervisor.core.facts import AnyFact, Fact
from supervisor.journal import Journal, JournalBroken, JournalLocked, JournalTooNew
from supervisor.journal.frame import HEADER, Chain, SegmentHeader, encode_record, encode_segment_header
from tests.journal.facts import DATA, ONE_OF_EACH, fact, facts, open_journal, read_back, replayed
from tests.journal.memory_disk import MemoryDisk


def test_a_new_journal_is_first_and_replays_nothing():
    journal = open_journal(MemoryDisk())

    assert (journal.first, journal.snapshot, journal.damage, replayed(journal)) == (True, None, "", [])


def test_every_kind_of_fact_comes_back_as_it_was(tmp_path: Path):
    journal = Journal.open(tmp_path, version="0.1.0")
    journal.write(ONE_OF_EACH[:3])
    journal.write(ONE_OF_EACH[3:])
    journal.close()

    again = Journal.open(tmp_path, version="0.1.0")

    assert not again.first
    assert list(again.replay()) == [ONE_OF_EACH[:3], ONE_OF_EACH[3:]]
    again.close()


def test_facts_fill_segment_after_segment_and_replay_in_order():
    disk = MemoryDisk()
    journal = open_journal(disk)
    for number in range(0, 300, 3):
        journal.write(facts(number, 3))
        journal.replenish()

    assert len([name for name in disk.list_directory(DATA / "journal") if name.endswith(".segment")]) > 3
    assert journal.fact_seq == 300
    assert read_back(disk.crash()) == facts(0, 300)


def test_a_batch_larger_than_a_segment_gets_a_segment_of_its_own():
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write(facts(0, 2))
    journal.write(facts(2, 500))
    journal.write(facts(502, 2))

    assert read_back(disk.crash()) == facts(0, 504)


def test_what_is_written_after_a_replay_follows_what_was_there():
    disk = MemoryDisk()
    for number in range(20):
        journal = open_journal(disk)
        assert replayed(journal) == facts(0, number)
        journal.write([fact(number)])
        journal.close()

    assert len([name for name in disk.list_directory(DATA / "journal") if name.endswith(".segment")]) == 1


def test_an_empty_batch_writes_nothing():
    disk = MemoryDisk()
    open_journal(disk).write([])

    assert "00000001.segment" not in disk.list_directory(DATA / "journal")


@pytest.mark.parametrize("size", [pytest.param(4096, id="it holds old records"), pytest.param(200, id="it is short")])
def test_a_spare_that_cannot_be_trusted_is_made_anew(size: int):
    disk = MemoryDisk()
    journal = open_journal(disk)
    for number in range(10):
        journal.write([fact(number)])
    journal.close()
    old = disk.contents()[DATA / "journal" / "00000001.segment"][:size]
    disk = MemoryDisk.holding({**disk.contents(), DATA / "journal" / "spare": old})

    journal = open_journal(disk, version="0.2.0")
    journal.write([fact(10)])

    assert "00000002.segment" in disk.list_directory(DATA / "journal")
    again = open_journal(disk.crash())
    assert (again.damage, replayed(again)) == ("", facts(0, 11))


# ---- history


@pytest.fixture(name="long")
def _long() -> Journal:
    journal = open_journal(MemoryDisk())
    for number in range(0, 300, 3):
        journal.write(facts(number, 3))
    return journal


@pytest.mark.parametrize(
    ("after", "limit", "numbers"),
    [
        pytest.param(0, 4, range(4), id="from the beginning"),
        pytest.param(1, 4, range(1, 5), id="from the middle of a batch"),
        pytest.param(3, 3, range(3, 6), id="exactly one batch"),
        pytest.param(250, 1_000, range(250, 300), id="to the end"),
        pytest.param(299, 10, range(299, 300), id="the last one"),
        pytest.param(300, 10, range(0), id="nothing behind the last one"),
        pytest.param(9_999, 10, range(0), id="nothing far behind"),
        pytest.param(0, 1_000, range(300), id="all, over every segment"),
        pytest.param(0, 0, range(0), id="none asked for"),
    ],
)
def test_history_returns_numbered_facts(long: Journal, after: int, limit: int, numbers: range):
    assert long.history(after, limit) == [(number + 1, fact(number)) for number in numbers]


def test_history_pages_through_everything_once(long: Journal):
    found: list[tuple[int, AnyFact]] = []
    while page := long.history(found[-1][0] if found else 0, 7):
        found += page

    assert [item for _, item in found] == facts(0, 300)


def test_history_shows_nothing_of_a_write_whose_sync_has_not_returned():
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write([fact(0)])
    seen: list[list[tuple[int, AnyFact]]] = []
    disk.before = lambda operation, _: seen.append(journal.history(0, 10)) if operation == "sync" else None
    journal.write([fact(1)])

    assert seen == [[(1, fact(0))]]
    assert journal.history(1, 10) == [(2, fact(1))]


def test_history_passes_over_a_segment_that_retention_just_deleted(long: Journal):
    disk = long._disk
    assert isinstance(disk, MemoryDisk)
    disk.unlink(DATA / "journal" / "00000001.segment")

    (first, _), *_ = long.history(0, 1)

    assert first > 1


def test_history_is_whole_while_another_thread_writes_and_old_segments_go(tmp_path: Path):
    journal = Journal.open(tmp_path, version="0.1.0", segment_bytes=4_096, ballast_bytes=1_024, retain_bytes=16_384)

    def work() -> None:
        for number in range(0, 1_000, 5):
            journal.write(facts(number, 5))
            if number % 200 == 195:
                journal.save_snapshot(b"", journal.fact_seq)

    writer = threading.Thread(target=work)
    writer.start()
    seen = 0
    while writer.is_alive() or seen < journal.fact_seq:
        page = journal.history(seen, 400)
        assert page == [(seq, fact(seq - 1)) for seq, _ in page]
        seen = page[-1][0] if page else seen

    assert seen == 1_000
    assert journal.history(0, 1)[0][0] > 1, "retention was at work meanwhile"
    journal.close()


# ---- one writer


def test_a_second_journal_on_the_same_directory_is_refused_and_names_the_holder(tmp_path: Path):
    journal = Journal.open(tmp_path, version="0.1.0")

    with pytest.raises(JournalLocked, match=f"process {os.getpid()} already uses the journal") as caught:
        Journal.open(tmp_path, version="0.1.0")

    assert (caught.value.pid, caught.value.exit_status) == (os.getpid(), 2)
    journal.close()
    Journal.open(tmp_path, version="0.1.0").close()


def test_a_holder_that_left_no_pid_is_refused_all_the_same(tmp_path: Path):
    (tmp_path / "journal").mkdir()
    with (tmp_path / "journal" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(JournalLocked, match="another process already uses the journal") as caught:
            Journal.open(tmp_path, version="0.1.0")

    assert caught.value.pid is None


def test_an_opening_that_fails_gives_the_lock_back():
    disk = MemoryDisk()

    def broken(operation: str, path: Path) -> None:
        if operation == "allocate":
            raise OSError(errno.EIO, "Input/output error")

    disk.before = broken
    with pytest.raises(JournalBroken, match=r"cannot be opened: .*Input/output error"):
        open_journal(disk)
    disk.before = lambda operation, path: None

    open_journal(disk).close()


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        pytest.param(errno.EACCES, "must belong to the user", id="not ours"),
        pytest.param(errno.EROFS, "mounted read-only", id="read-only"),
        pytest.param(errno.EIO, "look at the disk", id="broken"),
    ],
)
def test_a_directory_that_cannot_be_used_is_said_with_what_to_do(number: int, hint: str):
    disk = MemoryDisk()

    def refuse(operation: str, path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    disk.before = refuse
    with pytest.raises(JournalBroken, match=os.strerror(number)) as caught:
        open_journal(disk)

    assert hint in caught.value.hint
    assert caught.value.exit_status == 1


def test_a_closed_journal_takes_nothing_more():
    journal = open_journal(MemoryDisk())
    journal.close()
    journal.close()

    with pytest.raises(JournalBroken, match="it was closed"):
        journal.write([fact(0)])


def test_closing_waits_for_a_write_that_is_under_way(tmp_path: Path):
    journal = Journal.open(tmp_path, version="0.1.0")
    under_way = threading.Event()
    broken: list[JournalBroken] = []

    def work() -> None:
        number = 0
        while not broken:
            try:
                journal.write([fact(number)])
            except JournalBroken as error:
                broken.append(error)
            else:
                number += 1
                under_way.set()
        acknowledged.append(number)

    acknowledged: list[int] = []
    writer = threading.Thread(target=work)
    writer.start()
    assert under_way.wait(10)
    journal.close()
    writer.join(10)

    assert "it was closed" in str(broken[0])
    again = Journal.open(tmp_path, version="0.1.0")
    assert replayed(again) == facts(0, acknowledged[0])
    again.close()


def test_files_are_for_their_owner_alone(tmp_path: Path):
    journal = Journal.open(tmp_path / "new" / "data", version="0.1.0")
    journal.write([fact(0)])
    journal.close()
    directory = tmp_path / "new" / "data" / "journal"

    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


# ---- versions


class MindRead(Fact, frozen=True, array_like=True, tag=True):
    """A fact that this version does not know."""

    thought: str


def test_another_version_writes_into_a_segment_of_its_own():
    disk = MemoryDisk()
    for number, version in enumerate(["0.1.0", "0.1.0", "0.2.0", "0.1.0"]):
        journal = open_journal(disk, version=version)
        journal.write([fact(number)])
        journal.close()

    assert len([name for name in disk.list_directory(DATA / "journal") if name.endswith(".segment")]) == 3
    assert read_back(disk) == facts(0, 4)


def test_a_fact_of_a_later_version_is_refused_with_the_version_that_wrote_it():
    disk = MemoryDisk()
    old = open_journal(disk)
    old.write([fact(0)])
    old.close()
    new = open_journal(disk, version="0.9.0")
    new.write([fact(1), MindRead(1, 2, "lunch")])  # type: ignore[list-item]
    new.close()
    journal = open_journal(disk)

    with pytest.raises(JournalTooNew, match=r"written by gpu-supervisor 0\.9\.0, and this is 0\.1\.0") as caught:
        replayed(journal)

    assert caught.value.written_by == "0.9.0"


def test_a_field_of_a_later_version_is_passed_over():
    """New fields go to the end of a fact: an older version ignores them."""

    class StopFailed(Fact, frozen=True, array_like=True, tag=True):
        container_id: str
        container: str
        target: str
        error: str
        attempts: int = 3

    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write([StopFailed(0, 1_700_000_000_000, "c0", "comfyui-1", "comfyui", "")])  # type: ignore[list-item]
    journal.close()

    assert read_back(disk) == [fact(0)]


def test_a_later_format_is_refused_and_nothing_is_changed():
    disk = MemoryDisk()
    open_journal(disk).close()
    header = encode_segment_header(SegmentHeader(2, "3.0.0", 1, Chain(), 0))
    file = disk.open(DATA / "journal" / "00000001.segment", create=True)
    disk.write(file, header + b"another world", 0)
    disk.names[DATA / "journal" / "x.new"] = disk.names[DATA / "journal" / "lock"]
    before = disk.contents()

    with pytest.raises(JournalTooNew, match=r"written by gpu-supervisor 3\.0\.0.*format 2 is unknown"):
        open_journal(disk)

    assert disk.contents() == before


def test_a_record_counts_its_facts_and_continues_the_chain():
    """The layout is a promise: a change of it is a new format."""
    payload = msgspec.msgpack.encode([1, 2, 3])
    record, chain = encode_record(payload, 3, Chain(seq=5, fact_seq=17, checksum=0xDEADBEEF))

    assert record.hex() == (
        "c1726563040000000300000005000000000000001100000000000000" + record[28:36].hex() + "93010203"
    )
    assert (chain.seq, chain.fact_seq) == (6, 20)
    assert chain.checksum.to_bytes(4, "little") == record[32:36]
    assert len(encode_segment_header(SegmentHeader(1, "0.1.0", 1, Chain(), 0))) == HEADER == 128
