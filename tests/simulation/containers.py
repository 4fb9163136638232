"""One simulated container: what it was created with, what its process does, and what ``inspect`` shows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from supervisor.core.labels import parse, with_labels
from supervisor.core.model import Container, Health, Status
from supervisor.engine import compose


class ApiError(Exception):
    """The engine answered an error, or (status 0) could not be reached."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


Done = Callable[[ApiError | None], object]
"""Called with the engine's answer, once: None is success."""


class Behaviour(Struct, frozen=True, kw_only=True):
    """What a container's process does once it runs.

    ``exits_after_ms`` None: it runs on. ``term_ms``: how long it takes to end on SIGTERM; None: it ignores it.
    ``healthy_after_ms`` None: its probe never passes. ``unhealthy_after_ms``: from then on its probe fails.
    ``flaps_every_ms``: its probe changes its mind that often. ``start_error``: the engine refuses every start.
    """

    exits_after_ms: int | None = None
    exit_code: int = 0
    term_ms: int | None = 20
    healthy_after_ms: int | None = 500
    unhealthy_after_ms: int | None = None
    flaps_every_ms: int | None = None
    start_error: str = ""


class Recipe(Struct, frozen=True, kw_only=True):
    """What a container is created from. Labels never change afterwards."""

    name: str
    labels: Mapping[str, str] = {}
    behaviour: Behaviour = Behaviour()
    healthcheck: bool = False
    restart_policy: str = "no"
    stop_grace_s: int = 10
    auto_remove: bool = False


class SimContainer(Struct, kw_only=True, eq=False):
    """``alive`` is the process itself; ``status`` is what the daemon knows, which may lag behind it.

    ``life`` counts what would make a planned event of the process void. ``waiting``: calls that wait for its death.
    ``unkillable``: its process is in state D; ``pending_signal`` ends it when it comes out of it.
    ``dead_with``: the exit code of a process that ended while no daemon looked.
    """

    id: str
    name: str
    recipe: Recipe
    shown: Container
    status: Status = "created"
    health: Health = "none"
    exit_code: int = 0
    error: str = ""
    run: str = ""
    alive: bool = False
    unkillable: bool = False
    pending_signal: int | None = None
    life: int = 0
    manually_stopped: bool = False
    ran_at_shutdown: bool = False
    started_at_ms: int = 0
    started_wall_ms: int = 0
    finished_wall_ms: int = 0
    backoff_ms: int = 0
    dead_with: int | None = None
    waiting: list[Done] = field(default_factory=list)

    @property
    def target(self) -> str | None:
        return self.shown.target

    def describe(self, wall_ms: int) -> Container:
        """Return what ``inspect`` answers now."""
        end_ms = wall_ms if self.status in {"running", "paused"} else self.finished_wall_ms
        return replace(
            self.shown,
            name=self.name,
            status=self.status,
            health=self.health,
            exit_code=self.exit_code,
            error=self.error,
            run=self.run,
            started_wall_ms=self.started_wall_ms,
            age_ms=max(0, end_ms - self.started_wall_ms) if self.run else 0,
        )


def create(id_: str, recipe: Recipe, wall_ms: int) -> SimContainer:
    made = compose.read(recipe.labels)
    service = made.service or recipe.name
    says = parse(recipe.labels, container=recipe.name, service=service)
    shown = Container(
        id=id_,
        name=recipe.name,
        project=made.project,
        service=service,
        number=made.number,
        one_off=made.one_off,
        replaces=made.replaces,
        depends_on=made.depends_on,
        working_dir=made.working_dir,
        config_files=made.config_files,
        created_wall_ms=wall_ms,
        restart_policy=recipe.restart_policy,
        stop_grace_s=recipe.stop_grace_s,
        auto_remove=recipe.auto_remove,
        healthcheck=recipe.healthcheck,
    )
    return SimContainer(id=id_, name=recipe.name, recipe=recipe, shown=with_labels(shown, says))
