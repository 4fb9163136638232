"""A simulated Docker Engine, at the level of what the supervisor sees of one: calls, ``inspect`` and events.

It keeps the facts that tests/contract checks on the real one: which call answers what in which state, which events
come in which order, when a container comes back by itself. What a restart of the daemon does is in ``daemon.py``.

Sources: moby daemon/{start,stop,kill,delete,monitor,health}.go, restartmanager/restartmanager.go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from supervisor.core.model import RUNNING, Container
from tests.simulation.containers import ApiError, Done, Recipe, SimContainer, create
from tests.simulation.timeline import Timeline

RING = 256
#: The first wait of a restart policy, its most, and the life after which it begins anew.
BACKOFF_FIRST_MS, BACKOFF_MAX_MS, BACKOFF_RESET_MS = 100, 60_000, 10_000
#: From SIGKILL to the end of the process, and until the engine gives up on one that does not end (10 s, then 2 s).
KILL_MS, GIVE_UP_MS = 10, 12_000


class Event(Struct, frozen=True):
    """One line of the event stream. ``at_ns`` is the wall clock, with a count below the millisecond."""

    id: str
    action: str
    at_ns: int
    labels: Mapping[str, str]
    name: str


class Stream(Struct, eq=False):
    """A subscription. ``ended`` is called when the daemon closes it."""

    deliver: Callable[[Event], object]
    ended: Callable[[], object]


class SimEngine:
    """``power``: up; hung (accepts calls, answers nobody, until it goes on); down."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.power: Literal["up", "hung", "down"] = "up"
        self.containers: dict[str, SimContainer] = {}
        self.ring: deque[Event] = deque(maxlen=RING)
        self.streams: list[Stream] = []
        self.backlog: list[tuple[Callable[[], object], Done]] = []
        self.on_cgroup: Callable[[SimContainer], bool] = lambda _: False
        self.on_start: Callable[[SimContainer], object] = lambda _: None
        self.on_death: Callable[[SimContainer], object] = lambda _: None
        self.incarnation = 0
        self._counted = 0
        self._labels: dict[str, Mapping[str, str]] = {}
        self.ever: dict[str, SimContainer] = {}

    # ---- calls

    def call(self, take: Callable[[], object], failed: Done) -> None:
        """Let a request arrive: it is taken now, when the daemon goes on, or not at all."""
        if self.power == "up":
            take()
        elif self.power == "hung":
            self.backlog.append((take, failed))
        else:
            failed(ApiError(0, "connection refused"))

    def _later(self, delay_ms: int, happen: Callable[[], object]) -> None:
        """Do what the daemon means to do later: it waits while it hangs, and is forgotten when it ends."""
        incarnation = self.incarnation

        def due() -> None:
            if self.incarnation == incarnation:
                self.call(happen, lambda _: None)

        self.timeline.after(delay_ms, due)

    def create(self, recipe: Recipe) -> str:
        """Create a container; only while the daemon is up.

        Raises:
            ApiError: the name is taken (409).
        """
        if any(container.name == recipe.name for container in self.containers.values()):
            raise ApiError(409, f"the container name {recipe.name} is already in use")
        container = create(f"{self._count():012x}", recipe, self.timeline.wall_ms())
        self.containers[container.id] = self.ever[container.id] = container
        self._labels[container.id] = recipe.labels
        self.emit(container, "create")
        return container.id

    def start(self, id_: str, done: Done) -> None:
        container = self.containers.get(id_)
        if container is None:
            done(ApiError(404, f"No such container: {id_}"))
        elif container.status == "paused":
            done(ApiError(409, "cannot start a paused container, try unpause instead"))
        elif container.status in RUNNING:
            done(None)
        elif container.recipe.behaviour.start_error:
            container.error, container.exit_code = container.recipe.behaviour.start_error, 127
            done(ApiError(400, container.error))
        else:
            container.manually_stopped = False
            container.backoff_ms = 0
            self.begin(container)
            done(None if container.alive else ApiError(500, container.error))

    def stop(self, id_: str, grace_s: int, done: Done) -> None:
        """Ask with SIGTERM, kill after the grace; ends a pause and a pending restart as well."""
        container = self.containers.get(id_)
        if container is None:
            done(ApiError(404, f"No such container: {id_}"))
        elif container.status not in RUNNING:
            done(None)
        elif container.status == "restarting":
            self._cancel_restart(container)
            self.emit(container, "stop")
            done(None)
        else:
            container.manually_stopped = True
            self.emit(container, "kill")
            self._unpause(container)
            term_ms = container.recipe.behaviour.term_ms
            life = container.life
            if term_ms is not None and term_ms < grace_s * 1000:
                self.timeline.after(term_ms, lambda: container.life == life and self._obey(container, 143))
            else:
                self._later(grace_s * 1000, lambda: container.life == life and self._kill(container))
            self._wait(container, grace_s * 1000, lambda error: self._stopped(container, done, error))

    def _stopped(self, container: SimContainer, done: Done, error: ApiError | None) -> None:
        if error is None:
            self.emit(container, "stop")
        done(error)

    def kill(self, id_: str, done: Done) -> None:
        container = self.containers.get(id_)
        if container is None:
            done(ApiError(404, f"No such container: {id_}"))
        elif container.status not in RUNNING:
            done(ApiError(409, f"Container {id_} is not running"))
        elif container.status == "restarting":
            self._cancel_restart(container)
            done(None)
        else:
            container.manually_stopped = True
            self._unpause(container)
            self._kill(container)
            self._wait(container, 0, done)

    def pause(self, id_: str, done: Done) -> None:
        container = self.containers.get(id_)
        if container is None:
            done(ApiError(404, f"No such container: {id_}"))
        elif container.status != "running":
            done(ApiError(409, f"Container {id_} is not running"))
        else:
            container.status = "paused"
            self.emit(container, "pause")
            done(None)

    def unpause(self, id_: str, done: Done) -> None:
        container = self.containers.get(id_)
        if container is None:
            done(ApiError(404, f"No such container: {id_}"))
        elif container.status != "paused":
            done(ApiError(500, f"Container {id_} is not paused"))
        else:
            self._unpause(container)
            done(None)

    def remove(self, id_: str, done: Done, *, force: bool = False) -> None:
        container = self.containers.get(id_)
        if container is None:
            done(ApiError(404, f"No such container: {id_}"))
        elif container.status not in RUNNING:
            self.destroy(container)
            done(None)
        elif not force:
            done(ApiError(409, f"You cannot remove a running container {id_}"))
        else:
            self.kill(id_, lambda error: self._removed(container, done, error))

    def _removed(self, container: SimContainer, done: Done, error: ApiError | None) -> None:
        if error is None and container.id in self.containers:
            self.destroy(container)
        done(error)

    def rename(self, id_: str, name: str, done: Done) -> None:
        container = self.containers.get(id_)
        if container is None:
            done(ApiError(404, f"No such container: {id_}"))
            return
        container.name = name
        self.emit(container, "rename")
        done(None)

    # ---- what it shows

    def inspect(self, id_: str) -> Container | None:
        container = self.containers.get(id_)
        return container.describe(self.timeline.wall_ms()) if container is not None else None

    def labels_of(self, id_: str) -> Mapping[str, str]:
        """Return the labels of a container, gone ones too: they never change."""
        return self._labels[id_]

    def subscribe(self, since_ms: int, stream: Stream) -> None:
        """Replay what the ring holds since a wall time, then go on live.

        The scan goes back from the newest and breaks at the first older one (moby daemon/events/events.go).
        """
        replayed: list[Event] = []
        for event in reversed(self.ring):
            if event.at_ns < since_ms * 1_000_000:
                break
            replayed.append(event)
        self.streams.append(stream)
        for event in reversed(replayed):
            stream.deliver(event)

    def emit(self, container: SimContainer, action: str) -> None:
        at_ns = self.timeline.wall_ms() * 1_000_000 + self._count() % 1_000_000
        event = Event(container.id, action, at_ns, container.recipe.labels, container.name)
        self.ring.append(event)
        for stream in self.streams:
            stream.deliver(event)

    def _count(self) -> int:
        self._counted += 1
        return self._counted

    # ---- processes

    def begin(self, container: SimContainer) -> None:
        """Start its process; the daemon says so once it runs. Says nothing if it is killed before that."""
        if self.on_cgroup(container):
            self._start_failed(container)
            return
        timeline = self.timeline
        container.status, container.alive, container.error, container.exit_code = "running", True, "", 0
        container.life += 1
        container.pending_signal = None
        container.started_at_ms, container.started_wall_ms = timeline.at_ms, timeline.wall_ms()
        container.run = f"{container.started_wall_ms}.{self._count()}"
        self._watch_health(container)
        exits_after_ms = container.recipe.behaviour.exits_after_ms
        if exits_after_ms is not None:
            life = container.life
            timeline.after(exits_after_ms, lambda: self._exit_by_itself(container, life))
        self.on_start(container)
        self.emit(container, "start")

    def _start_failed(self, container: SimContainer) -> None:
        """Whoever asked is answered an error; no event tells, and no restart policy tries it again.

        An exit code that it had it keeps (moby daemon/start.go, ``containerStart``).
        """
        container.status = "exited" if container.run else "created"
        container.error, container.exit_code = "the runtime's own process was killed", container.exit_code or 128
        if container.recipe.auto_remove:
            self.destroy(container)

    def kill_cgroup(self, id_: str) -> None:
        """Kill a container's processes without a word to the daemon, which takes it for a crash."""
        container = self.containers.get(id_)
        if container is not None and container.alive:
            self._obey(container, 137)

    def _exit_by_itself(self, container: SimContainer, life: int) -> None:
        if container.life != life:
            return
        if container.status == "paused":
            self.timeline.after(100, lambda: self._exit_by_itself(container, life))
        else:
            self.end(container, container.recipe.behaviour.exit_code)

    def _obey(self, container: SimContainer, code: int) -> None:
        if container.unkillable:
            container.pending_signal = code
        else:
            self.end(container, code)

    def let_go(self, container: SimContainer) -> None:
        """A process comes out of state D: the signal that it was sent meanwhile ends it."""
        container.unkillable = False
        if container.pending_signal is not None:
            self.end(container, container.pending_signal)

    def _kill(self, container: SimContainer) -> None:
        life = container.life
        self.emit(container, "kill")
        self.timeline.after(KILL_MS, lambda: container.life == life and self._obey(container, 137))

    def end(self, container: SimContainer, code: int) -> None:
        """Its process is over. The daemon notices at once, when it goes on, or when it is back."""
        if not container.alive:
            return
        container.alive = False
        container.life += 1
        container.dead_with = code
        self.on_death(container)
        if self.power == "up":
            self.reap(container)
        elif self.power == "hung":
            self.backlog.append((lambda: self.reap(container), lambda _: None))

    def reap(self, container: SimContainer) -> None:
        """The daemon takes notice of a process that is over, and decides whether it comes back."""
        if container.dead_with is None:
            return
        container.exit_code, container.dead_with = container.dead_with, None
        container.finished_wall_ms = self.timeline.wall_ms()
        if container.recipe.healthcheck:
            container.health = "unhealthy"  # no event tells; Docker's monitor leaves it so when it stops
        if self.comes_back(container):
            self._restart_later(container)
        else:
            container.status = "exited"
        self.emit(container, "die")
        waiting, container.waiting = container.waiting, []
        for done in waiting:
            done(None)
        if container.recipe.auto_remove and container.status == "exited" and container.id in self.containers:
            self.destroy(container)

    def comes_back(self, container: SimContainer) -> bool:
        if container.manually_stopped:
            return False
        match container.recipe.restart_policy:
            case "always" | "unless-stopped":
                return True
            case "on-failure":
                return container.exit_code != 0
        return False

    def _restart_later(self, container: SimContainer) -> None:
        lived_ms = self.timeline.at_ms - container.started_at_ms
        again = container.backoff_ms and lived_ms < BACKOFF_RESET_MS
        container.backoff_ms = min(BACKOFF_MAX_MS, container.backoff_ms * 2) if again else BACKOFF_FIRST_MS
        container.status = "restarting"
        life = container.life
        self._later(container.backoff_ms, lambda: container.life == life and self.begin(container))

    def _cancel_restart(self, container: SimContainer) -> None:
        container.manually_stopped = True
        container.status = "exited"
        container.life += 1

    def _unpause(self, container: SimContainer) -> None:
        if container.status == "paused":
            container.status = "running"
            self.emit(container, "unpause")

    def _wait(self, container: SimContainer, grace_ms: int, done: Done) -> None:
        """Answer when its process is over, or 500 when the engine gives up on it."""
        container.waiting.append(done)

        def give_up() -> None:
            if done in container.waiting:
                container.waiting.remove(done)
                done(ApiError(500, "tried to kill container, but did not receive an exit event"))

        self._later(grace_ms + GIVE_UP_MS, give_up)

    def destroy(self, container: SimContainer) -> None:
        del self.containers[container.id]
        container.life += 1
        self.emit(container, "destroy")

    # ---- health

    def _watch_health(self, container: SimContainer) -> None:
        if not container.recipe.healthcheck:
            return
        container.health = "starting"
        behaviour, life = container.recipe.behaviour, container.life
        if behaviour.healthy_after_ms is not None:
            self.timeline.after(behaviour.healthy_after_ms, lambda: self._probed(container, life, healthy=True))
        if behaviour.unhealthy_after_ms is not None:
            self.timeline.after(behaviour.unhealthy_after_ms, lambda: self._probed(container, life, healthy=False))

    def _probed(self, container: SimContainer, life: int, *, healthy: bool) -> None:
        if container.life != life:
            return
        if self.power != "up" or container.status == "paused":
            self.timeline.after(500, lambda: self._probed(container, life, healthy=healthy))
            return
        container.health = "healthy" if healthy else "unhealthy"
        self.emit(container, f"health_status: {container.health}")
        flaps_every_ms = container.recipe.behaviour.flaps_every_ms
        if flaps_every_ms is not None:
            self.timeline.after(flaps_every_ms, lambda: self._probed(container, life, healthy=not healthy))
