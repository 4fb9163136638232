"""A real container engine behind ``supervisor.ports.EnginePort``: Docker, or what speaks its API.

The way in is ``watcher`` (events are hints, inspect is the truth), the way out is ``calls``. Nothing in here knows of
leases, or decides anything.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from supervisor.core.inputs import ActionDone
from supervisor.core.replies import Action
from supervisor.engine.calls import Calls
from supervisor.engine.connection import ENDPOINTS, READ_ENDPOINTS, WRITE_ENDPOINTS, Connection
from supervisor.engine.errors import EngineError
from supervisor.engine.logs import last_lines
from supervisor.engine.pool import Pool
from supervisor.engine.watcher import Pace, Watcher
from supervisor.ports import BelowPort, Post, UrgencyPort

__all__ = ["Engine", "Pace", "ENDPOINTS", "READ_ENDPOINTS", "WRITE_ENDPOINTS"]

logger = logging.getLogger(__name__)


class Engine:
    """One engine, reached at ``read_url`` and, where that is another socket (proxy), written to at ``write_url``.

    URLs are ``unix:///...``, ``tcp://...`` or ``http://...``. Nothing is connected before ``watch``.
    """

    def __init__(
        self,
        read_url: str,
        write_url: str | None = None,
        *,
        prefix: str = "gpu.",
        pace: Pace | None = None,
        below: BelowPort | None = None,
        urgency: UrgencyPort | None = None,
    ) -> None:
        """``below``: where there is a way to kill that does not go through the engine, a kill goes that way first.
        ``urgency`` hears of what starts.
        """
        self._url = read_url
        self._connection: Connection | None = None
        self._watcher = Watcher(
            read_url,
            prefix=prefix,
            pace=pace or Pace(),
            on_connect=self._connected,
            on_cgroup_parent=below.learn if below is not None else lambda _: None,
            urgency=urgency,
        )
        self._calls = Calls(write_url or read_url, after=self._watcher.look_again, below=below)
        self._readers = Pool("engine-logs", 4)

    def watch(self, post: Post) -> None:
        self._watcher.watch(post)

    def perform(self, action: Action, done: Callable[[ActionDone], None]) -> None:
        self._calls.perform(action, done)

    def logs(self, container_id: str, lines: int, timeout_s: float) -> str:
        """Return the last log lines of a container, or "" if they cannot be had in time. Blocks."""
        answer: list[str] = []
        answered = threading.Event()

        def read() -> None:
            try:
                if self._connection is not None:
                    answer.append(last_lines(self._connection, container_id, lines, timeout_s))
            except EngineError as error:
                logger.debug("no log lines of %s: %s", container_id, error)
            finally:
                answered.set()

        if self._readers.submit(read):
            answered.wait(timeout_s)
        return answer[0] if answer else ""

    def describe(self) -> str:
        """One line about the engine, from what is known already: it never asks, so it never blocks."""
        if self._connection is None:
            return f"engine at {self._url} (not reached yet)"
        return f"{self._connection.version} at {self._url}"

    def close(self) -> None:
        """End all threads. What the engine was asked to do goes on."""
        self._watcher.close()
        self._calls.close()
        self._readers.close()

    def _connected(self, connection: Connection) -> None:
        self._calls.connected(connection.version.api)
        self._connection = connection
