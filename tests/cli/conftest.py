"""The command against a small server: in this process where only its answers count, as a process where signals do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from supervisor.cli import main
from tests.cli.fake import FakeServer, running_fake


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's settings are none of the tests' business."""
    for name in [name for name in os.environ if name.startswith("GPU_SUPERVISOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with running_fake() as server:
        monkeypatch.setenv("GPU_SUPERVISOR_URL", server.url)
        yield server


@pytest.fixture
def socket_fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeServer]:
    """The same, reached over a unix socket."""
    with running_fake(tmp_path / "fake.sock") as server:
        monkeypatch.setenv("GPU_SUPERVISOR_URL", server.url)
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for between two tries shrinks: the order of things is tried, not the patience."""
    for name in ("LOOK_S", "RETRY_S", "CHECK_S"):
        monkeypatch.setattr(f"supervisor.cli.borrower.{name}", 0.02)


Outcome = tuple[int, str, str]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``run("status")`` -> exit status, stdout, stderr."""

    def run_command(*arguments: str) -> Outcome:
        capfd.readouterr()
        status = main(arguments)
        said = capfd.readouterr()
        return status, said.out, said.err

    return run_command


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The command as a process of its own, for signals. What is left of it is killed."""
    made: list[subprocess.Popen[str]] = []

    def start(arguments: Sequence[str], **options: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.cli", *arguments],
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **options,
            },  # type: ignore[call-overload]
        )
        made.append(process)
        return process

    yield start
    for process in made:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)
