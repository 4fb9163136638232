"""Whether the cgroup and the tripwire are in use is said in three places, and why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.conftest import Server

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.cgroup]


@pytest.mark.parametrize(
    ("flags", "says", "logged"),
    [
        pytest.param(
            (),
            "kills through the cgroup, and the engine (cgroup v",
            "containers are killed through their cgroups, and the engine (cgroup v",
            id="as it comes",
        ),
        pytest.param(("--tripwire",), "tripwire armed", "the tripwire is armed", id="with the tripwire"),
        pytest.param(
            ("--cgroup-kill", "off", "--tripwire"),
            "kills through the engine (cgroup_kill is off); tripwire blind (nothing can be killed through its cgroup",
            "there is no tripwire: nothing can be killed through its cgroup: cgroup_kill is off",
            id="switched off",
        ),
    ],
)
def test_readyz_the_status_and_the_log_say_how_it_kills(
    make_server: Callable[..., Server], flags: tuple[str, ...], says: str, logged: str
):
    server = make_server(*flags)

    assert says in server.http.get("/readyz").json()["enforcing"]
    enforcing = server.http.get("/v1/status").json()["enforcing"]
    assert (enforcing["kills"] == "engine") == ("off" in flags)
    assert (enforcing["tripwire"] == "off") == (flags == ())
    assert any(logged in line for line in server.log)
