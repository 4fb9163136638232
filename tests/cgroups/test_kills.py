"""A kill on the real engine: through the cgroup first, the engine told as well, and the container stays down."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import docker
import pytest

from supervisor.cgroups.below import Below
from supervisor.cgroups.trees import Tree
from supervisor.core.inputs import ActionDone
from supervisor.core.replies import KillContainer
from supervisor.engine.calls import Calls
from tests.conftest import IMAGE, until
from tests.engine.inbox import Inbox

pytestmark = [pytest.mark.engine, pytest.mark.root]

POLICIES = ("no", "always", "unless-stopped", "on-failure")
Run = Callable[..., str]


@pytest.fixture
def run(api: docker.APIClient, unique: str) -> Run:
    def start(policy: str = "no", **host: object) -> str:
        made = api.create_container(
            IMAGE,
            ["sleep", "3600"],
            host_config=api.create_host_config(network_mode="none", restart_policy={"Name": policy}, **host),
            name=f"{unique}-{policy}-{len(host)}",
        )
        api.start(made["Id"])
        return str(made["Id"])

    return start


@pytest.fixture
def below(tree: Tree) -> Below:
    return Below(tree)


@pytest.fixture
def calls(engine_url: str, below: Below) -> Iterator[Calls]:
    made = Calls(engine_url, after=lambda _: None, below=below)
    made.connected("1.41")
    yield made
    made.close()


def gone(below: Below, id_: str) -> bool:
    found = below.places.find(id_)
    return found is None or not (found / "cgroup.procs").read_text()


def test_a_killed_container_stays_down_whatever_its_restart_policy(
    api: docker.APIClient, run: Run, below: Below, calls: Calls
):
    ids = {policy: run(policy) for policy in POLICIES}
    began = {id_: api.inspect_container(id_)["State"]["StartedAt"] for id_ in ids.values()}
    inbox = Inbox()

    for id_ in ids.values():
        calls.perform(KillContainer(id_), inbox)
        # Without a further call: what was in it has ended, or is about to (a zombie counts as one of it).
        until(lambda id_=id_: gone(below, id_), 2)

    for policy, id_ in ids.items():
        assert inbox.answer(id_) == ActionDone(id_, "kill", "done")
        until(lambda id_=id_: api.inspect_container(id_)["State"]["Status"] == "exited", what=f"the end of {policy}")
        state = api.inspect_container(id_)["State"]
        assert (state["ExitCode"], state["StartedAt"]) == (137, began[id_]), policy


def test_the_engine_alone_kills_what_is_not_found_and_the_next_one_is(
    api: docker.APIClient, run: Run, below: Below, calls: Calls, unique: str
):
    first, second = run(cgroup_parent=f"/{unique}"), run(cgroup_parent=f"/{unique}", privileged=False)
    inbox = Inbox()
    assert not below.kill(first)

    calls.perform(KillContainer(first), inbox)

    assert inbox.answer(first).outcome == "done"
    assert below.kill(second)
    until(lambda: api.inspect_container(second)["State"]["Status"] == "exited")
