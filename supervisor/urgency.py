"""The supervisor's threads go before all others for moments: while something starts that it may have to kill.

In a burst of starts every processor is busy, and who kills waits for one: 300 ms at p99 from a start event to the
last instruction, where few are enough. So the thread that hears of starts has the lowest of the real-time priorities,
and from each start on, for ``HASTE_S``, all threads of this process have: who holds the interpreter's lock meanwhile
would hold up the others. That takes CAP_SYS_NICE (or RLIMIT_RTPRIO); where the kernel refuses it, all stays as it was.
Not all the time: what the disk and the network do for us is done by ordinary threads of the kernel, and would wait for
us (a third fewer leases and renewals in a second, on two processors).

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
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)

HASTE_S, BUSY_S, REST_S = 0.5, 0.2, 1.0
PRIORITY = 1


class Urgency:
    """Belongs to the loop of the main thread: signals are taken there. Nothing happens before ``start``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners: set[int] = set()
        self._able = self._risen = self._told = False
        self._rests_until_s = self._until_s = 0.0
        self._calming: asyncio.TimerHandle | None = None

    def start(self) -> str:
        """Be ready to go before others. Returns why that cannot be, or ""."""
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return "whoever started it has chosen how it is scheduled"
        # The signal first: nobody who takes none survives it.
        signal.signal(signal.SIGXCPU, self._too_busy)
        try:
            self._limit()
        except (OSError, ValueError) as error:
            return f"without a limit on it that would not be safe: {error}"
        try:
            _go_first([threading.get_native_id()])
        except OSError as error:
            return f"{error.strerror} (it takes CAP_SYS_NICE)"
        _be_ordinary(_threads())
        self._able = True
        return ""

    def close(self) -> None:
        """Go before nobody any more: what is left to do is not urgent."""
        self._able = False
        if self._calming is not None:
            self._calming.cancel()
        _be_ordinary(_threads() if self._risen else self._listeners)

    # ---- from any thread

    def listen(self) -> None:
        """Say that this thread hears first of what starts."""
        me = threading.get_native_id()
        self._listeners.add(me)
        if self._may():
            _go_first([me])

    def hurry(self) -> None:
        """Say that something starts just now."""
        self._until_s = time.monotonic() + HASTE_S
        if self._may() and not self._risen:
            self._risen = True
            _go_first(_threads())
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._calm)

    # ---- in the loop

    def _may(self) -> bool:
        return self._able and time.monotonic() >= self._rests_until_s

    def _calm(self) -> None:
        """Be ordinary again once nothing has started for a while."""
        left_s = self._until_s - time.monotonic()
        if left_s > 0 and self._able:
            self._calming = self._loop.call_later(left_s, self._calm)
        elif self._risen:
            self._risen = False
            _be_ordinary(_threads() - self._listeners)

    def _limit(self) -> None:
        """Ask for the signal. The kernel moves the limit each time that it sends one."""
        _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
        resource.setrlimit(resource.RLIMIT_RTTIME, (round(BUSY_S * 1e6), hard))

    def _too_busy(self, _number: int, _frame: FrameType | None) -> None:
        self._rests_until_s = time.monotonic() + REST_S
        self._risen = False
        _be_ordinary(_threads())
        self._limit()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._rest)

    def _rest(self) -> None:
        if not self._told:
            self._told = True
            log.info("a thread needed a processor for %g s at once: none goes before others for %g s", BUSY_S, REST_S)
        self._loop.call_later(REST_S, self._listen_again)

    def _listen_again(self) -> None:
        if self._may():
            _go_first(self._listeners)


def _threads() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def _go_first(threads: Collection[int]) -> None:
    _schedule(threads, os.SCHED_RR, PRIORITY)


def _be_ordinary(threads: Collection[int]) -> None:
    """Always allowed."""
    _schedule(threads, os.SCHED_OTHER, 0)


def _schedule(threads: Collection[int], policy: int, priority: int) -> None:
    for thread in tuple(threads):
        with suppress(ProcessLookupError):
            os.sched_setscheduler(thread, policy, os.sched_param(priority))
