"""What can be wrong: the table of all problems; and of those of a target's containers together each one's finding, its
sentence, and what to type.

Names that come from labels (services, projects) are anybody's text: escaped and shortened before they are shown, and
quoted before they are part of a command.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from supervisor.core.model import Container, Problem
from supervisor.core.values import shown

PROBLEMS = {
    "bad_target_name": "`gpu.target` is malformed: the container belongs to no target, so it is neither managed nor "
    "ever stopped.",
    "bad_value": "A label's value cannot be read.",
    "no_master": "No container of the target is its master.",
    "several_masters": "More than one container of the target is its master; `--scale` makes several of one service.",
    "master_without_healthcheck": "The master has no Docker healthcheck, so nobody can tell when the target is ready.",
    "conflicting_values": "Containers of the target give different values where one is meant for all, "
    "or two labels of one container do.",
    "bad_device": "A container asks Docker for something that cannot be told to be a GPU: a part of one that MIG made, "
    "or a typing error. `gpu.devices` on it says which GPUs it uses.",
    "coexists_with_itself": "Warning: `gpu.coexist-with` names its own target, which changes nothing. "
    "`gpu.max-holders` is what lets several leases have one target.",
    "several_projects": "Containers of two Compose projects (or of one, and of none) carry the same `gpu.target`.",
    "depends_on_other_target": "A service depends on a service of another target, and both cannot have the GPU.",
    "no_target": "Warning: there are other labels but no `gpu.target`, so none of them counts.",
    "unknown_label": "Warning: there is no such label; the nearest known one is named.",
    "restart_policy": "Warning: Docker itself starts a container with `restart: always` or `unless-stopped` at boot, "
    'before anybody can judge it. `restart: "no"` leaves starting to the lease.',
    "uses_more_than_declared": "Warning: the target was seen to use more memory than it declares, so others were "
    "granted what it took. Only a running supervisor sees it.",
    "no_labels": "Nothing that was checked has any of these labels.",
    "not_checked": "Warning: a labelled service was not checked, because it is in a profile that is not active.",
}

NAMED_MAX = 5
"""Containers that one sentence names; it counts the rest."""

Service = tuple[str, str]
"""(Compose project, service)."""
Common = tuple[str, str, Callable[[Any], str]]
"""A label that is one for all containers of a target: (its name after the prefix, its field, what spells a value)."""


def age(container: Container) -> tuple[int, str]:
    """Sort key: the oldest first, and of equally old ones always the same."""
    return (container.created_wall_ms, container.id)


def order(container: Container) -> tuple[str, str, int, str]:
    """Sort key: the order in which problems are told, whatever order the engine listed the containers in."""
    return (container.project, container.service, container.number, container.id)


def several_projects(name: str, projects: Mapping[str, Sequence[Container]], prefix: str) -> Iterator[Problem]:
    if len(projects) < 2:
        return
    homes = [f"Compose project {shown(p)}" if p else f"no project ({_names(group)})" for p, group in projects.items()]
    stale = min(projects, key=lambda project: max(map(age, projects[project])))
    leave = ["docker", "compose", "-p", shown(stale), "down"]
    if not stale:
        leave = ["docker", "rm", "-f", *(shown(container.name) for container in projects[stale])]
    yield Problem(
        "several_projects",
        f"target {name} belongs to one Compose project, but {prefix}target={name} is in {_listed(homes)}",
        f"if the older one is stale: {shlex.join(leave)}; else give one of them another {prefix}target",
        target=name,
        label=f"{prefix}target",
        value=name,
    )


def mastery(name: str, team: Sequence[Container], prefix: str) -> Iterator[Problem]:
    """Judge the masters of one project's containers: two projects are a problem of their own."""
    label = f"{prefix}healthcheck-master"
    masters = [container for container in team if container.master]
    for master in masters:
        if not master.healthcheck:
            yield without_healthcheck(name, master, prefix)
    if not masters:
        able = [container.service for container in team if container.healthcheck]
        where = f"service {shown(able[0])}" if len(able) == 1 else "the service whose health tells when it is ready"
        message = f"no container of target {name} is labelled {label}=true; it has {_names(team)}"
        yield Problem("no_master", message, f'add {label}: "true" to {where}', target=name, label=label)
    if len(masters) > 1:
        one_service = len({master.service for master in masters}) == 1
        hint = f"leave {label} on one of them"
        if one_service:
            hint = f"run one container of it: docker compose up --scale {shlex.quote(shown(masters[0].service))}=1"
        message = f"target {name} has {len(masters)} masters: {_names(masters)}"
        yield Problem("several_masters", message, hint, target=name, label=label)


def without_healthcheck(name: str, master: Container, prefix: str) -> Problem:
    """Say that nobody can tell when the target is ready."""
    return _about(
        master,
        "master_without_healthcheck",
        f"{who(master.name, master.service)} is the master of target {name} but has no healthcheck",
        f"add a healthcheck to it, or move {prefix}healthcheck-master to a service that has one",
        target=name,
        label=f"{prefix}healthcheck-master",
    )


def conflicts(name: str, team: Sequence[Container], common: Sequence[Common], prefix: str) -> Iterator[Problem]:
    for label, field, spelled in common:
        by_value: dict[Any, Container] = {}
        for container in team:
            value = getattr(container, field)
            if value is not None:
                by_value.setdefault(value, container)
        if len(by_value) > 1:
            said = [f"{who(c.name, c.service)} says {shown(spelled(value))}" for value, c in by_value.items()]
            message = f"target {name} has one {prefix}{label}, but {_listed(said)}"
            hint = "give it on one container, or the same value on each"
            yield Problem("conflicting_values", message, hint, target=name, label=f"{prefix}{label}")


def coexists_with_itself(name: str, team: Sequence[Container], prefix: str) -> Iterator[Problem]:
    """A target has its GPU for all of its containers anyway; who writes this means several leases."""
    label = f"{prefix}coexist-with"
    for container in team:
        if container.coexist is not None and name in container.coexist.names:
            yield _about(
                container,
                "coexists_with_itself",
                f"{who(container.name, container.service)} of target {name} names its own target in {label}",
                f"leave it out; for several leases of one target: {prefix}max-holders",
                severity="warning",
                target=name,
                label=label,
            )


def bad_device(name: str, container: Container, words: Sequence[str], prefix: str) -> Problem:
    """Say that Docker was asked for a GPU that nobody can tell."""
    asked = _listed([f'"{shown(word)}"' for word in words])
    return _about(
        container,
        "bad_device",
        f"{who(container.name, container.service)} of target {name} asks Docker for {asked}: no GPU's index or UUID",
        f"name whole GPUs, or say which it uses: {prefix}devices",
        target=name,
        label=f"{prefix}devices",
    )


def depends_on_others(name: str, container: Container, services: Mapping[Service, str]) -> Iterator[Problem]:
    for dependency in container.depends_on:
        other = services.get((container.project, dependency.service), name)
        if other != name:
            yield _about(
                container,
                "depends_on_other_target",
                f"{who(container.name, container.service)} of target {name} depends on service "
                f"{shown(dependency.service)}, which is of target {other}: both cannot have the GPU",
                "give both services the same target, or remove the dependency",
                target=name,
            )


def restart_policy(name: str, container: Container) -> Iterator[Problem]:
    policy = container.restart_policy
    if policy in {"always", "unless-stopped"}:
        yield _about(
            container,
            "restart_policy",
            f"{who(container.name, container.service)} of target {name} has restart: {policy}: Docker starts it at "
            "boot, before anybody can judge it",
            'write restart: "no", and leave starting it to the lease',
            severity="warning",
            target=name,
        )


# ---- words


def _about(container: Container, code: str, message: str, hint: str, **fields: Any) -> Problem:
    return Problem(code, message, hint, container=shown(container.name), service=shown(container.service), **fields)


def who(container: str, service: str) -> str:
    """Name a container for people; without Compose its service is called like itself."""
    if service in {"", container}:
        return f"container {shown(container)}"
    return f"container {shown(container)} (service {shown(service)})"


def _names(containers: Sequence[Container]) -> str:
    return _listed([who(container.name, container.service).removeprefix("container ") for container in containers])


def _listed(items: Sequence[str]) -> str:
    """Join words for people, and count those that would not fit."""
    if len(items) > NAMED_MAX:
        items = [*items[:NAMED_MAX], f"{len(items) - NAMED_MAX} more"]
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
