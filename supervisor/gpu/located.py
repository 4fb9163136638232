"""In which container each listed process is: the driver knows pids alone, and what a target uses goes by containers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from supervisor.clock import read_wall_ms
from supervisor.core.model import FinishedUse, Gpu, GpuProcess
from supervisor.gpu.cgroup_ids import container_of
from supervisor.gpu.proc_files import ProcessFiles, sees_host
from supervisor.gpu.reading import Reading

REMEMBERED_MAX = 1_024
BLIND = (
    "who uses the GPUs cannot be told: pids here are not the host's; a supervisor in a container is run with "
    "--pid host (in a compose file: pid: host)"
)


class Locator:
    """Remembers where each process is: that does not change as long as it lives. For one thread.

    ``host``: whether pids here are the host's, as the driver's are (None: look).
    """

    def __init__(
        self, *, host: bool | None = None, proc: Path = Path("/proc"), wall_ms: Callable[[], int] = read_wall_ms
    ) -> None:
        self._host, self._proc = sees_host(proc) if host is None else host, proc
        self._wall_ms = wall_ms
        self._known: OrderedDict[tuple[int, int], str | None] = OrderedDict()
        #: By pid: when its process was last seen (Unix milliseconds), and where.
        self._seen_at_ms: OrderedDict[int, tuple[int, str | None]] = OrderedDict()

    def locate(self, reading: Reading) -> Reading:
        """Fill in the containers of all processes. Where pids are not the host's, nobody says who uses what."""
        if not reading.gpus:
            return reading
        if not self._host:
            gpus = tuple(replace(gpu, processes=None) for gpu in reading.gpus)
            return replace(reading, gpus=gpus, finished=(), problem="; ".join(filter(None, (reading.problem, BLIND))))
        gpus = tuple(self._locate(gpu) for gpu in reading.gpus)
        return replace(reading, gpus=gpus, finished=tuple(self._located_earlier(one) for one in reading.finished))

    def _locate(self, gpu: Gpu) -> Gpu:
        if not gpu.processes:
            return gpu
        return replace(gpu, processes=tuple(self._located(process) for process in gpu.processes))

    def _located(self, process: GpuProcess) -> GpuProcess:
        identity = (process.pid, process.started)
        if identity not in self._known:
            self._known[identity] = self._container_of(process)
            if len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)
        self._known.move_to_end(identity)
        self._seen_at_ms[process.pid] = (self._wall_ms(), self._known[identity])
        self._seen_at_ms.move_to_end(process.pid)
        if len(self._seen_at_ms) > REMEMBERED_MAX:
            self._seen_at_ms.popitem(last=False)
        return replace(process, container=self._known[identity])

    def _located_earlier(self, finished: FinishedUse) -> FinishedUse:
        """Fill in where a process was, if it was seen since it began: an earlier one of the same pid was another."""
        at_ms, container = self._seen_at_ms.get(finished.pid, (0, None))
        return replace(finished, container=container) if at_ms >= finished.started_wall_ms else finished

    def _container_of(self, process: GpuProcess) -> str | None:
        try:
            with ProcessFiles(process.pid, self._proc) as files:
                if process.started not in {0, files.stat().started}:
                    return None  # it has ended, and its pid was used again
                return container_of(files.read("cgroup").decode(errors="surrogateescape"))
        except (ProcessLookupError, PermissionError):
            return None
