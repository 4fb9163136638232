"""What a hook is, as settings say it: ``[[hooks]]`` in the file, or the same as a JSON array anywhere else."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from msgspec import Struct

from supervisor.core.facts import AnyFact
from supervisor.core.values import BadValue, parse_duration_ms, shown

Format = Literal["json", "ntfy", "slack"]
FORMATS: tuple[str, ...] = get_args(Format)
HOOKS_MAX = 20
TIMEOUT_MAX_MS = 60_000
FACTS: tuple[str, ...] = tuple(fact.__name__ for fact in get_args(AnyFact))
GROUPS: dict[str, tuple[str, ...]] = {
    "alerts": (
        "ContainerRefused",
        "StopFailed",
        "TargetDown",
        "GpuClosed",
        "ProcessReported",
        "ProcessMissed",
        "ProcessSignalled",
        "SignalFailed",
    ),
    "leases": (
        "LeaseGranted",
        "RoomVerified",
        "TargetReady",
        "TargetDown",
        "LeaseRestarted",
        "LeaseRetimed",
        "LeaseTold",
        "LeaseEnded",
    ),
    "queue": ("TicketQueued", "TicketKept", "TicketMoved", "TicketEnded", "WindowOpened"),
    "residents": ("ResidencyBegan", "ResidencyEnded", "TargetRemembered", "UseSeen"),
    "enforcement": ("ContainerRefused", "ContainerSpared", "StopFailed"),
    "gpus": ("GpuClosed", "GpuOpened"),
    "processes": ("ProcessReported", "ProcessMissed", "ProcessSignalled", "SignalFailed"),
    "service": ("SupervisorStarted", "FirstSync", "SupervisorStopped"),
    "all": FACTS,
}
"""Names for several facts. Each fact is in one of them at least, beside ``alerts`` (what somebody should look at)."""

HINT = '[[hooks]] needs name, url (or url_file) and facts: name = "phone", url = "https://...", facts = ["alerts"]'
KEYS = ("name", "url", "url_file", "facts", "targets", "format", "secret_file", "token_file", "timeout")


class Hook(Struct, frozen=True, kw_only=True):
    """One receiver. ``url`` is a secret as good as any: whoever knows it can write there. Never show it.

    ``targets``: names or globs; empty: every fact. ``secret_file``: signs what is sent. ``token_file``: a bearer token.
    """

    name: str
    url: str | None = None
    url_file: Path | None = None
    facts: tuple[str, ...]
    targets: tuple[str, ...] = ()
    format: Format = "json"
    secret_file: Path | None = None
    token_file: Path | None = None
    timeout_ms: int = 10_000

    def wants(self, fact: str, target: str | None) -> bool:
        """Return whether a fact of that name, about that target, is to be delivered."""
        if not any(fact in GROUPS.get(name, (name,)) for name in self.facts):
            return False
        return not self.targets or (target is not None and any(fnmatchcase(target, glob) for glob in self.targets))


def parse_hooks(text: str) -> tuple[Hook, ...]:
    """Read a JSON array of hooks.

    Raises:
        BadValue: it is none, or one of them is wrong; no value of a URL is in the sentence.
    """
    try:
        tables = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadValue("hooks are not a JSON array", HINT) from error
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise BadValue("hooks are not an array of tables", HINT)
    if len(tables) > HOOKS_MAX:
        raise BadValue(f"there are {len(tables)} hooks, and at most {HOOKS_MAX} are taken", "let one receiver fan out")
    hooks = tuple(_hook(number, table) for number, table in enumerate(tables, 1))
    names = [hook.name for hook in hooks]
    for name in names:
        if names.count(name) > 1:
            raise BadValue(f"two hooks are named {name}", "metrics and the log tell them apart by their names")
    return hooks


def _hook(number: int, table: Mapping[str, Any]) -> Hook:
    place = f"hook {number}"
    for key in table:
        if key not in KEYS:
            raise BadValue(
                f"{place}: {shown(key)} is no key of a hook", _nearest(key, KEYS) + "; settings stand above [[hooks]]"
            )
    name = _text(place, table, "name")
    if name is None or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
        raise BadValue(f"{place} has no proper name", 'lower-case letters, digits, - and _: name = "phone"')
    place = f"hook {name}"
    url, url_file = _text(place, table, "url"), _path(place, table, "url_file")
    if (url is None) == (url_file is None):
        raise BadValue(f"{place} needs either url or url_file", HINT)
    if url is not None:
        check_url(place, url)
    form = _text(place, table, "format") or "json"
    if form not in FORMATS:
        raise BadValue(f'{place}: "{shown(form)}" is no format', _nearest(form, FORMATS))
    return Hook(
        name=name,
        url=url,
        url_file=url_file,
        facts=_facts(place, _list(place, table, "facts")),
        targets=_list(place, table, "targets"),
        format=form,  # type: ignore[arg-type]  # one of FORMATS
        secret_file=_path(place, table, "secret_file"),
        token_file=_path(place, table, "token_file"),
        timeout_ms=_timeout(place, table),
    )


def check_url(place: str, url: str) -> None:
    """Raises ``BadValue`` where nothing can be sent to an address; its sentence does not say the address."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname is not None and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise BadValue(f"{place}: its url is not an address that can be sent to", "https://host/path, or http://")
    if "@" in parts.netloc:
        raise BadValue(f"{place}: its url has a password in it", "put a bearer token into a file: token_file")


def _text(place: str, table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadValue(f"{place}: {key} has to be a text", f'{key} = "..."')
    return value


def _path(place: str, table: Mapping[str, Any], key: str) -> Path | None:
    text = _text(place, table, key)
    return Path(text).expanduser().absolute() if text is not None else None


def _list(place: str, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise BadValue(f"{place}: {key} has to be a list of texts", f'{key} = ["...", "..."]')
    return tuple(dict.fromkeys(value))


def _facts(place: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise BadValue(f"{place} chooses no facts", f'facts = ["alerts"], or: {", ".join(GROUPS)}, or names of facts')
    for name in names:
        if name not in GROUPS and name not in FACTS:
            raise BadValue(f"{place}: {shown(name)} is no fact and no group", _nearest(name, (*GROUPS, *FACTS)))
    return names


def _timeout(place: str, table: Mapping[str, Any]) -> int:
    value = table.get("timeout", "10s")
    text = str(value) if isinstance(value, str) or type(value) is int else ""
    timeout_ms = parse_duration_ms(text)
    if not 0 < timeout_ms <= TIMEOUT_MAX_MS:
        raise BadValue(f"{place}: its timeout is not between 1s and 60s", 'timeout = "10s"')
    return timeout_ms


def _nearest(wrong: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {near[0]}?" if near else f"one of: {', '.join(known)}"


# ---- the other way round, for people


def as_table(hook: Hook) -> dict[str, Any]:
    """Return a hook as it is written in the settings; its ``url`` only as far as everybody may know it."""
    said: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "name": (hook.name, str),
        "url": (hook.url, hidden_url),
        "url_file": (hook.url_file, str),
        "facts": (hook.facts, list),
        "targets": (hook.targets, list),
        "format": (hook.format, str),
        "secret_file": (hook.secret_file, str),
        "token_file": (hook.token_file, str),
        "timeout": (hook.timeout_ms, lambda ms: f"{ms / 1000:g}s"),
    }
    return {key: write(value) for key, (value, write) in said.items() if value}


def hidden_url(url: str) -> str:
    """Return an address without its path: that of Slack, or the topic of ntfy, lets anybody write."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/..."
