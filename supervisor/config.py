"""Settings: defaults < TOML files < environment < flags, all from one table.

``SETTINGS`` is the only list of settings: flags, environment variables, TOML keys, their errors and the README's table
come from it. ``load`` reads the layers; nothing else in the supervisor looks at the environment for its settings.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct

from supervisor.core.errors import SupervisorError
from supervisor.core.model import Gpu, Mode
from supervisor.core.values import BadValue, parse_bool, parse_duration_ms, parse_int, parse_list, parse_mib, shown

ENVIRONMENT_PREFIX = "GPU_SUPERVISOR_"
#: Variables that are none of the server's settings: where the commands find it, and where its file is.
OTHER_VARIABLES = frozenset({"GPU_SUPERVISOR_URL", "GPU_SUPERVISOR_CONFIG"})
SYSTEM_FILE = Path("/etc/gpu-supervisor/config.toml")
SYSTEM_ENGINE = "unix:///var/run/docker.sock"

GPUS_MAX = 64
#: Linux: sockaddr_un.sun_path has 108 bytes, the last of them NUL (unix(7)).
SOCKET_BYTES_MAX = 107

Environment = Mapping[str, str]


class ConfigError(SupervisorError):
    """A setting that cannot be used. The message names where it was set, its key and its value."""

    code = "bad_config"


class Config(Struct, frozen=True, kw_only=True):
    """Everything that ``serve`` is told. Times in milliseconds, sizes in the unit of their name."""

    host: str
    port: int
    socket: Path | None
    data_dir: Path
    docker_host: str
    docker_write_host: str | None
    gpus: tuple[Gpu, ...]
    enforce: Mode
    claim_window_ms: int
    aging: float
    allowed_hosts: tuple[str, ...]
    allow_remote: bool
    label_prefix: str
    ttl_min_ms: int
    ttl_max_ms: int
    queue_max: int
    journal_retention_ms: int
    journal_retention_bytes: int


# ---- readers of single values: text -> value, or BadValue


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Read ``auto``, or simulated GPUs: ``sim:1x24576``, count x MiB, several groups with commas.

    ``auto`` is one exclusive GPU of unknown size: sizes are not checked then.

    Raises:
        BadValue: it is neither, or there are more than 64.
    """
    if text == "auto":
        return (Gpu("auto"),)
    hint = "write auto, or simulated GPUs as count x MiB: sim:1x24576 or sim:2x24576,1x8192"
    if not text.startswith("sim:"):
        raise BadValue(f'"{shown(text)}" names no GPUs', hint)
    sizes_mib: list[int] = []
    for group in text.removeprefix("sim:").split(","):
        count, x, size = group.strip().partition("x")
        if not x:
            raise BadValue(f'"{shown(group)}" is not count x MiB', hint)
        sizes_mib += [parse_mib(size)] * parse_int(count, 1, GPUS_MAX)
        if len(sizes_mib) > GPUS_MAX:
            raise BadValue(f"more than {GPUS_MAX} simulated GPUs", hint)
    return tuple(
        Gpu(f"SIM-{index}", index=index, name="simulated", total_mib=mib, used_mib=0)
        for index, mib in enumerate(sizes_mib)
    )


def parse_size_bytes(text: str) -> int:
    """Read ``512MiB`` or ``2GiB`` and return bytes. The unit must be said: nobody agrees on what a bare number is."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})(MiB|GiB)", text)
    if match is None:
        raise BadValue(f'"{shown(text)}" is not a size', "write a whole number with its unit: 512MiB or 2GiB")
    return int(match[1]) * {"MiB": 2**20, "GiB": 2**30}[match[2]]


def _parse_host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,255}", text):
        raise BadValue(f'"{shown(text)}" is not an address or a host name', "write an address alone: 127.0.0.1 or ::1")
    return text


def _parse_path(text: str) -> Path:
    if "\0" in text:
        raise BadValue(f'"{shown(text)}" is not a path')
    return Path(text).expanduser().absolute()


def _parse_socket(text: str) -> Path:
    path = _parse_path(text.removeprefix("unix://"))
    if len(os.fsencode(path)) > SOCKET_BYTES_MAX:
        raise BadValue(f'"{shown(text)}" is too long for a unix socket', f"at most {SOCKET_BYTES_MAX} bytes")
    return path


def _parse_engine(text: str) -> str:
    if not re.fullmatch(r"(unix:///|tcp://|http://)[^\s]+", text):
        raise BadValue(
            f'"{shown(text)}" is not the address of a container engine',
            "write unix:///path/to/docker.sock or tcp://host:port; an engine behind ssh needs its socket forwarded",
        )
    return text


def _parse_mode(text: str) -> str:
    modes = get_args(Mode)
    if text in modes:
        return text
    near = difflib.get_close_matches(text.strip().lower(), modes, n=1)
    raise BadValue(
        f'"{shown(text)}" is not a mode', (f"did you mean {near[0]}? " if near else "") + f"one of: {', '.join(modes)}"
    )


def _parse_points(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise BadValue(
            f'"{shown(text)}" is not a number of points', "write points per minute: 1, 0.5, or 0 for no aging"
        )
    return float(text)


def _parse_hosts(text: str) -> tuple[str, ...]:
    names = parse_list(text)
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}|\[?[0-9a-fA-F:]{2,45}\]?", name):
            raise BadValue(f'"{shown(name)}" is not a host name', "write names alone: no scheme, no port, no wildcard")
    return names


def _parse_prefix(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,60})\.", text):
        raise BadValue(
            f'"{shown(text)}" is not a prefix of labels', "lower-case letters and digits, ending with a dot: gpu."
        )
    return text


def _parse_wait(text: str) -> int:
    duration_ms = parse_duration_ms(text)
    if not duration_ms:
        raise BadValue(f'"{shown(text)}" is no time at all', "write a duration above zero: 10s")
    return duration_ms


# ---- the table

Kind = Literal["text", "integer", "number", "duration", "boolean", "list"]
TOML_TYPES: dict[Kind, tuple[type, ...]] = {
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "duration": (str, int),
    "boolean": (bool,),
    "list": (list,),
}
#: How a value of each kind is written in TOML, for the sentence that asks for it.
TOML_EXAMPLES: dict[Kind, str] = {
    "text": 'a text in quotes: {} = "..."',
    "integer": "a whole number without quotes: {} = 8080",
    "number": "a number without quotes: {} = 1.5",
    "duration": 'a duration in quotes, or whole seconds: {} = "10s"',
    "boolean": "true or false without quotes: {} = true",
    "list": 'a list of texts: {} = ["...", "..."]',
}


class Setting(Struct, frozen=True):
    """One setting. ``read`` takes text from anywhere; an empty text is "not set".

    ``default`` is what would be typed for it, or a function of the environment that ``default_words`` describes.
    ``field`` is its name in ``Config`` where that carries a unit.
    """

    key: str
    read: Callable[[str], Any]
    default: str | Callable[[Environment], str]
    meaning: str
    kind: Kind = "text"
    default_words: str = ""
    field: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def attribute(self) -> str:
        return self.field or self.key

    @property
    def default_shown(self) -> str:
        return self.default_words or (self.default if isinstance(self.default, str) and self.default else "none")


def _default_data_dir(environ: Environment) -> str:
    if os.geteuid() == 0:
        return "/var/lib/gpu-supervisor"
    state_home = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return f"{state_home}/gpu-supervisor"


def _default_engine(environ: Environment) -> str:
    """What the docker command would use (its contexts aside): DOCKER_HOST, the system's socket, a rootless one."""
    if environ.get("DOCKER_HOST"):
        return environ["DOCKER_HOST"]
    rootless = Path(environ.get("XDG_RUNTIME_DIR") or "/nonexistent") / "docker.sock"
    if not Path(SYSTEM_ENGINE.removeprefix("unix://")).exists() and rootless.exists():
        return f"unix://{rootless}"
    return SYSTEM_ENGINE


SETTINGS: tuple[Setting, ...] = (
    Setting("host", _parse_host, "127.0.0.1", "address to listen on; another than loopback needs `allow_remote`"),
    Setting("port", lambda text: parse_int(text, 0, 65535), "8080", "TCP port; 0 takes a free one", "integer"),
    Setting("socket", _parse_socket, "", "path of a unix socket to listen on as well (mode 0660)"),
    Setting(
        "data_dir",
        _parse_path,
        _default_data_dir,
        "where the journal lies",
        default_words="`/var/lib/gpu-supervisor` as root, else `$XDG_STATE_HOME/gpu-supervisor`",
    ),
    Setting(
        "docker_host",
        _parse_engine,
        _default_engine,
        "the container engine",
        default_words="`$DOCKER_HOST`, else the socket of the system's engine, else of a rootless one",
    ),
    Setting("docker_write_host", _parse_engine, "", "another address for start, stop and kill (a second socket proxy)"),
    Setting(
        "gpus", parse_gpus, "auto", "`auto`: one GPU of unknown size; or simulated ones, count x MiB: `sim:1x24576`"
    ),
    Setting(
        "enforce",
        _parse_mode,
        "stop",
        "an unleased labelled container: `stop` it, only `observe` it, or `adopt` it while the GPU is idle",
    ),
    Setting(
        "claim_window",
        _parse_wait,
        "10s",
        "time in which the head of the queue may claim the GPU",
        "duration",
        field="claim_window_ms",
    ),
    Setting("aging", _parse_points, "1", "points of priority that a ticket gains per minute; 0 turns it off", "number"),
    Setting("allowed_hosts", _parse_hosts, "", "more names that a `Host` header may carry, with commas", "list"),
    Setting(
        "allow_remote", parse_bool, "false", "listen beyond loopback, where everybody may do everything", "boolean"
    ),
    Setting("label_prefix", _parse_prefix, "gpu.", "what the names of the labels begin with"),
    Setting("ttl_min", _parse_wait, "10s", "shortest TTL of a lease", "duration", field="ttl_min_ms"),
    Setting("ttl_max", _parse_wait, "1h", "longest TTL of a lease", "duration", field="ttl_max_ms"),
    Setting("queue_max", lambda text: parse_int(text, 1, 1_000_000), "20000", "most tickets at a time", "integer"),
    Setting(
        "journal_retention",
        parse_duration_ms,
        "30d",
        "how long the audit is kept beyond what a start needs",
        "duration",
        field="journal_retention_ms",
    ),
    Setting(
        "journal_retention_size",
        parse_size_bytes,
        "256MiB",
        "how large it may grow",
        field="journal_retention_bytes",
    ),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}


# ---- the layers


class Given(Struct, frozen=True):
    """One value as somebody wrote it, and where, for the error."""

    where: str
    text: str


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
    given = {
        setting.key: Given("default", setting.default if isinstance(setting.default, str) else setting.default(environ))
        for setting in SETTINGS
    }
    if file is None and environ.get("GPU_SUPERVISOR_CONFIG"):
        file = Path(environ["GPU_SUPERVISOR_CONFIG"])
    for path in [file] if file else [path for path in (system_file, _user_file(environ)) if path.is_file()]:
        given |= read_file(path)
    given |= read_environment(environ)
    given |= {key: Given(BY_KEY[key].flag, text) for key, text in flags.items() if text is not None}
    values = {BY_KEY[key].attribute: _value(BY_KEY[key], one) for key, one in given.items()}
    config = Config(**values)
    _check(config, given)
    return config


def _user_file(environ: Environment) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gpu-supervisor" / "config.toml"


def read_environment(environ: Environment) -> dict[str, Given]:
    """Read GPU_SUPERVISOR_<NAME>. An empty variable is not set: that is how a Compose file switches one off."""
    given: dict[str, Given] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in OTHER_VARIABLES or not text:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if key not in BY_KEY or variable != BY_KEY[key].variable:
            known = [setting.variable for setting in SETTINGS]
            raise ConfigError(f"the environment variable {shown(variable)} is no setting", _nearest(variable, known))
        given[key] = Given(variable, text)
    return given


def read_file(path: Path) -> dict[str, Given]:
    """Read one TOML file, flat ``key = value`` lines.

    Raises:
        ConfigError: it cannot be read, is no TOML, or has a key or a type that is wrong; with the line.
    """
    try:
        source = path.read_text(encoding="utf-8")
        document = tomllib.loads(source)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "see --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", "write one setting a line: port = 8080") from error
    given: dict[str, Given] = {}
    for key, value in document.items():
        where = f"{path}{_line(source, key)}: {shown(key)}"
        if key not in BY_KEY:
            raise ConfigError(f"{where} is no setting", _nearest(key.replace("-", "_"), BY_KEY))
        given[key] = Given(where, _text(BY_KEY[key], where, value))
    return given


def _line(source: str, key: str) -> str:
    """The line of a key as ``:3``, or "" where it cannot be told: tomllib keeps no positions."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[.=\]]""")
    numbers = [number for number, line in enumerate(source.splitlines(), 1) if pattern.match(line)]
    return f":{numbers[0]}" if numbers else ""


def _text(setting: Setting, where: str, value: object) -> str:
    """Bring a TOML value of the right type into the form that flags have; an empty one is kept as it is."""
    if type(value) not in TOML_TYPES[setting.kind]:  # not isinstance: true is no number here
        raise ConfigError(
            f"{where} = {_toml(value)} has the wrong type", "write " + TOML_EXAMPLES[setting.kind].format(setting.key)
        )
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
            return () if setting.kind == "list" else None
        raise ConfigError(f"{given.where} is empty", f"leave it out for its default, {setting.default_shown}")
    try:
        return setting.read(given.text)
    except BadValue as error:
        raise ConfigError(f"{given.where}: {error}", error.hint) from error


def _check(config: Config, given: Mapping[str, Given]) -> None:
    """Refuse what is well-formed and still cannot be meant."""
    if not config.allow_remote and not is_loopback(config.host):
        raise ConfigError(
            f"{given['host'].where}: {config.host} is not a loopback address, and there are no API tokens yet: "
            "everybody who reaches it could start and stop your containers",
            "listen on 127.0.0.1 and put a proxy with a login before it, or say --allow-remote",
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
