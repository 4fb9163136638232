"""GPUs without hardware: their memory follows the labelled containers that run, and lies where it is told to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.model import Gpu, GpuProcess
from supervisor.gpu.choice import HONEST, Lies
from supervisor.gpu.load import Load
from supervisor.gpu.reading import Reading

#: Simulated processes are counted from here. Linux gives no process a pid as large as this (PID_MAX_LIMIT in
#: include/linux/threads.h), so whoever acts on what is read can never hit a real one.
PIDS_FROM = 2**22 + 1


class Remainder(Struct, frozen=True):
    """Memory that a container left behind: no process explains it. ``until_s`` None: it stays."""

    gpu: str
    used_mib: int
    until_s: float | None


class SimulatedGpus:
    """Each running container uses what it declares, on its GPUs, as one process; what has stopped has given it back.

    Memory is handed out in the order of the loads: what does not fit any more is used by nobody.
    """

    def __init__(
        self, gpus: Sequence[Gpu], lies: Lies = HONEST, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._gpus, self._lies, self._monotonic_s = tuple(gpus), lies, monotonic_s
        self._report: Callable[[Reading], None] = lambda _: None
        self._pids: dict[str, int] = {}
        self._next_pid = count(PIDS_FROM + 1)
        self._used: dict[tuple[str, str], int] = {}
        self._left: list[Remainder] = []

    def start(self, report: Callable[[Reading], None]) -> None:
        """Report a first reading, with nothing running. Readings are reported before the call returns."""
        self._report = report
        self.read_soon(())

    def read_soon(self, loads: Sequence[Load]) -> None:
        """Report the GPUs as they are while just ``loads`` run."""
        now_s = self._monotonic_s()
        self._let_go(loads, now_s)
        used: dict[tuple[str, str], int] = {}
        gpus = tuple(self._read(gpu, loads, used) for gpu in self._gpus)
        self._used = used
        self._report(Reading(gpus=gpus, began_s=now_s, took_s=0.0))

    def close(self) -> None:
        self._report = lambda _: None

    def _let_go(self, loads: Sequence[Load], now_s: float) -> None:
        """Keep the memory of what has stopped since the last reading, for as long as the lie says."""
        here = {(load.container, uuid) for load in loads for uuid in load.gpus}
        late_ms = self._lies.late_ms
        self._left = [one for one in self._left if one.until_s is None or one.until_s > now_s]
        if late_ms != 0:
            until_s = None if late_ms is None else now_s + late_ms / 1000
            gone = ((uuid, mib) for (container, uuid), mib in self._used.items() if (container, uuid) not in here)
            self._left += [Remainder(uuid, mib, until_s) for uuid, mib in gone]
        running = {load.container for load in loads}
        self._pids = {container: pid for container, pid in self._pids.items() if container in running}

    def _read(self, gpu: Gpu, loads: Sequence[Load], used: dict[tuple[str, str], int]) -> Gpu:
        assert gpu.total_mib is not None, "simulated GPUs have a size"
        left_mib = sum(one.used_mib for one in self._left if one.gpu == gpu.uuid)
        free_mib = max(0, gpu.total_mib - left_mib)
        processes: list[GpuProcess] = []
        foreign_mib = min(self._lies.foreign_mib, free_mib)
        if foreign_mib:
            processes.append(GpuProcess(pid=PIDS_FROM, used_mib=foreign_mib))
            free_mib -= foreign_mib
        for load in loads:
            if gpu.uuid not in load.gpus:
                continue
            mib = free_mib if load.used_mib is None else min(load.used_mib, free_mib)
            free_mib -= mib
            used[load.container, gpu.uuid] = mib
            processes.append(GpuProcess(pid=self._pid(load.container), used_mib=mib, container=load.container))
        return replace(gpu, used_mib=gpu.total_mib - free_mib, free_mib=free_mib, processes=tuple(processes))

    def _pid(self, container: str) -> int:
        if container not in self._pids:
            self._pids[container] = next(self._next_pid)
        return self._pids[container]
