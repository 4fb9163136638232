"""The quick start, run as a reader would: every step shows what it promises, and nothing is left behind.

On an engine of its own: its stacks carry the real labels, and any other supervisor on a shared one would judge them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.conftest import PrivateEngine

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]


@pytest.fixture
def environment(private_engine: PrivateEngine, tmp_path: Path) -> dict[str, str]:
    """The engine, and a folder of our own for what is temporary."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "DOCKER_HOST": private_engine.url, "TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def api(private_engine: PrivateEngine) -> Iterator[docker.APIClient]:
    with private_engine.api() as client:
        yield client


@pytest.fixture
def nothing_left(api: docker.APIClient, tmp_path: Path) -> Iterator[None]:
    """Afterwards: no container, no temporary file."""
    yield
    assert leftovers(api) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def leftovers(api: docker.APIClient) -> list[str]:
    return [row["Names"][0] for row in api.containers(all=True) if row["Names"][0].startswith("/quickstart-")]


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--once", 2)])
def test_an_argument_changes_nothing_on_this_machine(argument: str, status: int) -> None:
    done = subprocess.run([QUICKSTART, argument], capture_output=True, text=True, timeout=10, check=False)

    assert (done.returncode, "QUICKSTART_ONCE=1" in done.stdout) == (status, True)


@pytest.mark.usefixtures("nothing_left")
def test_every_step_shows_what_it_promises(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [QUICKSTART],
        env={**environment, "QUICKSTART_ONCE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for promised in (
        "gpu-supervisor 0.2.0 ready: listening on http://127.0.0.1:",
        "whisper lived for ",
        "Exited (137)",
        "of whisper was killed: ollama holds the GPU",
        "to get the GPU: gpu-supervisor acquire whisper",
        "ollama was evicted to make room for whisper of bob",
        "from release to healthy: ",
    ):
        assert promised in done.stdout
    assert "waiting for whisper at place 1: ollama holds the GPU (owner ann)" in done.stderr


@pytest.mark.usefixtures("nothing_left")
def test_it_serves_until_ctrl_c_and_puts_everything_back(environment: dict[str, str], api: docker.APIClient) -> None:
    log = Path(environment["TMPDIR"]).parent / "stderr"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [QUICKSTART], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        assert process.stdout is not None
        told = any("It is yours" in line for line in process.stdout)
        assert told, log.read_text()
        assert len(leftovers(api)) == 3, "the stacks stay as long as it serves"
        process.send_signal(signal.SIGINT)

        assert process.wait(60) == 0


def test_it_leaves_an_engine_alone_that_has_labelled_containers_of_somebody_else(
    environment: dict[str, str], api: docker.APIClient, tmp_path: Path
) -> None:
    stranger: Any = api.create_container("local/busybox:1", "true", labels={"gpu.target": "stranger"})
    try:
        done = subprocess.run([QUICKSTART], env=environment, capture_output=True, text=True, timeout=120, check=False)
    finally:
        api.remove_container(stranger["Id"], force=True)

    assert done.returncode == 1
    assert "has containers with gpu.target labels already" in done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []
