"""Settings, read and checked: defaults < TOML files < environment < flags.

``supervisor.settings`` says which there are; nothing else in the supervisor looks at the environment for them.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from supervisor.core.errors import SupervisorError
from supervisor.core.model import Mode
from supervisor.core.processes import Allowed, Policy
from supervisor.core.values import BadValue, shown
from supervisor.gpu.choice import GpuChoice
from supervisor.hooks.choice import Hook
from supervisor.keys import Role, configured
from supervisor.settings import (
    BY_KEY,
    ENVIRONMENT_PREFIX,
    SETTINGS,
    TOML_EXAMPLES,
    TOML_TYPES,
    Environment,
    Setting,
)

__all__ = ["Config", "ConfigError", "Given", "Layers", "gather", "load", "user_file"]

#: Variables that are none of the server's settings: where the commands find it, with which key, and where its file is.
OTHER_VARIABLES = frozenset({"GPU_SUPERVISOR_URL", "GPU_SUPERVISOR_TOKEN", "GPU_SUPERVISOR_CONFIG"})
SYSTEM_FILE = Path("/etc/gpu-supervisor/config.toml")


class ConfigError(SupervisorError):
    """A setting that cannot be used. The message names where it was set, its key and its value.

    ``others``: what else is wrong, so that all of it can be mended at once.
    """

    code = "bad_config"
    others: tuple[ConfigError, ...] = ()


class Wrong:
    """Gathers what is wrong with the settings, one by one, and raises it as one error."""

    def __init__(self) -> None:
        self._errors: list[ConfigError] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            self._errors.append(error)

    def __bool__(self) -> bool:
        return bool(self._errors)

    def raised(self) -> None:
        """Raises ``ConfigError`` if anything is wrong."""
        if self._errors:
            first, *others = self._errors
            first.others = tuple(others)
            raise first


class Config(Struct, frozen=True, kw_only=True):
    """Everything that ``serve`` is told. Times in milliseconds, sizes in the unit of their name."""

    host: str
    port: int
    socket: Path | None
    socket_role: Role | None
    caller_leases: int
    caller_tickets: int
    caller_requests: float
    data_dir: Path
    docker_host: str
    docker_write_host: str | None
    gpus: GpuChoice
    headroom_mib: int
    placement: Literal["pack", "spread"]
    gpu_classes: dict[str, tuple[str, ...]] | None
    enforce: Mode
    claim_window_ms: int
    aging: float
    affinity_points: float
    idle_timeout_ms: int
    min_residency_ms: int
    max_hold_ms: int
    processes: Policy
    processes_grace_ms: int
    processes_allow: tuple[Allowed, ...]
    processes_include_root: bool
    processes_include_graphics: bool
    allowed_hosts: tuple[str, ...]
    allow_remote: bool
    label_prefix: str
    cgroup_kill: Literal["auto", "off"]
    tripwire: bool
    ttl_min_ms: int
    ttl_max_ms: int
    queue_max: int
    journal_retention_ms: int
    journal_retention_bytes: int
    log_format: Literal["text", "json"]
    log_level: Literal["debug", "info", "warning", "error"]
    hooks: tuple[Hook, ...]

    @property
    def needs_keys(self) -> bool:
        """Whether it must not listen without keys: others than this machine could reach it."""
        return not self.allow_remote and not is_loopback(self.host)


# ---- the layers


class Given(Struct, frozen=True):
    """One value as somebody wrote it. ``where`` begins the sentence about what is wrong with it; ``origin`` says which
    layer it came from: ``default``, ``file NAME:LINE``, ``environment variable NAME`` or ``flag NAME``.
    """

    where: str
    text: str
    origin: str


class Layers(Struct, frozen=True):
    """All layers on top of each other, by key, and the files that were read."""

    given: dict[str, Given]
    files: tuple[Path, ...]

    def config(self) -> Config:
        """Read the values. Raises ``ConfigError`` where some are wrong, or two contradict each other."""
        wrong = Wrong()
        values = self.values(wrong)
        wrong.raised()
        config = Config(**values)
        _check(config, self.given)
        return config

    def values(self, wrong: Wrong) -> dict[str, Any]:
        """Return the values by attribute, but for those that are wrong."""
        values: dict[str, Any] = {}
        for key, one in self.given.items():
            with wrong.noted():
                values[BY_KEY[key].attribute] = _value(BY_KEY[key], one)
        return values


def load(
    flags: Mapping[str, str | None],
    environ: Environment,
    *,
    file: Path | None = None,
    system_file: Path = SYSTEM_FILE,
) -> Config:
    """Read all layers, the later the stronger: defaults, files, environment, flags (by key, None: not given).

    ``file`` (``--config``, or GPU_SUPERVISOR_CONFIG) replaces the system's and the user's file, which are read where
    they exist.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, a value is wrong, or two settings contradict each other.
    """
    return gather(flags, environ, file=file, system_file=system_file).config()


def gather(
    flags: Mapping[str, str | None],
    environ: Environment,
    *,
    file: Path | None = None,
    system_file: Path = SYSTEM_FILE,
) -> Layers:
    """Lay the layers on top of each other, as ``load`` does, and keep where each value came from.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, or a type is wrong; with all the values that are wrong.
    """
    if file is None and environ.get("GPU_SUPERVISOR_CONFIG"):
        file = Path(environ["GPU_SUPERVISOR_CONFIG"])
    files = [file] if file else [path for path in (system_file, user_file(environ)) if path.is_file()]
    given = {setting.key: _default(setting, environ) for setting in SETTINGS}
    wrong = Wrong()
    for path in files:
        with wrong.noted():
            given |= read_file(path, wrong)
    given |= read_environment(environ, wrong)
    for key, text in flags.items():
        if text is not None:
            given[key] = Given(BY_KEY[key].flag, text, f"flag {BY_KEY[key].flag}")
    layers = Layers(given, tuple(files))
    if wrong:
        layers.values(wrong)
    wrong.raised()
    return layers


def _default(setting: Setting, environ: Environment) -> Given:
    variable = setting.falls_back_on
    text = setting.default_in(environ)
    origin = f"environment variable {variable}" if variable and environ.get(variable) == text else "default"
    return Given("default", text, origin)


def user_file(environ: Environment) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gpu-supervisor" / "config.toml"


def read_environment(environ: Environment, wrong: Wrong) -> dict[str, Given]:
    """Read GPU_SUPERVISOR_<NAME>. An empty variable is not set: that is how a Compose file switches one off."""
    given: dict[str, Given] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in OTHER_VARIABLES or not text:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        with wrong.noted():
            if key not in BY_KEY or variable != BY_KEY[key].variable:
                nearest = _nearest(variable, [setting.variable for setting in SETTINGS])
                raise ConfigError(f"the environment variable {shown(variable)} is no setting", nearest)
            given[key] = Given(variable, text, f"environment variable {variable}")
    return given


def read_file(path: Path, wrong: Wrong) -> dict[str, Given]:
    """Read one TOML file, flat ``key = value`` lines. Keys and types that are wrong are noted with their line.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        source = path.read_text(encoding="utf-8")
        document = tomllib.loads(source)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        hint = f"write one with: gpu-supervisor config init {shlex.quote(str(path))}" if missing else ""
        raise ConfigError(f"{path}: {error.strerror}", hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", "write one setting a line: port = 8080") from error
    given: dict[str, Given] = {}
    for key, value in document.items():
        place = f"{path}{_line(source, key)}"
        where = f"{place}: {shown(key)}"
        with wrong.noted():
            if key not in BY_KEY:
                raise ConfigError(f"{where} is no setting", _nearest(key.replace("-", "_"), BY_KEY))
            given[key] = Given(where, _text(BY_KEY[key], where, value), f"file {place}")
    return given


def _line(source: str, key: str) -> str:
    """The line of a key as ``:3``, or "" where it cannot be told: tomllib keeps no positions."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[.=\]]""")
    numbers = [number for number, line in enumerate(source.splitlines(), 1) if pattern.match(line)]
    return f":{numbers[0]}" if numbers else ""


def _text(setting: Setting, where: str, value: object) -> str:
    """Bring a TOML value of the right type into the form that flags have; an empty one is kept as it is."""
    if type(value) not in TOML_TYPES[setting.kind]:  # not isinstance: true is no number here
        said = f" = {_toml(value)}" if setting.kind != "tables" else ""  # it may be an address, which is secret
        raise ConfigError(
            f"{where}{said} has the wrong type", "write " + TOML_EXAMPLES[setting.kind].format(setting.key)
        )
    if setting.kind == "tables":
        # TOML has dates, which are no JSON: what reads the tables refuses the text.
        return json.dumps(value, default=str)
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, str) or "," in item or not item.strip():
                raise ConfigError(
                    f"{where}: {_toml(item)} is no item for it", "write " + TOML_EXAMPLES["list"].format(setting.key)
                )
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return format(value, "f").rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{shown(value)}"' if isinstance(value, str) else shown(str(value))


def _nearest(wrong: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {near[0]}?" if near else f"the settings are: {', '.join(known)}"


def _value(setting: Setting, given: Given) -> Any:
    if not given.text:
        if setting.default == "":
            return () if setting.kind in {"list", "tables"} else None
        raise ConfigError(f"{given.where} is empty", f"leave it out for its default, {setting.default_shown}")
    try:
        return setting.read(given.text)
    except BadValue as error:
        raise ConfigError(f"{given.where}: {error}", error.hint) from error


def _check(config: Config, given: Mapping[str, Given]) -> None:
    """Refuse what is well-formed and still cannot be meant."""
    if config.needs_keys and not configured(config.data_dir):
        raise ConfigError(
            f"{given['host'].where}: {config.host} is not a loopback address, and there are no keys in "
            f"{config.data_dir}: everybody who reaches it could start and stop your containers",
            "make one first: gpu-supervisor token create NAME --role lease (with the same --data-dir); or listen on "
            "127.0.0.1 behind a proxy with a login, or say --allow-remote",
        )
    if config.ttl_min_ms > config.ttl_max_ms:
        raise ConfigError(
            f'ttl_min ("{given["ttl_min"].text}", {given["ttl_min"].where}) is longer than '
            f'ttl_max ("{given["ttl_max"].text}", {given["ttl_max"].where})',
            "set both, or neither",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. A name counts as remote, but for localhost itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
