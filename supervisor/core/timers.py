"""What falls due when. What is done then is said in ``step``."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field
from sortedcontainers import SortedList

TimerKey = tuple[str, str]
"""(what, id): lease, window, hold, ready, down, idle, young, unused, held, retry, tally, vram, process, rest."""

#: Set while memory may be on its way back: something stopped running a moment ago, or is to go.
AT_REST: TimerKey = ("rest", "")


class Timers(Struct):
    """What falls due when: set, moved and dropped in O(log n)."""

    at: dict[TimerKey, int] = field(default_factory=dict)
    due: Any = field(default_factory=SortedList)

    def set(self, key: TimerKey, at_ms: int) -> None:
        if key in self.at:
            self.drop(key)
        self.at[key] = at_ms
        self.due.add((at_ms, key))

    def drop(self, key: TimerKey) -> None:
        at_ms = self.at.pop(key, None)
        if at_ms is not None:
            self.due.remove((at_ms, key))

    def drop_of(self, id_: str, *whats: str) -> None:
        """Drop all these timers of one lease, ticket or target; most of them are not set."""
        for what in whats:
            if (what, id_) in self.at:
                self.drop((what, id_))

    def pop_due(self, now_ms: int) -> TimerKey | None:
        if self.at and self.due[0][0] <= now_ms:
            key: TimerKey = self.due[0][1]
            self.drop(key)
            return key
        return None

    @property
    def next_at_ms(self) -> int | None:
        return self.due[0][0] if self.at else None
