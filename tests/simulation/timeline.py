"""Time in the simulation: a queue of what will happen, the clocks of the machine, and scripts that run on both.

``at_ms`` is the time for which the machine has been awake; nothing happens while it is suspended. The boot clock counts
that time too, and the wall clock can be stepped. Everything is decided by the seed: the same seed, the same history.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from typing import Any

WALL_MS = 1_790_000_000_000

Script = Generator[Any, Any, None]
"""A story told in order. It yields milliseconds to sleep, or a call that takes what to call when it is done."""


class Timeline:
    """What happens at the same millisecond happens in the order in which it was asked for."""

    def __init__(self) -> None:
        self.at_ms = 0
        self.boots = 1
        self._booted_at_ms = 0
        self._suspended_ms = 0
        self._wall_step_ms = 0
        self._asked = 0
        self._queue: list[tuple[int, int, Callable[[], object]]] = []

    # ---- clocks

    def boot_ms(self) -> int:
        return self.at_ms + self._suspended_ms - self._booted_at_ms

    def wall_ms(self) -> int:
        return WALL_MS + self.at_ms + self._suspended_ms + self._wall_step_ms

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def suspend(self, for_ms: int) -> None:
        self._suspended_ms += for_ms

    def step_wall(self, by_ms: int) -> None:
        self._wall_step_ms += by_ms

    def reboot(self) -> None:
        self.boots += 1
        self._booted_at_ms = self.at_ms
        self._wall_step_ms += self._suspended_ms
        self._suspended_ms = 0

    # ---- what will happen

    def after(self, delay_ms: int, happen: Callable[[], object]) -> None:
        self._asked += 1
        heapq.heappush(self._queue, (self.at_ms + max(0, delay_ms), self._asked, happen))

    def run(self, until_ms: int) -> None:
        """Let everything happen up to ``until_ms``, and end there."""
        while self.step(until_ms):
            pass
        self.at_ms = max(self.at_ms, until_ms)

    def step(self, until_ms: int) -> bool:
        """Let the next thing happen; False if there is none up to ``until_ms``."""
        if not self._queue or self._queue[0][0] > until_ms:
            return False
        self.at_ms, _, happen = heapq.heappop(self._queue)
        happen()
        return True

    def drive(self, script: Script) -> None:
        """Begin a script, and go on with it whenever what it waited for is over."""

        def resume(value: object = None) -> None:
            try:
                wanted = script.send(value)
            except StopIteration:
                return
            if isinstance(wanted, int):
                self.after(wanted, resume)
            else:
                wanted(lambda result=None: self.after(0, lambda: resume(result)))

        self.after(0, resume)
