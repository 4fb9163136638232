"""Questions about one target that ``step`` and ``plan`` ask: who belongs, who may run, how far is it. Pure reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from msgspec import Struct

from supervisor.core.labels import TargetSpec, current
from supervisor.core.model import Bystander, Container, Dependency, Gpu, Lease
from supervisor.core.state import State

#: States of a container that is on its way out: it is nobody's member any more.
LEAVING = frozenset({"removing", "dead"})
Limit = Literal["min_residency_ms", "idle_timeout_ms", "max_hold_ms"]


def members(state: State, target: str) -> list[Container]:
    """Return the containers that make up ``target``: no one-offs, and one per place during a recreate (the newer)."""
    return current(container for container in state.containers_of(target) if container.status not in LEAVING)


def team_of(state: State, lease: Lease) -> list[Container]:
    """Return the members that ``lease`` covers: those of the Compose project that it was granted for."""
    return [container for container in members(state, lease.target or "") if container.project == lease.project]


def spec_of(state: State, target: str) -> TargetSpec | None:
    """Return what the target's labels say together, or None if no container carries its name."""
    return state.observed.specs.get(target)


def limit_ms(state: State, target: str | None, name: Limit) -> int:
    """Return a limit of a target in milliseconds, as its labels or else the configuration say; 0: there is none."""
    spec = spec_of(state, target) if target is not None else None
    own: int | None = getattr(spec, name) if spec is not None else None
    default: int = getattr(state.settings, name)
    return default if own is None else own


def runs(state: State, target: str, project: str | None = None) -> bool:
    """Return whether any container of ``target`` runs, one-offs included."""
    return any(
        container.runs and (project is None or container.project == project)
        for container in state.containers_of(target)
    )


# ---- the right to run


class Right(Struct, frozen=True):
    """Whether a container may run; ``reason`` and ``holder`` say why not."""

    may_run: bool
    reason: str = ""
    holder: str | None = None


MAY_RUN = Right(may_run=True)


def right_to_run(state: State, container: Container) -> Right:
    """Judge one labelled container: a verified lease of its target, or residency, gives the right to run."""
    if not state.durable.first_sync_done:
        return MAY_RUN  # nobody is judged before the very first look is over
    run = state.observed.runs.get(container.id)
    if run is not None and run.spared and not room_is_being_made(state):
        return MAY_RUN
    target = container.target or ""
    lease = state.lease_of(target)
    if lease is not None:
        if container.project != lease.project:
            return Right(may_run=False, reason="other_project", holder=target)
        if lease.adopted or lease.phase != "making_room":
            return MAY_RUN
        if run is not None and run.had_right and not run.spared and not lease.needs_cold_start:
            return MAY_RUN  # it was warm when it was leased, and stays so while room is made
        return Right(may_run=False, reason="room_pending", holder=target)
    resident = state.durable.residents.get(target)
    if resident is not None:
        if container.project == resident.project:
            return MAY_RUN
        return Right(may_run=False, reason="other_project", holder=target)
    spec = spec_of(state, target)
    if spec is not None and not spec.valid:
        return Right(may_run=False, reason="target_invalid")
    for other in state.durable.leases.values():
        return Right(may_run=False, reason="gpu_held", holder=other.target or f"a bare lease of {other.terms.owner}")
    return Right(may_run=False, reason="no_lease")


def room_is_being_made(state: State) -> bool:
    return any(lease.phase == "making_room" for lease in state.durable.leases.values())


def known_container(state: State, id_: str) -> Container | Bystander | None:
    """Return a container that the engine knows, labelled or not."""
    observed = state.observed
    return observed.containers.get(id_) or observed.unlabelled.get(id_) or observed.others.get(id_)


def gpus_of(state: State, container: Container) -> tuple[str, ...]:
    """Return the GPUs that a labelled container uses: by its right to run, or where it is seen; else where Docker put
    it; where nobody knows better, all of them.
    """
    target = container.target or ""
    run = state.observed.runs.get(container.id)
    seen = state.observed.seen_on.get(container.id, ())
    if seen or (run is not None and run.gpus):
        return (*seen, *(run.gpus if run is not None else ()))
    lease, resident = state.lease_of(target), state.durable.residents.get(target)
    known = lease.gpus if lease is not None else resident.gpus if resident is not None else ()
    if known and run is None:
        return known
    return pinned_to(state, [container]) or tuple(gpu.uuid for gpu in state.observed.gpus)


def pinned_to(state: State, containers: Collection[Container]) -> tuple[str, ...]:
    """Return the GPUs that Docker hands to these containers, by name, by count or as all there are."""
    return tuple(
        gpu.uuid
        for gpu in state.observed.gpus
        if any(c.all_devices or gpu.index < c.device_count or is_named(gpu, c.devices) for c in containers)
    )


def is_named(gpu: Gpu, words: Iterable[str]) -> bool:
    """Return whether a word of a device request means ``gpu``: its index, its UUID, or the beginning of that."""
    return any(
        gpu.index == int(word)
        if word.isdecimal()
        else gpu.uuid == word or (len(word) >= 12 and gpu.uuid.startswith(word))
        for word in words
    )


def nothing_intrudes(state: State, lease: Lease) -> bool:
    """Return whether nothing runs on the GPUs of ``lease`` that may not: while it loads, nothing else may.

    Something may have loaded while the supervisor was down, or be on its way out.
    """
    return not any(
        container.runs
        and not right_to_run(state, container).may_run
        and not set(lease.gpus).isdisjoint(gpus_of(state, container))
        for container in state.observed.containers.values()
    )


# ---- how far a leased target is


class Standing(Struct, frozen=True):
    """How far a target is, and ``culprit``: the container to blame.

    ``failed``: one exited with an error. ``down``: the master does not run (any more), though nothing failed.
    """

    state: Literal["empty", "coming", "ready", "unhealthy", "failed", "down", "completed"]
    detail: str = ""
    culprit: str | None = None


def has_run(state: State, lease: Lease, container: Container) -> bool:
    """Return whether the container has run since this lease started it (or it already ran, warm)."""
    before = state.observed.launched.get(lease.id, {}).get(container.id)
    return before is not None and container.run not in {"", before}


def is_done(state: State, lease: Lease, container: Container) -> bool:
    """Return whether a one-shot has done its work for this lease: it ran, and exited 0."""
    return container.status == "exited" and container.exit_code == 0 and has_run(state, lease, container)


def is_up(container: Container) -> bool:
    return container.status in {"running", "paused"}


def standing(state: State, lease: Lease) -> Standing:
    """Judge the target of ``lease`` while it starts and after.

    Ready is: all containers started, or done if one-shot, and the master healthy.
    """
    team = team_of(state, lease)
    if not team:
        return Standing("empty", "its containers were removed")
    if all(is_done(state, lease, container) for container in team):
        return Standing("completed", "all its containers have exited 0")
    for container in [*team, *helpers(state, team)]:
        trouble = _trouble(state, lease, container, team)
        if trouble is not None:
            return trouble
    master = next((container for container in team if container.master), None)
    if master is None or (has_run(state, lease, master) and not is_up(master)):
        who = f"container {master.name}" if master is not None else "the master"
        return Standing("down", f"{who} does not run", master.id if master is not None else None)
    healthy = master.status == "running" and master.health == "healthy"
    if healthy and (lease.adopted or all(is_up(c) or is_done(state, lease, c) for c in team)):
        return Standing("ready")
    return Standing("coming")


def _trouble(state: State, lease: Lease, container: Container, team: list[Container]) -> Standing | None:
    who = f"container {container.name}"
    if container.status == "exited" and container.exit_code != 0 and has_run(state, lease, container):
        why = f": {container.error}" if container.error else ""
        return Standing("failed", f"{who} exited with code {container.exit_code}{why}", container.id)
    if is_awaited(container, team) and container.status == "running" and container.health == "unhealthy":
        return Standing("unhealthy", f"{who} is unhealthy", container.id)
    return None


# ---- dependencies


def is_awaited(container: Container, team: list[Container]) -> bool:
    """Return whether readiness waits for the container's health: it serves, and is no one-shot."""
    return container.master or any(
        dependency.service == container.service and dependency.condition == "service_healthy"
        for other in team
        for dependency in other.depends_on
    )


def of_service(state: State, project: str, service: str, team: list[Container]) -> list[Container]:
    """Return the containers of one Compose service: of the team, else unlabelled ones of the same project."""
    own = [container for container in team if container.service == service]
    if own:
        return own
    return [
        container
        for container in state.observed.unlabelled.values()
        if container.project == project and container.service == service and container.status not in LEAVING
    ]


def helpers(state: State, team: list[Container]) -> list[Container]:
    """Return the unlabelled containers that the team depends on, directly or through each other."""
    found: dict[str, Container] = {}
    todo = list(team)
    while todo:
        container = todo.pop()
        for dependency in container.depends_on:
            for other in of_service(state, container.project, dependency.service, team):
                if other.target is None and other.id not in found:
                    found[other.id] = other
                    todo.append(other)
    return list(found.values())


def satisfied(state: State, lease: Lease, container: Container, team: list[Container]) -> bool:
    """Return whether everything that ``container`` depends on is as Compose demands before it may start."""
    return all(
        _met(state, lease, dependency, other)
        for dependency in container.depends_on
        for other in of_service(state, container.project, dependency.service, team)
    )


def _met(state: State, lease: Lease, dependency: Dependency, other: Container) -> bool:
    match dependency.condition:
        case "service_started":
            return is_up(other) or is_done(state, lease, other)
        case "service_healthy":
            return other.status == "running" and other.health == "healthy"
        case "service_completed_successfully":
            return is_done(state, lease, other)


def depends_on(later: Container, earlier: Container) -> bool:
    """Return whether ``later`` names the service of ``earlier`` as a dependency."""
    return later.project == earlier.project and any(
        dependency.service == earlier.service for dependency in later.depends_on
    )
