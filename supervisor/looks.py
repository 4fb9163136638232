"""When the processes on the GPUs are looked at: in a thread, one look at a time, and never waited for.

Reading ``/proc`` of a process blocks while it holds its memory map (a core dump, a stuck driver), so it is never done
by the task that owns the state.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from supervisor.core.inputs import Sent
from supervisor.core.model import FinishedUse, Gpu

log = logging.getLogger(__name__)
Seen = TypeVar("Seen")
Seen_co = TypeVar("Seen_co", covariant=True)

#: How often is looked, though the GPUs list the same processes as before: what they do, and who holds a lease, changes.
EVERY_S = 15.0
#: While a look hangs, the oldest of those that have ended are forgotten: as many as the driver's own accounts hold.
FINISHED_MAX = 4_096


class ProcessPort(Protocol[Seen_co]):
    """The processes behind what a GPU lists. Both calls block."""

    def look(self, gpus: Sequence[Gpu]) -> tuple[Seen_co, ...]:
        """Return what is known of every process on ``gpus``; those that are gone by now are left out."""

    def terminate(self, pid: int, started: int, signal: int) -> Sent:
        """Send ``signal`` to exactly that process, and return what came of it."""


class Looks(Generic[Seen]):
    """Looks every ``EVERY_S``, and at once when other processes than before are listed, or some have ended.

    ``tell`` takes what was seen, in the thread that looked, and after it who had ended before that look: whether they
    were seen while they ran is known then.
    """

    def __init__(
        self, port: ProcessPort[Seen], tell: Callable[[tuple[Seen, ...], tuple[FinishedUse, ...]], None]
    ) -> None:
        self._port, self._tell = port, tell
        self._finished: deque[FinishedUse] = deque(maxlen=FINISHED_MAX)
        self._under_way = False
        self._looked_at_s = -math.inf
        self._listed: frozenset[tuple[str, int, int]] = frozenset()

    def hand_in(self, finished: Sequence[FinishedUse]) -> None:
        """Have the next look tell of processes that have ended."""
        self._finished += finished

    def due_at_s(self, gpus: Sequence[Gpu]) -> float:
        """Return when to look next, in ``time.monotonic()``; never while a look is under way."""
        if self._under_way:
            return math.inf
        return 0.0 if self._finished or _listed(gpus) != self._listed else self._looked_at_s + EVERY_S

    def look_if_due(self, gpus: Sequence[Gpu]) -> None:
        """Start a look if one is due. Returns at once."""
        if time.monotonic() < self.due_at_s(gpus):
            return
        self._under_way, self._listed, self._looked_at_s = True, _listed(gpus), time.monotonic()
        # A thread of its own and no pool: one that hangs in the kernel must keep neither others nor our end waiting.
        finished = tuple(self._finished)
        self._finished.clear()
        threading.Thread(target=self._look, args=(tuple(gpus), finished), name="gpu-processes", daemon=True).start()

    def _look(self, gpus: tuple[Gpu, ...], finished: tuple[FinishedUse, ...]) -> None:
        try:
            seen = self._port.look(gpus)
        except Exception:
            # Ours, not the machine's: said out loud, and tried again when the next look is due.
            log.exception("looking at the processes on the GPUs failed")
            return
        finally:
            self._under_way = False
        self._tell(seen, finished)


def _listed(gpus: Sequence[Gpu]) -> frozenset[tuple[str, int, int]]:
    return frozenset((gpu.uuid, process.pid, process.started) for gpu in gpus for process in gpu.processes or ())
