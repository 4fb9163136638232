"""What happens to containers when the daemon of the simulated engine hangs, ends and comes back; and at a reboot.

The table was tried on Docker 20.10 with a containerd of its own:

                        terminated            killed                          either, with live-restore
  processes meanwhile   stopped               run on, nobody looks            run on, nobody looks
  afterwards            only restart policy   survivors are stopped first     survivors go on
  always                started               started                         started where it does not run
  unless-stopped        started if it ran     stays down                      goes on
  a death meanwhile     -                     no ``die``                      no ``die``

The ring is empty after every restart.
"""

from __future__ import annotations

from typing import Literal

from supervisor.core.model import RUNNING
from tests.simulation.containers import ApiError, SimContainer
from tests.simulation.engine import SimEngine

How = Literal["terminated", "killed", "live-restore"]


def hang(engine: SimEngine) -> None:
    """SIGSTOP: calls are accepted and not answered, nothing is noticed, nothing is said."""
    engine.power = "hung"


def go_on(engine: SimEngine) -> None:
    """SIGCONT: everything that waited happens now, also calls whose callers have given up."""
    engine.power = "up"
    backlog, engine.backlog = engine.backlog, []
    for happen, _ in backlog:
        happen()


def go_down(engine: SimEngine, how: How) -> None:
    """End the daemon. ``terminated`` stops every container first, and the streams show it."""
    backlog, engine.backlog = engine.backlog, []
    for _, failed in backlog:
        failed(ApiError(0, "the connection broke"))
    engine.incarnation += 1
    engine.power = "down" if how != "terminated" else "up"
    for container in engine.containers.values():
        container.ran_at_shutdown = container.status in RUNNING
        _forget_callers(container)
    if how == "terminated":
        _stop_all(engine)
        engine.power = "down"
    streams, engine.streams = engine.streams, []
    for stream in streams:
        stream.ended()


def come_back(engine: SimEngine, how: How) -> None:
    """Start the daemon: it looks at what is left, stops or keeps it, and lets the restart policies speak."""
    engine.power = "up"
    engine.ring.clear()
    for container in list(engine.containers.values()):
        if container.status in RUNNING:
            _take_up(engine, container, how)
    for container in list(engine.containers.values()):
        policy = container.recipe.restart_policy
        resumed = policy == "unless-stopped" and container.ran_at_shutdown and how == "terminated"
        if not container.alive and (policy == "always" or (resumed and not container.manually_stopped)):
            container.backoff_ms = 0
            container.manually_stopped = False
            engine.begin(container)


def power_cut(engine: SimEngine) -> None:
    """The machine is gone: every process with it. ``come_back`` is its boot."""
    go_down(engine, "killed")
    for container in engine.containers.values():
        container.unkillable = False
        if container.alive:
            engine.end(container, 137)


def _forget_callers(container: SimContainer) -> None:
    waiting, container.waiting = container.waiting, []
    for done in waiting:
        done(ApiError(0, "the connection broke"))


def _stop_all(engine: SimEngine) -> None:
    for container in list(engine.containers.values()):
        container.life += 1
        if container.alive and not container.unkillable:
            engine.emit(container, "kill")
            container.manually_stopped, before = True, container.manually_stopped
            engine.end(container, 143)
            container.manually_stopped = before
            engine.emit(container, "stop")
        elif container.status == "restarting":
            container.status = "exited"


def _take_up(engine: SimEngine, container: SimContainer, how: How) -> None:
    if container.alive and how == "killed" and not container.unkillable:
        engine.emit(container, "kill")
        container.alive = False
        container.dead_with = 137
        engine.on_death(container)
    if container.alive:
        return
    told = container.dead_with is not None and how == "killed"
    container.life += 1
    container.exit_code, container.dead_with = container.dead_with or container.exit_code, None
    container.finished_wall_ms = engine.timeline.wall_ms()
    container.status = "exited"
    if told:
        engine.emit(container, "die")
    if container.recipe.auto_remove and container.id in engine.containers:
        engine.destroy(container)
