"""Every example in a docstring of the client, typed against a real supervisor with one simulated GPU."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import pkgutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import supervisor.client
from tests.conftest import TESTS, Stack
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

MODULES = [
    "supervisor.client",
    *(f"supervisor.client.{one.name}" for one in pkgutil.iter_modules(supervisor.client.__path__)),
]
EXAMPLES = [
    example
    for name in MODULES
    for example in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    if example.examples
]


@pytest.fixture(scope="module")
def server(engine_url: str, tmp_path_factory: pytest.TempPathFactory, until: Callable[..., Any]) -> Iterator[Server]:
    """One that knows a target of the name that the examples have; the prefix of its labels is nobody else's."""
    prefix = f"gpu-{uuid.uuid4().hex[:8]}."
    stack = Stack(TESTS / "stacks" / "single.yml", f"gs{uuid.uuid4().hex[:10]}-doc", "comfyui", prefix, engine_url)
    made = Server(tmp_path_factory.mktemp("docstrings") / "data", engine_url, prefix)
    try:
        stack.compose("create")
        made.start()
        until(lambda: made.target_state("comfyui") == "stopped", what="the created target")
        yield made
    finally:
        made.close()
        stack.remove()


class Checker(doctest.OutputChecker):
    """The server's labels have another prefix here than a reader's."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got.replace(self._prefix, "gpu."), optionflags)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name.removeprefix("supervisor.client."))
def test_an_example_shows_what_it_promises(
    example: doctest.DocTest, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GPU_SUPERVISOR_URL", server.url)
    with supervisor.client.Client() as client:
        names = {name: getattr(supervisor.client, name) for name in supervisor.client.__all__}
        example.globs = {**names, "client": client, "asyncio": asyncio}
        said: list[str] = []
        runner = doctest.DocTestRunner(Checker(server.prefix), optionflags=doctest.ELLIPSIS)
        failed, tried = runner.run(example, out=said.append, clear_globs=False)

    assert tried
    assert not failed, "".join(said)


def test_the_lists_of_examples_are_not_empty() -> None:
    assert {"supervisor.client", "supervisor.client.threads.Client.lease", "supervisor.client.functions.gpu"} <= {
        example.name for example in EXAMPLES
    }
