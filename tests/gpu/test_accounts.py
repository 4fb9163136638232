"""Who came and went between two readings: the driver's accounts, through the real pynvml in the real child process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from pynvml import c_nvmlAccountingStats_t

from supervisor.core.model import FinishedUse
from supervisor.gpu.accountant import AGAIN, Accountant
from supervisor.gpu.accounts_told import AccountsTold
from supervisor.gpu.reading import Limits
from supervisor.gpu.wire import Account, Accounts, Request, Seen
from tests.gpu.nvml_stub import Stub, reading

MIB = 2**20
AT_MS = 1_790_000_000_000
ALWAYS = Limits(accounts_s=0.0)
ON = "accounting 0 1"


def account(pid: int, *, gpu: int = 0, runs: bool = False, peak: int = 600 * MIB, at_ms: int = AT_MS) -> str:
    return f"account {gpu} {pid} {int(runs)} 38 4 {peak} {0 if runs else 900} {at_ms * 1000}"


def pids(finished: tuple[FinishedUse, ...]) -> list[int]:
    return [one.pid for one in finished]


def asked(stub: Stub) -> list[str]:
    return [call.function for call in stub.calls() if "Accounting" in call.function]


def test_who_has_ended_since_the_first_look_is_told_once_with_all_that_is_known(stub: Stub):
    stub.say(ON, account(100))
    with reading(stub, limits=ALWAYS) as readings:
        readings.next()
        stub.say(ON, account(100), account(200, peak=600 * MIB + 1), account(300, runs=True))
        told, again = readings.read(), readings.read()
        stub.say(ON, account(100), account(200), account(300))
        later = readings.read()

    assert told.finished == (
        FinishedUse(
            gpu="GPU-big", pid=200, started_wall_ms=AT_MS, ran_ms=900, peak_mib=601, gpu_percent=38, memory_percent=4
        ),
    )
    assert again.finished == (), "and 100 had ended before anybody looked"
    assert pids(later.finished) == [300], "it ran before"
    assert [gpu.accounting for gpu in told.gpus] == ["on", "unsupported"]
    assert told.problem == ""


def test_one_pid_is_told_again_where_it_was_used_again(stub: Stub):
    stub.say(ON)
    with reading(stub, limits=ALWAYS) as readings:
        readings.next()
        stub.say(ON, account(100))
        first = readings.read()
        stub.say(ON, account(100), account(100, runs=True, at_ms=AT_MS + 5_000))
        meanwhile = readings.read()
        stub.say(ON, account(100, at_ms=AT_MS + 5_000))
        second = readings.read()

    assert [one.started_wall_ms for one in first.finished + meanwhile.finished + second.finished] == [
        AT_MS,
        AT_MS + 5_000,
    ]


def test_an_account_that_is_overwritten_before_it_is_read_is_left_out(stub: Stub):
    stub.say(ON)
    with reading(stub, limits=ALWAYS) as readings:
        readings.next()
        stub.say(ON, "overwritten 0 500", account(100))
        told = readings.read()

    assert (pids(told.finished), told.problem) == ([100], "")


def test_what_the_driver_does_not_say_is_not_made_up(stub: Stub):
    stub.say(ON)
    with reading(stub, limits=ALWAYS) as readings:
        readings.next()
        stub.say(ON, f"account 0 100 0 4294967295 4294967295 -1 900 {AT_MS * 1000}")
        (one,) = readings.read().finished

    assert (one.peak_mib, one.gpu_percent, one.memory_percent) == (None, None, None)


@pytest.mark.parametrize(
    ("state", "accounting"),
    [
        pytest.param([], "unsupported", id="the card keeps none"),
        pytest.param(["accounting 0 0", account(100)], "off", id="off, though old accounts are left"),
        pytest.param(["fail nvmlDeviceGetAccountingMode 0 4", ON], "denied", id="whether it does may not be asked"),
        pytest.param(["fail nvmlDeviceGetAccountingPids 0 4", ON], "denied", id="whose may not be asked"),
        pytest.param(["fail nvmlDeviceGetAccountingStats 0 4", ON, account(100)], "denied", id="what may not be asked"),
        pytest.param(["fail nvmlDeviceGetAccountingMode 0 13"], "unsupported", id="an old driver"),
    ],
)
def test_no_accounts_are_a_state_and_no_error(state: list[str], accounting: str, stub: Stub):
    stub.say(*state)
    with reading(stub, limits=ALWAYS) as readings:
        first, second = readings.next(), readings.read()

    for seen in (first, second):
        assert seen.gpus[0].accounting == accounting
        assert (seen.gpus[0].state, seen.gpus[0].detail, seen.problem, seen.finished) == ("ok", "", "", ())


def test_nobody_turns_the_accounts_on(stub: Stub):
    stub.say("accounting 0 0")
    with reading(stub, limits=ALWAYS) as readings:
        readings.next()
        stub.say(ON)
        readings.read()

    assert set(asked(stub)) == {
        "nvmlDeviceGetAccountingMode",
        "nvmlDeviceGetAccountingBufferSize",
        "nvmlDeviceGetAccountingPids",
    }


def test_what_was_refused_is_not_asked_again_at_once(stub: Stub):
    stub.say("fail nvmlDeviceGetAccountingMode 0 4", "fail nvmlDeviceGetAccountingMode 1 4")
    with reading(stub, limits=ALWAYS) as readings:
        readings.next()
        stub.forget_calls()
        readings.read()

    assert asked(stub) == []


def test_accounts_that_fail_are_said_and_read_again(stub: Stub):
    stub.say(ON)
    with reading(stub, limits=ALWAYS) as readings:
        readings.next()
        stub.say(ON, account(100), "fail nvmlDeviceGetAccountingStats 0 999")
        failed = readings.read()
        stub.say(ON, account(100))
        healed = readings.read()

    assert failed.gpus[0].accounting == "unknown"
    assert 'nvmlDeviceGetAccountingStats says "Unknown Error"' in failed.problem
    assert (pids(healed.finished), healed.problem) == ([100], "")


def test_a_gpu_that_is_lost_while_its_accounts_are_read_is_lost(stub: Stub):
    stub.say(ON, account(100), "fail nvmlDeviceGetAccountingStats 0 15")
    with reading(stub, limits=ALWAYS) as readings:
        seen = readings.read()

    assert (seen.gpus[0].state, seen.gpus[0].accounting) == ("lost", "unknown")


def test_they_are_read_every_few_seconds_and_not_with_every_reading(stub: Stub):
    stub.say(ON, account(100))
    with reading(stub) as readings:
        readings.next()
        stub.forget_calls()
        readings.read()

    assert asked(stub) == ["nvmlDeviceGetAccountingMode"]


def test_a_child_that_is_replaced_tells_nobody_twice_and_misses_nobody(stub: Stub):
    stub.say(ON)
    with reading(stub, limits=Limits(accounts_s=0.0, pause_s=0.0)) as readings:
        readings.next()
        stub.say(ON, account(100))
        before = readings.read()
        os.kill(stub.pids()[-1], signal.SIGKILL)
        stub.say(ON, account(100), account(200))
        after = readings.read()

    assert (pids(before.finished), pids(after.finished)) == ([100], [200])
    assert len(stub.pids()) == 2


# ---- thousands of them


class Driver:
    """A ring of accounts, all of processes that have ended; it counts what it is asked for."""

    def __init__(self) -> None:
        self.accounts: dict[int, int] = {}
        self.asked: list[int] = []
        self.at_s = 0.0
        self.takes_s = 0.0

    def call(self, name: str, _gpu: int, _handle: object, pid: int = 0) -> Any:
        self.at_s += self.takes_s
        match name:
            case "nvmlDeviceGetAccountingMode":
                return 1
            case "nvmlDeviceGetAccountingPids":
                return list(self.accounts)
        self.asked.append(pid)
        stats = c_nvmlAccountingStats_t()
        stats.startTime = self.accounts[pid]
        return stats


@pytest.fixture
def look() -> tuple[Driver, Callable[[], Accounts]]:
    driver = Driver()
    accountant = Accountant(driver.call, lambda: driver.at_s)
    request = Request(off_s=300.0, refresh_s=30.0, accounts_s=0.0)

    def once() -> Accounts:
        driver.asked.clear()
        return accountant.look(0, None, request)

    return driver, once


def test_a_full_ring_is_not_read_whole_each_time_and_each_pid_s_second_use_is_found(look):
    driver, once = look
    driver.accounts = dict.fromkeys(range(4_000), 1)
    assert len(once().ended) == 4_000

    driver.accounts[3_999] = 2
    found: list[Account] = []
    for _look in range(4_000 // AGAIN):
        found += once().ended
        assert len(driver.asked) == AGAIN

    assert [(one.pid, one.started_us) for one in found] == [(3_999, 2)]


def test_a_slow_driver_keeps_a_look_short_and_the_rest_is_for_the_next(look):
    driver, once = look
    driver.accounts = dict.fromkeys(range(10), 1)
    driver.takes_s = 0.3
    first, second, third, fourth = once(), once(), once(), once()

    assert (first.whole, second.whole, third.whole) == (False, False, False)
    assert fourth.whole is False, "it reads the known ones again"
    assert sorted(one.pid for seen in (first, second, third, fourth) for one in seen.ended) == list(range(10))


def test_a_first_look_that_was_cut_short_goes_on_to_be_what_was_before():
    told = AccountsTold()

    def seen(*pids: int, whole: bool) -> list[int]:
        ended = tuple(
            Account(pid=pid, started_us=1, ran_ms=1, peak_b=None, gpu_percent=None, memory_percent=None) for pid in pids
        )
        return [
            one.pid
            for one in told.news(Seen(index=0, uuid="GPU-a", accounts=Accounts(state="on", ended=ended, whole=whole)))
        ]

    assert seen(1, 2, whole=False) == []
    assert seen(3, whole=True) == []
    assert seen(3, 4, whole=True) == [4]


def test_a_driver_with_an_impossible_clock_breaks_nothing():
    told = AccountsTold()
    account = Account(pid=1, started_us=2**64 - 1, ran_ms=2**64 - 1, peak_b=None, gpu_percent=None, memory_percent=None)
    for ended in ((), (account,)):
        found = list(told.news(Seen(index=0, uuid="GPU-a", accounts=Accounts(state="on", ended=ended))))

    assert found[0].ended_wall_ms < 253_402_300_800_000, "the year 10000"
