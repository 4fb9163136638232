"""The processes of the simulated box: jobs that bare leases are tied to, and all kinds that use GPUs beside them.

Pids come from a small range, so they are used again soon; what a pid was before is told by its start time. A process
ends by itself, by a signal, or with the machine. ``seen`` is what a look behind the driver's list brings.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.inputs import Sent
from supervisor.core.model import Gpu, Tie
from supervisor.core.processes import Allowed, Ancestor, SeenProcess, Use
from supervisor.core.state import Settings
from tests.simulation.gpu import GpuMemory, Share
from tests.simulation.timeline import Timeline

#: So few that the next process often gets the pid of one that has just ended.
PIDS = range(300, 312)
TICK_MS = 10
KILL_MS = 10
#: Who may use the GPUs without a lease where processes are looked at.
ALLOWED = (Allowed(user="artist"), Allowed(executable="/opt/*", user="anna"))
#: What a look finds of processes that nobody started here: those of containers, and games.
APP = SeenProcess(pid=0, started=0, uses=(), name="app", uid=1_000, user="app", root=False)


class SimProcess(Struct, eq=False):
    """``story``: what a look finds, but for its GPUs. ``parent``: who started it; ``allowed``: the list names its kind.

    ``term_ms``: how long it takes to end on SIGTERM; None: never.

    ``forbidden``: the kernel lets nobody signal it. ``unkillable``: it is in state D, until the driver lets go.
    """

    story: SeenProcess
    boot: str
    gpus: tuple[str, ...] = ()
    kind: str = "compute"
    parent: SimProcess | None = None
    allowed: bool = False
    term_ms: int | None = 20
    forbidden: bool = False
    unkillable: bool = False
    alive: bool = True
    ended_at_ms: int = 0
    doomed: bool = False

    @property
    def tie(self) -> Tie:
        return Tie(self.story.pid, self.story.started, self.boot)

    @property
    def family(self) -> list[Tie]:
        """It, who started it, and so on."""
        return [self.tie, *(self.parent.family if self.parent is not None else ())]


class Processes:
    """``on_end`` hears of every end. ``enabled``: this history has such processes at all."""

    def __init__(self, timeline: Timeline, rng: random.Random, gpu: GpuMemory, *, enabled: bool) -> None:
        self._timeline, self.rng, self._gpu, self.enabled = timeline, rng, gpu, enabled
        self.alive: dict[int, SimProcess] = {}
        self.ever: dict[Tie, SimProcess] = {}
        self.on_end: Callable[[SimProcess], object] = lambda _: None
        self._newest: dict[int, int] = {}

    # ---- what they do

    def start(
        self, *, gpus: tuple[str, ...] = (), mib: int = 50, lives_ms: int | None = None, **values: object
    ) -> SimProcess | None:
        """Start one, on ``gpus`` if there are any; None if no pid is left."""
        free = [pid for pid in PIDS if pid not in self.alive]
        if not free:
            return None
        pid = self.rng.choice(free)
        story = {"name": "python3", "uid": 1_001, "user": "mallory", "root": False, "executable": "/usr/bin/python3"}
        own = {name: values.pop(name) for name in list(values) if name in SeenProcess.__struct_fields__}
        parent = values.get("parent")
        if isinstance(parent, SimProcess):
            own["ancestors"] = (Ancestor(*parent.story.identity, parent.story.name), *parent.story.ancestors)
        known = SeenProcess(pid=pid, uses=(), **{**story, "started": self._tick(pid), **own})  # type: ignore[arg-type]
        process = SimProcess(known, self._timeline.boot_id, gpus, **values)  # type: ignore[arg-type]
        self.alive[pid] = self.ever[process.tie] = process
        if gpus:
            self._gpu.held["process", f"{pid}/{known.started}"] = Share(gpus, mib, None, pid)
        if lives_ms is not None:
            self._timeline.after(lives_ms, lambda: self.end(process))
        return process

    def _tick(self, pid: int) -> int:
        """Return a start time that no earlier process of this pid has in this boot."""
        self._newest[pid] = max(self._newest.get(pid, 0) + 1, 1 + self._timeline.boot_ms() // TICK_MS)
        return self._newest[pid]

    def end(self, process: SimProcess) -> None:
        if not process.alive:
            return
        if process.unkillable:
            process.doomed = True
            return
        process.alive, process.ended_at_ms = False, self._timeline.at_ms
        del self.alive[process.story.pid]
        self._gpu.held.pop(("process", f"{process.story.pid}/{process.tie.started}"), None)
        self.on_end(process)

    def let_go(self, process: SimProcess) -> None:
        """It comes out of state D: what should have ended it does."""
        process.unkillable = False
        if process.doomed:
            self.end(process)

    def power_cut(self) -> None:
        """The machine is gone, and start times begin anew."""
        for process in list(self.alive.values()):
            process.unkillable = False
            self.end(process)
        self._newest.clear()

    # ---- what others see of them, and do to them

    def lives(self, tie: Tie) -> bool:
        process = self.alive.get(tie.pid)
        return process is not None and process.tie == tie

    def send(self, pid: int, started: int, number: int) -> Sent:
        """Signal exactly that process, as ``supervisor/gpu/reaper.py`` does."""
        process = self.alive.get(pid)
        if process is None:
            return "gone"
        if process.story.started != started:
            return "other_process"
        if process.forbidden:
            return "forbidden"
        if number == signal.SIGKILL:
            self._timeline.after(KILL_MS, lambda: self.end(process))
        elif process.term_ms is not None:
            self._timeline.after(process.term_ms, lambda: self.end(process))
        return "sent"

    def seen(self, gpus: tuple[Gpu, ...]) -> tuple[SeenProcess, ...]:
        """Look at every process that the driver lists now."""
        found: dict[tuple[int, int], SeenProcess] = {}
        listed = {gpu.uuid for gpu in gpus if gpu.processes is not None}
        for key, share in sorted(self._gpu.held.items()):
            uuids = [uuid for uuid in share.gpus if uuid in listed]
            if not uuids or key in self._gpu.gone:
                continue
            story, kind = self._behind(key, share)
            uses = tuple(Use(uuid, share.mib, kind) for uuid in uuids)
            found[story.identity] = replace(story, uses=uses)
        return tuple(found.values())

    def _behind(self, key: tuple[str, str], share: Share) -> tuple[SeenProcess, str]:
        if key[0] == "process":
            process = self.alive[share.pid]
            return process.story, process.kind
        # A game's start time may not be read, so nobody ever signals it.
        containers = (share.container,) if share.container is not None else ()
        started = share.started if containers else 0
        return replace(APP, pid=share.pid, started=started, containers=containers), "compute"


def settings(rng: random.Random, base: Settings) -> Settings:
    """Choose what is done about processes, soon enough for a history."""
    return replace(
        base,
        process_policy=rng.choices(("observe", "warn", "terminate"), (15, 15, 70))[0],
        process_settle_ms=rng.choice((0, 1_000, 10_000)),
        process_grace_ms=rng.choice((2_000, 15_000)),
        process_allow=ALLOWED,
        process_spare_root=rng.random() < 0.7,
        process_spare_graphics=rng.random() < 0.7,
    )


#: Kinds of processes that come to a GPU without asking. ``{}``: an ordinary stranger.
STRANGERS: tuple[dict[str, object], ...] = (
    {},
    {},
    {"term_ms": None},
    {"term_ms": 4_000},
    {"containers": ("f" * 12,)},
    {"root": True, "user": "root", "uid": 0},
    {"root": None, "user": None, "uid": None, "denied": ("user",)},
    {"kind": "graphics", "name": "Xorg"},
    {"user": "artist", "allowed": True},
    {"user": "anna", "executable": "/opt/blender/blender", "allowed": True},
    {"user": "anna"},
    {"started": 0},
    {"kernel_thread": True},
    {"forbidden": True},
)
