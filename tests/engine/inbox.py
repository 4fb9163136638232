"""What a watcher posted, and the model of the world that somebody who hears nothing else would have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from supervisor.core.inputs import (
    ActionDone,
    ContainerGone,
    ContainerSeen,
    EngineLost,
    EngineSnapshot,
    Input,
)
from supervisor.core.model import Container

T = TypeVar("T")


class Inbox:
    """Collects inputs from any thread, with the monotonic time of each, and lets a test wait for one."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.times_s: list[float] = []
        self.model: dict[str, Container] = {}
        self.synced = False
        self._changed = threading.Condition()

    def __call__(self, item: Input) -> None:
        with self._changed:
            self.times_s.append(time.monotonic())
            self.inputs.append(item)
            match item:
                case EngineSnapshot(containers):
                    self.model = {container.id: container for container in containers}
                    self.synced = True
                case ContainerSeen(container):
                    self.model[container.id] = container
                case ContainerGone(id):
                    self.model.pop(id, None)
                case EngineLost():
                    self.synced = False
            self._changed.notify_all()

    def mark(self) -> int:
        """A place in the history: pass it as ``after`` to wait only for what comes behind it."""
        with self._changed:
            return len(self.inputs)

    def until(self, condition: Callable[[], T], *, within_s: float = 10.0, what: str = "a state") -> T:
        """Wait until ``condition`` is true of what was posted, and return it."""
        with self._changed:
            if not self._changed.wait_for(condition, within_s):
                tail = "\n".join(f"  {item!r:.160}" for item in self.inputs[-12:])
                raise AssertionError(f"{what} did not come within {within_s} s; the last inputs were\n{tail}")
            return condition()

    def wait_for(
        self, type_: type[T], where: Callable[[Any], bool] = lambda _: True, *, after: int = 0, **limit: Any
    ) -> T:
        """Wait for an input of a type, and return the first one behind ``after``."""

        def find() -> T | None:
            return next((item for item in self.inputs[after:] if isinstance(item, type_) and where(item)), None)

        found = self.until(find, what=f"{type_.__name__}", **limit)
        assert found is not None
        return found

    def seen(self, container_id: str, where: Callable[[Container], bool], *, after: int = 0, **limit: Any) -> Container:
        """Wait until a container is seen in a state, one by one or in a snapshot."""

        def find() -> Container | None:
            for item in self.inputs[after:]:
                match item:
                    case ContainerSeen(container) if container.id == container_id and where(container):
                        return container
                    case EngineSnapshot(containers):
                        for container in containers:
                            if container.id == container_id and where(container):
                                return container
            return None

        found = self.until(find, what=f"container {container_id[:12]} in the wanted state", **limit)
        assert found is not None
        return found

    def answer(self, container_id: str, *, after: int = 0, **limit: Any) -> ActionDone:
        return self.wait_for(ActionDone, lambda done: done.container_id == container_id, after=after, **limit)

    def time_of(self, item: object) -> float:
        """When an input was posted (``time.monotonic``)."""
        return self.times_s[next(index for index, known in enumerate(self.inputs) if known is item)]
