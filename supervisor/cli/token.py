"""``gpu-supervisor token``: the file of keys, for people. The key itself is shown by ``create``, and never again."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from supervisor.cli.errors import Usage
from supervisor.cli.output import Grid, answer, answer_json, say, show
from supervisor.config import gather
from supervisor.core.values import BadValue, parse_duration_ms
from supervisor.keys import (
    LOOK_S,
    Key,
    configured,
    create,
    keys_file,
    parse_name,
    parse_patterns,
    parse_role,
    read_keys,
    revoke,
)
from supervisor.settings import BY_KEY


def create_key(
    name: str,
    role: str,
    targets: str,
    expires: str | None,
    data_dir: str | None,
    file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Make a key; it alone goes to stdout, so that a shell can keep it.

    Raises:
        Usage: a value is wrong.
        SupervisorError: there is one of this name, or the file cannot be written.
    """
    directory = _directory(data_dir, file)
    try:
        parsed = (parse_name(name), parse_role(role), parse_patterns(targets))
    except BadValue as error:
        raise Usage(str(error), error.hint) from error
    first = not configured(directory)
    key, text = create(directory, *parsed, _end(expires))
    time.sleep(LOOK_S)  # whoever uses it next finds it in force
    if as_json:
        answer_json({"token": text, **_document(key)})
        return
    until = f", until {_utc(key.expires_at)}" if key.expires_at else ""
    say(f"key {key.name}: role {key.role}, targets {', '.join(key.targets)}{until}; it is shown this once")
    if first:
        say(f"it is the first in {keys_file(directory)}: from now on every caller over TCP needs a key")
    answer(text)


def _end(expires: str | None) -> datetime | None:
    if expires is None:
        return None
    try:
        lasts = timedelta(milliseconds=parse_duration_ms(expires))
    except BadValue as error:
        raise Usage(f"--expires: {error}", error.hint) from error
    if not lasts:
        raise Usage("--expires: it would have expired already", "write a duration above zero: 30d")
    return datetime.now(UTC).replace(microsecond=0) + lasts


def show_keys(data_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Print what is known of every key.

    Raises:
        SupervisorError: the file cannot be read.
    """
    path = keys_file(_directory(data_dir, file))
    there = configured(path.parent)
    keys = sorted(read_keys(path), key=lambda key: key.name) if there else []
    if as_json:
        answer_json({"file": str(path), "needed": there, "keys": [_document(key) for key in keys]})
    elif keys:
        columns = ("name", "role", "targets", "made", "expires")
        show([Grid("Keys", columns, [_row(key) for key in keys])])
    elif there:
        answer(f"no key is left in {path}, and callers over TCP still need one: {_ways_back(path)}")
    else:
        answer(f"there are no keys in {path.parent}: whoever reaches the supervisor may do everything")
        answer("make one with: gpu-supervisor token create NAME --role lease")


def _row(key: Key) -> tuple[object, ...]:
    over = " (expired)" if key.expired(time.time()) else ""
    ends = f"{_utc(key.expires_at)}{over}" if key.expires_at else "never"
    return key.name, key.role, ", ".join(key.targets), _utc(key.created_at), ends


def revoke_key(name: str, data_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Take a key away.

    Raises:
        SupervisorError: there is none of this name, or the file cannot be written.
    """
    directory = _directory(data_dir, file)
    key, left = revoke(directory, name)
    time.sleep(LOOK_S)  # whoever goes on after this can rely on it
    if as_json:
        answer_json({"revoked": key.name, "left": left})
        return
    answer(f"revoked {key.name}, {left} left")
    if not left:
        say(f"callers over TCP still need a key, and there is none: {_ways_back(keys_file(directory))}")


def _ways_back(path: Path) -> str:
    return f"make one (gpu-supervisor token create), or open it to all of this machine: rm {path}, and restart"


def _document(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "role": key.role,
        "targets": key.targets,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "expired": key.expired(time.time()),
    }


def _utc(when: datetime | None) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if when is not None else ""


def _directory(data_dir: str | None, file: Path | None) -> Path:
    """Return where ``serve`` would look with the same options, also where it would not start yet for want of a key."""
    given = gather({"data_dir": data_dir}, os.environ, file=file).given["data_dir"]
    path = BY_KEY["data_dir"].read(given.text)
    assert isinstance(path, Path)
    return path
