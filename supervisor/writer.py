"""The thread that the disk belongs to: it writes and syncs batches of facts, one at a time, in order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from msgspec import Struct

from supervisor.core.facts import AnyFact
from supervisor.ports import JournalPort

#: Room for later facts is made when none came for so long, or after so many: two threads share one interpreter, and
#: whoever waits for a batch goes on at once only if this one sleeps then.
PAUSE_S = 0.01
FACTS_MAX = 256


class _Job(Struct):
    """``under_way`` is held until ``done`` was called. Without facts: see again whether the disk has room."""

    facts: list[AnyFact]
    snapshot: tuple[bytes, int] | None
    under_way: threading.Lock


class Writer(threading.Thread):
    """``done`` is called after every batch, from this thread: with None, or with what went wrong, once and for all.

    ``took_s``: how long the last batch took to be written and synced.
    """

    def __init__(self, disk: JournalPort, done: Callable[[BaseException | None], None]) -> None:
        super().__init__(name="journal", daemon=True)
        self.took_s = 0.0
        self._disk = disk
        self._done = done
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._last = threading.Lock()

    def put(self, facts: list[AnyFact], snapshot: tuple[bytes, int] | None) -> None:
        self._last = threading.Lock()
        self._last.acquire()
        self._jobs.put(_Job(facts, snapshot, self._last))

    def wait(self, timeout_s: float) -> None:
        """Block until ``done`` was called for what was put last, or the time is over."""
        if self._last.acquire(timeout=timeout_s):
            self._last.release()

    def end(self) -> None:
        self._jobs.put(None)

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # whatever it was: memory and disk may disagree
            self._done(error)
        finally:
            if self._last.locked():
                self._last.release()  # nothing more will come: whoever waits goes on

    def _run(self) -> None:
        since = 0
        while True:
            try:
                job = self._jobs.get(timeout=PAUSE_S if since else None)
            except queue.Empty:
                self._disk.replenish()
                since = 0
                continue
            if job is None:
                return
            if job.facts:
                began_s = time.perf_counter()
                self._disk.write(job.facts)
                self.took_s = time.perf_counter() - began_s
                self._done(None)
            job.under_way.release()
            since += len(job.facts)
            if job.snapshot is not None:
                self._disk.save_snapshot(*job.snapshot)
            if not job.facts or since >= FACTS_MAX:
                self._disk.replenish()
                since = 0
