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
KEPT_CHARACTERS = 16_000


class LogTails:
    """Reads log lines through ``read``. One read per container at a time, whoever asks; at most eight in all."""

    def __init__(self, read: Callable[[str], Awaitable[str]]) -> None:
        self._read = read
        self._reading: dict[str, asyncio.Task[str]] = {}

    async def tail(self, container_id: str, within_s: float) -> str:
        """Return the last log lines, or "" if they cannot be had in ``within_s``."""
        reading = self._reading.get(container_id)
        if reading is None:
            if len(self._reading) >= READS_MAX:
                return ""
            reading = self._reading[container_id] = asyncio.create_task(self._bounded(container_id))
            reading.add_done_callback(lambda _: self._reading.pop(container_id, None))
        done, _ = await asyncio.wait((reading,), timeout=within_s)
        return reading.result() if done else ""

    async def _bounded(self, container_id: str) -> str:
        try:
            async with asyncio.timeout(READ_S):
                return (await self._read(container_id))[-KEPT_CHARACTERS:]
        except Exception as error:  # an answer is worth more than the reason why one line of it is missing
            log.debug("no log lines of %s: %s", container_id, error)
            return ""
