"""``GET /containers/{id}/json`` -> ``core.model.Container``; ``GET /containers/json`` -> what is worth inspecting.

Unknown fields are ignored and missing ones tolerated: Docker drops and adds some with every API version, and Podman
leaves others out. Label values are anybody's, and only ever parsed.

Source: moby api/types (State, HostConfig, Config, NetworkSettings); podman pkg/api/handlers/compat/containers.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct, ValidationError, convert, field

from supervisor.core.devices import Devices, Request, asked_for
from supervisor.core.labels import parse, with_labels
from supervisor.core.model import Container, Endpoint, Health, Status
from supervisor.engine import compose

#: Podman's states beside Docker's own.
STATUSES: dict[str, Status] = {
    "created": "created",
    "running": "running",
    "paused": "paused",
    "restarting": "restarting",
    "removing": "removing",
    "exited": "exited",
    "dead": "dead",
    "configured": "created",
    "initialized": "created",
    "stopping": "running",
    "stopped": "exited",
}
HEALTHS: dict[str, Health] = {"starting": "starting", "healthy": "healthy", "unhealthy": "unhealthy"}

#: Docker's own default. A container may ask for any time, -1 for ever: a stop must end, so an hour is the most.
GRACE_S = 10
GRACE_MAX_S = 3600


class _Health(Struct, rename="pascal"):
    status: str = ""


class _State(Struct, rename="pascal"):
    status: str = ""
    running: bool = False
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""
    health: _Health | None = None


class _Healthcheck(Struct, rename="pascal"):
    test: tuple[str, ...] | None = None


class _Config(Struct, rename="pascal"):
    labels: dict[str, str] | None = None
    stop_timeout: int | None = None
    healthcheck: _Healthcheck | None = None
    tty: bool = False
    env: Any = None


class _Binding(Struct, rename="pascal"):
    host_ip: str = ""
    host_port: str = ""


Ports = dict[str, list[_Binding] | None] | None


class _RestartPolicy(Struct, rename="pascal"):
    name: str = ""


class _DeviceRequest(Struct, rename="pascal"):
    """``capabilities``: a list of lists, any of which will do."""

    driver: str = ""
    count: int = 0
    ids: list[str] | None = field(default=None, name="DeviceIDs")
    capabilities: list[list[str] | None] | None = None


class _Mapping(Struct, rename="pascal"):
    path_on_host: str = ""


class _HostConfig(Struct, rename="pascal"):
    """What names GPUs is converted one by one: one odd request must not hide the container that made it."""

    restart_policy: _RestartPolicy | None = None
    device_requests: Any = None
    devices: Any = None
    runtime: Any = None
    auto_remove: bool = False
    port_bindings: Ports = None
    cgroup_parent: str = ""


class _NetworkSettings(Struct, rename="pascal"):
    ports: Ports = None


class Inspected(Struct, rename="pascal"):
    """The part of an inspect answer that we use."""

    id: str
    name: str = ""
    created: str = ""
    state: _State = field(default_factory=_State)
    config: _Config = field(default_factory=_Config)
    host_config: _HostConfig = field(default_factory=_HostConfig)
    network_settings: _NetworkSettings = field(default_factory=_NetworkSettings)

    @property
    def labels(self) -> Mapping[str, str]:
        return self.config.labels or {}


class Listed(Struct, rename="pascal"):
    """One row of the list: it tells whether an inspect is worth while. Of those for which it is not, only who they are
    is taken from it.
    """

    id: str
    labels: dict[str, str] | None = None
    names: list[str] | None = None


#: Made here, before there are threads: see ``connection.decode``. The last one is for what is converted below.
INSPECTED = msgspec.json.Decoder(Inspected)
LISTED = msgspec.json.Decoder(list[Listed])
_CONVERTED = msgspec.json.Decoder(tuple[_DeviceRequest, _Mapping])


def labelled(labels: Mapping[str, str] | None, prefix: str) -> bool:
    """Whether a container carries any label of ours, well-formed or not: none is silently ignored."""
    return any(name.startswith(prefix) for name in labels or ())


def to_container(seen: Inspected, *, prefix: str, wall_ms: int) -> Container:
    """Build the noun. ``wall_ms``: the engine's wall clock when it answered, in Unix milliseconds."""
    name = seen.name.removeprefix("/")
    made = compose.read(seen.labels)
    service = made.service or name
    says = parse(seen.labels, container=name, service=service, prefix=prefix)
    state, config, host = seen.state, seen.config, seen.host_config
    status = STATUSES.get(state.status) or ("running" if state.running else "exited")
    started_wall_ms = to_wall_ms(state.started_at)
    container = Container(
        id=seen.id,
        name=name,
        project=made.project,
        service=service,
        number=made.number,
        one_off=made.one_off,
        replaces=made.replaces,
        depends_on=made.depends_on,
        working_dir=made.working_dir,
        config_files=made.config_files,
        status=status,
        health=HEALTHS.get(state.health.status if state.health else "", "none"),
        exit_code=state.exit_code,
        error=state.error,
        run=state.started_at if started_wall_ms else "",
        started_wall_ms=started_wall_ms,
        created_wall_ms=to_wall_ms(seen.created),
        age_ms=_age_ms(status, started_wall_ms, to_wall_ms(state.finished_at), wall_ms),
        restart_policy=(host.restart_policy.name if host.restart_policy else "") or "no",
        stop_grace_s=_grace_s(config.stop_timeout),
        auto_remove=host.auto_remove,
        healthcheck=_has_healthcheck(config.healthcheck),
        endpoint=_endpoint(seen.network_settings.ports) or _endpoint(host.port_bindings),
    )
    return with_labels(container, says, _gpus(host, config), prefix=prefix)


def _gpus(host: _HostConfig, config: _Config) -> Devices:
    """The GPUs that Docker was asked for, in any of the ways that there are; whatever cannot be read names none."""
    asked = [*_requests(host.device_requests), *_cdi_paths(host.devices)]
    visible = None
    for line in config.env if isinstance(config.env, list) else ():
        name, equals, value = str(line).partition("=")
        if equals and name == "NVIDIA_VISIBLE_DEVICES":
            visible = value
    return asked_for(asked, host.runtime if isinstance(host.runtime, str) else "", visible)


def _requests(raw: Any) -> Iterator[Request]:
    for one in raw if isinstance(raw, list) else ():
        try:
            read = convert(one, _DeviceRequest)
        except ValidationError:
            continue
        yield Request(
            driver=read.driver,
            ids=tuple(read.ids or ()),
            count=read.count,
            capabilities=frozenset(word for words in read.capabilities or () for word in words or ()),
        )


def _cdi_paths(raw: Any) -> Iterator[Request]:
    """CDI names among the device files: older Compose puts them there.

    Source: docker/compose pkg/compose/create.go, ``getDeployResources``; docker/cli, ``--device``.
    """
    for one in raw if isinstance(raw, list) else ():
        try:
            yield Request(driver="cdi", ids=(convert(one, _Mapping).path_on_host,))
        except ValidationError:
            continue


def to_wall_ms(raw: str) -> int:
    """Read RFC 3339 with nanoseconds; Docker writes the year 1 for "never", and that is 0 here."""
    try:
        return max(0, int(datetime.fromisoformat(raw).timestamp() * 1000))
    except (ValueError, OverflowError):
        return 0


def _age_ms(status: Status, started_ms: int, finished_ms: int, wall_ms: int) -> int:
    """How long the run has lasted; of one that is over, how long it did. ``restarting`` is between two runs."""
    if not started_ms:
        return 0
    over = status not in ("running", "paused")
    return max(0, (finished_ms if over else wall_ms) - started_ms)


def _grace_s(stop_timeout: int | None) -> int:
    if stop_timeout is None:
        return GRACE_S
    return GRACE_MAX_S if stop_timeout < 0 else min(stop_timeout, GRACE_MAX_S)


def _has_healthcheck(check: _Healthcheck | None) -> bool:
    """``["NONE"]`` switches off the image's own; an empty test inherits it, and the engine has filled that in."""
    return bool(check and check.test and check.test[0] not in ("NONE", ""))


def _endpoint(ports: Ports) -> Endpoint | None:
    """The lowest published TCP port, as this host reaches it: an unspecified address is every one of the host's."""
    found: list[tuple[int, Endpoint]] = []
    for inside, bindings in (ports or {}).items():
        number, _, protocol = inside.partition("/")
        for binding in bindings or ():
            if number.isdecimal() and protocol in ("tcp", "") and 0 < _port(binding.host_port) < 65536:
                host = "127.0.0.1" if binding.host_ip in ("", "0.0.0.0", "::") else binding.host_ip  # noqa: S104
                found.append((int(number), Endpoint(host, _port(binding.host_port))))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _port(raw: str) -> int:
    """A published port; "" and ranges ("8000-8010") are not settled before the container runs."""
    return int(raw) if raw.isascii() and raw.isdecimal() and len(raw) < 6 else 0
