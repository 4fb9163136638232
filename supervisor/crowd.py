"""Whether whoever asks is the only one who does: then, and only then, the loop may stand by the disk for a moment."""

from __future__ import annotations

import asyncio


class Crowd:
    """``alone``: who asked last was the only one. Nobody else did in the same round of the loop, or while what was
    decided was on its way to the disk. Belongs to the loop.
    """

    def __init__(self) -> None:
        self.alone = False
        self._came, self._in_batch = False, False
        self._held_up = False

    def asked(self, *, behind: bool) -> None:
        """Note a request. ``behind``: another one of this round came first, or waits for the disk."""
        if self._held_up:
            self.alone = False
        if behind or self._held_up:
            self._came = True

    def batch_begins(self) -> None:
        self._came, self._in_batch = False, self._came

    def batch_ends(self) -> None:
        self.alone = not (self._came or self._in_batch)

    def held_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that the loop stood still: whoever asked meanwhile is heard in its next two rounds, and had to wait."""
        self._held_up = True
        loop.call_soon(loop.call_soon, self._heard)

    def _heard(self) -> None:
        self._held_up = False
