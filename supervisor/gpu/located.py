"""In which container each listed process is: the driver knows pids alone, and what a target uses goes by containers."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from msgspec.structs import replace

from supervisor.core.model import Gpu, GpuProcess
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

    def __init__(self, *, host: bool | None = None, proc: Path = Path("/proc")) -> None:
        self._host, self._proc = sees_host(proc) if host is None else host, proc
        self._known: OrderedDict[tuple[int, int], str | None] = OrderedDict()

    def locate(self, reading: Reading) -> Reading:
        """Fill in the containers of all processes. Where pids are not the host's, nobody says who uses what."""
        if not reading.gpus:
            return reading
        if not self._host:
            gpus = tuple(replace(gpu, processes=None) for gpu in reading.gpus)
            return replace(reading, gpus=gpus, problem="; ".join(filter(None, (reading.problem, BLIND))))
        return replace(reading, gpus=tuple(self._locate(gpu) for gpu in reading.gpus))

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
        return replace(process, container=self._known[identity])

    def _container_of(self, process: GpuProcess) -> str | None:
        try:
            with ProcessFiles(process.pid, self._proc) as files:
                if process.started not in {0, files.stat().started}:
                    return None  # it has ended, and its pid was used again
                return container_of(files.read("cgroup").decode(errors="surrogateescape"))
        except (ProcessLookupError, PermissionError):
            return None
