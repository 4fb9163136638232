"""Say what is wrong with labels before anything starts: of compose files, or of the containers that are there.

Compose files are read by Compose itself (``docker compose config``: variables, overrides, ``extends``, ``include``,
profiles), which needs no engine; what it prints becomes the containers that it would make, and those are judged like
real ones. What only an engine knows is said and not guessed: an image may bring a healthcheck of its own.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from supervisor.core import problems
from supervisor.core.devices import Devices, Request, asked_for
from supervisor.core.errors import SupervisorError
from supervisor.core.labels import PREFIX, TargetSpec, merge, parse, services_of, stray_problems, with_labels
from supervisor.core.model import Condition, Container, Dependency, Problem
from supervisor.core.values import shown

REPLICAS_MAX = 1000
CONDITIONS: dict[str, Condition] = {
    "service_healthy": "service_healthy",
    "service_completed_successfully": "service_completed_successfully",
}
#: Source: docker/compose pkg/compose/create.go, ``getRestartPolicy`` and ``mapRestartPolicyCondition``.
RESTARTS = {"any": "always", "none": "no", "": "no"}


class CheckFailed(SupervisorError):
    """The files could not be read: no Docker, no Compose, no such file, or not a compose file."""

    code = "check_failed"


class CheckReport(Struct, frozen=True, kw_only=True):
    """Every target that was found, and every problem: the targets' own, in their order, then those of no target.

    ``next_command`` is what to type next: it leases the first target, or checks again once the labels are mended.
    """

    targets: tuple[TargetSpec, ...]
    problems: tuple[Problem, ...]
    next_command: str

    @property
    def ok(self) -> bool:
        return bool(self.targets) and not any(problem.severity == "error" for problem in self.problems)


class Stack(Struct, frozen=True, kw_only=True):
    """What Compose would make of some files. ``unchecked``: labelled services behind profiles that are not active."""

    project: str
    containers: tuple[Container, ...]
    command: tuple[str, ...]
    unchecked: tuple[Problem, ...] = ()


# ---- the part of ``docker compose config --format json`` that matters here; it writes labels as a map, always


class _Healthcheck(Struct):
    test: list[str] | None = None
    disable: bool = False


class _Dependency(Struct):
    condition: str = ""


class _RestartPolicy(Struct):
    condition: str = "any"


class _DeviceRequest(Struct):
    """Compose writes ``all`` as -1, and that where there is neither a count nor an id."""

    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = None
    capabilities: list[str] | None = None


class _Reservations(Struct):
    devices: list[_DeviceRequest] | None = None


class _Resources(Struct):
    reservations: _Reservations | None = None


class _Deploy(Struct):
    replicas: int | None = None
    restart_policy: _RestartPolicy | None = None
    resources: _Resources | None = None


class _Device(Struct):
    source: str = ""


class _Service(Struct):
    labels: dict[str, str | None] | None = None
    healthcheck: _Healthcheck | None = None
    depends_on: dict[str, _Dependency] | None = None
    restart: str = ""
    deploy: _Deploy | None = None
    scale: int | None = None
    container_name: str = ""
    profiles: list[str] | None = None
    gpus: list[_DeviceRequest] | None = None
    devices: list[_Device | str] | None = None
    runtime: str = ""
    environment: dict[str, str | None] | None = None


class _Configuration(Struct):
    name: str = ""
    services: dict[str, _Service] | None = None


# ---- files


def check_files(
    files: Sequence[Path],
    *,
    project: str | None = None,
    prefix: str = PREFIX,
    docker: str = "docker",
    timeout_s: float = 30.0,
) -> CheckReport:
    """Check compose files. Those of one folder are one stack (a file and its overrides), unless ``project`` is given:
    then all of them are that project, in the given order. Blocks for at most ``2 * timeout_s`` a stack.

    Raises:
        CheckFailed: they cannot be read, and why.
    """
    stacks: list[Stack] = []
    for group in _stacks(files, project):
        stack = _read(group, project, prefix, docker, timeout_s)
        twin = next((other for other in stacks if other.project == stack.project), None)
        if twin is not None:
            raise CheckFailed(
                f"{shlex.join(stack.command)} and {shlex.join(twin.command)} are both project {stack.project}: "
                "Compose takes the containers of one for the other's",
                "give one of them another name at its top: name: NAME",
            )
        stacks.append(stack)
    containers = [container for stack in stacks for container in stack.containers]
    again = ["gpu-supervisor", "check", *(["--project", project] if project else []), *(str(file) for file in files)]
    nothing = Problem(
        "no_labels",
        f"no service in {', '.join(shown(str(file)) for file in files)} has a {prefix}* label",
        f"add {prefix}target: NAME to each service that needs the GPU, and {prefix}healthcheck-master to one of them",
    )
    report = _judge(
        containers, [problem for stack in stacks for problem in stack.unchecked], nothing, shlex.join(again), prefix
    )
    if not report.ok:
        return report
    first = report.targets[0]
    command = next(stack.command for stack in stacks if stack.project == first.project)
    return msgspec.structs.replace(
        report, next_command=f"{shlex.join(command)} create && gpu-supervisor acquire {first.name}"
    )


def _stacks(files: Sequence[Path], project: str | None) -> list[list[Path]]:
    for file in files:
        if not file.is_file():
            raise CheckFailed(
                f"{shown(str(file))} is a folder" if file.is_dir() else f"there is no file {shown(str(file))}",
                "name a compose file, such as docker-compose.yml",
            )
    if project is not None:
        return [list(files)]
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.resolve().parent, []).append(file)
    return list(folders.values())


def _read(files: Sequence[Path], project: str | None, prefix: str, docker: str, timeout_s: float) -> Stack:
    command = [docker, "compose", *(["-p", project] if project else [])]
    for file in files:
        command += ["-f", str(file)]
    everything = _configuration([*command, "--profile", "*"], timeout_s)
    services = everything.services or {}
    active = services.keys()
    if any(service.profiles and _labelled(service, prefix) for service in services.values()):
        active = (_configuration(command, timeout_s).services or {}).keys()
    containers: list[Container] = []
    unchecked: list[Problem] = []
    for name, service in sorted(services.items()):
        if name in active:
            containers += _containers(everything.name, name, service, prefix)
        elif _labelled(service, prefix):
            unchecked.append(_not_checked(name, service, files))
    return Stack(
        project=everything.name,
        containers=tuple(containers),
        command=tuple(command),
        unchecked=tuple(unchecked),
    )


def _configuration(command: Sequence[str], timeout_s: float) -> _Configuration:
    asked = [*command, "config", "--format", "json"]
    try:
        answer = _run(asked, timeout_s)
        if answer.returncode != 0 and _run([*command[:2], "version"], timeout_s).returncode != 0:
            raise CheckFailed("there is no docker compose", "install the Compose plugin (docker-compose-plugin)")
    except FileNotFoundError:
        raise CheckFailed(f"there is no command {command[0]}", "install Docker, or put it on the PATH") from None
    except OSError as error:
        raise CheckFailed(f"{command[0]} cannot be run: {error.strerror}", "see that it is a command") from None
    except subprocess.TimeoutExpired:
        raise CheckFailed(f"docker compose gave no answer in {timeout_s:g} s", f"try: {shlex.join(asked)}") from None
    if answer.returncode != 0:
        words = answer.stderr.decode(errors="replace").strip().splitlines()
        raise CheckFailed(
            f"docker compose cannot read it: {shown(words[-1] if words else 'it does not say why', 400)}",
            f"see: {shlex.join(asked)}",
        )
    try:
        return msgspec.json.decode(answer.stdout, type=_Configuration)
    except msgspec.DecodeError as error:
        raise CheckFailed(f"docker compose answered something unknown: {error}", f"see: {shlex.join(asked)}") from None


def _run(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - a list, no shell; what is in the files is Compose's to judge
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
    )


# ---- what Compose would make


def _labelled(service: _Service, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in service.labels or ())


def _not_checked(name: str, service: _Service, files: Sequence[Path]) -> Problem:
    profiles = ",".join(service.profiles or ())
    check = shlex.join([f"COMPOSE_PROFILES={profiles}", "gpu-supervisor", "check", *(str(file) for file in files)])
    return Problem(
        "not_checked",
        f"service {shown(name)} was not checked: it is only in profile {shown(profiles)}, which is not active",
        check,
        "warning",
        service=shown(name),
    )


def _containers(project: str, name: str, service: _Service, prefix: str) -> list[Container]:
    """Build the containers of one service, as Compose would number and name them."""
    deploy = service.deploy or _Deploy()
    count = next((number for number in (service.scale, deploy.replicas) if number is not None), 1)
    if count > REPLICAS_MAX:
        raise CheckFailed(f"service {shown(name)} asks for {count} containers", f"at most {REPLICAS_MAX} are checked")
    # Compose writes its configuration so that it can be read again: a dollar sign is doubled.
    labels = {key: (text or "").replace("$$", "$") for key, text in (service.labels or {}).items()}
    restart = service.restart or (deploy.restart_policy.condition if deploy.restart_policy else "")
    depends_on = tuple(
        Dependency(other, CONDITIONS.get(dependency.condition, "service_started"))
        for other, dependency in sorted((service.depends_on or {}).items())
    )
    check = service.healthcheck or _Healthcheck()
    none = check.disable or (check.test or [""])[0] == "NONE"
    asked = _gpus(service, deploy)
    made: list[Container] = []
    for number in range(1, count + 1):
        called = service.container_name or f"{project}-{name}-{number}"
        says = parse(labels, container=called, service=name, prefix=prefix)
        container = Container(
            id=f"{project}/{name}/{number}",
            name=called,
            project=project,
            service=name,
            number=number,
            depends_on=depends_on,
            restart_policy=RESTARTS.get(restart, restart),
            healthcheck=not none,
        )
        container = with_labels(container, says, asked, prefix=prefix)
        if number > 1:
            # Replicas have the same labels: what is wrong with them is said once.
            container = msgspec.structs.replace(container, problems=())
        made.append(_unsure_of_healthcheck(container, prefix) if not check.test and not none else container)
    return made


def _gpus(service: _Service, deploy: _Deploy) -> Devices:
    """The GPUs that Compose would ask Docker for. ``gpus`` needs no capability: Compose adds it.

    Source: docker/compose pkg/compose/create.go, ``getDeployResources`` and ``setReservations``.
    """
    reserved = deploy.resources.reservations.devices if deploy.resources and deploy.resources.reservations else None
    asked = [
        Request(
            driver=one.driver,
            ids=tuple(one.device_ids or ()),
            count=one.count,
            capabilities=frozenset(one.capabilities or ()) | more,
        )
        for requests, more in ((reserved, frozenset()), (service.gpus, frozenset({"gpu"})))
        for one in requests or ()
    ]
    paths = [one.split(":")[0] if isinstance(one, str) else one.source for one in service.devices or ()]
    asked += [Request(driver="cdi", ids=(path,)) for path in paths]
    visible = (service.environment or {}).get("NVIDIA_VISIBLE_DEVICES")
    return asked_for(asked, service.runtime, visible)


def _unsure_of_healthcheck(container: Container, prefix: str) -> Container:
    """Warn where a master relies on a healthcheck of its image, which only the engine can see."""
    if container.target is None or not container.master:
        return container
    problem = problems.without_healthcheck(container.target, container, prefix)
    message = f"{problem.message} in its compose file: unless its image has one, nobody can tell when it is ready"
    warning = msgspec.structs.replace(problem, message=message, severity="warning")
    return msgspec.structs.replace(container, problems=(*container.problems, warning))


# ---- containers that are there


def check_containers(containers: Sequence[Container], *, prefix: str = PREFIX) -> CheckReport:
    """Check the containers that an engine showed: labelled ones, and those that they depend on."""
    nothing = Problem(
        "no_labels",
        f"no container has a {prefix}* label",
        f"add {prefix}target: NAME to a compose file, and see: gpu-supervisor check docker-compose.yml",
    )
    report = _judge(containers, (), nothing, "gpu-supervisor check", prefix)
    if not report.ok:
        return report
    return msgspec.structs.replace(report, next_command=f"gpu-supervisor acquire {report.targets[0].name}")


def _judge(
    containers: Sequence[Container], more: Iterable[Problem], nothing: Problem, again: str, prefix: str
) -> CheckReport:
    targets = _targets(containers, prefix)
    found = [problem for spec in targets for problem in spec.problems]
    found += [*stray_problems(containers), *more]
    if not targets and not found:
        found.append(nothing)
    return CheckReport(targets=targets, problems=tuple(found), next_command=again)


def _targets(containers: Sequence[Container], prefix: str) -> tuple[TargetSpec, ...]:
    by_target: dict[str, list[Container]] = {}
    for container in containers:
        if container.target is not None:
            by_target.setdefault(container.target, []).append(container)
    services: Mapping[problems.Service, str] = services_of(containers)
    return tuple(merge(name, by_target[name], services, prefix=prefix) for name in sorted(by_target))
