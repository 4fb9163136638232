"""The last words of a container, for an answer that must not wait for them: bounded in time, size and number."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

#: A status must never wait for a hung engine; a refusal that names a culprit may wait a little for its last words.
STATUS_S = 0.25
REFUSAL_S = 1.5
READ_S = 5.0
READS_MAX = 8
LINES = 20
KEPT_CHARACTERS = 16_000


class LogTails:
    """Reads log lines through ``read``. The same is read once at a time, whoever asks; at most eight reads in all."""

    def __init__(self, read: Callable[[str, int], Awaitable[str]]) -> None:
        self._read = read
        self._reading: dict[tuple[str, int], asyncio.Task[str]] = {}

    async def tail(self, container_id: str, within_s: float, lines: int = LINES) -> str:
        """Return the last log lines, or "" if they cannot be had in ``within_s``."""
        wanted = (container_id, lines)
        reading = self._reading.get(wanted)
        if reading is None:
            if len(self._reading) >= READS_MAX:
                return ""
            reading = self._reading[wanted] = asyncio.create_task(self._bounded(container_id, lines))
            reading.add_done_callback(lambda _: self._reading.pop(wanted, None))
        done, _ = await asyncio.wait((reading,), timeout=within_s)
        return reading.result() if done else ""

    async def _bounded(self, container_id: str, lines: int) -> str:
        try:
            async with asyncio.timeout(READ_S):
                return (await self._read(container_id, lines))[-KEPT_CHARACTERS:]
        except Exception as error:  # an answer is worth more than the reason why one line of it is missing
            log.debug("no log lines of %s: %s", container_id, error)
            return ""
