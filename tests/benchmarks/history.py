"""Journals to be replayed, as a busy box writes them: made without syncs, or a million facts would take minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from supervisor import __version__
from supervisor.core.facts import (
    AnyFact,
    LeaseEnded,
    LeaseGranted,
    ResidencyEnded,
    RoomVerified,
    TargetReady,
    TicketQueued,
)
from supervisor.core.model import Terms
from supervisor.journal import Journal
from supervisor.journal.disk import OsDisk

WALL_MS = 1_700_000_000_000
TARGETS = [f"target-{number}" for number in range(20)]
BOX = [
    Terms(target=target, owner=f"owner-{number}", priority=0, ttl_ms=300_000) for number, target in enumerate(TARGETS)
]


class Unsynced(OsDisk):
    """The real file system, for data that a crash may have."""

    def sync(self, file: int) -> None:
        """Nothing was promised."""


def facts(count: int) -> list[AnyFact]:
    """Return the first ``count`` facts of a box where targets take turns: queued, granted, ready, ended, evicted."""
    made: list[AnyFact] = []
    turn = 0
    while len(made) < count:
        made += _turn(turn)
        turn += 1
    return made[:count]


def _turn(turn: int) -> list[AnyFact]:
    at_ms = turn * 1_000
    terms = BOX[turn % len(BOX)]
    target, owner = terms.target or "", terms.owner
    id_, token = f"l_{turn:012d}", f"{turn:064x}"

    def when(ms: int) -> tuple[int, int]:
        return at_ms + ms, WALL_MS + at_ms + ms

    return [
        TicketQueued(*when(0), id_, token, True, terms),
        LeaseGranted(*when(1), id_, turn + 1, token, True, terms, "box", ("SIM-0",), 24_576),
        RoomVerified(*when(60), id_, target),
        TargetReady(*when(900), id_, target, 899),
        LeaseEnded(*when(990), id_, "released", True, owner, target),
        ResidencyEnded(*when(999), target, "evicted", f"l_{turn + 1:012d}", TARGETS[(turn + 1) % len(TARGETS)], "next"),
    ]


def batches(history: list[AnyFact], size: int) -> Iterator[list[AnyFact]]:
    for first in range(0, len(history), size):
        yield history[first : first + size]


def write(data_dir: Path, history: list[AnyFact], batch: int) -> None:
    """Write a journal without snapshots: all of it has to be replayed."""
    journal = Journal.open(data_dir, version=__version__, disk=Unsynced())
    for each in batches(history, batch):
        journal.write(each)
        journal.replenish()
    journal.close()
