"""Simulated GPU memory: it follows the processes, and comes back late, or not before somebody mends the driver.

A stopped container is not freed VRAM, so what is really in use is kept apart from what was last read.
"""

from __future__ import annotations

import random
from collections.abc import Container

from msgspec.structs import replace

from supervisor.core.model import Gpu
from tests.simulation.containers import SimContainer
from tests.simulation.timeline import Timeline

TOTAL_MIB = 24_576
GPU = Gpu("SIM-0", total_mib=TOTAL_MIB, used_mib=0)


class GpuMemory:
    """``late``: the chance that memory comes back late; ``never``: that it stays until ``mend``."""

    def __init__(self, timeline: Timeline, rng: random.Random, *, late: float = 0.0, never: float = 0.0) -> None:
        self._timeline, self._rng = timeline, rng
        self.late, self.never = late, never
        self.held: dict[tuple[str, str], int] = {}
        self._stuck: list[tuple[str, str]] = []

    @property
    def used_mib(self) -> int:
        return min(TOTAL_MIB, sum(self.held.values()))

    def left_by(self, alive: Container[tuple[str, str]]) -> int:
        """Return how much is held by processes that are over (MiB)."""
        return sum(mib for key, mib in self.held.items() if key not in alive)

    def read(self) -> tuple[Gpu, ...]:
        return (replace(GPU, used_mib=self.used_mib),)

    def take(self, container: SimContainer) -> None:
        """A labelled process loads its model."""
        if container.target is not None:
            self.held[container.id, container.run] = container.shown.vram_mib or TOTAL_MIB // 2

    def give_back(self, container: SimContainer) -> None:
        key = (container.id, container.run)
        if key not in self.held:
            return
        luck = self._rng.random()
        if luck < self.never:
            self._stuck.append(key)
        elif luck < self.never + self.late:
            self._timeline.after(self._rng.randint(100, 9_000), lambda: self.held.pop(key, None))
        else:
            del self.held[key]

    def mend(self) -> None:
        """Whatever is stuck comes back, and nothing sticks any more."""
        self.late = self.never = 0.0
        for key in self._stuck:
            self.held.pop(key, None)
        self._stuck.clear()
