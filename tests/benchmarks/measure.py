"""Figures, and what they are held against. A row is a ratio of two things that took turns on one machine.

Nothing in here asserts anything: a slow machine is no error. ``Goal`` says what is wanted, and the table whether it is
so here and now.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from msgspec import Struct


def observe_at_once() -> None:
    """Have the calling thread wait for no processor, where the kernel lets it: one that does measures its own wait.

    For who only notes when something happened, on behalf of every side.
    """
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that ``percent`` of all are not above (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class Figures(Struct, frozen=True):
    """What one side did: a figure for each repetition, in the row's unit."""

    name: str
    each: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.each)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.each), max(self.each)


class Goal(Struct, frozen=True):
    """What is wanted of a row, in words; ``reached`` None: what it is held against is not on this machine.

    ``at_best``: what could be reached with the least that anything like it has to do, where that was measured too.
    """

    words: str
    reached: bool | None
    at_best: float | None = None

    def said(self, verdict: str) -> str:
        limit = f" (at best {self.at_best:.2f} x)" if self.reached is False and self.at_best is not None else ""
        return f"{self.words}: {verdict}{limit}"


class Result(Struct, frozen=True, kw_only=True):
    """One line of the table. ``peers``: other people's programs that took turns with it."""

    row: str
    what: str
    unit: str
    subject: Figures
    floor: Figures | None = None
    peers: tuple[Figures, ...] = ()
    goals: tuple[Goal, ...] = ()
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return over(self.subject, self.floor)


def over(subject: Figures, other: Figures | None) -> float | None:
    """Return how often ``other`` goes into ``subject``, by their medians; None where there is nothing to divide by."""
    return subject.median / other.median if other is not None and other.median else None


def at_least(
    times: float, subject: Figures, other: Figures | None, of: str = "the floor", *, at_best: Figures | None = None
) -> Goal:
    return _times(
        f">= {times:g} x {of}", lambda ratio: ratio >= times, over(subject, other), at_best and over(at_best, other)
    )


def at_most(
    times: float, subject: Figures, other: Figures | None, of: str = "the floor", *, at_best: Figures | None = None
) -> Goal:
    return _times(
        f"<= {times:g} x {of}", lambda ratio: ratio <= times, over(subject, other), at_best and over(at_best, other)
    )


def _times(words: str, is_enough: Callable[[float], bool], ratio: float | None, at_best: float | None) -> Goal:
    return Goal(words, None if ratio is None else is_enough(ratio), at_best)


def at_most_more(much: float, unit: str, subject: Figures, floor: Figures) -> Goal:
    return Goal(f"<= the floor + {much:g} {unit}", subject.median - floor.median <= much)


def below(limit: float, unit: str, subject: Figures) -> Goal:
    return Goal(f"<= {limit:g} {unit}", subject.median <= limit)


def take_turns(
    repetitions: int, sides: Mapping[str, Callable[[], float]], *, warm_up: bool = True
) -> dict[str, Figures]:
    """Measure all sides once, then all of them again, and so on: what disturbs the machine disturbs them alike.

    The first turn of each is thrown away where ``warm_up`` says so: caches are cold and files new.
    """
    each: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repetitions + warm_up):
        for name, measure in sides.items():
            figure = measure()
            if turn >= warm_up:
                each[name].append(figure)
    return {name: Figures(name, figures) for name, figures in each.items()}
