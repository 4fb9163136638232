"""The supervisor's threads go before all others, for as long as each needs a processor for moments only.

In a burst of starts every processor is busy, and who kills waits for one: 300 ms at p99 from a start event to the
last instruction, where few are enough. So all threads of this process get the lowest of the real-time priorities, which
takes CAP_SYS_NICE (or RLIMIT_RTPRIO); where the kernel refuses that, all stays as it was. All of them, and not only
those that kill: who holds the interpreter's lock meanwhile holds them up.

Nobody else may suffer from it. The kernel says so when a thread goes on for ``BUSY_S`` without a wait (RLIMIT_RTTIME,
SIGXCPU), as under a flood of requests; then all threads are ordinary ones, for ``REST_S``. A child begins as its parent
is: that of ``supervisor.gpu.child`` gives it up first of all.

Source: sched(7); setrlimit(2); kernel/time/posix-cpu-timers.c, ``check_thread_timers``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)

BUSY_S, REST_S = 0.2, 1.0
PRIORITY = 1


class Urgency:
    """Belongs to the loop of the main thread: signals are taken there."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._risen = self._told = False

    def start(self) -> str:
        """Go before others from now on; threads that are started later do so too. Returns why not, or ""."""
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return "whoever started it has chosen how it is scheduled"
        # The signal first: nobody who takes none survives it.
        signal.signal(signal.SIGXCPU, self._too_busy)
        try:
            self._limit()
        except (OSError, ValueError) as error:
            return f"without a limit on it that would not be safe: {error}"
        try:
            self._rise()
        except OSError as error:
            return f"{error.strerror} (it takes CAP_SYS_NICE)"
        return ""

    def close(self) -> None:
        """Go before nobody any more: what is left to do is not urgent."""
        if self._rest is not None:
            self._rest.cancel()
        if self._risen:
            _be_ordinary()

    def _limit(self) -> None:
        """Ask for the signal. The kernel moves the limit each time that it sends one."""
        _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
        resource.setrlimit(resource.RLIMIT_RTTIME, (round(BUSY_S * 1e6), hard))

    def _rise(self) -> None:
        self._risen = True
        _schedule_all(os.SCHED_RR, PRIORITY)

    def _too_busy(self, _number: int, _frame: FrameType | None) -> None:
        _be_ordinary()
        self._limit()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._rest_a_while)

    def _rest_a_while(self) -> None:
        if not self._told:
            self._told = True
            log.info("a thread needed a processor for %g s at once: none goes before others for %g s", BUSY_S, REST_S)
        if self._rest is not None:
            self._rest.cancel()
        self._rest = self._loop.call_later(REST_S, self._rise)


def _be_ordinary() -> None:
    """Always allowed."""
    _schedule_all(os.SCHED_OTHER, 0)


def _schedule_all(policy: int, priority: int) -> None:
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))
