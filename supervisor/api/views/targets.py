"""One target as callers see it: its state in a word, its containers, its problems."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET

from supervisor.api.shapes import ContainerView, TargetBrief, TargetState, TargetsView, TargetView
from supervisor.api.views.sizes import suggested_label, uses_more_than_declared
from supervisor.core.labels import TargetSpec, stray_problems
from supervisor.core.model import Container, Now, Problem
from supervisor.core.requests import create_command
from supervisor.core.state import State
from supervisor.core.targets import Limit, limit_ms, members, right_to_run, spec_of
from supervisor.core.usage import seen_on
from supervisor.core.values import UNLIMITED, spelled_sharing


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
    """Return what is wrong with a target's labels, each by itself and beside what it was seen to use."""
    spec = spec_of(state, target)
    found = spec.problems if spec is not None else ()
    more = uses_more_than_declared(state, target)
    return (*found, more) if more is not None else found


def stray(state: State) -> tuple[Problem, ...]:
    """Return the problems that belong to no target."""
    return stray_problems(state.observed.unlabelled.values())


def target_view(state: State, target: str) -> TargetView:
    spec = spec_of(state, target)
    lease = state.lease_of(target)
    master = master_of(state, target)
    word = target_state(state, target)
    known = state.durable.remembered.get(target)
    says = spec if spec is not None else TargetSpec(name=target)
    return TargetView(
        name=target,
        state=word,
        project=spec.project if spec is not None else known.project if known is not None else "",
        master=master.name if master is not None else None,
        vram_mib=says.vram_mib,
        priority=says.priority,
        lease=lease.id if lease is not None else None,
        holders=len(state.holders_of(target)),
        max_holders=says.max_holders if says.max_holders < UNLIMITED else None,
        seen_mib=state.durable.peaks.get(target),
        suggested_label=suggested_label(state, target),
        gpus=gpus_now(state, target),
        devices=_devices(says),
        gpu_class=says.gpu_class,
        coexist_with=spelled_sharing(says.coexist),
        groups=says.groups,
        idle_timeout_seconds=_limit_s(state, target, "idle_timeout_ms"),
        min_residency_seconds=_limit_s(state, target, "min_residency_ms"),
        max_hold_seconds=_limit_s(state, target, "max_hold_ms"),
        endpoint=master.endpoint if master is not None else None,
        containers=tuple(_containers(state.containers_of(target))),
        problems=problems_of(state, target),
        create=create_command(state, target) if word == "absent" else UNSET,
    )


def gpus_now(state: State, target: str) -> tuple[str, ...]:
    """Return the GPUs that a target has: by its lease or its residency, else those on which it is seen."""
    lease, resident = state.lease_of(target), state.durable.residents.get(target)
    known = lease.gpus if lease is not None else resident.gpus if resident is not None else ()
    return known or seen_on(state, target)


def _devices(spec: TargetSpec) -> tuple[str, ...]:
    if spec.all_devices:
        return ("all",)
    return tuple(dict.fromkeys((*map(str, range(spec.device_count)), *spec.devices)))


def _limit_s(state: State, target: str, name: Limit) -> int | None:
    """Return a limit in seconds, rounded up; None where there is none."""
    return -(-limit_ms(state, target, name) // 1000) or None


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
    return tuple(brief(state, name) for name in known_targets(state))


def brief(state: State, target: str) -> TargetBrief:
    return TargetBrief(target, target_state(state, target), problems_of(state, target))


def is_quiet(state: State, target: str) -> bool:
    """Return whether all that ``brief`` says of a target follows from its labels and containers: nobody has it, nothing
    of it runs, and it never used more than it declares.
    """
    at_rest = target not in state.leases_by_target and target not in state.durable.residents
    running = any(container.runs for container in state.containers_of(target))
    return at_rest and not running and uses_more_than_declared(state, target) is None
