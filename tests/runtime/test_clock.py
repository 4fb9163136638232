"""Supervisor time only grows: across restarts, suspends, reboots and steps of the wall clock."""

from __future__ import annotations

import pytest

from supervisor.clock import Clock, read_boot_id, read_boot_ms
from supervisor.core.facts import SupervisorStarted
from supervisor.core.state import Durable


class Machine:
    def __init__(self) -> None:
        self.boot, self.wall = 50_000, 1_000_000

    def clock(self, durable: Durable, boot_id: str = "boot-1") -> Clock:
        return Clock(durable, boot_id, lambda: self.boot, lambda: self.wall)


def journalled(machine: Machine, clock: Clock, boot_id: str = "boot-1") -> Durable:
    """What a journal holds after a start that was written now."""
    now = clock.now()
    fact = SupervisorStarted(now.at_ms, now.wall_ms, boot_id, clock.boot_ms(), "v")
    return Durable(
        time_ms=fact.at_ms,
        time_wall_ms=fact.wall_ms,
        boot_id=fact.boot_id,
        boot_offset_ms=fact.at_ms - fact.boot_ms,
    )


def test_it_starts_at_zero_and_follows_the_boot_clock():
    machine = Machine()
    clock = machine.clock(Durable())
    assert clock.now().at_ms == 0
    machine.boot += 1_500
    machine.wall -= 10**9  # somebody sets the wall clock back

    assert clock.now().at_ms == 1_500


def test_in_the_same_boot_a_restart_costs_exactly_the_time_that_passed():
    machine = Machine()
    durable = journalled(machine, machine.clock(Durable()))
    machine.boot += 3_600_000
    machine.wall += 10**9

    assert machine.clock(durable).now().at_ms == 3_600_000


@pytest.mark.parametrize(("wall_gap", "passed"), [(90_000, 90_000), (-90_000, 0)], ids=["forward", "set back"])
def test_after_a_reboot_the_wall_clock_bridges_the_gap_if_it_is_positive(wall_gap, passed):
    machine = Machine()
    clock = machine.clock(Durable())
    machine.boot += 7_000
    durable = journalled(machine, clock)
    machine.boot = 12
    machine.wall += wall_gap

    assert machine.clock(durable, "boot-2").now().at_ms == 7_000 + passed


def test_it_never_goes_back_behind_what_was_journalled():
    machine = Machine()
    durable = Durable(time_ms=10_000, time_wall_ms=0, boot_id="boot-1", boot_offset_ms=-50_000)

    assert machine.clock(durable).now().at_ms == 10_000


def test_the_real_clocks_can_be_read():
    assert len(read_boot_id()) == 36
    assert read_boot_ms() > 0


def test_a_moment_is_told_in_the_same_words_until_the_wall_clock_is_set():
    machine = Machine()
    clock = machine.clock(Durable())
    told = {clock.now().wall_of(60_000)}
    for ahead in (1, 0, 1, 2):  # cut to whole milliseconds one after the other, the clocks are not always as far apart
        machine.boot += 1_000
        machine.wall = 1_000_000 + (machine.boot - 50_000) + ahead
        told.add(clock.now().wall_of(60_000))
    assert len(told) == 1

    machine.wall += 5_000
    assert clock.now().wall_of(60_000) == told.pop() + 5_002
