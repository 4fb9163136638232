"""gpu.* labels: the one table, what one container says with them, and what a target's containers say together.

Pure: labels in, values and problems out. Nothing in here raises for what somebody wrote into a label, and no label is
silently ignored: each is in the result or in a problem. ``core.reference`` makes labels.md of the table in here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from supervisor.core import devices, problems
from supervisor.core.devices import Devices, parse_devices
from supervisor.core.model import Container, Problem, Sharing
from supervisor.core.problems import Common, Service, age, order
from supervisor.core.values import (
    BadValue,
    parse_bool,
    parse_class,
    parse_groups,
    parse_holders,
    parse_int,
    parse_limit_ms,
    parse_mib,
    parse_sharing,
    parse_size_mib,
    parse_target,
    shown,
    spelled_holders,
    spelled_limit,
    spelled_sharing,
)

PREFIX = "gpu."
UNKNOWN_MAX = 20
"""Unknown labels of one container that get a warning each; one more counts the rest."""
NO_SERVICES: Mapping[Service, str] = MappingProxyType({})


class Label(Struct, frozen=True, kw_only=True):
    """One label: ``name`` comes after the prefix, ``field`` is what ``parse`` makes of it in ``Parsed``.

    ``common`` is there where containers of a target that give the label must agree: it spells a value for people.
    """

    name: str
    field: str
    parse: Callable[[str], Any]
    value: str
    default: str
    meaning: str
    example: str
    common: Callable[[Any], str] | None = None


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
        "declares, the others that don't count 0; where none does, the target needs the whole GPU. "
        "On several GPUs it is spread evenly.",
        example="8192",
    ),
    Label(
        name="vram",
        field="vram_mib",
        parse=parse_size_mib,
        value="size with its unit",
        default="none",
        meaning="The same as `gpu.vram-mib`, in other words: one of the two is enough.",
        example="12GiB",
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
        common=str,
    ),
    Label(
        name="coexist-with",
        field="coexist",
        parse=parse_sharing,
        value="`none`, `any`, or list of targets and `@groups`",
        default="none",
        meaning="With whom the target shares a GPU, leased or resident, where their sizes fit: both must agree. "
        "`@bare` are the leases without a target. Containers of a target that give it must agree.",
        example="whisper, @small",
        common=spelled_sharing,
    ),
    Label(
        name="groups",
        field="groups",
        parse=parse_groups,
        value="list of names, made like those of targets",
        default="none",
        meaning="Groups that the target is in, for the `gpu.coexist-with` of others; "
        "those of all its containers together.",
        example="small, speech",
    ),
    Label(
        name="max-holders",
        field="max_holders",
        parse=parse_holders,
        value="whole number, from 1, or `unlimited`",
        default="1",
        meaning="How many leases the target may have at a time. Who joins pays no start; the target is released when "
        "the last one goes. Containers of a target that give it must agree.",
        example="unlimited",
        common=spelled_holders,
    ),
    Label(
        name="idle-timeout",
        field="idle_timeout_ms",
        parse=parse_limit_ms,
        value="duration, or `none`",
        default="the configuration's",
        meaning="A resident target is stopped when it has had no lease for so long. "
        "Containers of a target that give it must agree.",
        example="30m",
        common=spelled_limit,
    ),
    Label(
        name="min-residency",
        field="min_residency_ms",
        parse=parse_limit_ms,
        value="duration, or `none`",
        default="the configuration's",
        meaning="A target that was just started is neither evicted nor preempted for so long. "
        "Containers of a target that give it must agree.",
        example="2m",
        common=spelled_limit,
    ),
    Label(
        name="max-hold",
        field="max_hold_ms",
        parse=parse_limit_ms,
        value="duration, or `none`",
        default="the configuration's",
        meaning="A lease that is renewed for ever ends after so long while others wait. "
        "Containers of a target that give it must agree.",
        example="4h",
        common=spelled_limit,
    ),
    Label(
        name="devices",
        field="devices",
        parse=parse_devices,
        value="`all`, or list of GPUs: index, UUID, or at least 8 digits of one",
        default="what Docker was asked for",
        meaning="The GPUs that the container uses, where that is not what Docker was asked for. "
        "A target waits for all that its containers use.",
        example="0, GPU-5e2f1c3a",
    ),
    Label(
        name="class",
        field="gpu_class",
        parse=parse_class,
        value="`[a-z0-9][a-z0-9._-]{0,62}`",
        default="none",
        meaning="Only GPUs of this class, a name that the configuration gives them. "
        "Containers of a target that give it must agree.",
        example="high",
        common=str,
    ),
)
COMMON: Sequence[Common] = tuple((label.name, label.field, label.common) for label in LABELS if label.common)
"""The labels that are one for the whole target."""


class Parsed(Struct, frozen=True, kw_only=True):
    """What one container's labels say. ``target`` None: unlabelled, or ``gpu.target`` is malformed (see problems)."""

    target: str | None = None
    master: bool = False
    vram_mib: int | None = None
    priority: int | None = None
    coexist: Sharing | None = None
    groups: tuple[str, ...] = ()
    max_holders: int | None = None
    idle_timeout_ms: int | None = None
    min_residency_ms: int | None = None
    max_hold_ms: int | None = None
    devices: Devices | None = None
    gpu_class: str | None = None
    problems: tuple[Problem, ...] = ()


class TargetSpec(Struct, frozen=True, kw_only=True):
    """What a target's containers say together.

    ``vram_mib`` None: nobody declared a size, it needs the whole GPU. ``project`` is the Compose project ("" for
    none, or where several are named: then it is invalid). ``master`` is the id of the one master container.
    ``priority`` is the highest where containers disagree; of other values, what the first of them says.

    ``groups`` and ``devices`` are those of all containers, ``devices`` as they were written (see ``core.devices``).
    ``device_count``: the first so many by index, too. With neither, nor ``all_devices``, it may use any GPU.
    Limits (``*_ms``) are 0 where they are switched off, and None where only the configuration says.
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
            value = label.parse(labels[prefix + label.name])
        except BadValue as refusal:
            refusals[prefix + label.name] = refusal
        else:
            # Only sizes have two labels: the larger one is safe.
            values[label.field] = max(values[label.field], value) if label.field in values else value
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
    if (sizes := _two_sizes(labels, refusals, prefix)) is not None:
        found.append(new("conflicting_values", f"{who} has {sizes}", "leave one of them", label=f"{prefix}vram"))
    if given and f"{prefix}target" not in labels:
        names = ", ".join(prefix + label.name for label in given)
        message = f"{who} has {names} but no {prefix}target: none of its labels counts"
        found.append(new("no_target", message, f"add {prefix}target=NAME to it", "warning", label=f"{prefix}target"))
    for name, what, hint in _unknown(labels, prefix):
        found.append(new("unknown_label", f"{who} has {what}", hint, "warning", label=name))
    return Parsed(**values if target is not None else {}, problems=tuple(found))


def _two_sizes(labels: Mapping[str, str], refused: Mapping[str, BadValue], prefix: str) -> str | None:
    """Say what the two labels for one size are, if they differ."""
    first, second = f"{prefix}vram-mib", f"{prefix}vram"
    if not {first, second} <= labels.keys() or not refused.keys().isdisjoint({first, second}):
        return None
    mib, other_mib = parse_mib(labels[first]), parse_size_mib(labels[second])
    if mib == other_mib:
        return None
    return f"{first}={labels[first]} and {second}={labels[second]}, which is {other_mib} MiB"


def with_labels(
    container: Container, says: Parsed, asked: Devices = devices.NONE, *, prefix: str = PREFIX
) -> Container:
    """Return ``container`` with what its labels say, and its GPUs: the label's, else what Docker was asked for."""
    uses = says.devices or asked
    found = says.problems
    if says.devices is None and says.target is not None and asked.unreadable:
        found = (*found, problems.bad_device(says.target, container, asked.unreadable, prefix))
    fields = asdict(says) | {
        "devices": uses.ids,
        "all_devices": uses.every,
        "device_count": uses.count,
        "problems": found,
    }
    return replace(container, **fields)


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
    found += problems.conflicts(name, team, COMMON, prefix)
    found += problems.coexists_with_itself(name, team, prefix)
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
        coexist=_first(team, "coexist") or Sharing(),
        groups=tuple(sorted({group for container in team for group in container.groups})),
        max_holders=_first(team, "max_holders") or 1,
        idle_timeout_ms=_first(team, "idle_timeout_ms"),
        min_residency_ms=_first(team, "min_residency_ms"),
        max_hold_ms=_first(team, "max_hold_ms"),
        devices=devices.in_order(device for container in team for device in container.devices),
        all_devices=any(container.all_devices for container in team),
        device_count=max((container.device_count for container in team), default=0),
        gpu_class=_first(team, "gpu_class"),
    )


def _first(team: Sequence[Container], field: str) -> Any:
    """Return what the first container that gives ``field`` says; the others agree, or the target is invalid."""
    return next((value for container in team if (value := getattr(container, field)) is not None), None)


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
