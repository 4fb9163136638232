"""The life of a lease, as callers and containers live it."""

from __future__ import annotations

import pytest

from supervisor.core.facts import LeaseEnded, LeaseGranted, ResidencyEnded, RoomVerified, TargetReady
from supervisor.core.inputs import (
    CallerGone,
    EngineLost,
    EngineSnapshot,
    Evict,
    ForceEnd,
    ForceRelease,
    ShutDown,
    StorageFull,
    VramRead,
)
from supervisor.core.model import Gpu
from supervisor.core.replies import Granted, Queued, Refused, Released, Renewed, StartContainer, StopContainer
from tests.core.box import Box, after, container, kinds

LLM, TTS = container("llm", vram_mib=16_000), container("tts", vram_mib=8_000)


def test_an_idle_target_is_started_and_its_caller_answered_when_it_is_healthy():
    box = Box(LLM)

    request = box.ask("llm")
    assert box.take() == [StartContainer("llm-main")]
    box.start("llm-main", health="starting")
    assert box.code(request) == ""
    box.show("llm-main", health="healthy")

    reply = box.replies[request]
    assert isinstance(reply, Granted)
    assert (reply.state, reply.lease.fence, reply.lease.gpus, reply.lease.vram_mib) == ("ready", 1, ("SIM-0",), 16_000)
    assert reply.expires_at_ms == box.at_ms + 300_000
    assert {"LeaseGranted", "RoomVerified", "TargetReady"} <= set(kinds(box.facts))


def test_nothing_is_answered_or_started_before_the_grant_is_on_disk():
    box = Box(LLM)
    box.sync = False

    request = box.ask("llm", wait_ready=False)
    assert (box.code(request), box.actions) == ("", [])
    box.sync_now()

    assert box.code(request) == "Granted"
    assert box.take() == [StartContainer("llm-main")]


def test_services_start_in_the_order_and_on_the_conditions_of_compose():
    box = Box(
        container(
            "llm", depends_on=(*after("db", "service_healthy"), *after("migrate", "service_completed_successfully"))
        ),
        container("llm", "db", healthcheck=True),
        container("llm", "migrate", depends_on=after("db")),
    )
    request = box.ask("llm")

    assert box.take() == [StartContainer("llm-db")]
    box.start("llm-db", health="starting")
    assert box.take() == [StartContainer("llm-migrate")]
    box.start("llm-migrate")
    box.exit("llm-migrate", 0)
    assert box.take() == []
    box.show("llm-db", health="healthy")
    assert box.take() == [StartContainer("llm-main")]
    box.start("llm-main")

    assert box.code(request) == "Granted"


def test_unlabelled_dependencies_are_started_and_never_stopped():
    redis = container("llm", "redis", target=None, master=False)
    box = Box(container("llm", depends_on=after("redis")), redis)
    request = box.ask("llm")

    assert box.obey() == [StartContainer("llm-redis"), StartContainer("llm-main")]
    assert box.code(request) == "Granted"
    box.release(request)
    box.feed(Evict(99, "llm"))
    assert box.take() == [StopContainer("llm-main", 10)]


def test_a_released_target_stays_warm_until_somebody_needs_the_room():
    box = Box(LLM, TTS)
    first = box.lease("llm")
    assert box.release(first) == Released(box.requests, True)
    assert box.take() == []

    second = box.ask("tts")
    assert box.take() == [StopContainer("llm-main", 10)]
    assert box.code(second) == ""
    box.exit("llm-main", 143)
    assert box.take() == [], "the stop call is still under way: a container with a stop in flight is waited for"
    box.done(StopContainer("llm-main", 10))
    assert box.take() == [StartContainer("tts-main")]
    box.start("tts-main")

    assert box.code(second) == "Granted"
    evicted = next(fact for fact in box.facts if isinstance(fact, ResidencyEnded))
    assert (evicted.target, evicted.reason, evicted.for_target) == ("llm", "evicted", "tts")


def test_a_warm_target_is_answered_at_once_and_not_started_over():
    box = Box(LLM)
    box.release(box.lease("llm"))

    again = box.ask("llm")

    assert box.code(again) == "Granted"
    assert box.take() == []


def test_an_unhealthy_resident_is_stopped_and_started_cold():
    box = Box(LLM)
    box.release(box.lease("llm"))
    box.show("llm-main", health="unhealthy")

    again = box.ask("llm")

    assert box.obey() == [StopContainer("llm-main", 10), StartContainer("llm-main")]
    assert box.code(again) == "Granted"


def test_leasing_a_target_that_is_still_stopping_waits_and_starts_it_again():
    box = Box(LLM)
    box.release(box.lease("llm"))
    box.feed(Evict(99, "llm"))

    again = box.ask("llm")

    assert box.code(again) == ""
    assert box.obey() == [StopContainer("llm-main", 10), StartContainer("llm-main")]
    assert box.code(again) == "Granted"


# ---- time to live


def test_a_lease_expires_on_time_and_not_only_when_somebody_asks():
    box = Box(LLM)
    request = box.lease("llm", ttl_ms=60_000)
    box.advance(59)
    assert isinstance(box.renew(request), Renewed)
    box.advance(59)
    assert "llm" in box.state.leases_by_target
    box.advance(2)

    ended = box.facts[-1]
    assert isinstance(ended, LeaseEnded)
    assert (ended.reason, ended.resident) == ("expired", True)
    assert box.renew(request).refusal.code == "lease_unknown"


def test_a_renewal_writes_nothing():
    box = Box(LLM)
    request = box.lease("llm")
    box.facts.clear()
    box.sync = False

    assert isinstance(box.renew(request), Renewed)
    assert box.facts == []


def test_a_lease_does_not_expire_while_its_caller_is_on_the_line():
    box = Box(LLM)
    request = box.ask("llm", ttl_ms=10_000)
    box.start("llm-main", health="starting")
    box.advance(600)
    box.show("llm-main", health="healthy")

    assert box.replies[request].expires_at_ms == box.at_ms + 10_000


def test_a_caller_that_does_not_wait_for_readiness_is_answered_at_the_grant():
    box = Box(LLM)
    request = box.ask("llm", wait_ready=False)

    assert box.replies[request].state == "starting"
    assert box.replies[request].expires_at_ms == box.at_ms + 300_000


@pytest.mark.parametrize(("asked_ms", "got_ms"), [(1, 10_000), (60_000, 60_000), (2**31, 3_600_000)])
def test_a_ttl_is_clamped_to_the_configured_bounds(asked_ms, got_ms):
    box = Box(LLM)

    assert box.replies[box.lease("llm", ttl_ms=asked_ms)].lease.terms.ttl_ms == got_ms


# ---- what goes wrong while it starts


def test_a_start_that_the_engine_refuses_is_final_for_that_grant():
    box = Box(LLM)
    request = box.ask("llm")
    action = box.take()[0]
    box.done(action, "refused", "no such device")

    refused = box.replies[request]
    assert (refused.refusal.code, refused.logs_of) == ("target_failed", "llm-main")
    assert "no such device" in refused.refusal.detail
    assert box.state.durable.leases == {}


def test_a_start_that_timed_out_is_tried_again_unless_it_happened_after_all():
    box = Box(LLM)
    request = box.ask("llm")
    box.done(box.take()[0], "timeout")
    assert box.take() == []
    box.advance(1.5)
    assert box.take() == [StartContainer("llm-main")]
    box.start("llm-main")
    assert box.code(request) == "Granted"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"status": "exited", "exit_code": 1, "run": "r"}, "target_failed", id="exited with an error"),
        pytest.param({"status": "running", "health": "unhealthy", "run": "r"}, "target_unhealthy", id="unhealthy"),
    ],
)
def test_a_target_that_does_not_come_up_gives_the_lease_back_and_is_stopped(change, code):
    box = Box(LLM, container("llm", "side"), TTS)
    request = box.ask("llm")
    waiting = box.ask("tts", wait_ms=60_000)
    for action in box.take():
        box.done(action)
    box.start("llm-side")
    box.show("llm-main", **change)

    assert box.code(request) == code
    stopped = {action.id for action in box.take() if isinstance(action, StopContainer)}
    assert "llm-side" in stopped
    assert box.state.durable.residents == {}
    assert box.state.lease_of("tts") is not None, "the queue moves on"
    assert box.code(waiting) == ""


def test_a_target_that_is_not_ready_in_time_is_given_back():
    box = Box(LLM)
    request = box.ask("llm", ready_timeout_ms=20_000)
    box.start("llm-main", health="starting")
    box.done(box.take()[0])
    box.advance(21)

    assert box.code(request) == "target_timeout"
    assert box.take() == [StopContainer("llm-main", 10)]


def test_a_failed_one_shot_fails_the_start():
    box = Box(
        container("llm", depends_on=after("migrate", "service_completed_successfully")),
        container("llm", "migrate"),
    )
    request = box.ask("llm")
    box.done(box.take()[0])
    box.start("llm-migrate")
    box.exit("llm-migrate", 3)

    assert box.code(request) == "target_failed"
    assert box.replies[request].logs_of == "llm-migrate"


def test_a_job_that_is_done_before_it_was_healthy_is_answered_as_ended_and_not_as_a_failure():
    box = Box(container("train"))
    request = box.ask("train")
    box.done(box.take()[0])
    box.start("train-main", health="starting")
    box.exit("train-main", 0)

    reply = box.replies[request]
    assert isinstance(reply, Granted)
    assert (reply.state, reply.reason) == ("ended", "target_completed")


# ---- after it was ready


def test_a_job_that_is_done_ends_its_lease_at_once():
    box = Box(container("train"))
    box.lease("train")
    box.exit("train-main", 0)

    ended = box.facts[-1]
    assert isinstance(ended, LeaseEnded)
    assert (ended.reason, ended.resident) == ("target_completed", False)


def test_a_leased_target_that_goes_down_is_not_started_by_us_and_ends_after_its_grace():
    box = Box(LLM, TTS)
    request = box.lease("llm")
    waiter = box.ask("tts", wait_ms=600_000)
    box.exit("llm-main", 1)
    assert (box.take(), kinds(box.facts)[-1]) == ([], "TargetDown")
    assert isinstance(box.renew(request), Renewed)
    box.advance(31)

    assert [fact.reason for fact in box.facts if isinstance(fact, LeaseEnded)] == ["target_down"]
    box.obey()
    assert box.code(waiter) == "Granted"


def test_a_target_that_comes_back_in_time_keeps_its_lease():
    box = Box(LLM)
    box.lease("llm")
    box.exit("llm-main", 1)
    box.advance(20)
    box.start("llm-main")
    box.advance(60)

    assert box.state.lease_of("llm") is not None


def test_the_owner_of_a_lease_that_is_down_starts_it_again_with_its_token():
    box = Box(LLM)
    request = box.lease("llm")
    box.exit("llm-main", 1)

    again = box.claim(request, refresh=True, target="llm", wait_ready=True)
    assert box.obey() == [StartContainer("llm-main")]

    assert box.replies[again].state == "ready"
    assert "LeaseRestarted" in kinds(box.facts)


def test_a_target_that_went_down_and_is_given_back_before_it_is_started_again_is_not_resident():
    box = Box(LLM, container("llm", "side"), TTS)
    box.release(box.lease("llm"))
    request = box.lease("llm")
    assert box.state.lease_of("llm").warm
    box.exit("llm-main", 1)
    box.start("tts-main")
    box.claim(request, refresh=True, target="llm")
    assert box.state.lease_of("llm").phase == "making_room", "what may not run is not gone yet"
    box.take()

    box.release(request)

    assert [fact.resident for fact in box.facts if isinstance(fact, LeaseEnded)] == [True, False]
    assert box.take() == [StopContainer("llm-side", 10)]


def test_refreshing_with_the_token_of_another_target_is_refused():
    box = Box(LLM, TTS)
    request = box.lease("llm")

    assert box.code(box.claim(request, refresh=True, target="tts")) == "target_mismatch"
    assert box.code(box.claim(999, refresh=True)) == "lease_mismatch"
    assert box.code(box.claim(999)) == "lease_unknown"


# ---- hanging up


def test_a_caller_that_hangs_up_before_its_answer_ends_its_lease_and_what_it_started():
    box = Box(LLM)
    request = box.ask("llm")
    box.start("llm-main", health="starting")
    box.done(box.take()[0])
    box.feed(CallerGone(request))

    assert (box.facts[-1].reason, box.facts[-1].resident) == ("caller_gone", False)
    assert box.take() == [StopContainer("llm-main", 10)]


def test_a_start_that_returns_late_is_stopped():
    box = Box(LLM)
    request = box.ask("llm")
    action = box.take()[0]
    box.feed(CallerGone(request))
    box.start("llm-main")
    assert box.take() == [], "its start call is still under way"
    box.done(action)

    assert [a.kind for a in box.take()] == ["kill"]


def test_an_answer_that_could_not_be_handed_over_is_taken_back():
    box = Box(LLM)
    request = box.lease("llm")
    box.feed(CallerGone(request, f"l{request}"))

    assert box.facts[-1].reason == "caller_gone"


def test_the_lost_answer_of_a_refresh_takes_nothing_away():
    box = Box(LLM)
    request = box.lease("llm")
    refresh = box.claim(request, refresh=True, target="llm")
    box.feed(CallerGone(refresh, f"l{request}"))

    assert box.state.lease_of("llm") is not None


def test_with_a_key_a_hang_up_leaves_the_lease_claimable_for_one_window():
    box = Box(LLM)
    request = box.ask("llm", scope="s", body="b")
    box.feed(CallerGone(request))
    retry = box.ask("llm", scope="s", body="b")
    box.obey()
    assert box.replies[retry].lease.id == f"l{request}"

    box.release(request)
    lost = box.ask("llm", scope="s2", body="b", wait_ready=False)
    box.feed(CallerGone(lost, f"l{lost}"))
    box.advance(11)
    assert box.facts[-1].reason == "expired"


# ---- idempotency


def test_a_retry_gets_the_same_lease_and_a_different_body_a_conflict():
    box = Box(LLM)
    first = box.lease("llm", scope="s", body="b")
    again = box.ask("llm", scope="s", body="b")

    assert box.replies[again].lease.id == box.replies[first].lease.id
    assert box.code(box.ask("llm", scope="s", body="other")) == "idempotency_conflict"
    box.release(first)
    assert box.code(box.ask("llm", scope="s", body="b")) == "lease_ended"
    box.advance(86_500)
    assert box.code(box.lease("llm", scope="s", body="b")) == "Granted"


def test_refusals_are_not_remembered_under_a_key():
    box = Box(LLM, TTS)
    first = box.lease("llm")
    timed_out = box.ask("tts", scope="s", body="b", wait_ms=5_000)
    box.advance(6)
    assert box.code(timed_out) == "scheduler_timeout"
    box.release(first)

    assert box.code(box.lease("tts", scope="s", body="b")) == "Granted"


# ---- refusals


@pytest.mark.parametrize(
    ("target", "code"),
    [
        pytest.param("llmm", "target_unknown", id="unknown"),
        pytest.param("gone", "target_absent", id="its containers were removed"),
        pytest.param("bad", "target_invalid", id="no master"),
        pytest.param("huge", "insufficient_vram", id="larger than any GPU"),
    ],
)
def test_what_cannot_be_leased_is_refused_with_its_own_code(target, code):
    box = Box(LLM, container("gone"), container("bad", "side"), container("huge", vram_mib=50_000))
    box.remove("gone-main")

    refused = box.replies[box.ask(target)]

    assert isinstance(refused, Refused)
    assert refused.refusal.code == code


def test_a_busy_gpu_names_its_holder():
    box = Box(LLM, TTS)
    box.lease("llm", owner="ann")

    refused = box.replies[box.ask("tts")].refusal

    assert refused.code == "gpu_busy"
    assert "llm" in refused.detail
    assert "ann" in refused.detail


def test_without_the_engine_nothing_new_is_granted_and_renewals_go_on():
    box = Box(LLM)
    request = box.lease("llm")
    box.feed(EngineLost("ping timed out"))

    assert isinstance(box.renew(request), Renewed)
    assert box.release(request) == Released(box.requests, True)
    assert box.code(box.ask("llm")) == "engine_unavailable"
    waiter = box.ask("llm", wait_ms=60_000)
    assert box.code(waiter) == ""
    box.snapshot()
    assert box.code(waiter) == "Granted"


def test_on_a_full_disk_nothing_is_granted_while_releases_and_enforcement_go_on():
    box = Box(LLM, TTS)
    request = box.lease("llm")
    waiter = box.ask("tts", wait_ms=600_000)
    box.feed(StorageFull(True))

    assert box.code(box.ask("tts", wait_ms=1_000)) == "storage_full"
    assert isinstance(box.renew(request), Renewed)
    assert box.release(request).released
    box.start("tts-main")
    assert [action.kind for action in box.take()] == ["kill"]
    assert box.code(waiter) == ""
    box.exit("tts-main", 137)
    box.feed(StorageFull(False))
    assert box.state.lease_of("tts") is not None


def test_a_shut_down_answers_everybody_on_the_line_and_leaves_leases_alone():
    box = Box(LLM, TTS)
    held = box.lease("llm")
    waiter = box.ask("tts", wait_ms=600_000)
    box.feed(ShutDown("SIGTERM"))

    assert box.code(waiter) == "shutting_down"
    assert box.code(box.ask("tts")) == "shutting_down"
    assert box.state.lease_of("llm") is not None
    assert isinstance(box.renew(held), Renewed)


# ---- bare leases, force, evict


def test_a_bare_lease_is_answered_once_its_room_is_verified():
    box = Box(LLM)
    box.release(box.lease("llm"))
    bare = box.ask(None)
    assert box.code(bare) == ""
    box.obey()

    assert box.replies[bare].state == "ready"
    assert any(isinstance(fact, RoomVerified) and fact.target is None for fact in box.facts)


def test_a_forced_release_needs_no_token():
    box = Box(LLM)
    box.lease("llm")
    box.feed(ForceRelease(77, None))

    assert box.replies[77] == Released(77, True)
    assert box.facts[-1].reason == "forced"


def test_an_operator_ends_exactly_the_lease_that_is_named_by_id():
    box = Box(container("llm", max_holders=2))
    first, second = box.lease("llm"), box.lease("llm")
    box.feed(ForceEnd(77, f"l{first}"))

    assert box.replies[77] == Released(77, True)
    assert [(f.id, f.reason, f.resident) for f in box.facts if isinstance(f, LeaseEnded)] == [
        (f"l{first}", "forced", False)
    ]
    assert [lease.id for lease in box.state.holders_of("llm")] == [f"l{second}"]
    box.feed(ForceEnd(78, f"l{first}"))
    assert box.replies[78] == Released(78, False, "unknown_or_ended")


def test_an_operator_cancels_a_ticket_by_id_and_its_caller_hears_of_it():
    box = Box(LLM, TTS)
    box.lease("llm")
    waiter = box.ask("tts", wait_ms=60_000)
    box.feed(ForceEnd(77, f"l{waiter}"))

    assert box.replies[77] == Released(77, True)
    assert box.code(waiter) == "lease_ended"
    assert (box.facts[-1].id, box.facts[-1].reason) == (f"l{waiter}", "forced")
    assert not box.state.durable.tickets


@pytest.mark.parametrize(
    ("only", "is_queued", "reason"),
    [
        pytest.param("ticket", False, "granted", id="a ticket that was granted a moment ago is no ticket any more"),
        pytest.param("lease", True, "queued", id="a ticket is no lease"),
    ],
)
def test_an_operator_who_means_the_other_thing_ends_nothing(only, is_queued, reason):
    box = Box(LLM, TTS)
    held = box.lease("llm")
    id_ = f"l{box.ask('tts', wait_ms=60_000)}" if is_queued else f"l{held}"
    before = len(box.facts)
    box.feed(ForceEnd(77, id_, only))

    assert box.replies[77] == Released(77, False, reason)
    assert len(box.facts) == before


def test_a_leased_target_is_not_evicted():
    box = Box(LLM)
    box.lease("llm")
    box.feed(Evict(77, "llm"))

    assert box.code(77) == "target_leased"


# ---- memory


def test_a_stopped_container_is_not_freed_memory():
    box = Box(LLM, TTS)
    box.release(box.lease("llm"))
    box.feed(VramRead((Gpu("SIM-0", total_mib=24_576, used_mib=17_000),)))
    request = box.ask("tts")
    box.obey()
    assert box.code(request) == ""
    assert box.state.observed.room
    box.feed(VramRead((Gpu("SIM-0", total_mib=24_576, used_mib=300),)))
    box.obey()

    assert box.code(request) == "Granted"


def test_memory_that_does_not_come_back_closes_the_gpu_until_it_does():
    box = Box(LLM, TTS)
    box.release(box.lease("llm"))
    box.feed(VramRead((Gpu("SIM-0", total_mib=24_576, used_mib=20_000),)))
    stuck = box.ask("tts", ready_timeout_ms=30_000)
    box.obey()
    box.advance(6)
    assert box.state.observed.dirty
    box.advance(30)
    assert box.code(stuck) == "target_timeout"
    assert box.code(box.ask("tts")) == "gpu_dirty"
    box.feed(VramRead((Gpu("SIM-0", total_mib=24_576, used_mib=0),)))

    assert box.code(box.lease("tts")) == "Granted"


# ---- after a restart


def test_a_restart_keeps_the_lease_with_a_fresh_ttl():
    box = Box(LLM)
    request = box.lease("llm", ttl_ms=60_000)
    box.advance(50)
    box.restart(down_s=300)
    box.snapshot()
    box.advance(59)

    assert isinstance(box.renew(request), Renewed)
    assert [fact.fence for fact in box.facts if isinstance(fact, LeaseGranted)] == [1]


def test_after_a_restart_a_caller_that_was_not_answered_yet_counts_as_hung_up():
    box = Box(LLM)
    box.ask("llm")
    box.start("llm-main", health="starting")
    box.restart()
    box.snapshot()

    assert box.state.durable.leases == {}
    assert [action.kind for action in box.take()] == ["kill"]


def test_a_job_that_finished_while_the_supervisor_was_down_is_completed():
    box = Box(container("train"))
    box.lease("train")
    box.engine["train-main"] = container(
        "train", status="exited", exit_code=0, run="run-1", started_wall_ms=box.now.wall_ms
    )
    box.restart()
    box.snapshot()

    assert [fact.reason for fact in box.facts if isinstance(fact, LeaseEnded)] == ["target_completed"]


def test_a_ready_fact_tells_how_long_it_took():
    box = Box(LLM)
    box.ask("llm")
    box.advance(7)
    box.obey()

    assert [fact.took_ms for fact in box.facts if isinstance(fact, TargetReady)] == [7_000]


def test_an_empty_engine_after_a_restart_leaves_the_lease_down():
    box = Box(LLM)
    box.lease("llm")
    box.engine.clear()
    box.restart()
    box.feed(EngineSnapshot(()))
    assert box.state.lease_of("llm") is not None
    box.advance(31)

    assert box.facts[-1].reason == "target_down"


def test_a_ticket_at_once_when_asked_for_one():
    box = Box(LLM, TTS)
    box.lease("llm")

    queued = box.replies[box.ask("tts", on_busy="ticket")]

    assert isinstance(queued, Queued)
    assert queued.position == 0


def test_a_failure_names_the_container_to_look_at():
    box = Box(LLM)
    request = box.ask("llm")
    box.done(box.take()[0], "refused", "no such device")

    assert box.replies[request].refusal.context == {"target": "llm", "container": "llm-main-1"}
