"""What the kill through the cgroup and the tripwire rely on in an engine, simulated and real alike."""

from __future__ import annotations

import contextlib

import pytest

from tests.contract.engines import Asked, Deep
from tests.contract.test_engine import look, running, status
from tests.simulation.containers import ApiError


def test_a_kill_that_nobody_told_the_engine_of_looks_like_a_crash_to_a_restart_policy(deep: Deep):
    id_ = running(deep, Asked(restart="always"))
    first = look(deep, id_).run
    deep.kill_below(id_)

    deep.until(lambda: look(deep, id_).run != first and status(deep, id_) == "running", "another run")
    assert deep.events(id_) == ["create", "start", "die", "start"]


@pytest.mark.parametrize("policy", ["no", "always", "unless-stopped", "on-failure"])
def test_what_was_killed_below_and_through_the_api_at_once_stays_down(deep: Deep, policy: str):
    id_ = running(deep, Asked(restart=policy))
    deep.kill_below(id_)
    with contextlib.suppress(ApiError):  # that it does not run any more
        deep.kill(id_)

    deep.until(lambda: status(deep, id_) == "exited", "its end")
    # A daemon whose own signal finds nobody takes that for the end, and knows of no exit status (moby daemon/kill.go).
    assert look(deep, id_).exit_code in {0, 137}
    assert deep.events(id_).count("start") == 1


def test_a_start_that_is_killed_before_it_runs_is_an_error_without_an_event_and_no_policy_tries_it_again(deep: Deep):
    id_ = deep.create(Asked(restart="always"))
    with pytest.raises(ApiError) as refused:
        deep.start_tripped(id_)

    assert refused.value.status in {400, 500}  # by what the runtime happened to miss first
    assert (status(deep, id_), look(deep, id_).run) == ("created", "")
    assert look(deep, id_).exit_code in {127, 128}
    assert deep.events(id_) == ["create"]
    deep.start(id_)
    assert status(deep, id_) == "running"


def test_a_later_start_that_is_killed_before_it_runs_leaves_it_as_it_was(deep: Deep):
    id_ = running(deep)
    deep.kill(id_)
    with pytest.raises(ApiError):
        deep.start_tripped(id_)

    assert status(deep, id_) == "exited"
    assert look(deep, id_).exit_code in {127, 137}  # as before, or that something was missing
    assert deep.events(id_) == ["create", "start", "kill", "die"]
