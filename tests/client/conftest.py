"""The client against the real API: over real sockets, in front of the real pump, in a thread beside the test."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from supervisor.core.state import Settings
from tests.api.house import House, container, house
from tests.runtime.test_pump import GPUS

DEADLINE_S = 20.0
#: TTLs of a second: what renews at a third of it is tried in no time.
QUICK = Settings(gpus=GPUS, ttl_min_ms=1_000)


class Home:
    """A house with a loop of its own."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self.house: House
        self.url = ""
        self.stop: Callable[[], None] = lambda: None

    def do(self, story: Callable[[House], Awaitable[Any]]) -> Any:
        """Do something on its loop, and return what comes of it."""
        return asyncio.run_coroutine_threadsafe(_awaited(story, self.house), self.loop).result(DEADLINE_S)

    def leases(self) -> list[dict[str, Any]]:
        return list(self._status()["leases"])

    def queue(self) -> list[dict[str, Any]]:
        return list(self._status()["queue"])

    def _status(self) -> dict[str, Any]:
        return dict(self.do(lambda house: house.get("/v1/status")).json())

    def take_away(self, target: str | None = None) -> None:
        """Somebody ends the lease by force."""
        body = {"force": True} if target is None else {"force": True, "target": target}
        assert self.do(lambda house: house.post("/release", body)).status_code == 200


async def _awaited(story: Callable[[House], Awaitable[Any]], at: House) -> Any:
    return await story(at)


@contextmanager
def home(*containers: Any, socket: Path | None = None, core: Settings = QUICK) -> Iterator[Home]:
    """Run a house in a thread, with two stopped targets, a and b, unless told otherwise."""
    made, ready = Home(), threading.Event()
    failed: list[BaseException] = []

    async def live() -> None:
        stop = asyncio.Event()
        made.loop = asyncio.get_running_loop()
        async with house(*containers, unix_socket=socket, core=core) as made.house:
            made.url = made.house.url
            made.stop = stop.set
            ready.set()
            await stop.wait()

    def thread() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(live())
        except BaseException as error:
            failed.append(error)
            raise
        finally:
            ready.set()

    running = threading.Thread(target=thread)
    running.start()
    try:
        assert ready.wait(DEADLINE_S)
        assert not failed
        yield made
    finally:
        if not failed:
            made.loop.call_soon_threadsafe(made.stop)
        running.join(DEADLINE_S)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's settings are none of the tests' business."""
    for name in [name for name in os.environ if name.startswith("GPU_SUPERVISOR_")]:
        monkeypatch.delenv(name)


@pytest.fixture(name="home")
def _home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with home() as made:
        monkeypatch.setenv("GPU_SUPERVISOR_URL", made.url)
        yield made


__all__ = ["Home", "container", "home"]
