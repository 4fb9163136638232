"""A journal in memory with the semantics of a crash: what was synced stays, what was under way may go either way.

Facts are kept encoded, as the real journal keeps them: a replay sees what msgpack makes of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from supervisor.core.apply import replay
from supervisor.core.facts import AnyFact
from supervisor.core.state import Settings, State

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[AnyFact])


class SimDisk:
    """``under_way`` is the batch that is being synced."""

    def __init__(self) -> None:
        self._synced: list[bytes] = []
        self._under_way: bytes | None = None
        self._snapshot: tuple[bytes, int] | None = None

    def write(self, facts: Sequence[AnyFact]) -> None:
        assert self._under_way is None, "one batch at a time"
        self._under_way = _ENCODER.encode(facts)

    def sync(self) -> list[AnyFact]:
        """The batch under way is on disk. Returns what a replay will read of it."""
        assert self._under_way is not None
        self._synced.append(self._under_way)
        self._under_way = None
        return _DECODER.decode(self._synced[-1])

    def save_snapshot(self, payload: bytes) -> None:
        """Keep a snapshot of the state as of the last synced batch."""
        self._snapshot = (payload, len(self._synced))

    def crash(self, rng: random.Random) -> list[AnyFact]:
        """The process is gone, or the power: the batch under way is whole or lost. Returns what was kept of it."""
        if self._under_way is not None and rng.random() < 0.5:
            return self.sync()
        self._under_way = None
        return []

    def facts(self) -> list[AnyFact]:
        """Return everything that was ever synced."""
        return [fact for batch in self._synced for fact in _DECODER.decode(batch)]

    def replay(self, settings: Settings) -> State:
        """Rebuild the state as a start does: from the newest snapshot, and what came after it."""
        payload, first = self._snapshot or (None, 0)
        return replay(settings, payload, map(_DECODER.decode, self._synced[first:]))
