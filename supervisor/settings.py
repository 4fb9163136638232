"""The one list of settings: flags, environment variables, TOML keys, their errors and the README come from it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct

from supervisor.core.model import Mode
from supervisor.core.processes import Policy, parse_allowed
from supervisor.core.values import (
    VRAM_MAX_MIB,
    BadValue,
    parse_bool,
    parse_class,
    parse_duration_ms,
    parse_int,
    parse_limit_ms,
    parse_list,
    parse_size_mib,
    shown,
)
from supervisor.gpu.choice import parse_gpus
from supervisor.hooks.choice import parse_hooks
from supervisor.keys import Role, parse_role

ENVIRONMENT_PREFIX = "GPU_SUPERVISOR_"
PLACEMENTS = ("pack", "spread")
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
SYSTEM_ENGINE = "unix:///var/run/docker.sock"

#: Linux: sockaddr_un.sun_path has 108 bytes, the last of them NUL (unix(7)).
SOCKET_BYTES_MAX = 107

Environment = Mapping[str, str]


# ---- readers of single values: text -> value, or BadValue


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


def _one_of(words: tuple[str, ...], what: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text in words:
            return text
        near = difflib.get_close_matches(text.strip().lower(), words, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise BadValue(f'"{shown(text)}" is not {what}', f"{guess}one of: {', '.join(words)}")

    return read


def _points(hint: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
            raise BadValue(f'"{shown(text)}" is not a number of points', hint)
        return float(text)

    return read


def _parse_socket_role(text: str) -> Role | None:
    return None if text == "none" else parse_role(text)


def _parse_headroom(text: str) -> int:
    """Read MiB, 0 for none, or a size with its unit."""
    return parse_int(text, 0, VRAM_MAX_MIB) if text.isdecimal() else parse_size_mib(text)


def parse_gpu_classes(text: str) -> dict[str, tuple[str, ...]]:
    """Read ``high=0,GPU-5e2f8c1d;low=1``: names of classes, each with the indices or UUIDs of its GPUs.

    Raises:
        BadValue: a name is none or comes twice, or what follows it names no GPUs.
    """
    classes: dict[str, tuple[str, ...]] = {}
    for part in text.split(";"):
        name, equals, gpus = part.strip().partition("=")
        if not equals:
            raise BadValue(f'"{shown(part)}" is not name=GPUs', "write indices or UUIDs: high=0,GPU-5e2f8c1d;low=1")
        name, words = parse_class(name.strip()), parse_list(gpus)
        if name in classes:
            raise BadValue(f"{name} is there twice", f"name all its GPUs at once: {name}=0,1")
        for word in words or ("",):
            if not re.fullmatch(r"[0-9]{1,3}|[A-Za-z][A-Za-z0-9-]{11,63}|SIM-[0-9]{1,2}", word):
                raise BadValue(
                    f'"{shown(word)}" names no GPU',
                    "write an index, a UUID, or at least the first 12 characters of one",
                )
        classes[name] = words
    return classes


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

Kind = Literal["text", "integer", "number", "duration", "size", "boolean", "list", "tables"]
TOML_TYPES: dict[Kind, tuple[type, ...]] = {
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "duration": (str, int),
    "size": (str, int),
    "boolean": (bool,),
    "list": (list,),
    "tables": (list,),
}
#: How a value of each kind is written in TOML, for the sentence that asks for it.
TOML_EXAMPLES: dict[Kind, str] = {
    "text": 'a text in quotes: {} = "..."',
    "integer": "a whole number without quotes: {} = 8080",
    "number": "a number without quotes: {} = 1.5",
    "duration": 'a duration in quotes, or whole seconds: {} = "10s"',
    "size": 'a size in quotes, or whole MiB: {} = "1GiB"',
    "boolean": "true or false without quotes: {} = true",
    "list": 'a list of texts: {} = ["...", "..."]',
    "tables": 'tables: [[{}]] on a line, and its keys below: name = "..."',
}


class Setting(Struct, frozen=True):
    """One setting. ``read`` takes text from anywhere; an empty text is "not set".

    ``default`` is what would be typed for it, or a function of the environment that ``default_words`` describes.
    ``field`` is its name in ``Config`` where that carries a unit. ``falls_back_on`` is a variable of somebody else's
    that the default may come from. The value of a ``secret`` one is never shown.
    """

    key: str
    read: Callable[[str], Any]
    default: str | Callable[[Environment], str]
    meaning: str
    kind: Kind = "text"
    default_words: str = ""
    field: str = ""
    falls_back_on: str = ""
    secret: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def metavar(self) -> str:
        words = {"duration": "TIME", "size": "SIZE", "list": "NAMES", "tables": "JSON"}
        return {"integer": "NUMBER", "number": "NUMBER", **words}.get(self.kind, "TEXT")

    @property
    def attribute(self) -> str:
        return self.field or self.key

    @property
    def default_shown(self) -> str:
        return self.default_words or (self.default if isinstance(self.default, str) and self.default else "none")

    def default_in(self, environ: Environment) -> str:
        return self.default if isinstance(self.default, str) else self.default(environ)

    def hides(self, text: str) -> bool:
        """Whether a value must not be shown: it is a secret, or the address of something with a password in it."""
        return self.secret or re.search(r"://[^/\s]*@", text) is not None


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
    Setting(
        "host",
        _parse_host,
        "127.0.0.1",
        "address to listen on; another than loopback needs a key (`token create`), or `allow_remote`",
    ),
    Setting("port", lambda text: parse_int(text, 0, 65535), "8080", "TCP port; 0 takes a free one", "integer"),
    Setting("socket", _parse_socket, "", "path of a unix socket to listen on as well (mode 0660)"),
    Setting(
        "socket_role",
        _parse_socket_role,
        "lease",
        "once there are keys: what users other than root and the supervisor's own may do over the unix socket without "
        "one: `none`, `read`, `lease` or `admin`",
    ),
    Setting(
        "caller_leases",
        lambda text: parse_int(text, 0, 1_000_000),
        "0",
        "most leases and tickets of one caller (a key, a user of the unix socket, an address) together; 0: no limit",
        "integer",
    ),
    Setting(
        "caller_tickets",
        lambda text: parse_int(text, 0, 1_000_000),
        "0",
        "most tickets of one caller; 0: no limit",
        "integer",
    ),
    Setting(
        "caller_requests",
        _points("write requests per second: 10, 0.5, or 0 for no limit"),
        "0",
        "most requests per second of one caller, but for renewals and releases; 0: no limit",
        "number",
    ),
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
        falls_back_on="DOCKER_HOST",
    ),
    Setting("docker_write_host", _parse_engine, "", "another address for start, stop and kill (a second socket proxy)"),
    Setting(
        "gpus",
        parse_gpus,
        "auto",
        "`auto` or `nvml`: those of the NVIDIA driver; or simulated ones, count x MiB: `sim:2x24576,1x8192`, which lie "
        "where told to: `,late=1500ms` or `,late=never` (memory comes back late), `,foreign=6000` (MiB used by others)",
    ),
    Setting(
        "headroom",
        _parse_headroom,
        "0",
        "memory of each GPU that is never granted: MiB, or a size: `1GiB`",
        "size",
        field="headroom_mib",
    ),
    Setting(
        "placement",
        _one_of(PLACEMENTS, "a placement"),
        "pack",
        "where several GPUs would do: `pack` takes the fullest that fits, `spread` the emptiest",
    ),
    Setting(
        "gpu_classes",
        parse_gpu_classes,
        "",
        "names for GPUs, by index or UUID, that `gpu.class` asks for: `high=0,GPU-5e2f8c1d;low=1`; without, `high` and "
        "`low` go by size",
    ),
    Setting(
        "enforce",
        _one_of(get_args(Mode), "a mode"),
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
    Setting(
        "aging",
        _points("write points per minute: 1, 0.5, or 0 for no aging"),
        "1",
        "points of priority that a ticket gains per minute; 0 turns it off",
        "number",
    ),
    Setting(
        "affinity",
        _points("write points of priority: 1, 0.5, or 0 for none"),
        "1",
        "points of priority that a ticket for a loaded target counts more, which saves swaps; 0 turns it off",
        "number",
        field="affinity_points",
    ),
    Setting(
        "idle_timeout",
        parse_limit_ms,
        "none",
        "stop a target that runs on without a lease after so long (`gpu.idle-timeout` says it for one)",
        "duration",
        field="idle_timeout_ms",
    ),
    Setting(
        "min_residency",
        parse_limit_ms,
        "none",
        "never evict a target that was started less than so long ago (`gpu.min-residency`)",
        "duration",
        field="min_residency_ms",
    ),
    Setting(
        "max_hold",
        parse_limit_ms,
        "none",
        "end a lease that is renewed for longer than this while others wait (`gpu.max-hold`)",
        "duration",
        field="max_hold_ms",
    ),
    Setting(
        "processes",
        _one_of(get_args(Policy), "a policy"),
        "observe",
        "a process on a GPU that stands by no lease: `observe` it, `warn` in the log, or `terminate` it "
        "(SIGTERM, then SIGKILL)",
    ),
    Setting(
        "processes_grace",
        parse_duration_ms,
        "5m",
        "time between its SIGTERM and its SIGKILL",
        "duration",
        field="processes_grace_ms",
    ),
    Setting(
        "processes_allow",
        parse_allowed,
        "",
        "processes that need no lease: `user=anna, exe=/usr/lib/xorg/*, cgroup=/user.slice/*, container=jupyter*`; "
        "with `+` between what must all be true",
        "list",
    ),
    Setting("processes_include_root", parse_bool, "false", "terminate what runs as root as well", "boolean"),
    Setting("processes_include_graphics", parse_bool, "false", "terminate what draws a screen as well", "boolean"),
    Setting(
        "cgroup_kill",
        _one_of(("auto", "off"), "a word for it"),
        "auto",
        "`auto`: kill through the container's cgroup, and the engine, where that works (as root on the host); `off`: "
        "through the engine alone",
    ),
    Setting(
        "tripwire",
        parse_bool,
        "false",
        "kill what may not run before its first instruction; needs the kill through the cgroup",
        "boolean",
    ),
    Setting("allowed_hosts", _parse_hosts, "", "more names that a `Host` header may carry, with commas", "list"),
    Setting(
        "allow_remote",
        parse_bool,
        "false",
        "listen beyond loopback without keys: everybody may do everything",
        "boolean",
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
        "48MiB",
        "how large it may grow",
        field="journal_retention_bytes",
    ),
    Setting("log_format", _one_of(LOG_FORMATS, "a format"), "text", "the log on stderr: `text`, or `json`"),
    Setting(
        "log_level",
        _one_of(LOG_LEVELS, "a level"),
        "info",
        "the least that is logged: `debug`, `info` (every decision), `warning` or `error`",
    ),
    Setting(
        "hooks",
        parse_hooks,
        "",
        "outgoing webhooks: `[[hooks]]` tables in the file, elsewhere a JSON array of the same",
        "tables",
    ),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}


def reference() -> str:
    """Return the README's table of all settings."""
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for setting in SETTINGS:
        default = setting.default_words or (f"`{setting.default_shown}`" if setting.default else "none")
        rows.append(f"| `{setting.key}` | {default} | {setting.meaning} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(reference())
