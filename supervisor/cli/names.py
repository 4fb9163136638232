"""The names that the server knows: to complete what is typed, and to say what was meant by what was mistyped."""

from __future__ import annotations

import difflib

import httpx

from supervisor.answers import TargetsView
from supervisor.asking import ANSWER_S
from supervisor.cli.connection import Server, checked, decoded
from supervisor.core.errors import SupervisorError


def known_names(*, containers: bool, within_s: float = ANSWER_S) -> list[str]:
    """Return the names of all targets, and with ``containers`` of theirs; none where no server answers in time."""
    try:
        server = Server.find()
        with server.client() as client:
            body = checked(server, client.get("/v1/targets", timeout=within_s))
        known = decoded(server, body, TargetsView).targets
    except (SupervisorError, httpx.HTTPError):
        return []
    names = [target.name for target in known]
    return names + [one.name for target in known for one in target.containers if containers]


def did_you_mean(name: str, *, containers: bool = False) -> str:
    """Return the question with the nearest name that there is, or ""."""
    near = difflib.get_close_matches(name, known_names(containers=containers), n=1)
    return f"did you mean {near[0]}?" if near and near[0] != name else ""
