"""``gpu-supervisor config``: which settings are in force and where each of them comes from; a file to begin with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from supervisor import __version__
from supervisor.cli.errors import Usage
from supervisor.cli.output import answer, answer_json, clean
from supervisor.config import SYSTEM_FILE, Given, Layers, gather, user_file
from supervisor.core.errors import SupervisorError
from supervisor.hooks.choice import as_table
from supervisor.settings import BY_KEY, SETTINGS, Environment, Setting

EXAMPLE_HOOK = ('name = "phone"', 'url_file = "/etc/gpu-supervisor/ntfy-url"', 'format = "ntfy"', 'facts = ["alerts"]')

# ---- show


def show_config(flags: Mapping[str, str | None], file: Path | None, *, as_json: bool) -> None:
    """Print what ``serve`` would run with, given the same options.

    Raises:
        ConfigError: it would not start.
    """
    layers = gather(flags, os.environ, file=file)
    layers.config()
    if as_json:
        settings = {key: {"value": shown(BY_KEY[key], one), "origin": one.origin} for key, one in layers.given.items()}
        answer_json({"files": [str(path) for path in layers.files], "settings": settings})
    else:
        print(as_toml(layers), end="")


def shown(setting: Setting, given: Given) -> Any:
    if setting.kind == "tables":
        return toml_value(setting, given)
    return None if setting.hides(given.text) else toml_value(setting, given)


def as_toml(layers: Layers) -> str:
    """Return the settings in force as a file that means the same, each with its origin as a comment."""
    files = ", ".join(clean(path) for path in layers.files) or "none"
    lines = [f"# What gpu-supervisor {__version__} runs with. Files that were read: {files}"]
    for setting in SETTINGS:
        given = layers.given[setting.key]
        if setting.kind == "tables":
            lines += tables(setting, given)
        elif setting.hides(given.text):
            lines.append(f"# {setting.key} is set, and not shown: it is secret  # {clean(given.origin)}")
        else:
            lines.append(f"{assignment(setting.key, toml_value(setting, given))}  # {clean(given.origin)}")
    return "\n".join(lines) + "\n"


def tables(setting: Setting, given: Given) -> list[str]:
    """Return the lines of an array of tables; as comments where a part of it must not be shown.

    Inline: what follows ``[[...]]`` would belong to its last table.
    """
    values = toml_value(setting, given)
    if not values:
        return [f"{setting.key} = []  # {clean(given.origin)}"]
    inner = [
        ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items())
        for table in values
    ]
    lines = [f"{setting.key} = [", *(f"    {{ {one} }}," for one in inner), f"]  # {clean(given.origin)}"]
    if any(hook.url is not None for hook in setting.read(given.text)):
        return [
            "# Addresses are secret beyond their host, so this is no setting as it stands:",
            *(f"# {line}" for line in lines),
        ]
    return lines


def assignment(key: str, value: Any) -> str:
    return tomli_w.dumps({key: value}).rstrip("\n")


def toml_value(setting: Setting, given: Given) -> Any:
    """Return a value as it is written in TOML: what was typed, but for types that TOML has itself, and full paths."""
    if not given.text:
        return [] if setting.kind in {"list", "tables"} else ""
    value = setting.read(given.text)
    if isinstance(value, Path):
        return str(value)
    match setting.kind:
        case "integer" | "number" | "boolean":
            return value
        case "list":
            return [str(item) for item in value]
        case "tables":
            return [as_table(hook) for hook in value]
        case "text" | "duration" | "size":
            return given.text


# ---- init


def init_config(file: str | None, *, force: bool, as_json: bool) -> None:
    """Write a file in which every setting is explained, and none is set. ``-`` prints it.

    Raises:
        SupervisorError: it is there already, or cannot be written.
    """
    if file == "-":
        if as_json:
            raise Usage("- prints the file itself, which is TOML", "leave --json out, or name a file")
        print(template(os.environ), end="")
        return
    usual = SYSTEM_FILE if os.geteuid() == 0 else user_file(os.environ)
    path = Path(file).expanduser().absolute() if file else usual
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(template(os.environ))
    except FileExistsError as error:
        raise SupervisorError(f"{path} is there already", "replace it with --force, or name another file") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SupervisorError(f"{path} cannot be written: {reason}", "name another file") from error
    found = path in (SYSTEM_FILE, user_file(os.environ))
    if as_json:
        answer_json({"file": str(path), "read_by_default": found})
        return
    answer(f"wrote {path}")
    answer("next: edit it, then gpu-supervisor config show" + ("" if found else f" --config {path}"))


def template(environ: Environment) -> str:
    """Return a TOML file with every setting, its meaning and its default, commented out."""
    lines = [
        f"# Settings of gpu-supervisor {__version__}. Each line shows a default; take the # away to change it.",
        "# Stronger than this file: environment variables such as GPU_SUPERVISOR_PORT, and options such as --port.",
        "# Durations are written 90, 90s, 5m or 1h30m. What is in force, and why, says: gpu-supervisor config show",
    ]
    for setting in SETTINGS:
        text = setting.default_in(environ)
        words = (setting.default_words or text or "none").replace("`", "")
        if setting.hides(text):
            text = setting.default_in({})
        value = assignment(setting.key, toml_value(setting, Given("default", text, "default")))
        lines += ["", f"# {setting.meaning.replace('`', '')}", f"# default: {words}"]
        lines += [f"#{line}" for line in value.splitlines()]
        if setting.kind == "tables":
            lines += ["# [[hooks]]", *(f"# {line}" for line in EXAMPLE_HOOK)]
    return "\n".join(lines) + "\n"
