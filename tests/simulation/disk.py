"""Journals of the simulation, with the semantics of a crash: what was synced stays, the rest may go either way.

``SimDisk`` is a list of batches, and quick. ``JournaledDisk`` is the real journal on a file system in memory: a crash
cuts the power between any two of its operations, and tears what was not synced.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from supervisor.core.apply import replay
from supervisor.core.facts import AnyFact
from supervisor.core.state import Settings, State
from supervisor.journal import Journal
from tests.journal.memory_disk import MemoryDisk
from tests.simulation.ledger import require

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[AnyFact])
SEGMENT_BYTES = 64 * 1024
BALLAST_BYTES = 16 * 1024


class Disk(Protocol):
    """Where facts are kept. One batch is under way at a time: ``write`` begins it, ``sync`` ends it."""

    def write(self, facts: Sequence[AnyFact]) -> None: ...
    def sync(self) -> list[AnyFact]:
        """The batch under way is on disk. Returns what a replay will read of it."""

    def save_snapshot(self, payload: bytes, fact_seq: int) -> None:
        """Keep a snapshot of the state as of the last synced batch."""

    def crash(self, rng: random.Random) -> list[AnyFact]:
        """The process is gone, or the power. Returns what was kept of the batch under way: all, or nothing."""

    def facts(self) -> list[AnyFact]:
        """Return everything that was ever synced."""

    def replay(self, settings: Settings) -> State:
        """Rebuild the state as a start does: from the newest snapshot, and what came after it."""


class SimDisk:
    """Facts are kept encoded, as the real journal keeps them: a replay sees what msgpack makes of them."""

    def __init__(self) -> None:
        self._synced: list[bytes] = []
        self._under_way: bytes | None = None
        self._snapshot: tuple[bytes, int] | None = None

    def write(self, facts: Sequence[AnyFact]) -> None:
        assert self._under_way is None, "one batch at a time"
        self._under_way = _ENCODER.encode(facts)

    def sync(self) -> list[AnyFact]:
        assert self._under_way is not None
        self._synced.append(self._under_way)
        self._under_way = None
        return _DECODER.decode(self._synced[-1])

    def save_snapshot(self, payload: bytes, fact_seq: int) -> None:
        self._snapshot = (payload, len(self._synced))

    def crash(self, rng: random.Random) -> list[AnyFact]:
        if self._under_way is not None and rng.random() < 0.5:
            return self.sync()
        self.forget()
        return []

    def forget(self) -> None:
        """What was under way is lost."""
        self._under_way = None

    def facts(self) -> list[AnyFact]:
        return [fact for batch in self._synced for fact in _DECODER.decode(batch)]

    def replay(self, settings: Settings) -> State:
        payload, first = self._snapshot or (None, 0)
        return replay(settings, payload, map(_DECODER.decode, self._synced[first:]))


class PowerCut(Exception):
    """The machine is off: nothing after this operation happens."""


class JournaledDisk:
    """The real journal. Its own list of batches is kept beside it, to say what has to be there."""

    def __init__(self) -> None:
        self._list = SimDisk()
        self._disk = MemoryDisk()
        self._journal = self._open()
        self._under_way: Sequence[AnyFact] | None = None

    def _open(self) -> Journal:
        journal = Journal.open(
            Path("/data"),
            version="simulated",
            disk=self._disk,
            segment_bytes=SEGMENT_BYTES,
            ballast_bytes=BALLAST_BYTES,
        )
        require(not journal.damage, f"a crash tears a journal, and does not damage it: {journal.damage}")
        return journal

    def write(self, facts: Sequence[AnyFact]) -> None:
        self._list.write(facts)
        self._under_way = facts

    def sync(self) -> list[AnyFact]:
        assert self._under_way is not None
        self._journal.write(self._under_way)
        self._journal.replenish()
        self._under_way = None
        return self._list.sync()

    def save_snapshot(self, payload: bytes, fact_seq: int) -> None:
        self._journal.save_snapshot(payload, fact_seq)

    def crash(self, rng: random.Random) -> list[AnyFact]:
        before = self._journal.fact_seq
        batch, self._under_way = self._under_way, None
        self._cut_power(rng, batch)
        self._disk = self._disk.crash(rng)
        self._journal = self._open()
        kept = self._journal.fact_seq - before
        require(kept in {0, len(batch or ())}, "a crash leaves all of a batch, or nothing of it")
        if batch and kept:
            return self._list.sync()
        self._list.forget()
        return []

    def _cut_power(self, rng: random.Random, batch: Sequence[AnyFact] | None) -> None:
        """Let the batch under way get as far as it may."""
        left = rng.randint(0, 4)

        def count(operation: str, path: Path) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerCut

        if batch is None:
            return
        self._disk.before = count
        try:
            self._journal.write(batch)
        except PowerCut:
            return

    def facts(self) -> list[AnyFact]:
        return self._list.facts()

    def replay(self, settings: Settings) -> State:
        return replay(settings, self._journal.snapshot, self._journal.replay())
