"""Watchers that are closed after the test, and the scripted engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.engine import Engine, Pace
from tests.engine.fake import FakeEngine
from tests.engine.inbox import Inbox

#: Quick enough for tests that wait for a ping or a list.
QUICK = Pace(ping_every_s=0.2, ping_limit_s=0.5, list_every_s=1.0)

Watching = tuple[Engine, Inbox]


@pytest.fixture
def watch() -> Iterator[Callable[..., Watching]]:
    """``watch(url, prefix=...)`` starts an engine's watcher; everything it posts is in the inbox."""
    engines: list[Engine] = []

    def start(url: str, write_url: str | None = None, **settings: object) -> Watching:
        engine, inbox = Engine(url, write_url, **settings), Inbox()
        engines.append(engine)
        engine.watch(inbox)
        return engine, inbox

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngine]:
    engine = FakeEngine(socket_path(tmp_path_factory))
    yield engine
    engine.close()


def socket_path(factory: pytest.TempPathFactory) -> Path:
    """A path short enough for a unix socket, whatever the test's name is."""
    return factory.mktemp("s") / "sock"
