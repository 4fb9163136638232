"""What is remembered of the last day: who held each GPU, and how much of it was in use.

Holds come from the audit, so a restart forgets none of them; memory is sampled while the supervisor runs.
"""

from __future__ import annotations

import asyncio

from supervisor.api.samples import DAY_MS, Samples
from supervisor.api.timeline import Held, Timeline
from supervisor.core.model import Now
from supervisor.ports import Desk

#: How often the last reading is looked at: finer than a point, so that a point holds the most that was in use in it.
LOOK_S = 2.0
#: How many facts a look goes back at most: some two thousand hand-overs.
FACTS_MAX = 20_000


class Past:
    """What is remembered for the history. One for a supervisor; all of it belongs to the loop that owns the state."""

    def __init__(self) -> None:
        self.samples = Samples()
        self.timeline = Timeline()

    async def follow(self, desk: Desk) -> None:
        """Sample the GPUs for ever."""
        while True:
            now, gpus = await desk.read(lambda state, now: (now, state.observed.gpus))
            self.samples.take(now.at_ms, gpus)
            await asyncio.sleep(LOOK_S)

    async def catch_up(self, desk: Desk, newest: int) -> None:
        """Take the facts up to ``newest``. Callers may do so at once: what was taken is passed over."""
        if newest - self.timeline.seq > FACTS_MAX:
            self.timeline.skip_to(newest - FACTS_MAX)
        for seq, fact in await desk.history(self.timeline.seq, newest - self.timeline.seq, None):
            self.timeline.take(seq, fact)

    def holds(self, now: Now, open_now: list[Held], span_ms: int) -> list[Held]:
        """Return the holds of a span, by their beginning. The state says who holds; the audit says who did."""
        self.timeline.forget(now.at_ms - DAY_MS)
        begins = now.at_ms - span_ms
        over = [held for held in self.timeline.ended if held.ended_ms is not None and held.ended_ms >= begins]
        ended = {(*held.key, held.began_ms) for held in over}
        still = [held for held in open_now if (*held.key, held.began_ms) not in ended]
        return sorted([*over, *still], key=lambda held: held.began_ms)
