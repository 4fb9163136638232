"""Simulated GPU memory: it follows the processes, and comes back late, or not before somebody mends the driver.

A stopped container is not freed VRAM, so what is really in use is kept apart from what was last read. People use the
GPUs as well: a game takes memory that nobody granted, and gives it back some time.
"""

from __future__ import annotations

import random
from collections.abc import Container

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.model import Gpu, GpuProcess
from tests.simulation.containers import SimContainer
from tests.simulation.timeline import Timeline

TOTAL_MIB = 24_576
GPU = Gpu("SIM-0", total_mib=TOTAL_MIB, used_mib=0)
SMALL = Gpu("SIM-1", index=1, total_mib=8_192, used_mib=0)
SECOND = Gpu("SIM-1", index=1, total_mib=TOTAL_MIB, used_mib=0)
THIRD = Gpu("SIM-2", index=2, total_mib=16_384, used_mib=0)
#: What boxes have, and how many of them.
SETS = (((GPU,), 5), ((GPU, SECOND), 3), ((GPU, SMALL), 1), ((GPU, SECOND, THIRD), 1))


class Share(Struct, frozen=True):
    """What one process holds, of each of ``gpus`` (MiB)."""

    gpus: tuple[str, ...]
    mib: int
    container: str | None
    pid: int
    started: int = 0


class GpuMemory:
    """``late``: the chance that memory comes back late; ``never``: that it stays until ``mend``.

    ``silent``: the driver does not say which process uses what. ``gone``: what is held by processes that are over.
    ``ever``: every process of a container that loaded something.
    """

    def __init__(self, timeline: Timeline, rng: random.Random, gpus: tuple[Gpu, ...] = (GPU,)) -> None:
        self._timeline, self._rng, self.gpus = timeline, rng, gpus
        self.late = self.never = 0.0
        self.silent = False
        self.held: dict[tuple[str, str], Share] = {}
        self.gone: set[tuple[str, str]] = set()
        self.ever: list[Share] = []
        self._stuck: list[tuple[str, str]] = []
        self._games = 0

    def used_mib(self, uuid: str) -> int:
        return sum(share.mib for share in self.held.values() if uuid in share.gpus)

    def left_by(self, alive: Container[tuple[str, str]], uuid: str) -> int:
        """Return how much of a GPU is held by processes of containers that are over (MiB)."""
        held = self.held.items()
        return sum(share.mib for key, share in held if share.container and key not in alive and uuid in share.gpus)

    def foreign_mib(self, uuid: str) -> int:
        return sum(share.mib for share in self.held.values() if share.container is None and uuid in share.gpus)

    def read(self) -> tuple[Gpu, ...]:
        return tuple(self._read(gpu) for gpu in self.gpus)

    def _read(self, gpu: Gpu) -> Gpu:
        used_mib = min(gpu.total_mib or 0, self.used_mib(gpu.uuid))
        if self.silent:
            return replace(gpu, used_mib=used_mib, processes=None)
        processes = tuple(
            GpuProcess(pid=share.pid, used_mib=share.mib, container=share.container)
            for key, share in sorted(self.held.items())
            if gpu.uuid in share.gpus and key not in self.gone
        )
        return replace(gpu, used_mib=used_mib, processes=processes)

    def take(self, container: SimContainer, gpus: tuple[str, ...]) -> None:
        """A labelled process loads its model."""
        if container.target is not None:
            mib = -(-(container.shown.vram_mib or TOTAL_MIB // 2) // len(gpus))
            pid = 1_000 + len(self.held)
            started = 1 + self._timeline.boot_ms() // 10
            share = self.held[container.id, container.run] = Share(gpus, mib, container.id, pid, started)
            self.ever.append(share)

    def give_back(self, container: SimContainer) -> None:
        key = (container.id, container.run)
        if key not in self.held:
            return
        self.gone.add(key)
        luck = self._rng.random()
        if luck < self.never:
            self._stuck.append(key)
        elif luck < self.never + self.late:
            self._timeline.after(self._rng.randint(100, 9_000), lambda: self.held.pop(key, None))
        else:
            del self.held[key]

    def play(self) -> tuple[str, str]:
        """Somebody starts a game. Returns what ends it."""
        self._games += 1
        key = ("game", str(self._games))
        gpu = self._rng.choice(self.gpus)
        self.held[key] = Share((gpu.uuid,), self._rng.choice((300, 6_000, 20_000)), None, 900 + self._games)
        return key

    def mend(self) -> None:
        """Whatever is stuck comes back, and nothing sticks any more; the games are over."""
        self.late = self.never = 0.0
        for key in [*self._stuck, *(key for key in self.held if key[0] == "game")]:
            self.held.pop(key, None)
        self._stuck.clear()
