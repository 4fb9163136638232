"""Compose's own labels on a container, as every Compose v2 release has written them.

Anybody can put any value there, so nothing is believed that does not parse, and nothing in here raises.

Source: docker/compose pkg/api/labels.go; pkg/compose/create.go and compose.go for ``depends_on``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import get_args

from msgspec import Struct

from supervisor.core.model import Condition, Dependency

PREFIX = "com.docker.compose."
PROJECT = f"{PREFIX}project"
CONDITIONS: dict[str, Condition] = {condition: condition for condition in get_args(Condition)}


class ComposeLabels(Struct, frozen=True, kw_only=True):
    """``project`` is "" for a container that Compose did not make. ``replaces``: an id, or in newer releases a name."""

    project: str = ""
    service: str = ""
    number: int = 1
    one_off: bool = False
    replaces: str | None = None
    depends_on: tuple[Dependency, ...] = ()
    working_dir: str = ""
    config_files: str = ""


def read(labels: Mapping[str, str]) -> ComposeLabels:
    project = labels.get(PROJECT, "")
    if not project:
        return ComposeLabels()
    return ComposeLabels(
        project=project,
        service=labels.get(f"{PREFIX}service", ""),
        number=_number(labels.get(f"{PREFIX}container-number", "")),
        # The string "True" or "False", Python's spelling: a heritage of Compose v1.
        one_off=labels.get(f"{PREFIX}oneoff", "").lower() == "true",
        replaces=labels.get(f"{PREFIX}replace") or None,
        depends_on=dependencies(labels.get(f"{PREFIX}depends_on", "")),
        working_dir=labels.get(f"{PREFIX}project.working_dir", ""),
        config_files=labels.get(f"{PREFIX}project.config_files", ""),
    )


def dependencies(raw: str) -> tuple[Dependency, ...]:
    """Read ``service:condition:restart,...``; early releases wrote the bare service names. Sorted: Compose's order is
    that of a Go map, a different one each time.
    """
    found: dict[str, Condition] = {}
    for entry in raw.split(","):
        service, _, rest = entry.strip().partition(":")
        if service:
            found.setdefault(service, CONDITIONS.get(rest.partition(":")[0], "service_started"))
    return tuple(Dependency(service, condition) for service, condition in sorted(found.items()))


def _number(raw: str) -> int:
    # Nine digits: int() of a longer text may be slow, or refused by Python.
    return int(raw) if re.fullmatch(r"[0-9]{1,9}", raw) else 1
