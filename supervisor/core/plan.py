"""What is due: the difference between what should run and what is seen running. Pure and level-triggered.

A plan is never kept: it can be lost at any moment, and the next one says the same. Calls in flight are not
repeated; a call that changed nothing waits for its retry time.
"""

from __future__ import annotations

from supervisor.core.model import Container, Lease, Now
from supervisor.core.replies import Action, KillContainer, StartContainer, StopContainer
from supervisor.core.state import State
from supervisor.core.targets import depends_on, helpers, nothing_intrudes, right_to_run, satisfied, team_of


def plan(state: State, now: Now) -> list[Action]:
    """Return every call that is due, for all targets."""
    return [action for target in state.observed.by_target for action in plan_target(state, now, target)]


def plan_target(state: State, now: Now, target: str) -> list[Action]:
    """Return the calls that are due for one target: first what must stop, then what may start."""
    return [*_stops(state, now, target), *_starts(state, now, target)]


def _stops(state: State, now: Now, target: str) -> list[Action]:
    doomed = [
        container
        for container in state.containers_of(target)
        if container.runs and not right_to_run(state, container).may_run
    ]
    free = [container for container in doomed if not _is_needed(state, container, doomed)]
    # Labels are anybody's: where the dependencies go round in a circle, all of it stops at once.
    return [_end(state, container) for container in free or doomed if _may_end(state, now, container)]


def _is_needed(state: State, container: Container, doomed: list[Container]) -> bool:
    """Return whether others stop first: reverse dependency order, unless stopping them has already failed."""
    return any(
        other is not container and depends_on(other, container) and other.id not in state.observed.retries
        for other in doomed
    ) and not _is_fresh(state, container)


def _is_fresh(state: State, container: Container) -> bool:
    run = state.observed.runs.get(container.id)
    return run is not None and run.fresh and not run.had_right


def _end(state: State, container: Container) -> Action:
    """Choose how a container without a right to run is ended.

    A fresh one that never had the right is killed, so that ``compose up --wait`` fails fast. The engine kills only
    what runs: a pause or a pending restart is ended with a stop that has no grace (which cancels the restart).
    """
    if not _is_fresh(state, container):
        return StopContainer(container.id, 0 if container.status == "restarting" else container.stop_grace_s)
    return KillContainer(container.id) if container.status == "running" else StopContainer(container.id, 0)


def _may_end(state: State, now: Now, container: Container) -> bool:
    """Return whether it is time to end it: no call about it is under way, or a kill that is not of this run, or that
    came back without having killed.

    1. It is killed through its cgroup, and a busy engine has the call, and meets the death first: a crash, to a restart
    policy; 2. it starts again; 3. the engine takes the kill, finds nobody to signal, and waits for 10 s until the
    container does not run (moby daemon/kill.go, ``Kill``; met on 20.10 in bursts).
    """
    run = state.observed.runs.get(container.id)
    killed_before = state.observed.calls.get(container.id) == "kill" and run is not None and not run.killed
    again = killed_before and container.status == "running" and _is_fresh(state, container)
    return (again or container.id not in state.observed.calls) and _is_time(state, now, container)


def _starts(state: State, now: Now, target: str) -> list[Action]:
    lease = state.lease_of(target)
    observed = state.observed
    if lease is None or lease.phase != "starting" or lease.adopted:
        return []
    if not observed.synced or observed.stopping or observed.safe_mode or not nothing_intrudes(state, lease):
        return []
    team = team_of(state, lease)
    # The old container of a recreate stops first: two of one place would meet on its ports and in its memory.
    taken = {container.place for container in state.containers_of(target) if container.runs}
    return [
        StartContainer(container.id)
        for container in [*team, *helpers(state, team)]
        if container.place not in taken
        and _may_start(state, now, lease, container)
        and satisfied(state, lease, container, team)
    ]


def _may_start(state: State, now: Now, lease: Lease, container: Container) -> bool:
    launched = container.id in state.observed.launched.get(lease.id, ())
    idle = container.id not in state.observed.calls
    return not container.runs and not launched and idle and _is_time(state, now, container)


def _is_time(state: State, now: Now, container: Container) -> bool:
    """Return whether a call that changed nothing may be tried once more."""
    retry = state.observed.retries.get(container.id)
    return retry is None or retry.not_before_ms <= now.at_ms
