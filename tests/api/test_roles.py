"""Every route, asked with every kind of key over every listener: who is let in, and who is not and hears why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from supervisor.api import ROUTES
from supervisor.api.openapi import document
from supervisor.keys import ROLES
from tests.api.house import House, house, run
from tests.api.keyed import AFAR, LOOPBACK, OTHER_UID, OWN_UID, From, asking, gate_of, some_keys, user

#: What each route needs, written down a second time: a new route fails here until somebody has thought about it.
NEEDS: dict[str, list[tuple[str, str, dict[str, Any] | None]]] = {
    "nothing": [
        ("GET", "/healthz", None),
        ("GET", "/readyz", None),
        ("GET", "/openapi.json", None),
        ("GET", "/docs", None),
        ("GET", "/", None),
        ("GET", "/web/{file}", None),
    ],
    "read": [
        ("GET", "/status", None),
        ("GET", "/v1/status", None),
        ("GET", "/v1/processes", None),
        ("GET", "/metrics", None),
        ("GET", "/v1/targets/{name}/logs", None),
        ("GET", "/v1/history", None),
        ("GET", "/v1/targets", None),
        ("GET", "/v1/targets/{name}", None),
        ("GET", "/v1/events", None),
        ("GET", "/v1/why/{name}", None),
        ("GET", "/v1/lease/{token}", None),
    ],
    "lease": [
        ("POST", "/v1/lease", {"target": "nobody"}),
        ("POST", "/v1/lease/{token}/claim", None),
        ("POST", "/v1/lease/{token}/renew", None),
        ("DELETE", "/v1/lease/{token}", None),
        ("DELETE", "/v1/lease", None),
        ("POST", "/acquire", {"target": "nobody"}),
        ("POST", "/release", {"lease_token": "nothing"}),
    ],
    "admin": [
        ("POST", "/v1/targets/{name}/evict", None),
        ("POST", "/v1/gpus/{uuid}/open", None),
        ("DELETE", "/v1/leases/{id}", None),
        ("POST", "/v1/leases/{id}/move", {"priority": 1}),
        ("POST", "/release", {"force": True, "target": "nobody"}),
    ],
}
RANK = {"nothing": 0, **{role: rank for rank, role in enumerate(ROLES, 1)}}
LISTENERS: dict[str, From] = {
    "TCP from loopback": LOOPBACK,
    "TCP from elsewhere": AFAR,
    "unix socket, own user": user(OWN_UID),
    "unix socket, root": user(0),
    "unix socket, another user": user(OTHER_UID),
}
KEYS = ("none", "read", "lease", "admin", "wrong", "expired", "revoked")


def role_of(listener: str, key: str, socket_role: str | None) -> str | None:
    """What somebody is good for; None: who it is is not known."""
    if key in ROLES:
        return key
    if key != "none" or listener.startswith("TCP"):
        return None
    return (socket_role or "nothing") if "another" in listener else "admin"


def expected(need: str, role: str | None) -> int:
    """0: it is let in; what it is answered then is its own business."""
    if need == "nothing":
        return 0
    if role is None:
        return 401
    return 0 if RANK[role] >= RANK[need] else 403


async def answers(it: House, app: Any, listener: str, key: str | None) -> dict[tuple[str, str, str], int]:
    """Ask everything once; returns 401, 403, or 0 for each."""
    found = {}
    async with asking(app, LISTENERS[listener], key) as client:
        for need, requests in NEEDS.items():
            for method, path, body in requests:
                real = path.format(name="nobody", token="nothing", uuid="GPU-0", id="l_0", file="app.js")
                answer = await client.request(method, real, json=body)
                assert answer.status_code != 500, (method, path, answer.text)
                refused = answer.status_code in {401, 403}
                if refused:
                    wanted = {401: "unauthorized", 403: "forbidden"}[answer.status_code]
                    # The route of a forced release needs lease; who has that much is told of admin.
                    needs = {need, "lease"} if path == "/release" else {need}
                    assert answer.json()["code"] == wanted
                    assert answer.json()["needed_role"] in needs
                    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
                found[need, method, path] = answer.status_code if refused else 0
    return found


def test_every_route_has_been_thought_about():
    asked = {(method, path) for requests in NEEDS.values() for method, path, _ in requests}
    assert asked == {(method, path) for path, handlers in ROUTES.items() for method in handlers}


@pytest.mark.parametrize("socket_role", [None, "read", "lease", "admin"])
@pytest.mark.parametrize("listener", LISTENERS)
def test_every_route_lets_in_whom_it_should(tmp_path, listener, socket_role):
    made = some_keys(tmp_path)

    async def story() -> None:
        async with house(gate=gate_of(tmp_path, socket_role=socket_role)) as it:
            before = it.state.durable.fact_seq
            for kind in KEYS:
                role = role_of(listener, kind, socket_role)
                wanted = {
                    (need, method, path): expected(need, role)
                    for need, requests in NEEDS.items()
                    for method, path, _ in requests
                }
                assert await answers(it, it.app, listener, made[kind]) == wanted, kind
            assert it.state.durable.fact_seq == before, "nothing of this changes anything"

    run(story())


@pytest.mark.parametrize("listener", LISTENERS)
def test_without_keys_everybody_may_do_everything_whatever_they_send(tmp_path, listener):
    async def story() -> None:
        async with house(gate=gate_of(tmp_path, socket_role=None)) as it:
            for key in (None, "gpusk_of-another-server"):
                assert set((await answers(it, it.app, listener, key)).values()) == {0}

    run(story())


def test_the_document_says_which_role_an_operation_needs():
    said = document("1")["paths"]
    for need, requests in NEEDS.items():
        for method, path, body in requests:
            operation = said[path][method.lower()]
            if need == "nothing":
                assert operation["security"] == []
                assert "401" not in operation["responses"]
            elif not (body or {}).get("force"):
                assert operation["x-role"] == need
                assert {"401", "429"} <= operation["responses"].keys()


def test_the_folder_of_the_keys_is_not_part_of_any_answer(tmp_path: Path):
    made = some_keys(tmp_path)

    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it, asking(it.app, AFAR, made["wrong"]) as client:
            answer = await client.get("/v1/status")
            assert str(tmp_path) not in answer.text + str(answer.headers)
            assert str(made["wrong"]) not in answer.text + str(answer.headers)

    run(story())
