"""When the processes on the GPUs are looked at: often enough, one look at a time, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from supervisor.core.model import FinishedUse, Gpu, GpuProcess
from supervisor.looks import EVERY_S, Looks

NOBODY = (Gpu("GPU-0", processes=()),)
SILENT = (Gpu("GPU-0", processes=None),)


def listed(*pids: int, started: int = 7) -> tuple[Gpu, ...]:
    return (Gpu("GPU-0", processes=tuple(GpuProcess(pid=pid, started=started) for pid in pids)),)


class Machine:
    """Looks as long as the test wants, on a clock of the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_s = 1_000.0
        self.fails = False
        self.looked: list[tuple[Gpu, ...]] = []
        self.told: list[tuple[int, ...]] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.finished: list[int] = []
        self.looks: Looks[int] = Looks(self, self.tell)
        monkeypatch.setattr(time, "monotonic", lambda: self.at_s)

    def look(self, gpus: Sequence[Gpu]) -> tuple[int, ...]:
        self.looked.append(tuple(gpus))
        assert self.may_end.wait(20)
        if self.fails:
            raise OSError("no /proc")
        return tuple(process.pid for gpu in gpus for process in gpu.processes or ())

    def tell(self, seen: tuple[int, ...], finished: tuple[FinishedUse, ...]) -> None:
        self.told.append(seen)
        self.finished += (use.pid for use in finished)

    def terminate(self, pid: int, started: int, signal: int) -> str:
        raise AssertionError("nothing is terminated here")

    def look_now(self, gpus: tuple[Gpu, ...]) -> int:
        """Look if that is due, wait for its end, and return how often was looked so far."""
        self.looks.look_if_due(gpus)
        for thread in threading.enumerate():
            if thread.name == "gpu-processes":
                thread.join(20)
        return len(self.looked)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(monkeypatch)
    yield made
    made.may_end.set()


def test_what_a_look_saw_is_told(machine):
    machine.look_now(listed(5, 6))

    assert machine.told == [(5, 6)]


@pytest.mark.parametrize(
    ("then", "again"),
    [
        pytest.param(listed(5), False, id="the same process"),
        pytest.param(listed(5, 6), True, id="one more"),
        pytest.param(NOBODY, True, id="it went"),
        pytest.param(SILENT, True, id="the driver says nothing any more"),
        pytest.param(listed(5, started=8), True, id="another process with the same pid"),
        pytest.param(
            (*listed(5), Gpu("GPU-1", index=1, processes=(GpuProcess(pid=5, started=7),))), True, id="both GPUs"
        ),
    ],
)
def test_it_looks_at_once_when_other_processes_are_listed(machine, then, again):
    machine.look_now(listed(5))
    machine.at_s += 0.1

    assert machine.look_now(then) == (2 if again else 1)


def test_it_looks_now_and_then_though_nothing_changed(machine):
    machine.look_now(NOBODY)
    machine.at_s += EVERY_S - 0.1
    assert machine.look_now(NOBODY) == 1

    machine.at_s += 0.2
    assert machine.look_now(NOBODY) == 2


def test_a_look_that_hangs_holds_up_nobody_and_no_second_one_hangs_beside_it(machine, until: Callable[..., object]):
    machine.may_end.clear()
    machine.looks.look_if_due(listed(5))
    until(lambda: machine.looked, 5, "the look")
    machine.at_s += 3_600
    machine.looks.look_if_due(listed(6))
    assert (len(machine.looked), machine.told) == (1, [])

    machine.may_end.set()
    machine.look_now(listed(6))
    assert machine.look_now(listed(6)) == 2
    assert machine.told == [(5,), (6,)]


def test_a_look_that_fails_is_said_and_tried_again(machine, caplog):
    machine.fails = True
    machine.look_now(listed(5))
    assert "looking at the processes on the GPUs failed" in caplog.text
    assert machine.told == []

    machine.fails = False
    machine.at_s += EVERY_S
    machine.look_now(listed(5))
    assert machine.told == [(5,)]


def ended(pid: int) -> FinishedUse:
    return FinishedUse(gpu="GPU-0", pid=pid, started_wall_ms=1_000, ran_ms=10)


def test_who_has_ended_is_told_once_and_at_once_though_the_list_is_the_same(machine):
    machine.look_now(NOBODY)
    machine.looks.hand_in((ended(5), ended(6)))

    assert (machine.look_now(NOBODY), machine.finished) == (2, [5, 6])
    assert (machine.look_now(NOBODY), machine.finished) == (2, [5, 6])


def test_who_has_ended_is_not_told_before_a_look_that_may_have_seen_him_is_over(machine, until: Callable[..., object]):
    machine.may_end.clear()
    machine.looks.look_if_due(listed(5))
    until(lambda: machine.looked, 5, "the look")
    machine.looks.hand_in((ended(5),))
    machine.looks.look_if_due(NOBODY)
    assert machine.finished == []

    machine.may_end.set()
    machine.look_now(NOBODY)
    machine.look_now(NOBODY)
    assert (machine.told, machine.finished) == ([(5,), ()], [5])
