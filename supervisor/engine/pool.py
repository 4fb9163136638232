"""A bounded pool of daemon threads.

``concurrent.futures.ThreadPoolExecutor`` is not used because the interpreter waits for its threads at exit: a stop with
a grace of minutes would hold up the end of the supervisor for as long.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Pool:
    """Runs tasks in at most ``size`` threads, made when they are needed. The line of waiting tasks is as long as the
    caller makes it: at most one call per container is under way at a time.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size = name, size
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0
        self._closed = False

    def submit(self, task: Callable[[], None]) -> bool:
        """Run ``task`` soon. Returns False, and does not, once the pool is closed."""
        with self._lock:
            if self._closed:
                return False
            self._tasks.put(task)
            self._unfinished += 1
            # A thread for each task that is not finished. Counting idle threads would not do: one that has just taken
            # a task looks idle for a moment, and the next task would wait behind that one.
            if self._unfinished <= self._threads or self._threads == self._size:
                return True
            self._threads += 1
            name = f"{self._name}-{self._threads}"
        threading.Thread(target=self._work, name=name, daemon=True).start()
        return True

    def close(self) -> None:
        """Take no more tasks. Idle threads end now, busy ones after their task; what still waits is run first."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._tasks.put(None)

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            try:
                task()
            except Exception:
                logger.exception("a task of %s failed", self._name)
            with self._lock:
                self._unfinished -= 1
