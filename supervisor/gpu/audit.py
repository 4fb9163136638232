"""Who is on the GPUs, with names: what the driver lists, and what ``/proc`` says of each. The calls block."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from supervisor.core.inputs import Sent
from supervisor.core.model import Gpu
from supervisor.core.processes import Ancestor, SeenProcess, Use
from supervisor.gpu.proc_files import sees_host
from supervisor.gpu.processes import ProcessReader, ProcessStory
from supervisor.gpu.reaper import Reaper

log = logging.getLogger(__name__)


class ProcessAudit:
    """Implements ``ProcessPort``. ``look`` is called from one thread at a time."""

    def __init__(self, *, host: bool | None = None) -> None:
        self._reader, self._reaper = ProcessReader(), Reaper()
        self._sees_host = sees_host() if host is None else host
        if not self._sees_host:
            log.warning(
                "processes on the GPUs cannot be told: this process does not see the host's; "
                "in a container, run it with: --pid host"
            )

    def look(self, gpus: Sequence[Gpu]) -> tuple[SeenProcess, ...]:
        """Describe every process that the GPUs list; those that are gone by now are left out.

        Nobody where pids here are not the host's: the same number is another process then. One whose pid was used
        again since the GPUs were read is another process as well, and is left out.
        """
        if not self._sees_host:
            return ()
        uses: dict[int, list[Use]] = {}
        started: dict[int, int] = {}
        for gpu in gpus:
            for process in gpu.processes or ():
                uses.setdefault(process.pid, []).append(Use(gpu.uuid, process.used_mib, process.kind))
                started[process.pid] = process.started
        found = ((self._reader.describe(pid), tuple(uses[pid]), started[pid]) for pid in uses)
        return tuple(_seen(story, of) for story, of, at in found if story is not None and at in {0, story.started})

    def terminate(self, pid: int, started: int, signal: int) -> Sent:
        """Send ``signal`` to exactly that process."""
        return self._reaper.terminate(pid, started, signal)


def _seen(story: ProcessStory, uses: tuple[Use, ...]) -> SeenProcess:
    return SeenProcess(
        pid=story.pid,
        started=story.started,
        uses=uses,
        started_wall_ms=story.started_wall_ms,
        name=story.name,
        uid=story.uid,
        user=story.user,
        root=story.root,
        executable=story.executable,
        command=story.command,
        cgroup=story.cgroup,
        containers=story.containers,
        ancestors=tuple(Ancestor(one.pid, one.started, one.name, one.command) for one in story.ancestors),
        kernel_thread=story.kernel_thread,
        denied=story.denied,
    )
