"""Bugs that the simulation found, each as the shortest story that shows it: a seed tells another one some day."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core.inputs import (
    ActionDone,
    CallerGone,
    ContainerSeen,
    EngineLost,
    EngineSnapshot,
    ShutDown,
    Started,
    StartHinted,
    VramRead,
)
from supervisor.core.model import Gpu, GpuProcess
from supervisor.core.replies import Granted, KillContainer, Refused
from supervisor.kernel import Kernel
from tests.core.box import GPU, Box, container

LLM = container("llm")
TTS = container("tts")
MINUTE_S = 60


def granted(box: Box, request: int) -> Granted:
    reply = box.replies[request]
    assert isinstance(reply, Granted)
    return reply


def test_a_grant_that_a_slow_disk_holds_back_is_taken_back_when_its_caller_hangs_up():
    box = Box(LLM)
    box.sync = False
    request = box.ask("llm", wait_ready=False)
    box.feed(CallerGone(request))
    box.sync_now()

    assert request not in box.replies
    assert box.state.durable.leases == {}


def test_a_hang_up_on_one_of_two_answers_leaves_the_lease_to_the_other():
    box = Box(LLM)
    first = box.ask("llm", scope="key", body="body", ttl_ms=10 * MINUTE_S * 1000)
    second = box.ask("llm", scope="key", body="body", ttl_ms=10 * MINUTE_S * 1000)
    box.obey()
    told_ms = granted(box, second).expires_at_ms
    box.feed(CallerGone(first, granted(box, first).lease.id))
    box.advance(5 * MINUTE_S)

    assert granted(box, first).expires_at_ms == told_ms
    assert box.state.lease_of("llm") is not None


def test_a_new_run_does_not_wait_for_the_back_off_of_the_old_one():
    box = Box(LLM)
    box.start("llm-main")
    box.take()
    # The kill comes back before anybody saw its effect, and somebody starts the container again.
    box.feed(ActionDone("llm-main", "kill", "done"))
    box.start("llm-main")

    assert box.take() == [KillContainer("llm-main")]


def test_a_second_start_right_behind_an_announced_one_is_ended_too():
    box = Box(LLM)
    box.feed(StartHinted("llm-main", "event 1", box.now.wall_ms))
    assert box.take() == [KillContainer("llm-main")]
    box.feed(ActionDone("llm-main", "kill", "done"))
    box.at_ms += 8
    box.start("llm-main")

    assert box.take() == [KillContainer("llm-main")]


def test_a_claim_that_only_a_ready_lease_could_answer_is_refused_behind_a_damaged_journal():
    box = Box(LLM)
    request = box.ask("llm", wait_ready=False)
    box.kernel = Kernel(box.kernel.state)
    box.feed(Started("boot", box.at_ms, "test", first=False, safe_mode="a bad record"))
    claim = box.claim(request, wait_ready=True, ready_timeout_ms=1_000)
    box.advance(MINUTE_S)

    assert box.code(claim) == "journal_damaged"
    assert box.state.lease_of("llm") is not None


def test_no_window_opens_again_while_shutting_down():
    box = Box(LLM, TTS)
    holder = box.lease("llm")
    box.ask("tts", on_busy="ticket")
    box.release(holder)
    assert box.state.windows
    box.feed(EngineLost("gone"))
    box.feed(ShutDown("terminated"))

    assert box.feed(EngineSnapshot(tuple(box.engine.values()))) == []


def test_room_is_not_verified_by_what_was_read_before_the_others_were_gone():
    box = Box(LLM, TTS)
    box.release(box.lease("llm"))
    box.ask("tts")
    # Past the box, which reads the memory as soon as that is wanted.
    box.kernel.feed(box.now, ActionDone("llm-main", "stop", "done"))
    box.kernel.feed(box.now, ContainerSeen(replace(box.engine["llm-main"], status="exited")))
    phases = [phase_after(box, used_mib) for used_mib in (None, 20_000, 300)]

    assert phases == ["making_room", "making_room", "starting"]


def phase_after(box: Box, used_mib: int | None) -> str:
    if used_mib is not None:
        box.kernel.feed(box.now, VramRead((replace(GPU, used_mib=used_mib),)))
    lease = box.state.lease_of("tts")
    assert lease is not None
    return lease.phase


def test_a_dirty_gpu_is_read_on_and_opens_with_what_an_idle_driver_keeps():
    box = Box(LLM, TTS)
    box.release(box.lease("llm"))
    box.feed(VramRead((Gpu("SIM-0", total_mib=24_576, used_mib=20_000),)))
    stuck = box.ask("tts", ready_timeout_ms=10_000)
    box.obey()
    box.advance(20)
    assert box.code(stuck) == "target_timeout"
    assert box.state.observed.memory_wanted, "nobody has a lease, and the GPU is read all the same"
    box.feed(VramRead((Gpu("SIM-0", total_mib=24_576, used_mib=300),)))

    assert not box.state.observed.dirty


def test_equal_ranks_are_served_in_the_order_of_arrival():
    box = Box(LLM, aging_per_minute=1.0)
    box.lease("llm")
    # One point of priority is one minute of waiting, whatever the minute.
    for minute in range(40):
        box.at_ms = 1_001 + minute * MINUTE_S * 1000
        box.ask(None, on_busy="ticket", priority=minute)

    assert [ticket.order for ticket in box.state.queue] == sorted(ticket.order for ticket in box.state.queue)


def test_a_key_whose_lease_failed_after_its_answer_gets_no_second_one():
    box = Box(LLM)
    request = box.ask("llm", scope="key", body="body", wait_ready=False)
    assert granted(box, request).state == "starting"
    box.feed(ActionDone("llm-main", "start", "refused", "no such file"))
    again = box.ask("llm", scope="key", body="body", wait_ready=False)

    assert box.code(again) == "lease_ended"
    assert isinstance(box.replies[again], Refused)


def test_every_holder_of_a_target_that_was_restarted_had_its_answer():
    box = Box(replace(LLM, max_holders=2))
    box.lease("llm")
    second = box.ask("llm", scope="key", body="body")
    assert granted(box, second).state == "ready"
    box.show("llm-main", status="exited", health="none", exit_code=1, run="")

    assert box.code(box.claim(1, refresh=True, target="llm")) == ""
    box.feed(ActionDone("llm-main", "start", "refused", "no such file"))

    assert box.code(box.ask("llm", scope="key", body="body")) == "lease_ended"


def test_what_is_left_of_a_target_on_another_gpu_is_waited_for_and_does_not_come_into_its_right():
    first, second = Gpu("SIM-0", total_mib=24_576), Gpu("SIM-1", index=1, total_mib=24_576)
    box = Box(LLM, replace(TTS, devices=("1",)), gpus=(first, second))
    box.lease("tts")
    box.start("llm-main")
    (kill,) = box.take()
    process = GpuProcess(pid=7, used_mib=8_000, container="llm-main")
    box.feed(VramRead((replace(first, used_mib=0), replace(second, used_mib=8_000, processes=(process,)))))
    request = box.ask("llm")

    (lease,) = box.state.holders_of("llm")
    assert (lease.gpus, lease.phase) == (("SIM-0",), "making_room")
    box.exit("llm-main", 137)
    box.done(kill)
    box.obey()
    assert granted(box, request).state == "ready"


def test_a_reading_from_before_the_engine_was_lost_says_nothing_of_what_ran_meanwhile():
    box = Box(LLM, TTS)
    box.release(box.lease("tts"))
    box.ask("llm")
    box.feed(VramRead((replace(GPU, used_mib=20_000),)))
    box.obey()
    (lease,) = box.state.holders_of("llm")
    box.feed(EngineLost("the engine does not answer"))
    box.feed(VramRead((GPU,)))
    box.kernel.feed(box.now, EngineSnapshot(tuple(box.engine.values())))

    assert box.state.durable.leases[lease.id].phase == "making_room"
    box.feed(VramRead((GPU,)))
    assert box.state.durable.leases[lease.id].phase == "starting"
