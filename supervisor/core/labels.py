"""gpu.* labels: the one table, what one container says with them, and what a target's containers say together.

Pure: labels in, values and problems out. Nothing in here raises for what somebody wrote into a label, and no label is
silently ignored: each is in the result or in a problem. ``core.reference`` makes labels.md of the tables in here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from supervisor.core import problems
from supervisor.core.model import Container, Problem, Sharing
from supervisor.core.problems import Service, age, order
from supervisor.core.values import BadValue, parse_bool, parse_int, parse_mib, parse_target, shown

PREFIX = "gpu."
UNKNOWN_MAX = 20
"""Unknown labels of one container that get a warning each; one more counts the rest."""
NO_SERVICES: Mapping[Service, str] = MappingProxyType({})


class Label(Struct, frozen=True, kw_only=True):
    """One label: ``name`` comes after the prefix, ``field`` is what ``parse`` makes of it in ``Parsed``."""

    name: str
    field: str
    parse: Callable[[str], Any]
    value: str
    default: str
    meaning: str
    example: str


def _parse_priority(text: str) -> int:
    return parse_int(text, -1000, 1000)


LABELS = (
    Label(
        name="target",
        field="target",
        parse=parse_target,
        value="`[a-z0-9][a-z0-9._-]{0,62}`",
        default="none",
        meaning="Joins the container to a target: the stack that is leased, started and stopped as one. "
        "Without it no other label counts.",
        example="comfyui",
    ),
    Label(
        name="healthcheck-master",
        field="master",
        parse=parse_bool,
        value="boolean",
        default="false",
        meaning="The target is ready when this container is healthy. Exactly one container of a target is the master, "
        "and it has a Docker healthcheck.",
        example="true",
    ),
    Label(
        name="vram-mib",
        field="vram_mib",
        parse=parse_mib,
        value="whole number of MiB, from 1",
        default="none",
        meaning="VRAM that the container needs. A target needs the sum of what its containers declare; where one "
        "declares, the others that don't count 0; where none does, the target needs the whole GPU.",
        example="8192",
    ),
    Label(
        name="priority",
        field="priority",
        parse=_parse_priority,
        value="whole number, -1000 to 1000",
        default="0",
        meaning="The target's rank in the queue where a request gives none; a higher one goes first. "
        "Containers of a target that give one must agree.",
        example="10",
    ),
)

PROBLEMS = {
    "bad_target_name": "`gpu.target` is malformed: the container belongs to no target, so it is neither managed nor "
    "ever stopped.",
    "bad_value": "A label's value cannot be read.",
    "no_master": "No container of the target is its master.",
    "several_masters": "More than one container of the target is its master; `--scale` makes several of one service.",
    "master_without_healthcheck": "The master has no Docker healthcheck, so nobody can tell when the target is ready.",
    "conflicting_values": "Containers of the target give different values where one is meant for all.",
    "several_projects": "Containers of two Compose projects (or of one, and of none) carry the same `gpu.target`.",
    "depends_on_other_target": "A service depends on a service of another target, and both cannot have the GPU.",
    "no_target": "Warning: there are other labels but no `gpu.target`, so none of them counts.",
    "unknown_label": "Warning: there is no such label; the nearest known one is named.",
    "restart_policy": "Warning: Docker itself starts a container with `restart: always` or `unless-stopped` at boot, "
    'before anybody can judge it. `restart: "no"` leaves starting to the lease.',
    "no_labels": "Nothing that was checked has any of these labels.",
    "not_checked": "Warning: a labelled service was not checked, because it is in a profile that is not active.",
}


class Parsed(Struct, frozen=True, kw_only=True):
    """What one container's labels say. ``target`` None: unlabelled, or ``gpu.target`` is malformed (see problems)."""

    target: str | None = None
    master: bool = False
    vram_mib: int | None = None
    priority: int | None = None
    problems: tuple[Problem, ...] = ()


class TargetSpec(Struct, frozen=True, kw_only=True):
    """What a target's containers say together.

    ``vram_mib`` None: nobody declared a size, it needs the whole GPU. ``project`` is the Compose project ("" for
    none, or where several are named: then it is invalid). ``master`` is the id of the one master container.
    ``priority`` is the highest where containers disagree.
    """

    name: str
    project: str = ""
    master: str | None = None
    vram_mib: int | None = None
    priority: int = 0
    problems: tuple[Problem, ...] = ()
    coexist: Sharing = Sharing()
    groups: tuple[str, ...] = ()
    max_holders: int = 1
    idle_timeout_ms: int | None = None
    min_residency_ms: int | None = None
    max_hold_ms: int | None = None
    devices: tuple[str, ...] = ()
    all_devices: bool = False
    device_count: int = 0
    gpu_class: str | None = None

    @property
    def valid(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)


# ---- one container


def parse(labels: Mapping[str, str], *, container: str, service: str, prefix: str = PREFIX) -> Parsed:
    """Read one container's labels; every problem at once. Without a well-formed target nothing else counts."""
    values: dict[str, Any] = {}
    refusals: dict[str, BadValue] = {}
    given = [label for label in LABELS if prefix + label.name in labels]
    for label in given:
        try:
            values[label.field] = label.parse(labels[prefix + label.name])
        except BadValue as refusal:
            refusals[prefix + label.name] = refusal
    target = values.get("target")
    who = problems.who(container, service)
    new = partial(Problem, target=target, container=shown(container), service=shown(service))
    found = []
    for name, why in refusals.items():
        code, outcome = "bad_value", ""
        if name == f"{prefix}target":
            code, outcome = "bad_target_name", "; it belongs to no target, and none of its labels counts"
        message = f"{who} has a bad {name}: {why}{outcome}"
        found.append(new(code, message, why.hint, label=name, value=shown(labels[name])))
    if given and f"{prefix}target" not in labels:
        names = ", ".join(prefix + label.name for label in given)
        message = f"{who} has {names} but no {prefix}target: none of its labels counts"
        found.append(new("no_target", message, f"add {prefix}target=NAME to it", "warning", label=f"{prefix}target"))
    for name, what, hint in _unknown(labels, prefix):
        found.append(new("unknown_label", f"{who} has {what}", hint, "warning", label=name))
    return Parsed(**values if target is not None else {}, problems=tuple(found))


def _unknown(labels: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield (label, message, hint) for each label under the prefix, in any case, that is not in the table."""
    known = {prefix + label.name for label in LABELS}
    ours = (name for name in labels if name[: len(prefix)].lower() == prefix.lower())
    strangers = sorted(name for name in ours if name not in known)
    for name in strangers[:UNKNOWN_MAX]:
        yield shown(name), f'an unknown label "{shown(name)}"', _nearest(name[len(prefix) :], prefix)
    rest = len(strangers) - UNKNOWN_MAX
    if rest > 0:
        yield shown(strangers[UNKNOWN_MAX]), f"{rest} more unknown labels under {prefix}", _nearest("", prefix)


def _nearest(name: str, prefix: str) -> str:
    # Cut: the search is quadratic, and a label's name may be a megabyte.
    near = difflib.get_close_matches(name[:80].lower(), [label.name for label in LABELS], 1, 0.5)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    return f"known are {', '.join(prefix + label.name for label in LABELS)}"


# ---- all containers of a target


def merge(
    name: str,
    containers: Sequence[Container],
    services: Mapping[Service, str] = NO_SERVICES,
    *,
    prefix: str = PREFIX,
) -> TargetSpec:
    """Combine a target's containers; one-offs and replaced ones among them count for nothing.

    ``services`` tells the target of every labelled Compose service (``services_of`` makes it): with it a target is
    told apart from others it depends on. Merge again when a container of the target comes or goes, and when the
    target of a service of its project changes. The order of ``containers`` does not matter.
    """
    team = current(containers)
    projects: dict[str, list[Container]] = {}
    for container in team:
        projects.setdefault(container.project, []).append(container)
    found = [problem for container in team for problem in container.problems]
    found += problems.several_projects(name, projects, prefix)
    for group in projects.values():
        found += problems.mastery(name, group, prefix)
    found += problems.conflicts(name, team, prefix)
    for container in team:
        found += problems.depends_on_others(name, container, services)
        found += problems.restart_policy(name, container)
    masters = [container.id for container in team if container.master]
    return TargetSpec(
        name=name,
        project=next(iter(projects)) if len(projects) == 1 else "",
        master=masters[0] if len(masters) == 1 else None,
        vram_mib=needed_mib([container.vram_mib for container in team], gpu_mib=None),
        priority=max((container.priority for container in team if container.priority is not None), default=0),
        problems=tuple(found),
    )


def needed_mib(declared: Iterable[int | None], gpu_mib: int | None) -> int | None:
    """Return how much VRAM a target needs, in MiB, from what its containers declare.

    A target that declares nothing needs the whole GPU: safe, and visible enough that its owner will want to say.
    ``gpu_mib`` None: the GPU's size is not known, and neither is that need.
    """
    sizes = [mib for mib in declared if mib is not None]
    return sum(sizes) if sizes else gpu_mib


def current(containers: Iterable[Container]) -> list[Container]:
    """Return the containers that make up a target: no one-offs, and of each place only the newest, in a fixed order.

    While Compose recreates a container two of them have one (project, service, number): the new one is created under
    another name, with a label that names the old one's id, or in newer releases its name; then the old one goes, and
    the new one takes its name. The label stays, so it may come to name its own container.

    Source: docker/compose pkg/compose/convergence.go, ``recreateContainer``, in newer releases executor_ops.go.
    """
    newest: dict[tuple[str, str, int | str], Container] = {}
    replaced: set[tuple[Service, str]] = set()
    for container in sorted(containers, key=age, reverse=True):
        service = (container.project, container.service)
        # Newest first: whatever it replaces is older, so two that name each other don't both vanish.
        if container.one_off or (service, container.id) in replaced or (service, container.name) in replaced:
            continue
        newest.setdefault(container.place, container)
        if container.replaces and container.project:
            replaced.add((service, container.replaces))
    return sorted(newest.values(), key=order)


def services_of(containers: Iterable[Container]) -> dict[Service, str]:
    """Return the target of every labelled Compose service, for ``merge``; of two during a recreate the newer's."""
    by_age = sorted(containers, key=age)
    return {(c.project, c.service): c.target for c in by_age if c.target is not None and c.project and not c.one_off}


def stray_problems(containers: Iterable[Container]) -> tuple[Problem, ...]:
    """Return the problems that belong to no target: of a malformed ``gpu.target``, or of labels without one."""
    strays = sorted((container for container in containers if container.target is None), key=order)
    return tuple(problem for container in strays for problem in container.problems)
