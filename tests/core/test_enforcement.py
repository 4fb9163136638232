"""A labelled container that runs has the right to, or is ended: which, how, and what is said about it."""

from __future__ import annotations

import pytest

from supervisor.core.facts import (
    ContainerRefused,
    ContainerSpared,
    LeaseGranted,
    ResidencyBegan,
    ResidencyEnded,
    StopFailed,
)
from supervisor.core.inputs import ContainerRenamed, EngineLost, EngineSnapshot, StartHinted
from supervisor.core.replies import KillContainer, StopContainer
from tests.core.box import Box, after, container, kinds

A, B = container("a"), container("b")


def refusals(box: Box) -> list[ContainerRefused]:
    return [fact for fact in box.facts if isinstance(fact, ContainerRefused)]


def test_a_fresh_unleased_container_is_killed_even_before_its_fact_is_on_disk():
    box = Box(A)
    box.sync = False
    box.start("a-main")

    assert box.take() == [KillContainer("a-main")]
    assert [(f.container, f.target, f.reason, f.action) for f in refusals(box)] == [
        ("a-main-1", "a", "no_lease", "kill")
    ]


def test_what_compose_made_anew_is_refused_under_the_name_that_it_has_by_then():
    made = container("a", name="0123456789ab_a-main-1")
    box = Box(made)
    box.feed(ContainerRenamed("a-main", "a-main-1"))
    box.feed(ContainerRenamed("nobody", "b-main-1"))
    box.feed(StartHinted("a-main", "hint-1", 5))

    assert [fact.container for fact in refusals(box)] == ["a-main-1"]
    assert box.state.observed.containers["a-main"].name == "a-main-1"


def test_what_comes_back_while_its_kill_is_under_way_is_killed_again_and_the_last_answer_counts():
    box = Box(A)
    box.feed(StartHinted("a-main", "hint-1", 5))
    assert box.take() == [KillContainer("a-main")]
    box.start("a-main", started_wall_ms=4)
    assert box.take() == [], "an inspect of the same run is no news"
    box.exit("a-main", 137)  # to its restart policy a crash: the engine has not come to the kill yet

    box.feed(StartHinted("a-main", "hint-2", 900))

    assert box.take() == [KillContainer("a-main")]
    box.done(KillContainer("a-main"))
    box.advance(5)
    assert box.take() == [], "the other one is under way"
    box.done(KillContainer("a-main"))
    box.advance(5)
    assert box.take() == [KillContainer("a-main")], "both came back, and it runs"


@pytest.mark.parametrize("outcome", ["refused", "failed", "timeout"])
def test_a_kill_that_hit_nobody_is_tried_again_though_the_engine_holds_on_to_an_earlier_one(outcome):
    box = Box(A)
    box.feed(StartHinted("a-main", "hint-1", 5))
    box.start("a-main", started_wall_ms=4)
    box.exit("a-main", 137)
    box.feed(StartHinted("a-main", "hint-2", 900))
    assert box.take() == [KillContainer("a-main")] * 2

    box.done(KillContainer("a-main"), outcome, "a device is missing")

    assert box.take() == [], "not at once: what is refused is refused again"
    box.advance(1)
    assert box.take() == [KillContainer("a-main")]
    for _ in range(2):
        box.done(KillContainer("a-main"))
    box.exit("a-main", 137)
    assert (box.state.observed.calls, box.take()) == ({}, [])


def test_a_start_event_of_a_known_container_is_judged_at_once():
    box = Box(A)
    box.feed(StartHinted("a-main", "hint-1", 5))
    assert box.take() == [KillContainer("a-main")]
    box.show("a-main", status="created")
    assert box.state.observed.containers["a-main"].runs, "an inspect from before the start does not undo it"
    box.start("a-main", started_wall_ms=4)
    box.exit("a-main", 137)

    assert len(refusals(box)) == 1
    assert box.take() == []


def test_a_container_that_ran_long_before_it_was_seen_gets_its_own_grace():
    box = Box(container("a", stop_grace_s=45))
    box.start("a-main", age_ms=60_000)

    assert box.take() == [StopContainer("a-main", 45)]


@pytest.mark.parametrize(("status", "action"), [("restarting", 0), ("paused", 0)])
def test_a_crash_loop_and_a_paused_container_are_stopped_without_grace(status, action):
    box = Box(A)
    box.start("a-main", status=status)

    assert box.take() == [StopContainer("a-main", action)]


def test_while_somebody_holds_the_gpu_the_refusal_names_the_holder():
    box = Box(A, B)
    box.lease("a")
    box.start("b-main")

    assert [(f.reason, f.holder) for f in refusals(box)] == [("gpu_held", "a")]


def test_a_container_that_somebody_starts_while_room_is_made_is_refused_like_any_other():
    box = Box(A, B)
    box.release(box.lease("b"))
    box.ask("a")
    box.take()
    box.start("a-main")

    assert box.take() == [KillContainer("a-main")]
    assert refusals(box)[-1].reason == "room_pending"


def test_one_off_containers_are_consumers():
    box = Box(A, container("a", "run", id="one", one_off=True, master=False))
    box.start("one")
    assert box.obey() == [KillContainer("one")]

    leased = box.ask("a")
    assert {action.id for action in box.obey()} == {"a-main"}, "one-offs are never started by us"
    box.start("one")
    assert (box.take(), box.code(leased)) == ([], "Granted")


def test_unlabelled_containers_and_malformed_targets_are_never_touched():
    box = Box(container("a", "x", target=None, master=False))
    box.start("a-x")

    assert (box.take(), refusals(box)) == ([], [])


def test_an_invalid_target_that_starts_is_stopped_and_the_audit_says_what_to_mend():
    box = Box(container("bad", "side"))
    box.start("bad-side")

    assert box.take() == [KillContainer("bad-side")]
    assert refusals(box)[0].reason == "target_invalid"
    assert "master" in refusals(box)[0].detail


def test_nothing_that_holds_a_lease_is_stopped_because_a_label_went_bad():
    box = Box(A)
    box.lease("a")
    box.add(container("a", "other", master=True, healthcheck=False))

    assert not any(isinstance(action, StopContainer | KillContainer) for action in box.take())


def test_other_containers_of_the_same_name_in_another_project_are_refused():
    box = Box(A)
    box.lease("a")
    box.add(container("a", "x", id="alien", project="other", master=False))
    box.start("alien")

    assert box.take() == [KillContainer("alien")]
    assert refusals(box)[0].reason == "other_project"


def test_refusals_of_a_container_that_keeps_coming_back_are_one_fact_a_minute_with_a_count():
    box = Box(A)
    for _ in range(5):
        box.start("a-main")
        box.obey()
    assert [fact.count for fact in refusals(box)] == [1]
    box.advance(61)

    assert [fact.count for fact in refusals(box)] == [1, 4]


def test_stopping_goes_in_reverse_dependency_order():
    box = Box(container("a", depends_on=after("db")), container("a", "db"))
    box.release(box.lease("a"))
    box.ask(None)

    assert box.take() == [StopContainer("a-main", 10)]
    box.exit("a-main", 0)
    assert box.take() == [StopContainer("a-db", 10)]


def test_a_stop_that_changed_nothing_is_retried_with_backoff_and_raises_an_alarm():
    box = Box(A)
    box.release(box.lease("a"))
    box.ask(None)
    tries = 0
    for _ in range(40):
        for action in box.take():
            tries += 1
            box.done(action, "refused", "did not receive an exit event")
        box.advance(1)

    assert 3 <= tries <= 8
    assert kinds(box.facts).count("StopFailed") == 1
    assert "bare" not in box.state.leases_by_target


def test_a_recreated_container_is_the_same_target_and_never_a_second_master():
    box = Box(A)
    box.lease("a")
    box.add(container("a", id="new", name="abc_a-main-1", replaces="a-main", created_wall_ms=9))
    assert box.state.observed.specs["a"].valid
    box.exit("a-main", 137)
    box.remove("a-main")
    box.start("new")
    box.advance(60)

    assert box.state.lease_of("a") is not None
    assert box.take() == []


def test_a_container_that_outlives_stops_which_the_engine_calls_done_is_an_alarm_in_words():
    box = Box(A)
    box.release(box.lease("a"))
    box.ask(None)
    for _ in range(30):
        for action in box.take():
            box.done(action)
        box.advance(1)

    alarms = [fact.error for fact in box.facts if isinstance(fact, StopFailed)]
    assert alarms == ["the engine says that it was stopped, and it still runs"]


# ---- residents


def test_what_starts_again_of_a_resident_is_resident_too_until_nothing_ran_for_a_while():
    box = Box(A)
    box.release(box.lease("a"))
    box.exit("a-main", 0)
    box.advance(20)
    box.start("a-main")
    assert box.take() == []
    box.exit("a-main", 0)
    box.advance(31)
    assert [fact.reason for fact in box.facts if isinstance(fact, ResidencyEnded)] == ["stopped"]
    box.start("a-main")

    assert box.take() == [KillContainer("a-main")]


def test_the_time_of_an_engine_that_is_away_does_not_count_against_a_resident():
    box = Box(A)
    box.release(box.lease("a"))
    box.feed(EngineLost("restarting"))
    box.engine["a-main"] = container("a", status="exited")
    box.advance(120)
    box.snapshot()
    box.advance(20)

    assert "a" in box.state.durable.residents


# ---- at the first look, and after restarts


def test_on_the_very_first_start_what_already_runs_becomes_resident():
    box = Box(A, B, synced=False, first=True)
    box.engine["a-main"] = container("a", status="running", run="r", health="healthy", age_ms=3_600_000)
    box.snapshot()

    assert [(f.target, f.reason) for f in box.facts if isinstance(f, ResidencyBegan)] == [("a", "first_start")]
    box.start("b-main")
    assert box.take() == [KillContainer("b-main")]


def test_a_crash_before_the_first_look_does_not_turn_it_into_a_massacre():
    box = Box(synced=False, first=True)
    box.restart()
    box.engine["a-main"] = container("a", status="running", run="r", health="healthy")
    box.snapshot()

    assert (box.take(), list(box.state.durable.residents)) == ([], ["a"])


def test_after_a_reboot_what_the_journal_holds_runs_on_and_everything_else_is_stopped():
    box = Box(A, B)
    box.lease("a")
    box.start("b-main", status="exited")
    box.restart(down_s=100)
    for name in ("a-main", "b-main"):
        box.engine[name] = container(name[0], status="running", run="boot", health="starting", age_ms=20_000)
    box.snapshot()

    assert box.take() == [StopContainer("b-main", 10)]
    assert box.state.lease_of("a") is not None


def test_an_evicted_container_that_outlived_a_crash_is_still_stopped():
    box = Box(A, B)
    box.release(box.lease("a"))
    box.ask("b", wait_ready=False)
    box.restart()
    box.snapshot()

    assert [action.id for action in box.take()] == ["a-main"]


def test_what_is_seen_is_enforced_while_not_in_sync():
    box = Box(A)
    box.feed(EngineLost("list failed"))
    box.start("a-main")

    assert box.take() == [KillContainer("a-main")]


# ---- modes


def test_observe_spares_the_start_itself_and_evicts_as_ever():
    box = Box(A, B, mode="observe")
    box.start("a-main")
    assert box.take() == []
    assert [(f.target, f.reason) for f in box.facts if isinstance(f, ContainerSpared)] == [("a", "no_lease")]
    box.ask("b")

    assert box.take() == [StopContainer("a-main", 10)]


def test_observe_spares_the_same_name_in_another_project_until_room_is_needed():
    box = Box(A, B, mode="observe")
    box.lease("a")
    box.add(container("a", "x", id="alien", project="other", master=False))
    box.start("alien")
    assert (box.take(), kinds(box.facts)[-1]) == ([], "ContainerSpared")
    box.release(1)
    box.ask("b")

    assert {action.id for action in box.take()} == {"a-main", "alien"}
    assert [fact.container for fact in refusals(box)] == ["alien"] or box.state.observed.tallies


def test_what_observe_spared_makes_room_for_a_lease_that_is_restarted_while_not_in_sync():
    box = Box(A, B, mode="observe")
    box.lease("a")
    box.start("b-main")
    box.add(container("b", "x", id="alien", project="other", master=False))
    box.start("alien")
    box.exit("a-main", 137)
    box.feed(EngineLost("restarting"))
    assert box.take() == []
    box.claim(1, refresh=True, target="a")

    assert box.take() == [StopContainer("alien", 10)]


def test_adopt_gives_what_was_started_a_lease_that_lives_as_long_as_its_containers():
    box = Box(A, B, mode="adopt")
    box.start("a-main")
    lease = box.state.lease_of("a")
    assert (box.take(), lease.adopted, lease.phase) == ([], True, "ready")
    box.advance(86_400)
    assert box.state.lease_of("a") is not None
    box.start("b-main")
    assert box.take() == [KillContainer("b-main")]
    box.exit("b-main", 137)
    box.exit("a-main", 143)
    box.advance(31)

    assert box.state.durable.leases == {}


def test_adopt_takes_the_highest_priority_then_the_earliest_start_and_one_only():
    box = Box(synced=False, mode="adopt")
    box.feed(EngineSnapshot(()))
    for name, priority, started in (("a", 0, 1), ("b", 5, 9), ("c", 5, 4)):
        box.engine[name] = container(
            name, id=name, priority=priority, status="running", run="r", started_wall_ms=started, health="healthy"
        )
    box.feed(EngineLost("restart"))
    box.snapshot()

    assert [fact.terms.target for fact in box.facts if isinstance(fact, LeaseGranted)] == ["c"]
    assert {action.id for action in box.take()} == {"a", "b"}


def test_adopt_does_not_jump_the_queue():
    box = Box(A, B, mode="adopt")
    held = box.lease("a")
    box.ask("b", on_busy="ticket")
    box.release(held)
    box.add(container("c"))
    box.start("c-main")

    assert box.take() == [KillContainer("c-main")]


def test_a_dependency_on_another_target_is_noticed_whichever_comes_first():
    box = Box(container("a", project="p", depends_on=after("db")))
    assert box.state.observed.specs["a"].valid
    box.add(container("b", "db", project="p", master=True, healthcheck=True))

    assert [problem.code for problem in box.state.observed.specs["a"].problems] == ["depends_on_other_target"]
    box.remove("b-db")
    assert box.state.observed.specs["a"].valid
