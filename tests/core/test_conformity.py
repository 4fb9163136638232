"""The sentences of the design that no other test holds, one test each."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from supervisor.core.apply import replay
from supervisor.core.facts import ContainerRefused, LeaseEnded, LeaseGranted, ResidencyEnded, TargetDown
from supervisor.core.inputs import (
    CallerGone,
    EngineLost,
    EngineSnapshot,
    Evict,
    ForceRelease,
    Started,
    StorageFull,
    VramRead,
)
from supervisor.core.model import Container
from supervisor.core.replies import Granted, KillContainer, Renewed, StartContainer, StopContainer
from supervisor.kernel import Kernel
from tests.core.box import Box, after, container, kinds

A, B, C = container("a"), container("b"), container("c")


def alien(service: str = "main", **values: object) -> Container:
    """A container that carries the target of ``A`` in another Compose project."""
    return container("a", service, id=f"alien-{service}", project="other", **values)


def ends(box: Box) -> list[str]:
    return [fact.reason for fact in box.facts if isinstance(fact, LeaseEnded)]


# ---- a lease covers the project that it was granted for


def test_a_lease_becomes_ready_by_its_own_project_alone():
    box = Box(A)
    request = box.ask("a")
    box.add(alien())
    box.obey()

    assert (box.code(request), "alien-main" in box.state.observed.launched["l1"]) == ("Granted", False)


def test_an_unhealthy_master_of_another_project_fails_nobodys_start():
    box = Box(A)
    request = box.ask("a")
    box.add(alien())
    box.start("alien-main", health="unhealthy")

    assert (box.code(request), ends(box)) == ("", [])


def test_a_lease_goes_down_and_is_completed_by_its_own_project_alone():
    box = Box(A, container("a", "side"))
    box.lease("a")
    box.add(alien())
    box.start("alien-main")
    box.exit("a-main", 0)
    assert any(isinstance(fact, TargetDown) for fact in box.facts)
    box.exit("a-side", 0)

    assert ends(box) == ["target_completed"]


# ---- warm and half down


def test_a_resident_whose_master_was_stopped_is_started_again_around_what_still_runs():
    box = Box(A, container("a", "side"))
    box.release(box.lease("a"))
    box.exit("a-main", 0)
    again = box.ask("a")

    assert box.obey() == [StartContainer("a-main")]
    assert box.code(again) == "Granted"


def test_the_owner_of_a_lease_that_is_down_starts_a_master_that_exited_with_0():
    box = Box(A, container("a", "side"))
    request = box.lease("a")
    box.exit("a-main", 0)
    again = box.claim(request, refresh=True, target="a")

    assert box.obey() == [StartContainer("a-main")]
    assert box.code(again) == "Granted"


def test_one_shots_run_again_at_a_cold_start_and_only_then():
    box = Box(container("a", depends_on=after("init", "service_completed_successfully")), container("a", "init"))

    first = box.ask("a")
    box.done(box.take()[0])
    box.start("a-init")
    box.exit("a-init", 0)
    assert box.obey() == [StartContainer("a-main")]
    box.release(first)
    warm = box.lease("a")
    assert (box.take(), box.code(warm)) == ([], "Granted"), "warm: what is done stays done"
    box.release(warm)
    box.feed(Evict(99, "a"))
    box.obey()
    box.ask("a")

    assert box.take() == [StartContainer("a-init")]


# ---- what was answered survives


def test_a_lease_that_was_answered_survives_a_crash_while_its_owner_starts_it_again():
    box = Box(A)
    request = box.lease("a", ttl_ms=60_000)
    box.exit("a-main", 1)
    box.advance(5)
    box.claim(request, refresh=True, target="a")
    box.restart()
    box.snapshot()
    assert box.obey() == [StartContainer("a-main")], (
        "the failure before it was asked for again is no failure of this start"
    )
    box.advance(30)

    assert box.state.lease_of("a") is not None


def test_a_key_whose_lease_was_answered_gets_no_second_one_when_a_later_start_fails():
    box = Box(A)
    request = box.lease("a", scope="s", body="b")
    box.exit("a-main", 1)
    box.claim(request, refresh=True, target="a")
    box.done(box.take()[0], "refused", "no such device")
    assert ends(box) == ["target_failed"]

    assert box.code(box.ask("a", scope="s", body="b")) == "lease_ended"


def test_on_a_full_disk_a_retry_with_a_key_still_gets_its_lease():
    box = Box(A)
    first = box.lease("a", scope="s", body="b")
    box.feed(StorageFull(True))
    again = box.ask("a", scope="s", body="b")

    assert isinstance(box.replies[again], Granted)
    assert box.replies[again].lease.id == f"l{first}"


def test_a_refresher_that_hangs_up_leaves_the_lease_as_it_was():
    box = Box(A)
    request = box.ask("a", wait_ready=False)
    refresh = box.claim(request, refresh=True, target="a", wait_ready=True, ready_timeout_ms=20_000)
    box.feed(CallerGone(refresh))
    box.start("a-main", health="starting")
    box.advance(25)

    assert ends(box) == []


# ---- claim windows


@pytest.mark.parametrize("how", ["release", "deletion", "expiry", "lapse"])
@pytest.mark.parametrize("waits", [True, False])
def test_the_next_head_is_served_after_a_release_a_deletion_an_expiry_and_a_lapse_alike(how, waits):
    box = Box(A, B, C)
    held = box.lease("a", ttl_ms=60_000)
    first = box.ask("b", on_busy="ticket") if how in {"deletion", "lapse"} else None
    following = box.ask("c", wait_ms=10**6, wait_ready=False) if waits else box.ask("c", on_busy="ticket")
    if how == "expiry":
        box.advance(60)
    else:
        box.release(held)
    if how == "deletion":
        box.release(first)
    elif how == "lapse":
        box.advance(10)

    served = [kind for kind in kinds(box.facts) if kind in {"LeaseGranted", "WindowOpened"}]
    assert served[-1] == ("LeaseGranted" if waits else "WindowOpened")
    assert waits or f"l{following}" in box.state.windows


def test_a_window_that_was_open_on_a_full_disk_starts_afresh_when_there_is_room():
    box = Box(A, B)
    held = box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    box.release(held)
    box.feed(StorageFull(True))
    assert box.code(box.claim(polled)) == "storage_full"
    box.advance(19.5)
    box.feed(StorageFull(False))
    box.advance(9)

    assert box.code(box.claim(polled, wait_ready=False)) == "Granted"


# ---- between room verified and ready nothing else may load on that GPU


def test_after_a_restart_nothing_is_started_beside_what_is_still_being_stopped():
    box = Box(A, B)
    box.ask("a", wait_ready=False)
    box.engine["b-main"] = container("b", status="running", run="r", health="healthy", age_ms=60_000)
    box.restart()
    box.snapshot()
    assert box.take() == [StopContainer("b-main", 10)]
    box.exit("b-main", 143)

    assert box.take() == [StartContainer("a-main")]


# ---- a recreate


def test_while_a_recreate_waits_for_the_old_container_to_stop_the_target_is_not_down():
    box = Box(A)
    box.lease("a")
    box.add(container("a", id="new", name="abc_a-main-1", replaces="a-main", created_wall_ms=9))
    box.advance(40)

    assert not any(isinstance(fact, TargetDown) for fact in box.facts)
    box.exit("a-main", 0)
    assert any(isinstance(fact, TargetDown) for fact in box.facts)
    assert ends(box) == []


def test_during_a_recreate_the_new_container_is_not_started_beside_the_old_one():
    box = Box(A)
    request = box.ask("a")
    box.start("a-main", health="starting")
    box.done(box.take()[0])
    box.add(container("a", id="new", name="abc_a-main-1", replaces="a-main", created_wall_ms=9))
    assert box.take() == []
    box.exit("a-main", 137)
    assert box.obey() == [StartContainer("new")]

    assert box.code(request) == "Granted"


# ---- labels that went bad


def test_nothing_that_is_resident_is_stopped_because_a_label_went_bad():
    box = Box(A)
    box.release(box.lease("a"))
    box.add(container("a", "other", master=True, healthcheck=False))
    box.exit("a-main", 0)
    box.start("a-main")
    assert box.take() == []

    assert box.code(box.ask("a")) == "target_invalid"


def test_dependencies_that_go_round_in_a_circle_save_nobody_from_being_stopped():
    box = Box(container("a", depends_on=after("side")), container("a", "side", depends_on=after("main")))
    for id_ in ("a-main", "a-side"):
        box.engine[id_] = replace(box.engine[id_], status="running", run="r", age_ms=60_000)
    box.snapshot()

    assert {action.id for action in box.take()} == {"a-main", "a-side"}


# ---- absent


def test_leasing_an_absent_target_says_what_to_type():
    box = Box(container("a", project="my", working_dir="/srv/x", config_files="/srv/a b/compose.yml,/srv/gpu.yml"))
    box.remove("a-main")
    refused = box.replies[box.ask("a")].refusal

    assert refused.code == "target_absent"
    assert "docker compose -p my -f '/srv/a b/compose.yml' -f /srv/gpu.yml create" in refused.detail


def test_an_absent_target_is_remembered_after_a_restart():
    box = Box(A)
    box.remove("a-main")
    box.restart()
    box.feed(EngineSnapshot(()))

    assert box.code(box.ask("a")) == "target_absent"


def test_before_the_engine_was_seen_a_target_is_not_called_unknown():
    box = Box(A, synced=False)

    assert box.code(box.ask("a")) == "engine_unavailable"


# ---- one-offs


def test_a_one_off_counts_neither_for_down_nor_for_completed():
    box = Box(A, container("a", "job", id="one", one_off=True, master=False))
    box.lease("a")
    box.start("one")
    box.exit("a-main", 1)
    assert any(isinstance(fact, TargetDown) for fact in box.facts)
    box.advance(31)
    assert ends(box) == ["target_down"]
    assert "a" in box.state.durable.residents, "what still runs is resident"
    box.ask(None)

    assert [action.id for action in box.take()] == ["one"], "and evicted with its target"


# ---- adopt and observe


def test_an_adopted_target_that_was_not_healthy_yet_stays_resident_when_its_lease_is_ended_by_force():
    box = Box(A, mode="adopt")
    box.start("a-main", health="starting")
    box.feed(ForceRelease(77, None))

    assert (box.take(), list(box.state.durable.residents)) == ([], ["a"])


def test_an_adopted_lease_survives_a_restart_without_a_ttl():
    box = Box(A, mode="adopt")
    box.start("a-main")
    box.restart(down_s=100)
    box.snapshot()
    box.advance(86_400)

    assert (box.take(), box.state.lease_of("a").adopted) == ([], True)


def test_adopt_gives_nothing_while_a_window_is_open():
    box = Box(A, B, C, mode="adopt")
    held = box.lease("a")
    box.ask("b", on_busy="ticket")
    box.release(held)
    box.start("c-main")

    assert box.take() == [KillContainer("c-main")]
    assert [fact.terms.target for fact in box.facts if isinstance(fact, LeaseGranted)] == ["a"]


def test_in_mode_observe_a_container_of_the_leased_target_is_not_spared_while_room_is_made():
    box = Box(A, B, mode="observe")
    box.release(box.lease("b"))
    box.ask("a")
    box.take()
    box.start("a-main")

    assert box.take() == [KillContainer("a-main")]


# ---- safe mode, hang-ups and restarts


def in_safe_mode(box: Box) -> Box:
    """Replay what ``box`` wrote, and say that the journal is damaged behind it."""
    box.kernel = Kernel(replay(box.settings, None, [box.journal]))
    box.actions.clear()
    box.facts.clear()
    box.feed(Started("boot", box.at_ms, "test", first=False, safe_mode="record 7 is damaged"))
    box.snapshot()
    return box


def test_safe_mode_keeps_the_known_holders_and_grants_starts_and_writes_nothing():
    box = Box(A, B, C)
    held = box.lease("a", ttl_ms=60_000)
    box.ask("c", on_busy="ticket")
    in_safe_mode(box)
    box.journal.clear()
    box.advance(3_600)
    assert (box.take(), list(box.state.durable.leases), len(box.state.queue)) == ([], [f"l{held}"], 1)
    box.start("b-main")
    assert box.take() == [KillContainer("b-main")]

    assert box.code(box.ask("b", wait_ms=1_000)) == "journal_damaged"
    assert box.release(held).refusal.code == "journal_damaged"
    assert isinstance(box.renew(held), Renewed)
    box.exit("a-main", 1)
    box.advance(3_600)
    assert list(box.state.durable.leases) == [f"l{held}"]
    assert (StartContainer("a-main") in box.take(), box.journal) == (False, [])


def test_a_claim_whose_caller_hangs_up_before_its_answer_stays_claimable_for_one_window():
    box = Box(A, B)
    held = box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    box.release(held)
    claim = box.claim(polled)
    box.feed(CallerGone(claim))
    box.advance(9)
    assert box.state.lease_of("b") is not None
    box.advance(1)

    assert ends(box) == ["released", "expired"]


def test_after_a_restart_a_lease_with_a_key_stays_claimable_for_one_window():
    box = Box(A)
    request = box.ask("a", scope="s", body="b")
    box.restart()
    box.snapshot()
    box.advance(5)
    again = box.ask("a", scope="s", body="b")
    box.obey()

    assert box.replies[again].lease.id == f"l{request}"


def test_after_a_restart_an_unanswered_lease_with_a_key_that_nobody_fetches_ends_after_one_window():
    box = Box(A)
    box.ask("a", scope="s", body="b")
    box.restart()
    box.snapshot()
    box.advance(10)

    assert ends(box) == ["expired"]


def test_after_a_restart_a_caller_that_was_answered_at_the_grant_keeps_its_starting_lease():
    box = Box(A)
    request = box.ask("a", wait_ready=False, ttl_ms=60_000)
    box.restart()
    box.snapshot()
    assert box.obey() == [StartContainer("a-main")]
    box.advance(50)

    assert isinstance(box.renew(request), Renewed)
    assert box.state.lease_of("a").phase == "ready"


def test_after_a_restart_a_caller_that_came_back_and_did_not_wait_keeps_its_starting_lease():
    box = Box(A)
    held = box.ask(None)
    ticket = box.ask("a", on_busy="ticket", ttl_ms=60_000)
    box.release(held)
    claim = box.claim(ticket)
    assert box.code(claim) == ""
    box.feed(CallerGone(claim))
    assert box.code(box.claim(ticket, wait_ready=False)) == "Granted"
    box.restart()
    box.snapshot()
    box.advance(29)

    assert isinstance(box.renew(ticket), Renewed)


def test_on_a_full_disk_nobody_is_answered_earlier_than_its_lease_says():
    box = Box(A)
    request = box.ask("a", ttl_ms=60_000)
    box.feed(StorageFull(True))

    assert box.code(box.claim(request, wait_ready=False)) == "storage_full"


def test_after_a_reboot_a_resident_that_docker_starts_again_runs_on():
    box = Box(A)
    box.release(box.lease("a"))
    box.exit("a-main", 137)
    box.restart(down_s=300)
    box.feed(EngineSnapshot((container("a", status="running", run="boot", health="starting", age_ms=5_000),)))

    assert (box.take(), list(box.state.durable.residents)) == ([], ["a"])


def test_a_ticket_that_was_handed_out_under_a_key_and_ended_is_not_made_anew():
    box = Box(A, B)
    held = box.lease("a")
    polled = box.ask("b", on_busy="ticket", scope="s", body="b")
    assert box.code(polled) == "Queued"
    box.remove("b-main")
    box.release(held)
    box.add(container("b"))

    assert box.code(box.ask("b", on_busy="ticket", scope="s", body="b")) == "lease_ended"


def test_an_evicted_resident_that_starts_again_is_refused():
    box = Box(A)
    box.release(box.lease("a"))
    box.feed(Evict(77, "a"))
    box.obey()
    box.start("a-main")

    assert box.take() == [KillContainer("a-main")]


def test_what_was_started_while_the_supervisor_was_down_is_stopped_with_its_own_grace():
    box = Box(A, container("b", stop_grace_s=45))
    box.lease("a")
    box.engine["b-main"] = container("b", status="running", run="r", age_ms=60_000, stop_grace_s=45)
    box.restart(down_s=120)
    box.snapshot()

    assert box.take() == [StopContainer("b-main", 45)]


# ---- the rest


def test_a_release_while_it_starts_stops_what_it_started():
    box = Box(A)
    request = box.ask("a", wait_ready=False)
    box.start("a-main", health="starting")
    box.done(box.take()[0])
    box.release(request)

    assert (box.take(), box.state.durable.residents) == ([StopContainer("a-main", 10)], {})


def test_a_warm_target_whose_lease_ends_while_room_is_made_stays_warm():
    box = Box(A, B)
    box.release(box.lease("b"))
    box.feed(EngineLost("list failed"))
    box.snapshot()
    request = box.ask("b", wait_ready=False)
    box.release(request)

    assert (box.take(), list(box.state.durable.residents)) == ([], ["b"])


def test_a_lease_keeps_the_size_it_was_granted_with():
    box = Box(container("a", vram_mib=4_000))
    box.lease("a")
    box.add(container("a", "side", vram_mib=8_000))

    assert box.state.lease_of("a").vram_mib == 4_000


def test_the_time_in_which_the_engine_is_away_does_not_count_against_a_lease_that_is_down():
    box = Box(A)
    box.lease("a")
    box.exit("a-main", 1)
    box.feed(EngineLost("restarting"))
    box.advance(25)
    box.snapshot()
    box.advance(29)
    assert ends(box) == []
    box.advance(2)

    assert ends(box) == ["target_down"]


def test_a_container_that_will_not_die_keeps_its_gpu_closed_while_others_are_still_enforced():
    box = Box(A, B, C)
    box.release(box.lease("a"))
    waits = box.ask("b")
    box.done(box.take()[0], "timeout", "no answer")
    box.start("c-main")
    assert [action.id for action in box.take()] == ["c-main"]
    box.advance(60)

    assert (box.code(waits), "StopFailed" in kinds(box.facts)) == ("", True)
    assert StartContainer("b-main") not in box.take()


def test_where_no_gpu_is_known_nothing_is_granted_and_nothing_breaks():
    box = Box(A)
    box.feed(VramRead(()))
    box.feed(Evict(77, "a"))

    assert box.code(box.ask("a")) == "gpu_unavailable"
    assert box.replies[77].released is False


def test_every_container_of_an_evicted_target_is_stopped_for_whom_it_says():
    box = Box(A, container("a", "side"), B)
    box.release(box.lease("a"))
    box.ask("b", owner="bob")

    assert {action.id for action in box.take()} == {"a-main", "a-side"}
    evicted = next(fact for fact in box.facts if isinstance(fact, ResidencyEnded))
    assert (evicted.for_target, evicted.for_owner) == ("b", "bob")


def test_a_refused_container_that_is_old_is_stopped_only_after_its_fact_is_on_disk():
    box = Box(A)
    box.sync = False
    box.start("a-main", age_ms=60_000)
    assert (box.take(), [type(fact) for fact in box.facts[-1:]]) == ([], [ContainerRefused])
    box.sync_now()

    assert box.take() == [StopContainer("a-main", 10)]


def test_aging_of_0_is_plain_priority_and_then_arrival():
    box = Box(A, B, aging_per_minute=0)
    held = box.lease("a", ttl_ms=3_600_000)
    early = box.ask("b", wait_ms=10**7, wait_ready=False, priority=1)
    box.advance(3_000)
    late = box.ask("b", wait_ms=10**7, wait_ready=False, priority=2)
    box.release(held)

    assert (box.code(late), box.code(early)) == ("Granted", "")
