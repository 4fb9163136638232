"""Salvage: what was good stays, what was damaged is put aside whole, and what it cost is said."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor.core.apply import freeze, replay
from supervisor.core.facts import AnyFact, LeaseEnded, LeaseGranted, RoomVerified, StopFailed
from supervisor.core.model import Terms
from supervisor.core.state import Settings, State
from supervisor.journal import Journal, JournalBroken, JournalLocked, JournalTooNew, Salvaged, salvage, show, verify
from supervisor.journal.inspection import Shown
from tests.journal.facts import DATA, fact, facts, open_journal, replayed
from tests.journal.memory_disk import MemoryDisk

JOURNAL = DATA / "journal"
FIRST, SECOND = JOURNAL / "00000001.segment", JOURNAL / "00000002.segment"
BEFORE, AFTER = 1_700_000_000_000, 1_700_000_000_590


def two_segments() -> MemoryDisk:
    """20 records of 3 facts: 14 in the first segment, 6 in the second."""
    disk = MemoryDisk()
    journal = open_journal(disk, segment_bytes=2700)
    for turn in range(20):
        journal.write(facts(turn * 3, 3))
    journal.close()
    return disk


def hit(disk: MemoryDisk, seq: int, at: int = 50) -> None:
    for item in show(DATA, version="0.1.0", disk=disk):
        if isinstance(item, Shown) and item.seq == seq:
            node = disk.names[JOURNAL / item.name]
            for data in (node.data, node.synced):
                data[item.offset + at] ^= 0xFF
            return
    raise AssertionError


def save_as_it_is(disk: MemoryDisk) -> MemoryDisk:
    return MemoryDisk.holding(disk.contents())


def numbers(found: list[AnyFact]) -> list[int]:
    """Return which of our facts are there; what lifts the fence is not ours."""
    return [item.at_ms // 10 for item in found if isinstance(item, StopFailed)]


def reopened(disk: MemoryDisk) -> list[int]:
    """Open a salvaged journal, check that it works, and return which facts it replays."""
    journal = open_journal(disk, segment_bytes=2700)
    assert journal.damage == ""
    found = replayed(journal)
    journal.write([fact(99)])
    assert journal.history(0, 1_000) == list(enumerate([*found, fact(99)], 1))
    journal.close()
    assert verify(DATA, version="0.1.0", disk=disk).ok
    return numbers(found)


def test_a_journal_without_damage_is_left_alone():
    disk = two_segments()
    before = disk.contents()

    assert salvage(DATA, version="0.1.0", disk=disk) == Salvaged(damage="")
    assert disk.contents() == before


def test_up_to_the_damage_everything_is_kept_and_the_rest_is_given_up_and_said():
    disk = two_segments()
    hit(disk, 3)
    original = disk.contents()
    done = salvage(DATA, version="0.1.0", disk=disk)

    assert done == Salvaged(
        damage="00000001.segment, byte 466: record 3 does not match its checksum, and it is not the last",
        put_aside="damaged-1",
        kept_up_to=6,
        found_behind=51,
        unreadable=3,
        behind_from_wall_ms=BEFORE + 90,
        behind_to_wall_ms=AFTER,
    )
    assert done.lost == 54
    assert reopened(disk.crash()) == list(range(6))
    aside = {path.name: data for path, data in disk.crash().contents().items() if path.parent.name == "damaged-1"}
    assert aside == {FIRST.name: original[FIRST], SECOND.name: original[SECOND]}


def test_what_verifies_behind_the_damage_can_be_taken_over():
    disk = two_segments()
    hit(disk, 3)
    hit(disk, 17)
    done = salvage(DATA, version="0.1.0", skip_damage=True, disk=disk)

    assert (done.kept_up_to, done.found_behind, done.taken_over, done.senseless, done.unreadable) == (6, 48, 48, 0, 6)
    assert done.lost == 6
    assert reopened(disk.crash()) == [*range(6), *range(9, 48), *range(51, 60)]


def test_a_missing_segment_is_skipped_like_any_damage():
    disk = two_segments()
    disk.unlink(FIRST)
    done = salvage(DATA, version="0.1.0", skip_damage=True, disk=disk)

    assert (done.kept_up_to, done.taken_over, done.unreadable) == (0, 18, 42)
    assert reopened(disk.crash()) == list(range(42, 60))


def test_segments_before_the_damaged_one_stay_as_they_are():
    disk = two_segments()
    first = disk.contents()[FIRST]
    hit(disk, 17)
    salvage(DATA, version="0.2.0", skip_damage=True, disk=disk)

    assert disk.crash().contents()[FIRST] == first
    shown = [item for item in show(DATA, version="0.2.0", disk=disk) if isinstance(item, Shown)]
    assert {(item.name, item.version) for item in shown} == {
        (FIRST.name, "0.1.0"),
        (SECOND.name, "0.1.0"),
        ("00000003.segment", "0.2.0"),
    }


def test_a_second_salvage_has_a_folder_of_its_own():
    disk = two_segments()
    for seq, folder in ((17, "damaged-1"), (3, "damaged-2")):
        hit(disk, seq)
        assert salvage(DATA, version="0.1.0", disk=disk).put_aside == folder
    assert reopened(disk) == list(range(6))


def test_salvage_on_the_real_file_system(tmp_path: Path):
    journal = Journal.open(tmp_path, version="0.1.0", segment_bytes=4096)
    for number in range(10):
        journal.write(facts(number * 3, 3))
    journal.close()
    segment = tmp_path / "journal" / "00000001.segment"
    data = bytearray(segment.read_bytes())
    data[1_000] ^= 0xFF
    segment.write_bytes(data)

    done = salvage(tmp_path, version="0.1.0", skip_damage=True)

    assert (done.lost, done.taken_over, done.put_aside) == (3, 12, "damaged-1")
    assert (tmp_path / "journal" / "damaged-1" / segment.name).read_bytes() == data
    journal = Journal.open(tmp_path, version="0.1.0")
    assert (journal.damage, numbers(replayed(journal))) == ("", [*range(15), *range(18, 30)])
    journal.close()


# ---- what makes sense

TERMS = Terms(target="comfyui", owner="ann", priority=0, ttl_ms=60_000)


def granted(id_: str, fence: int) -> LeaseGranted:
    return LeaseGranted(fence, BEFORE, id_, fence, f"hash-{id_}", True, TERMS, "art", ("GPU-1",), None)


def ended(id_: str, at_ms: int) -> LeaseEnded:
    return LeaseEnded(at_ms, BEFORE, id_, "released", False, "ann", "comfyui")


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_fact_that_rests_on_a_lost_one_is_left_out(*, snapshot: bool):
    disk = MemoryDisk()
    journal = open_journal(disk)
    state = State(Settings())
    journal.write([granted("a", 1)])
    if snapshot:
        state = replay(Settings(), None, [[granted("a", 1)]])
        journal.save_snapshot(freeze(state.durable), 1)
    journal.write([ended("a", 2)])
    journal.write([granted("b", 3)])
    journal.write([RoomVerified(4, BEFORE, "b", "comfyui"), ended("b", 5)])
    journal.write([granted("c", 6), StopFailed(7, BEFORE, "c1", "x-1", "x", "?")])
    journal.close()
    hit(disk, 3)

    done = salvage(DATA, version="0.1.0", skip_damage=True, disk=disk)

    assert (done.kept_up_to, done.found_behind, done.taken_over, done.senseless, done.unreadable) == (2, 4, 2, 2, 1)
    journal = open_journal(disk)
    state = replay(Settings(), journal.snapshot, journal.replay())
    assert list(state.durable.leases) == ["c"]
    assert (state.durable.fact_seq, journal.fact_seq) == (6, 6), "four, and two that lift the fence"


def test_without_a_good_snapshot_and_without_the_beginning_what_makes_sense_alone_is_taken_over():
    disk = two_segments()
    open_journal(disk, segment_bytes=2700).save_snapshot(b"sixty", 60)
    disk = save_as_it_is(disk)
    disk.names[JOURNAL / "snapshot-000000000060"].data[3] ^= 1
    disk.unlink(FIRST)

    done = salvage(DATA, version="0.1.0", disk=disk)

    assert (done.kept_up_to, done.found_behind) == (0, 18)
    assert JOURNAL / "damaged-1" / "snapshot-000000000060" in disk.names
    assert reopened(disk) == []


@pytest.mark.parametrize(
    ("hurt", "skip_damage", "fence"),
    [
        pytest.param(3, False, 9 + 1, id="grants that are given up, and one unreadable fact that may have been one"),
        pytest.param(3, True, 9 + 1, id="grants that are taken over, and an unreadable one"),
        pytest.param(1, False, 9 + 1, id="nothing is left"),
    ],
)
def test_a_fence_grows_over_a_loss(hurt: int, *, skip_damage: bool, fence: int):
    disk = MemoryDisk()
    journal = open_journal(disk)
    for number in range(1, 10):
        journal.write([granted(f"l{number}", number)])
        journal.write([ended(f"l{number}", number)])
    journal.close()
    hit(disk, hurt)

    salvage(DATA, version="0.1.0", skip_damage=skip_damage, disk=disk)

    state = replay(Settings(), None, open_journal(disk).replay())
    assert state.durable.fence == fence
    assert state.durable.leases == {}
    assert state.durable.time_ms == 9


def test_a_lease_whose_end_was_lost_ends_when_another_holds_its_gpu():
    disk = MemoryDisk()
    journal = open_journal(disk)
    for item in (granted("a", 1), ended("a", 2), granted("b", 3), fact(4)):
        journal.write([item])
    journal.close()
    hit(disk, 2)

    assert salvage(DATA, version="0.1.0", skip_damage=True, disk=disk).taken_over == 2

    journal = open_journal(disk)
    assert list(replay(Settings(), None, journal.replay()).durable.leases) == ["b"]
    assert [item.reason for _, item in journal.history(0, 9) if isinstance(item, LeaseEnded)] == ["salvaged"] * 2


def lease(id_: str, target: str, mib: int | None, joins: str | None = None) -> LeaseGranted:
    terms = replace(TERMS, target=target)
    return LeaseGranted(9, BEFORE, id_, int(id_[1:]), f"hash-{id_}", True, terms, "art", ("GPU-1",), mib, joins=joins)


@pytest.mark.parametrize(
    ("before", "behind", "held"),
    [
        pytest.param(
            [lease("l1", "big", 24_000), ended("l1", 2), lease("l2", "a", 8_000)],
            [lease("l3", "b", 9_000)],
            ["l2", "l3"],
            id="sizes that fit together on what one lease had before",
        ),
        pytest.param(
            [lease("l1", "big", 24_000), ended("l1", 2), lease("l2", "a", 8_000)],
            [lease("l3", "b", 17_000)],
            ["l3"],
            id="sizes that do not",
        ),
        pytest.param([lease("l1", "a", 8_000)], [lease("l2", "b", None)], ["l2"], id="a size that nobody knows"),
        pytest.param(
            [lease("l1", "a", 8_000)],
            [lease("l2", "a", 8_000, joins="l1"), lease("l3", "a", 8_000, joins="l1")],
            ["l1", "l2", "l3"],
            id="holders of one target",
        ),
        pytest.param(
            [lease("l1", "a", 8_000), ended("l1", 2)],
            [lease("l3", "a", 8_000, joins="l2"), lease("l4", "a", 8_000, joins="l2")],
            ["l3", "l4"],
            id="the first of them was lost",
        ),
        pytest.param([lease("l1", "a", 8_000)], [lease("l2", "a", 8_000)], ["l2"], id="its target, but leased anew"),
    ],
)
def test_leases_that_may_share_a_gpu_are_all_kept_over_a_loss(
    before: list[AnyFact], behind: list[AnyFact], held: list[str]
):
    disk = MemoryDisk()
    journal = open_journal(disk)
    for item in (*before, fact(5), *behind):
        journal.write([item])
    journal.close()
    hit(disk, len(before) + 1)

    salvage(DATA, version="0.1.0", skip_damage=True, disk=disk)

    state = replay(Settings(), None, open_journal(disk).replay())
    assert list(state.durable.leases) == held
    assert all(state.lease_of(lease.target or "") is not None for lease in state.durable.leases.values())


def test_a_snapshot_of_a_later_version_is_not_salvaged():
    disk = two_segments()
    open_journal(disk, segment_bytes=2700).save_snapshot(b"from the future", 60)
    disk = save_as_it_is(disk)
    journal = open_journal(disk, segment_bytes=2700)
    journal.write(facts(60, 3))
    journal.write(facts(63, 3))
    journal.close()
    hit(disk, 21)

    with pytest.raises(JournalTooNew, match="snapshot-000000000060"):
        salvage(DATA, version="0.1.0", disk=disk)
    assert open_journal(disk).damage


# ---- refusals, and crashes


def test_a_journal_in_use_is_not_salvaged():
    disk = two_segments()
    hit(disk, 3)
    open_journal(disk)

    with pytest.raises(JournalLocked):
        salvage(DATA, version="0.1.0", disk=disk)


def test_without_room_it_fails_stays_in_safe_mode_and_can_be_repeated():
    disk = two_segments()
    hit(disk, 3)
    disk.capacity = disk.used
    with pytest.raises(JournalBroken, match="No space left"):
        salvage(DATA, version="0.1.0", skip_damage=True, disk=disk)
    assert open_journal(save_as_it_is(disk)).damage

    disk.capacity = None

    assert salvage(DATA, version="0.1.0", skip_damage=True, disk=disk).taken_over == 51
    assert reopened(disk) == [*range(6), *range(9, 60)]


@pytest.mark.parametrize("skip_damage", [False, True])
def test_a_crash_at_any_step_leaves_safe_mode_or_a_salvaged_journal(*, skip_damage: bool):
    chance = random.Random(5)
    disk = two_segments()
    hit(disk, 3)
    disk = save_as_it_is(disk)
    images: list[MemoryDisk] = []
    disk.before = lambda operation, path: images.extend(
        [disk.crash("lost"), disk.crash("kept"), *(disk.crash(chance) for _ in "12345")]
    )
    salvage(DATA, version="0.1.0", skip_damage=skip_damage, disk=disk)
    expected = [*range(6), *range(9, 60)] if skip_damage else list(range(6))

    damaged = 0
    for image in images:
        if open_journal(save_as_it_is(image), segment_bytes=2700).damage:
            damaged += 1
            assert salvage(DATA, version="0.1.0", skip_damage=skip_damage, disk=image).put_aside
        assert reopened(image) == expected
    assert 50 < damaged < len(images)
