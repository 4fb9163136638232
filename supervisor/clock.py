"""Supervisor time: milliseconds that only grow, across restarts, suspends, reboots and steps of the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from supervisor.core.model import Now
from supervisor.core.state import Durable


def read_boot_id() -> str:
    """Return the kernel's id of this boot (Linux: /proc/sys/kernel/random/boot_id)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_boot_ms() -> int:
    """Return milliseconds since boot. CLOCK_BOOTTIME counts suspend, and no wall-clock step moves it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def read_wall_ms() -> int:
    return time.time_ns() // 1_000_000


#: The two clocks are read one after the other and cut to whole milliseconds: so far apart they are as they were.
JITTER_MS = 2


class Clock:
    """In the boot of the last journalled start, time is the boot clock plus a constant; in another one it goes on
    from the last journalled time, plus what the wall clock says has passed, if that is positive.
    """

    def __init__(
        self,
        durable: Durable,
        boot_id: str,
        boot_ms: Callable[[], int] = read_boot_ms,
        wall_ms: Callable[[], int] = read_wall_ms,
    ) -> None:
        self.boot_id = boot_id
        self._boot_ms = boot_ms
        self._wall_ms = wall_ms
        if durable.boot_id == boot_id:
            self._offset_ms = durable.boot_offset_ms
        else:
            gap_ms = max(0, wall_ms() - durable.time_wall_ms) if durable.boot_id else 0
            self._offset_ms = durable.time_ms + gap_ms - boot_ms()
        self._last_ms = durable.time_ms
        self._wall_offset_ms = wall_ms() - self._last_ms

    def boot_ms(self) -> int:
        return self._boot_ms()

    def now(self) -> Now:
        """Return this instant. Until the wall clock is set, one supervisor time belongs to one wall time, always."""
        self._last_ms = max(self._last_ms, self._boot_ms() + self._offset_ms)
        wall_offset_ms = self._wall_ms() - self._last_ms
        if abs(wall_offset_ms - self._wall_offset_ms) > JITTER_MS:
            self._wall_offset_ms = wall_offset_ms
        return Now(self._last_ms, self._last_ms + self._wall_offset_ms)
