"""examples/setup: what a machine lacks is brought, shared and taken away again; what cannot be is said plainly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import own_bridge

ROOT = Path(__file__).parents[2]
# As text and not with ".": another user may not be able to read this folder.
SETUP = "set -euo pipefail\n" + (ROOT / "examples" / "setup").read_text() + "\ntrap release_engine EXIT\n"


def bash(script: str, *, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    surroundings = {name: value for name, value in os.environ.items() if name not in ("DOCKER_HOST", "KEEP_ENGINE")}
    return subprocess.Popen(
        [*prefix, "bash", "-c", SETUP + script],
        cwd=ROOT,
        env=surroundings | (env or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def own_dockerd() -> Iterator[dict[str, str]]:
    """An environment with a cache of its own, and a dockerd that leaves the bridge of every other engine alone."""
    folder = Path(tempfile.mkdtemp(prefix="gs-"))
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "dockerd"
    with own_bridge() as bridge:
        flags = f"--bridge {bridge} --iptables=false --ip-forward=false --ip-masq=false"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("dockerd")} {flags} "$@"\n')
        wrapper.chmod(0o755)
        yield {"XDG_CACHE_HOME": str(folder), "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    shutil.rmtree(folder)


def engine_folder(environment: dict[str, str]) -> Path:
    return Path(environment["XDG_CACHE_HOME"]) / "gpu-supervisor" / "engine"


def runs(pid: int) -> bool:
    """Whether it does; a zombie, which nobody may have reaped, has no command line."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.exists() and bool(path.read_text())


def test_a_private_engine_is_shared_and_leaves_with_its_last_user(own_dockerd: dict[str, str]):
    users = [bash("join_private_engine; echo joined; read -r _", env=own_dockerd) for _ in range(2)]
    assert [user.stdout.readline() for user in users] == ["joined\n", "joined\n"]
    pid = int((engine_folder(own_dockerd) / "pid").read_text())
    users[0].communicate("\n", timeout=40)
    assert runs(pid)
    _, said = users[1].communicate("\n", timeout=40)
    assert [user.returncode for user in users] == [0, 0], said
    assert not runs(pid)
    assert not engine_folder(own_dockerd).exists()


@pytest.mark.root
def test_who_may_not_start_an_engine_is_told_what_to_do():
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    user = bash("ensure_engine", env={"HOME": "/nonexistent", "DOCKER_CONFIG": "/nonexistent"}, prefix=nobody)
    _, said = user.communicate(timeout=20)

    assert user.returncode == 1
    assert said.splitlines() == [
        "error: no Docker Engine answers, and only root can start a private one",
        "hint:  start Docker and join its group, or run this as root",
    ]


def test_an_engine_that_was_named_and_does_not_answer_is_not_replaced_by_another():
    user = bash("ensure_engine", env={"DOCKER_HOST": "unix:///nowhere.sock"})
    _, said = user.communicate(timeout=20)

    assert user.returncode == 1
    assert said.splitlines()[0] == "error: no Docker Engine answers at DOCKER_HOST=unix:///nowhere.sock"


def test_no_file_of_the_set_up_names_a_host():
    for name in ("examples/setup", "tests/run", ".ci/run"):
        assert "://" not in (ROOT / name).read_text().replace("unix://", "")


def test_what_the_machine_lacks_is_deselected_and_named_in_the_very_last_line(tmp_path: Path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_plain(): pass\n"
        "@pytest.mark.nvidia\n"
        "def test_with_a_gpu(): pass\n"
        "@pytest.mark.root\n"
        "def test_as_root(): pass\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, "--rootdir", str(tmp_path)]
    ran = subprocess.run(
        [*command, str(tmp_path)], check=False, env=environment, capture_output=True, text=True, timeout=50
    )

    lacked = []
    if not Path("/proc/driver/nvidia/gpus").is_dir():
        lacked.append("an NVIDIA GPU: test_with_a_gpu")
    if os.geteuid() != 0:
        lacked.append("root: test_as_root")
    count = f"{len(lacked)} test{'s' * (len(lacked) != 1)} deselected for what this machine lacks"
    assert ran.stdout.splitlines()[-1] == count + (f" ({'; '.join(lacked)})" if lacked else "")
    assert "skipped" not in ran.stdout
