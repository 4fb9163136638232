"""When what failed on the line is tried again, and for how long. Pure but for the clock and the dice it is given."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from supervisor.client.errors import Refused, SupervisorError, Unreachable

FIRST_S = 0.1
LONGEST_S = 2.0
#: Refusals that say nothing of the request: the server is about to be back.
NOT_NOW = frozenset({"shutting_down", "overloaded", "request_timeout"})


def read_clock_s() -> float:
    """Return seconds that count while the machine sleeps, too: a lease does not outlive a closed laptop."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Retries:
    """How what failed is repeated, for everything that one client asks.

    Args:
        cut_s: For how many seconds after its first failure a request is tried again.
        clock: Seconds that only grow.
        chance: A number from 0 to 1, so that not everybody comes back at the same moment.
    """

    def __init__(
        self,
        cut_s: float,
        *,
        clock: Callable[[], float] = read_clock_s,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.cut_s = cut_s
        self.clock = clock
        self.chance = chance
        #: Whether a server ever answered. One that never did is not about to come back: it is not there.
        self.met = False

    def backoff(self) -> Backoff:
        return Backoff(self.chance)

    def worth_it(self, error: SupervisorError, *, once: bool) -> bool:
        """Return whether the same request may be sent again after ``error``, right now.

        ``once``: not where it may have been carried out already.
        """
        if isinstance(error, Unreachable):
            return not (once and error.asked) and (self.met or error.asked)
        return isinstance(error, Refused) and error.code in NOT_NOW


class Backoff:
    """Pauses that double from 0.1 to 2 s, each shortened by up to half by chance; never none, never an end."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._next_s = FIRST_S

    def pause_s(self) -> float:
        pause_s, self._next_s = self._next_s, min(LONGEST_S, self._next_s * 2)
        return pause_s * (1 - self._chance() / 2)

    def reset(self) -> None:
        self._next_s = FIRST_S
