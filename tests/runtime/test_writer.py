"""The disk's thread: batches in order, and room for later ones when nobody waits for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import pytest

from supervisor.core.facts import AnyFact, FirstSync
from supervisor.writer import FACTS_MAX, Writer

FACT = FirstSync(1, 1, ())


class Disk:
    """Notes what is done to it. ``open``: a write ends."""

    ballast_bytes = 0

    def __init__(self) -> None:
        self.done: queue.Queue[str] = queue.Queue()
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def write(self, facts: Sequence[AnyFact]) -> None:
        assert self.open.wait(20)
        if self.error is not None:
            raise self.error
        self.done.put(f"write {len(facts)}")

    def replenish(self) -> bool:
        self.done.put("replenish")
        return True

    def headroom_bytes(self) -> int:
        return 1 << 30

    def save_snapshot(self, payload: bytes, fact_seq: int) -> None:
        self.done.put(f"snapshot {fact_seq}")

    def history(self, after: int, limit: int) -> list[tuple[int, AnyFact]]:
        return []


class Rig:
    def __init__(self) -> None:
        self.disk = Disk()
        self.ends: queue.Queue[BaseException | None] = queue.Queue()
        self.writer = Writer(self.disk, self._told)

    def _told(self, error: BaseException | None) -> None:
        self.disk.done.put("told")
        self.ends.put(error)

    def seen(self, count: int) -> list[str]:
        return [self.disk.done.get(timeout=10) for _ in range(count)]


@pytest.fixture
def box() -> Iterator[Rig]:
    made = Rig()
    made.writer.start()
    yield made
    made.disk.open.set()
    made.writer.end()
    made.writer.join(10)


def test_room_for_later_facts_is_made_when_the_batch_was_told_and_nothing_more_came(box: Rig):
    box.writer.put([FACT], None)
    assert box.seen(3) == ["write 1", "told", "replenish"]
    box.writer.put([FACT], (b"state", 2))
    assert box.seen(4) == ["write 1", "told", "snapshot 2", "replenish"]


def test_room_is_made_after_so_many_facts_also_where_batch_follows_batch(box: Rig):
    half = [FACT] * (FACTS_MAX // 2)
    box.disk.open.clear()
    for _ in range(4):
        box.writer.put(half, None)
    box.disk.open.set()
    batch = [f"write {len(half)}", "told"]
    assert box.seen(10) == [*batch, *batch, "replenish", *batch, *batch, "replenish"]


def test_without_facts_the_disk_is_seen_again_at_once(box: Rig):
    box.writer.put([], None)
    assert box.seen(1) == ["replenish"]


def test_who_waits_goes_on_when_the_batch_was_told_and_not_after_its_time(box: Rig):
    box.disk.open.clear()
    box.writer.put([FACT], None)
    box.writer.wait(0.001)
    assert box.disk.done.empty()
    box.disk.open.set()
    box.writer.wait(10)
    assert box.seen(2) == ["write 1", "told"]
    assert box.writer.took_s > 0
    box.writer.wait(10)  # it is done, and stays so


@pytest.mark.timeout(10)
def test_a_disk_that_failed_is_told_of_and_the_thread_ends(box: Rig):
    box.disk.error = OSError("I/O error")
    box.writer.put([FACT], None)
    box.writer.wait(60)  # who waits for it hears of it as soon
    assert box.ends.get(timeout=10) is box.disk.error
    box.writer.join(10)
    assert not box.writer.is_alive()
