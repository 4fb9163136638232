"""One target as callers see it: its state in a word, its containers, its problems."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET

from supervisor.api.shapes import ContainerView, TargetBrief, TargetState, TargetsView, TargetView
from supervisor.core.labels import stray_problems
from supervisor.core.model import Container, Now, Problem
from supervisor.core.requests import create_command
from supervisor.core.state import State
from supervisor.core.targets import members, right_to_run, spec_of


def known_targets(state: State) -> list[str]:
    """Return every target that is there, is remembered, or is leased, by name."""
    return sorted({*state.observed.specs, *state.durable.remembered, *state.durable.residents, *state.leases_by_target})


def master_of(state: State, target: str) -> Container | None:
    spec = spec_of(state, target)
    return state.observed.containers.get(spec.master) if spec is not None and spec.master is not None else None


def target_state(state: State, target: str) -> TargetState:
    """Return a target's state in a word. The first that is true of:

    absent (it has no containers), starting / down / unhealthy / ready (it is leased), resident (it may run, or will
    be taken back warm, without a lease), stopping (it runs and may not), invalid (its labels), stopped.
    """
    if not members(state, target):
        return "absent"
    lease = state.lease_of(target)
    if lease is not None:
        if lease.phase != "ready":
            return "starting"
        if lease.id in state.observed.down_since:
            return "down"
        master = master_of(state, target)
        return "unhealthy" if master is not None and master.health == "unhealthy" else "ready"
    running = [container for container in state.containers_of(target) if container.runs]
    if target in state.durable.residents:
        return "resident"
    if running:
        spared = all(right_to_run(state, container).may_run for container in running)
        return "resident" if spared else "stopping"
    return "stopped" if _valid(state, target) else "invalid"


def _valid(state: State, target: str) -> bool:
    spec = spec_of(state, target)
    return spec is None or spec.valid


def problems_of(state: State, target: str) -> tuple[Problem, ...]:
    spec = spec_of(state, target)
    return spec.problems if spec is not None else ()


def stray(state: State) -> tuple[Problem, ...]:
    """Return the problems that belong to no target."""
    return stray_problems(state.observed.unlabelled.values())


def target_view(state: State, target: str) -> TargetView:
    spec = spec_of(state, target)
    lease = state.lease_of(target)
    master = master_of(state, target)
    word = target_state(state, target)
    known = state.durable.remembered.get(target)
    return TargetView(
        name=target,
        state=word,
        project=spec.project if spec is not None else known.project if known is not None else "",
        master=master.name if master is not None else None,
        vram_mib=spec.vram_mib if spec is not None else None,
        priority=spec.priority if spec is not None else 0,
        lease=lease.id if lease is not None else None,
        endpoint=master.endpoint if master is not None else None,
        containers=tuple(_containers(state.containers_of(target))),
        problems=problems_of(state, target),
        create=create_command(state, target) if word == "absent" else UNSET,
    )


def _containers(containers: Iterable[Container]) -> Iterable[ContainerView]:
    for container in sorted(containers, key=lambda c: (c.service, c.number, c.name)):
        yield ContainerView(
            id=container.id,
            name=container.name,
            service=container.service,
            master=container.master,
            one_off=container.one_off,
            status=container.status,
            health=container.health,
            exit_code=container.exit_code,
            vram_mib=container.vram_mib,
            restart_policy=container.restart_policy,
            endpoint=container.endpoint,
        )


def all_targets(state: State, _now: Now) -> TargetsView:
    return TargetsView(tuple(target_view(state, name) for name in known_targets(state)), stray(state))


def briefs(state: State) -> tuple[TargetBrief, ...]:
    return tuple(
        TargetBrief(name, target_state(state, name), problems_of(state, name)) for name in known_targets(state)
    )
