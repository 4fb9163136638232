"""Times as people and programs outside see them: wall time, from supervisor time where that is all there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(wall_ms: int) -> str:
    """Return Unix milliseconds as RFC 3339 in UTC with milliseconds: ``2026-11-21T10:00:00.000Z``."""
    seconds, ms = divmod(wall_ms, 1000)
    return f"{_to_the_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=4_096)
def _to_the_second(seconds: int) -> str:
    # isoformat, and not strftime: a queue of ten thousand has as many times in it.
    return (EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds").removesuffix("+00:00")


def epoch_s(wall_ms: int) -> int:
    """Return Unix milliseconds as whole seconds, rounded down: a promise is rather broken off early than late."""
    return wall_ms // 1000
