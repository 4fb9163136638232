"""What a restart of the daemon does to containers, as far as the supervisor relies on it: simulated and real alike."""

from __future__ import annotations

import pytest

from supervisor.core.model import Container
from tests.conftest import PrivateEngine
from tests.contract.engines import Asked, Restartable
from tests.simulation.daemon import How


def test_the_simulated_daemon_treats_containers_as_the_table_says(simulated_daemon: Restartable, how: How):
    a_restart_brings_back_what_its_policy_says(simulated_daemon, how)


@pytest.mark.engine
@pytest.mark.root
def test_the_real_daemon_treats_containers_as_the_table_says(
    real_daemon: Restartable, how: How, private_engine: PrivateEngine
):
    a_restart_brings_back_what_its_policy_says(real_daemon, how)


def a_restart_brings_back_what_its_policy_says(engine: Restartable, how: How) -> None:
    always, idle, stopped_always, stopped_unless, plain = (
        engine.create(Asked(restart=policy)) for policy in ("always", "no", "always", "unless-stopped", "no")
    )
    for id_ in (always, stopped_always, stopped_unless, plain):
        engine.start(id_)
    for id_ in (stopped_always, stopped_unless):
        engine.stop(id_, 5)
    before = {id_: look(engine, id_).run for id_ in (always, plain)}
    engine.go_down(how)
    engine.come_back(how)

    # What an enforcer stopped is back, and nobody asked: Docker's starts come before anybody can judge them.
    engine.until(lambda: look(engine, stopped_always).status == "running", "the container that was stopped by the API")
    engine.until(lambda: look(engine, always).status == "running", "the container that ran")
    assert look(engine, stopped_unless).status == "exited"
    assert look(engine, idle).status == "created"
    if how == "live-restore":
        assert {id_: look(engine, id_).run for id_ in before} == before
    else:
        assert look(engine, always).run != before[always]
        assert look(engine, plain).status == "exited"


def look(engine: Restartable, id_: str) -> Container:
    found = engine.inspect(id_)
    assert found is not None
    return found
