"""The supervisor as it is installed: behind real socket proxies, and in a real image."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import find_program, until
from tests.packaging.serving import Serving

PROXIES = Path(__file__).parents[2] / "examples" / "proxies"


@pytest.fixture
def make_serving(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """``make_serving(environment, *flags)``: the real process; without ``engine`` there is none for it."""
    made: list[Serving] = []

    def make(environment: dict[str, str], *flags: str, engine: str = "", entry: str = "") -> Serving:
        url = engine or f"unix://{tmp_path}/no-engine.sock"
        made.append(Serving(tmp_path / f"data{len(made)}", environment, "--docker-host", url, *flags, entry=entry))
        return made[-1]

    yield make
    for item in made:
        item.close()


# ---- the two proxies of examples/supervisor.yml


@pytest.fixture(scope="session")
def haproxy() -> str:
    program = find_program("haproxy")
    assert program is not None
    return program


class Proxy:
    """One haproxy with a file of examples/proxies in front of an engine's socket; ``url`` is where it listens."""

    def __init__(self, haproxy: str, half: str, folder: Path, engine: str) -> None:
        self.socket = folder / f"{half}.sock"
        self.url = f"unix://{self.socket}"
        self._log = folder / f"{half}.log"
        environment = {**os.environ, "LISTEN_SOCKET": str(self.socket), "ENGINE_SOCKET": engine}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [haproxy, "-W", "-db", "-f", str(PROXIES / f"{half}.cfg")], env=environment, stdout=log, stderr=log
            )
        until(self.socket.exists, 10, f"the socket of the {half} proxy")

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@contextlib.contextmanager
def proxies_for(haproxy: str) -> Iterator[Callable[[str, str], Proxy]]:
    with contextlib.ExitStack() as made, tempfile.TemporaryDirectory(prefix="gs-") as folder:

        def make(half: str, engine_url: str) -> Proxy:
            proxy = Proxy(haproxy, half, Path(folder), engine_url.removeprefix("unix://"))
            made.callback(proxy.close)
            return proxy

        yield make


@pytest.fixture
def make_proxy(haproxy: str) -> Iterator[Callable[[str, str], Proxy]]:
    """``make_proxy("read", engine_url)``."""
    with proxies_for(haproxy) as make:
        yield make
