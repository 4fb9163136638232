"""The simulated engine and the real one behind one small face, so that one suite can hold them to the same facts.

Waiting is the engine's own: the simulated one lets its time pass, the real one is looked at until a deadline.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import docker
import docker.errors
import msgspec
from msgspec import Struct

from supervisor.cgroups.below import Below
from supervisor.core.model import Container
from supervisor.engine.inspect import Inspected, to_container
from tests.conftest import PrivateEngine, until, usable_trees
from tests.simulation import daemon
from tests.simulation.containers import ApiError, Behaviour, Done, Recipe
from tests.simulation.engine import SimEngine, Stream
from tests.simulation.timeline import Timeline

T = TypeVar("T")
WITHIN_S = 20.0
#: What healthchecks emit at every probe is not about a container's life.
NOISE = "exec_"


class Asked(Struct, frozen=True, kw_only=True):
    """What a test wants of a container. ``probe`` None: no healthcheck; else whether it passes.

    ``lives_s`` None: it runs on. ``deaf``: it ignores SIGTERM. ``broken``: its command does not exist.
    """

    lives_s: float | None = None
    exit_code: int = 0
    deaf: bool = False
    broken: bool = False
    probe: bool | None = None
    restart: str = "no"
    auto_remove: bool = False
    labels: dict[str, str] = {}


class Engine(Protocol):
    """What both can do. A refused call raises ``ApiError`` with the engine's status."""

    def create(self, asked: Asked) -> str: ...
    def start(self, id_: str) -> None: ...
    def stop(self, id_: str, grace_s: int) -> None: ...
    def kill(self, id_: str) -> None: ...
    def pause(self, id_: str) -> None: ...
    def unpause(self, id_: str) -> None: ...
    def remove(self, id_: str, *, force: bool = False) -> None: ...
    def rename(self, id_: str) -> None: ...
    def inspect(self, id_: str) -> Container | None: ...
    def until(self, condition: Callable[[], T], what: str) -> T: ...
    def events(self, id_: str) -> list[str]: ...


class Deep(Engine, Protocol):
    """An engine whose containers can be killed through their cgroups."""

    def kill_below(self, id_: str) -> None:
        """Kill all in a container, and tell nobody."""

    def start_tripped(self, id_: str) -> None:
        """Start it, and kill what is in its cgroup as soon as there is anything."""


class Restartable(Engine, Protocol):
    """An engine whose daemon can be ended and started again."""

    def go_down(self, how: daemon.How) -> None: ...
    def come_back(self, how: daemon.How) -> None: ...


class Simulated:
    """The simulated engine; its time passes only while somebody waits."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._engine = SimEngine(self._timeline)
        self._heard: list[tuple[str, str]] = []
        stream = Stream(lambda event: self._heard.append((event.id, event.action)), lambda: None)
        self._engine.subscribe(0, stream)
        self._made = 0

    def create(self, asked: Asked) -> str:
        self._made += 1
        behaviour = Behaviour(
            exits_after_ms=None if asked.lives_s is None else max(1, int(asked.lives_s * 1000)),
            exit_code=asked.exit_code,
            term_ms=None if asked.deaf else 20,
            healthy_after_ms=300 if asked.probe else None,
            unhealthy_after_ms=300 if asked.probe is False else None,
            start_error="exec: no such file" if asked.broken else "",
        )
        recipe = Recipe(
            name=f"one-{self._made}",
            labels=asked.labels,
            behaviour=behaviour,
            healthcheck=asked.probe is not None,
            restart_policy=asked.restart,
            auto_remove=asked.auto_remove,
        )
        return self._engine.create(recipe)

    def _call(self, make: Callable[[Done], object]) -> None:
        answers: list[ApiError | None] = []
        make(answers.append)
        self.until(lambda: answers, "an answer")
        if answers[0] is not None:
            raise answers[0]

    def start(self, id_: str) -> None:
        self._call(lambda done: self._engine.start(id_, done))

    def stop(self, id_: str, grace_s: int) -> None:
        self._call(lambda done: self._engine.stop(id_, grace_s, done))

    def kill(self, id_: str) -> None:
        self._call(lambda done: self._engine.kill(id_, done))

    def pause(self, id_: str) -> None:
        self._call(lambda done: self._engine.pause(id_, done))

    def unpause(self, id_: str) -> None:
        self._call(lambda done: self._engine.unpause(id_, done))

    def remove(self, id_: str, *, force: bool = False) -> None:
        self._call(lambda done: self._engine.remove(id_, done, force=force))

    def rename(self, id_: str) -> None:
        self._call(lambda done: self._engine.rename(id_, f"{id_}-renamed", done))

    def inspect(self, id_: str) -> Container | None:
        return self._engine.inspect(id_)

    def until(self, condition: Callable[[], T], what: str) -> T:
        deadline_ms = self._timeline.at_ms + int(WITHIN_S * 1000)
        while not (value := condition()):
            assert self._timeline.step(deadline_ms), f"{what} did not come true within {WITHIN_S} s"
        return value

    def events(self, id_: str) -> list[str]:
        return [action for heard, action in self._heard if heard == id_]

    def kill_below(self, id_: str) -> None:
        self._engine.kill_cgroup(id_)

    def start_tripped(self, id_: str) -> None:
        self._engine.on_cgroup = lambda container: container.id == id_
        try:
            self.start(id_)
        finally:
            self._engine.on_cgroup = lambda _: False

    def go_down(self, how: daemon.How) -> None:
        daemon.go_down(self._engine, how)

    def come_back(self, how: daemon.How) -> None:
        self._timeline.run(self._timeline.at_ms + 1_000)
        daemon.come_back(self._engine, how)


class Real:
    """A Docker Engine, through its SDK. Everything it made is gone after ``close``."""

    def __init__(self, url: str, name: str, image: str) -> None:
        self._api = docker.APIClient(base_url=url, timeout=60, version="auto")
        self._name, self._image = name, image
        self._since = int(time.time()) - 1
        self._made = 0

    def close(self) -> None:
        self._api.close()

    def create(self, asked: Asked) -> str:
        self._made += 1
        check = None
        if asked.probe is not None:
            test = ["CMD", "true" if asked.probe else "false"]
            second = 1_000_000_000
            check = {"test": test, "interval": second // 4, "timeout": second, "retries": 1}
        container = self._api.create_container(
            self._image,
            ["/no/such/command"] if asked.broken else ["sh", "-c", _script(asked)],
            name=f"{self._name}-{self._made}",
            labels=asked.labels,
            healthcheck=check,
            host_config=self._api.create_host_config(
                network_mode="none",
                auto_remove=asked.auto_remove,
                restart_policy={"Name": asked.restart} if asked.restart != "no" else None,
            ),
        )
        return str(container["Id"])

    def start(self, id_: str) -> None:
        with _told():
            self._api.start(id_)

    def stop(self, id_: str, grace_s: int) -> None:
        with _told():
            self._api.stop(id_, timeout=grace_s)

    def kill(self, id_: str) -> None:
        with _told():
            self._api.kill(id_)

    def pause(self, id_: str) -> None:
        with _told():
            self._api.pause(id_)

    def unpause(self, id_: str) -> None:
        with _told():
            self._api.unpause(id_)

    def remove(self, id_: str, *, force: bool = False) -> None:
        with _told():
            self._api.remove_container(id_, force=force)

    def rename(self, id_: str) -> None:
        with _told():
            self._api.rename(id_, f"{self._name}-renamed-{self._made}")

    def inspect(self, id_: str) -> Container | None:
        try:
            answer: dict[str, Any] = self._api.inspect_container(id_)
        except docker.errors.NotFound:
            return None
        seen = msgspec.convert(answer, Inspected)
        return to_container(seen, prefix="gpu.", wall_ms=time.time_ns() // 10**6)

    def until(self, condition: Callable[[], T], what: str) -> T:
        found: T = until(condition, WITHIN_S, what)
        return found

    def events(self, id_: str) -> list[str]:
        """Ask for what the ring holds of one container, and wait a moment for what is on its way."""
        filters = {"container": id_, "type": "container"}
        found = self._api.events(since=self._since, until=str(time.time() + 0.2), filters=filters, decode=True)
        return [event["Action"] for event in found if not event["Action"].startswith(NOISE)]


class RealBelow(Real):
    """A Docker Engine on this very machine."""

    def __init__(self, url: str, name: str, image: str) -> None:
        super().__init__(url, name, image)
        self._below = Below(next(iter(usable_trees().values())))

    def kill_below(self, id_: str) -> None:
        self._below.places.search()
        assert self._below.kill(id_)

    def start_tripped(self, id_: str) -> None:
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(self.start, id_)
            while not self._below.kill(id_) and not call.done():
                self._below.places.search()
            call.result()


class RealDaemon(Real):
    """A private engine, to be treated badly."""

    def __init__(self, private: PrivateEngine, name: str, image: str) -> None:
        super().__init__(private.url, name, image)
        self._private = private

    def prepare(self, how: daemon.How) -> None:
        """Restart it in the mode that ``how`` needs."""
        self._private.terminate()
        self._private.start(live_restore=how == "live-restore")

    def go_down(self, how: daemon.How) -> None:
        if how == "terminated":
            self._private.terminate()
        else:
            self._private.kill()

    def come_back(self, how: daemon.How) -> None:
        self._private.start(live_restore=how == "live-restore")


def _script(asked: Asked) -> str:
    ends = f"sleep {asked.lives_s}; exit {asked.exit_code}" if asked.lives_s is not None else "sleep 3600 & wait"
    # Process 1 gets only the signals that it has a handler for.
    return ends if asked.deaf else f"trap 'exit 143' TERM; {ends}"


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except docker.errors.APIError as error:
        raise ApiError(error.status_code or 0, str(error.explanation)) from error
