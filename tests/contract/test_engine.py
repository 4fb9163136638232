"""What the supervisor relies on in an engine, and the simulation therefore has to keep: one suite for both.

A fact that only the real engine knows has no place here, nor has one that nothing relies on.
"""

from __future__ import annotations

import pytest

from supervisor.core.model import Container
from tests.contract.engines import Asked, Engine
from tests.simulation.containers import ApiError

HEALTHY = Asked(probe=True)
RUNS_ON = Asked()


def running(engine: Engine, asked: Asked = RUNS_ON) -> str:
    id_ = engine.create(asked)
    engine.start(id_)
    return id_


def look(engine: Engine, id_: str) -> Container:
    found = engine.inspect(id_)
    assert found is not None
    return found


def status(engine: Engine, id_: str) -> str:
    found = engine.inspect(id_)
    return found.status if found is not None else "gone"


# ---- starting


def test_a_created_container_has_not_run(engine: Engine):
    seen = look(engine, engine.create(RUNS_ON))

    assert (seen.status, seen.run, seen.runs, seen.health) == ("created", "", False, "none")


def test_a_started_container_runs_at_once_and_its_run_has_a_name(engine: Engine):
    seen = look(engine, running(engine))

    assert seen.status == "running"
    assert seen.run
    assert seen.age_ms < 10_000


def test_each_start_is_another_run(engine: Engine):
    id_ = running(engine)
    first = look(engine, id_).run
    engine.kill(id_)
    engine.start(id_)

    assert look(engine, id_).run not in {"", first}


def test_starting_what_runs_changes_nothing_and_is_no_error(engine: Engine):
    id_ = running(engine)
    before = look(engine, id_).run
    engine.start(id_)

    assert look(engine, id_).run == before


def test_a_start_that_cannot_be_is_refused_and_leaves_the_container_created_without_an_event(engine: Engine):
    id_ = engine.create(Asked(broken=True))
    with pytest.raises(ApiError) as refused:
        engine.start(id_)

    assert refused.value.status in {400, 404, 500}
    seen = look(engine, id_)
    assert (seen.status, seen.run) == ("created", "")
    assert seen.exit_code == 127
    assert "start" not in engine.events(id_)


def test_labels_reach_the_container_as_they_were_written(engine: Engine):
    labels = {"gpu.target": "llm", "gpu.healthcheck-master": "true", "gpu.vram-mib": "8192"}
    seen = look(engine, engine.create(Asked(labels=labels, probe=True)))

    assert (seen.target, seen.master, seen.vram_mib, seen.healthcheck) == ("llm", True, 8192, True)


# ---- ending


def test_an_exit_code_is_kept_and_the_age_is_that_of_the_run(engine: Engine):
    id_ = running(engine, Asked(lives_s=0.2, exit_code=3))
    engine.until(lambda: status(engine, id_) == "exited", "its end")
    seen = look(engine, id_)

    assert seen.exit_code == 3
    assert 100 < seen.age_ms < 10_000


def test_a_kill_returns_when_the_container_is_dead(engine: Engine):
    id_ = running(engine)
    engine.kill(id_)

    assert (status(engine, id_), look(engine, id_).exit_code) == ("exited", 137)
    assert engine.events(id_) == ["create", "start", "kill", "die"]


def test_a_stop_asks_first_and_returns_when_the_container_is_dead(engine: Engine):
    id_ = running(engine)
    engine.stop(id_, 10)

    assert (status(engine, id_), look(engine, id_).exit_code) == ("exited", 143)
    assert engine.events(id_) == ["create", "start", "kill", "die", "stop"]


def test_a_stop_of_what_does_not_listen_kills_it_after_the_grace(engine: Engine):
    id_ = running(engine, Asked(deaf=True))
    engine.stop(id_, 1)

    assert look(engine, id_).exit_code == 137
    assert engine.events(id_) == ["create", "start", "kill", "kill", "die", "stop"]


def test_stopping_what_has_stopped_is_no_error_and_says_nothing(engine: Engine):
    id_ = running(engine)
    engine.kill(id_)
    engine.stop(id_, 1)

    assert engine.events(id_) == ["create", "start", "kill", "die"]


def test_killing_what_does_not_run_is_a_conflict(engine: Engine):
    id_ = running(engine)
    engine.kill(id_)
    with pytest.raises(ApiError) as refused:
        engine.kill(id_)

    assert refused.value.status == 409


# ---- pausing


def test_a_paused_container_keeps_running_as_far_as_anybody_counts(engine: Engine):
    id_ = running(engine)
    run = look(engine, id_).run
    engine.pause(id_)
    seen = look(engine, id_)

    assert (seen.status, seen.runs, seen.run) == ("paused", True, run)
    engine.unpause(id_)
    assert (status(engine, id_), look(engine, id_).run) == ("running", run)
    assert engine.events(id_) == ["create", "start", "pause", "unpause"]


def test_a_stop_ends_a_pause(engine: Engine):
    id_ = running(engine, Asked(deaf=True))
    engine.pause(id_)
    engine.stop(id_, 1)

    assert status(engine, id_) == "exited"
    assert engine.events(id_)[2:] == ["pause", "kill", "unpause", "kill", "die", "stop"]


def test_a_paused_container_cannot_be_started(engine: Engine):
    id_ = running(engine)
    engine.pause(id_)
    with pytest.raises(ApiError):
        engine.start(id_)

    assert status(engine, id_) == "paused"


def test_unpausing_what_is_not_paused_is_an_error(engine: Engine):
    id_ = running(engine)
    with pytest.raises(ApiError) as refused:
        engine.unpause(id_)

    assert refused.value.status == 500


# ---- restart policies


def test_a_crash_loop_spends_its_time_restarting_and_counts_as_running(engine: Engine):
    id_ = running(engine, Asked(lives_s=0.0, exit_code=1, restart="always"))
    seen = engine.until(lambda: (one := look(engine, id_)).status == "restarting" and one, "a pending restart")

    assert seen.runs
    assert seen.exit_code == 1


def test_a_restart_policy_starts_it_again_as_another_run(engine: Engine):
    id_ = running(engine, Asked(lives_s=0.5, restart="always"))
    first = look(engine, id_).run
    engine.until(lambda: look(engine, id_).run != first and status(engine, id_) == "running", "another run")
    engine.kill(id_)

    assert engine.events(id_)[:4] == ["create", "start", "die", "start"]


def test_a_stop_while_restarting_cancels_the_restart_and_emits_nothing_but_stop(engine: Engine):
    id_ = running(engine, Asked(lives_s=0.0, exit_code=1, restart="always"))
    # The fifth wait lasts 1.6 s: long enough to be met.
    engine.until(lambda: engine.events(id_).count("die") >= 5 and status(engine, id_) == "restarting", "a long wait")
    before = len(engine.events(id_))
    engine.stop(id_, 0)

    assert status(engine, id_) == "exited"
    assert engine.events(id_)[before:] == ["stop"]


def test_a_kill_while_restarting_cancels_the_restart(engine: Engine):
    id_ = running(engine, Asked(lives_s=0.0, exit_code=1, restart="always"))
    engine.until(lambda: engine.events(id_).count("die") >= 5 and status(engine, id_) == "restarting", "a long wait")
    engine.kill(id_)

    assert status(engine, id_) == "exited"


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
def test_what_was_killed_through_the_api_stays_down(engine: Engine, policy: str):
    id_ = running(engine, Asked(restart=policy))
    engine.kill(id_)

    assert status(engine, id_) == "exited"
    assert engine.events(id_) == ["create", "start", "kill", "die"]


def test_on_failure_leaves_a_success_alone(engine: Engine):
    id_ = running(engine, Asked(lives_s=0.1, restart="on-failure"))
    engine.until(lambda: status(engine, id_) == "exited", "its end")

    assert engine.events(id_) == ["create", "start", "die"]


# ---- health


def test_health_begins_with_starting_and_is_told_when_it_changes(engine: Engine):
    id_ = running(engine, HEALTHY)
    assert look(engine, id_).health == "starting"
    engine.until(lambda: look(engine, id_).health == "healthy", "its health")

    assert engine.events(id_) == ["create", "start", "health_status: healthy"]


def test_a_failing_probe_makes_it_unhealthy_and_it_runs_on(engine: Engine):
    id_ = running(engine, Asked(probe=False))
    engine.until(lambda: look(engine, id_).health == "unhealthy", "its health")

    assert status(engine, id_) == "running"
    assert engine.events(id_) == ["create", "start", "health_status: unhealthy"]


def test_a_dead_container_is_not_healthy_and_no_event_says_so(engine: Engine):
    id_ = running(engine, HEALTHY)
    engine.until(lambda: look(engine, id_).health == "healthy", "its health")
    engine.kill(id_)

    assert look(engine, id_).health == "unhealthy"
    assert engine.events(id_)[-2:] == ["kill", "die"]


def test_a_new_run_begins_with_starting_again(engine: Engine):
    id_ = running(engine, HEALTHY)
    engine.until(lambda: look(engine, id_).health == "healthy", "its health")
    engine.kill(id_)
    engine.start(id_)

    assert look(engine, id_).health == "starting"


# ---- removing


def test_removing_what_runs_takes_force(engine: Engine):
    id_ = running(engine)
    with pytest.raises(ApiError) as refused:
        engine.remove(id_)

    assert refused.value.status == 409
    engine.remove(id_, force=True)
    assert engine.inspect(id_) is None
    assert engine.events(id_) == ["create", "start", "kill", "die", "destroy"]


def test_an_auto_remove_container_is_gone_when_it_ends(engine: Engine):
    id_ = running(engine, Asked(auto_remove=True))
    engine.kill(id_)
    engine.until(lambda: engine.inspect(id_) is None, "its removal")

    assert engine.events(id_) == ["create", "start", "kill", "die", "destroy"]


def test_a_rename_is_told_and_keeps_the_id(engine: Engine):
    id_ = engine.create(RUNS_ON)
    before = look(engine, id_).name
    engine.rename(id_)

    assert look(engine, id_).name != before
    assert engine.events(id_) == ["create", "rename"]


@pytest.mark.parametrize("call", ["start", "kill", "pause", "unpause", "remove", "rename"])
def test_a_call_about_a_container_that_is_gone_is_404(engine: Engine, call: str):
    id_ = engine.create(RUNS_ON)
    engine.remove(id_)
    with pytest.raises(ApiError) as refused:
        getattr(engine, call)(id_)

    assert refused.value.status == 404


def test_a_stop_of_a_container_that_is_gone_is_404(engine: Engine):
    id_ = engine.create(RUNS_ON)
    engine.remove(id_)
    with pytest.raises(ApiError) as refused:
        engine.stop(id_, 1)

    assert refused.value.status == 404
