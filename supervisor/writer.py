"""The thread that the disk belongs to: it writes and syncs batches of facts, one at a time, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from supervisor.core.facts import AnyFact
from supervisor.ports import JournalPort


class Writer(threading.Thread):
    """``done`` is called after every batch, from this thread: with None, or with what went wrong, once and for all."""

    def __init__(self, disk: JournalPort, done: Callable[[BaseException | None], None]) -> None:
        super().__init__(name="journal", daemon=True)
        self._disk = disk
        self._done = done
        self._jobs: queue.SimpleQueue[tuple[list[AnyFact], tuple[bytes, int] | None] | None] = queue.SimpleQueue()

    def put(self, facts: list[AnyFact], snapshot: tuple[bytes, int] | None) -> None:
        self._jobs.put((facts, snapshot))

    def end(self) -> None:
        self._jobs.put(None)

    def run(self) -> None:
        while (job := self._jobs.get()) is not None:
            facts, snapshot = job
            try:
                if facts:
                    self._disk.write(facts)
                    self._done(None)
                if snapshot is not None:
                    self._disk.save_snapshot(*snapshot)
                self._disk.replenish()
            except BaseException as error:  # whatever it was: memory and disk may disagree
                self._done(error)
                return
