"""What the inspectors still have to look at: bounded, without duplicates, and never two of them at one container.

State comes from inspect, so ten events about one container are one look at it, as long as that look begins after the
last of them. Overflow is not an error: everything that was waiting becomes one list of all containers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

logger = logging.getLogger(__name__)

#: The item that stands for "list everything"; ids are hexadecimal, so it is none.
LIST = "list"


class Pending:
    """Hints (from events) go before a wanted list, that before the bulk of ids that a list brought up.

    An item that is out (``take``n and not yet ``done``) may be wanted again meanwhile; it is not handed out twice at a
    time, so what a later look saw is never overwritten by an earlier one.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._hints: dict[str, None] = {}
        self._bulk: dict[str, None] = {}
        self._list_wanted = False
        self._out: set[str] = set()
        self._closed = False
        self._changed = threading.Condition()

    def hint(self, container_id: str) -> None:
        """Called by the event reader: never blocks for longer than it takes to change a dictionary."""
        with self._changed:
            self._hints[container_id] = None
            if len(self._hints) > self._limit:
                self._hints.clear()
                self._list_wanted = True
                logger.warning("more than %d containers have news: listing them all instead", self._limit)
            self._changed.notify()

    def list_all(self) -> None:
        with self._changed:
            self._list_wanted = True
            self._changed.notify()

    def add_bulk(self, ids: Iterable[str]) -> None:
        with self._changed:
            self._bulk.update(dict.fromkeys(ids))
            self._changed.notify_all()

    def take(self) -> tuple[str, bool] | None:
        """Wait for the next item. Returns it and whether it was hinted at, or None once closed."""
        with self._changed:
            while not self._closed:
                for item in self._hints:
                    if item not in self._out:
                        del self._hints[item]
                        self._out.add(item)
                        return item, True
                if self._list_wanted and LIST not in self._out:
                    self._list_wanted = False
                    self._out.add(LIST)
                    return LIST, False
                for item in self._bulk:
                    if item not in self._out:
                        del self._bulk[item]
                        self._out.add(item)
                        return item, False
                self._changed.wait()
            return None

    def done(self, item: str) -> None:
        with self._changed:
            self._out.discard(item)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
