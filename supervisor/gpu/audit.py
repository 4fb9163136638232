"""Who is on the GPUs, with names: what the driver lists, and what ``/proc`` says of each. The calls block."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.core.inputs import Sent
from supervisor.core.model import Gpu
from supervisor.core.processes import Ancestor, SeenProcess, Use
from supervisor.gpu.processes import ProcessReader, ProcessStory
from supervisor.gpu.reaper import Reaper


class ProcessAudit:
    """Implements ``ProcessPort``. ``look`` is called from one thread at a time."""

    def __init__(self, reader: ProcessReader | None = None, reaper: Reaper | None = None) -> None:
        self._reader, self._reaper = reader or ProcessReader(), reaper or Reaper()

    def look(self, gpus: Sequence[Gpu]) -> tuple[SeenProcess, ...]:
        """Describe every process that the GPUs list; those that are gone by now are left out.

        One whose pid was used again since the GPUs were read is another process, and is left out as well.
        """
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
