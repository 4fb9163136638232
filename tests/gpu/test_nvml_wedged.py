"""A driver that hangs, crashes or was upgraded costs one child process and a sentence; nobody waits for it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from supervisor.gpu.exchange import Answer, Child
from supervisor.gpu.reading import Limits
from supervisor.gpu.wire import Request
from tests.gpu.nvml_stub import PATIENCE_S, QUICK, Stub, reading

Until = Callable[..., Any]
POWER = "nvmlDeviceGetPowerUsage"
LEFT_OUT = Limits(call_s=PATIENCE_S, slow_call_s=PATIENCE_S, pause_s=0.0, avoid_s=600.0)


def states(seen: Any) -> list[str]:
    return [gpu.state for gpu in seen.gpus]


def has_ended(pid: int, within_s: float = 10.0) -> bool:
    """Return whether a process ends in time. Whoever inherits it may never reap it: its pidfd tells all the same."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(within_s * 1000))
    finally:
        os.close(pidfd)


def is_in(stub: Stub, function: str) -> bool:
    return any(call.function == function for call in stub.calls())


# ---- hangs


def test_a_gpu_that_hangs_is_left_out_and_the_others_are_read_at_once(stub: Stub):
    with reading(stub, limits=LEFT_OUT) as readings:
        readings.next()
        stub.say(f"hang {POWER} 1")
        hung, still = readings.read(), readings.read()

    assert states(hung) == states(still) == ["ok", "unreadable"]
    assert hung.gpus[1].detail == still.gpus[1].detail == hung.problem
    assert hung.problem.startswith(
        "GPU 1 (NVIDIA Stub 8, GPU-small) does not answer: nvmlDeviceGetPowerUsage took longer than 1 s; it is asked "
        "again now and then"
    )
    first, second = stub.pids()
    assert has_ended(first)
    assert [call.gpu for call in stub.calls() if call.pid == second and call.function == POWER] == [0, 0]
    assert still.took_s < PATIENCE_S


def test_a_gpu_that_hung_is_asked_again_after_a_while(stub: Stub, until: Until):
    with reading(stub, limits=Limits(call_s=PATIENCE_S, slow_call_s=PATIENCE_S, pause_s=0.0, avoid_s=1.0)) as readings:
        readings.next()
        stub.say(f"hang {POWER} 1")
        hung = readings.read()
        stub.say()
        until(lambda: states(readings.read()) == ["ok", "ok"], 10, "the GPU that answers again")

    assert states(hung) == ["ok", "unreadable"]


def test_a_call_about_all_gpus_that_hangs_closes_all_of_them_until_it_answers(stub: Stub):
    with reading(stub, limits=QUICK) as readings:
        readings.next()
        stub.say("hang nvmlDeviceGetCount_v2 *")
        hung = readings.read()
        stub.say()
        healed = readings.read()

    assert states(hung) == ["unreadable", "unreadable"]
    assert hung.problem.startswith("the NVIDIA driver does not answer: nvmlDeviceGetCount took longer than 1 s;")
    assert (states(healed), healed.problem) == (["ok", "ok"], "")
    assert len(stub.pids()) == 2


def test_asking_never_waits_and_all_who_ask_during_a_hang_share_one_reading(stub: Stub, until: Until):
    with reading(stub, limits=QUICK) as readings:
        readings.next()
        stub.forget_calls()
        stub.say("hang nvmlDeviceGetCount_v2 *")
        readings.gpus.read_soon()
        until(lambda: is_in(stub, "nvmlDeviceGetCount_v2"), 10, "the call that hangs")
        began_s = time.monotonic()
        for _ in range(1000):
            readings.gpus.read_soon()
        took_s = time.monotonic() - began_s
        stub.say()
        hung, shared = readings.next(), readings.next()
        asked_s = time.monotonic()
        readings.gpus.read_soon()
        last = readings.next()

    assert took_s < PATIENCE_S / 2
    assert (states(hung), states(shared)) == (["unreadable"] * 2, ["ok", "ok"])
    assert began_s <= shared.began_s < asked_s <= last.began_s, "nothing was reported in between"


def test_closing_does_not_wait_for_a_call_that_hangs(stub: Stub, until: Until):
    stub.say("hang nvmlInitWithFlags *")
    with reading(stub) as readings:
        until(lambda: is_in(stub, "nvmlInitWithFlags"), 10, "the call that hangs")
        began_s = time.monotonic()
        readings.gpus.close()
        took_s = time.monotonic() - began_s

    assert took_s < Limits().slow_call_s / 2
    assert has_ended(stub.pids()[0])
    assert readings.reported.empty()


def test_a_child_that_does_not_come_up_is_replaced(stub: Stub):
    started: list[Child] = []

    def spawn(limits: Limits, closing: int, environ: Mapping[str, str]) -> Child:
        started.append(Child(limits, closing, environ))
        if len(started) == 1:
            os.kill(started[0].pid, signal.SIGSTOP)
        return started[-1]

    with reading(stub, limits=Limits(start_s=2.0, pause_s=0.0), spawn=spawn) as readings:
        stopped, after = readings.next(), readings.read()

    assert stopped.gpus == ()
    assert stopped.problem.startswith("the process that reads the GPUs does not answer: it is started again")
    assert states(after) == ["ok", "ok"]
    assert started[0].gone()


# ---- children that cannot be killed


class Unkillable(Child):
    """As one in a system call that cannot be interrupted (state D): the signal changes nothing yet."""

    def end(self) -> bool:
        return self.gone()


@pytest.fixture
def unkillable() -> Iterator[list[Unkillable]]:
    made: list[Unkillable] = []
    yield made
    for child in made:
        Child.end(child)


def test_children_that_cannot_be_killed_are_left_and_there_are_never_more_than_a_few(
    stub: Stub, unkillable: list[Unkillable]
):
    def spawn(*arguments: Any) -> Child:
        unkillable.append(Unkillable(*arguments))
        return unkillable[-1]

    stub.say("hang nvmlDeviceGetCount_v2 *")
    limits = Limits(call_s=PATIENCE_S, pause_s=0.0, stuck_max=2)
    with reading(stub, limits=limits, spawn=spawn) as readings:
        readings.next()
        readings.read()
        full, still = readings.read(), readings.read()
        pids = [child.pid for child in unkillable]
        stub.say()
        Child.end(unkillable[0])
        healed = readings.read()

    assert full.problem == still.problem
    assert full.problem.startswith(
        f"the NVIDIA driver does not answer: the processes that asked it (pids {pids[0]}, {pids[1]}) hang in the "
        "kernel and cannot be killed, and no further one is started until one of them ends"
    )
    assert len(pids) == 2
    assert full.took_s < PATIENCE_S
    assert states(healed) == ["ok", "ok"]


def test_a_gpu_is_left_out_until_the_process_that_hangs_in_it_is_gone(stub: Stub, unkillable: list[Unkillable]):
    def spawn(*arguments: Any) -> Child:
        unkillable.append(Unkillable(*arguments))
        return unkillable[-1]

    with reading(stub, limits=QUICK, spawn=spawn) as readings:
        readings.next()
        stub.say(f"hang {POWER} 1")
        hung = readings.read()
        stub.say()
        still = readings.read()
        Child.end(unkillable[0])
        healed = readings.read()

    assert states(hung) == states(still) == ["ok", "unreadable"]
    assert f"(process {unkillable[0].pid}, which asked, hangs in the kernel and cannot be killed)" in still.problem
    assert states(healed) == ["ok", "ok"]


# ---- deaths


def test_a_child_that_is_killed_between_two_readings_is_replaced_without_a_word(stub: Stub):
    with reading(stub) as readings:
        readings.next()
        os.kill(stub.pids()[0], signal.SIGKILL)
        after = readings.read()

    assert (states(after), after.problem) == (["ok", "ok"], "")
    assert len(stub.pids()) == 2


def test_a_reading_whose_child_is_killed_is_made_once_more(stub: Stub, until: Until):
    with reading(stub) as readings:
        readings.next()
        stub.forget_calls()
        stub.say(f"slow {POWER} 1 1900")
        readings.gpus.read_soon()
        until(lambda: is_in(stub, POWER) and stub.calls()[-1][1:] == (POWER, 1), 10, "the slow call")
        os.kill(stub.pids()[0], signal.SIGKILL)
        stub.say()
        after = readings.next()

    assert (states(after), after.problem) == (["ok", "ok"], "")
    assert after.took_s < 1.9, "it is the time of the second try"


def test_a_gpu_at_whose_turn_children_die_is_left_out(stub: Stub):
    with reading(stub, limits=LEFT_OUT) as readings:
        readings.next()
        stub.say(f"crash {POWER} 1")
        died, after = readings.read(), readings.read()

    assert states(died) == ["unreadable", "unreadable"]
    assert died.problem.startswith(
        "the process that reads the GPUs died in nvmlDeviceGetPowerUsage of GPU 1: it was ended by signal 6;"
    )
    assert states(after) == ["ok", "unreadable"]
    assert "does not answer: nvmlDeviceGetPowerUsage ends the process that makes it" in after.gpus[1].detail


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        pytest.param(OSError("no memory"), "cannot be started: no memory; it is tried again", id="of the system"),
        pytest.param(ValueError("odd"), "internal error: ValueError('odd')", id="of ours"),
    ],
)
def test_a_child_that_cannot_be_started_is_said_and_tried_again(error: Exception, sentence: str, stub: Stub):
    tries: list[int] = []

    def spawn(limits: Limits, closing: int, environ: Mapping[str, str]) -> Child:
        tries.append(1)
        if len(tries) <= 2:
            raise error
        return Child(limits, closing, environ)

    with reading(stub, limits=QUICK, spawn=spawn) as readings:
        first = readings.next()
        while states(later := readings.read()) != ["ok", "ok"]:
            pass

    assert first.gpus == ()
    assert sentence in first.problem
    assert (later.problem, len(tries)) == ("", 3)


def test_after_an_error_of_ours_another_child_is_asked(stub: Stub):
    made: list[Child] = []

    class Odd(Child):
        asked = 0

        def ask(self, request: Request) -> Answer:
            answer = super().ask(request)
            self.asked += 1
            if self is made[0] and self.asked == 2:
                raise ValueError("odd")
            return answer

    def spawn(*arguments: Any) -> Child:
        made.append(Odd(*arguments))
        return made[-1]

    with reading(stub, limits=QUICK, spawn=spawn) as readings:
        readings.next()
        failed, healed = readings.read(), readings.read()

    assert states(failed) == ["unreadable", "unreadable"]
    assert "internal error: ValueError('odd')" in failed.problem
    assert (states(healed), healed.problem) == (["ok", "ok"], "")
    assert stub.pids() == [child.pid for child in made]
    assert len(made) == 2


# ---- an upgraded driver


def test_a_library_that_does_not_fit_is_loaded_anew_by_another_child_before_anybody_hears_of_it(stub: Stub):
    started: list[Child] = []

    def spawn(*arguments: Any) -> Child:
        # The upgrade ends while the first child is replaced.
        if started:
            stub.say()
        started.append(Child(*arguments))
        return started[-1]

    with reading(stub, spawn=spawn) as readings:
        readings.next()
        stub.say("fail nvmlDeviceGetCount_v2 * 18")
        after = readings.read()

    assert (states(after), after.problem) == (["ok", "ok"], "")
    assert stub.pids() == [child.pid for child in started]
    assert len(started) == 2


def test_a_driver_that_stays_upgraded_is_said_and_asked_again_only_after_a_pause(stub: Stub):
    stub.say("fail nvmlInitWithFlags * 18")
    with reading(stub, limits=Limits(pause_s=600.0, pause_max_s=600.0)) as readings:
        first = readings.next()
        stub.forget_calls()
        second = readings.read()
        calls = stub.calls()

    assert first.gpus == second.gpus == ()
    assert first.problem == second.problem
    assert first.problem.startswith("the NVIDIA driver was upgraded while its kernel module was loaded")
    assert "reboot, or" in first.problem
    assert calls == []


# ---- the end of the parent

PARENT = """
import os, sys
from supervisor.gpu.probe import NvmlGpus
gpus = NvmlGpus(in_container=False)
gpus.start(lambda reading: print("read", flush=True))
sys.stdin.read()
"""


@contextmanager
def parent(stub: Stub) -> Iterator[subprocess.Popen[str]]:
    """A process that reads the GPUs once, and waits to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **stub.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def test_a_child_ends_with_its_parent(stub: Stub):
    with parent(stub) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "read\n"
        process.kill()

    assert has_ended(stub.pids()[0])


def test_a_child_that_hangs_in_the_driver_ends_with_its_parent_too(stub: Stub, until: Until):
    stub.say("hang nvmlSystemGetDriverVersion *")
    with parent(stub):
        until(lambda: is_in(stub, "nvmlSystemGetDriverVersion"), 10, "the call that hangs")
        (child,) = stub.pids()
        # Before the parent's own deadline for this call, so that nobody else kills it.
        assert not has_ended(child, within_s=0.0)

    assert has_ended(child, within_s=1.0)


def test_a_child_ends_when_the_readings_end(stub: Stub):
    with reading(stub) as readings:
        readings.next()
        readings.gpus.close()
        readings.gpus.close()

    assert has_ended(stub.pids()[0])
