"""Shims: what they run, for whom, what they leave alone, and that they never run themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.cli import main
from tests.cli.conftest import run
from tests.cli.fake import FakeServer

__all__ = ["run"]  # a fixture

TOOL = '#!/bin/sh\necho "tool $0: $* lease=$GPURUN_LEASE gpus=$CUDA_VISIBLE_DEVICES"\n'


@pytest.fixture
def home(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder whose shims come first on the PATH, and a folder with a tool."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    shims = tmp_path / "data" / "gpu-supervisor" / "shims"
    monkeypatch.setenv("PATH", f"{shims}:{tmp_path / 'tools'}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def tool(home: Path) -> Callable[..., Path]:
    def make(name: str = "train", text: str = TOOL, folder: str = "tools") -> Path:
        file = home / folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        return file

    return make


@pytest.fixture
def shims(home: Path) -> Path:
    return home / "data" / "gpu-supervisor" / "shims"


def typed(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=20, check=False)


def identity(file: Path) -> tuple[int, int, int]:
    seen = os.lstat(file)
    return seen.st_ino, seen.st_mode, seen.st_mtime_ns


def test_a_shim_leases_and_runs_the_real_one_with_all_that_it_was_given(
    fake: FakeServer, run, tool, shims: Path, home: Path
):
    real = tool(text=TOOL + "cat; exit 9\n")
    status, out, err = run("shim", "install", "train", "--gpus", "2", "--vram", "8GiB", "--priority", "3")
    assert (status, out, err) == (0, f"installed {shims / 'train'}\n", "")

    done = typed("train", "--epochs", "3", "a b", "", stdin="from stdin")

    assert done.returncode == 9
    assert done.stdout == f"tool {real}: --epochs 3 a b  lease=l_1 gpus=SIM-0\nfrom stdin"
    assert done.stderr == ""
    asked = fake.asked[0]
    assert (asked["gpus"], asked["vram_mib"], asked["priority"]) == (2, 8192, 3)
    assert asked["owner"].endswith(":train")
    assert fake.ended == {"t-1": "released"}


def test_a_signal_goes_through_a_shim(fake: FakeServer, run, tool):
    tool(text="#!/bin/sh\ntrap 'echo saved; exit 4' TERM\necho began\nwhile :; do sleep 0.05; done\n")
    run("shim", "install", "train")
    process = subprocess.Popen(["train"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGTERM)

    assert (process.communicate(timeout=10)[0], process.returncode) == ("saved\n", 4)
    assert fake.holder is None


def test_a_busy_gpu_is_waited_for_or_refused_and_never_run_over(fake: FakeServer, run, tool):
    tool()
    run("shim", "install", "train", "--wait", "0")
    fake.take()

    done = typed("train")

    assert (done.returncode, done.stdout) == (3, "")
    assert "busy: comfyui holds the GPU (owner ann)" in done.stderr


@pytest.mark.parametrize(
    ("policy", "status", "ran", "said"),
    [
        pytest.param([], 0, True, "warning: no supervisor answers at http://127.0.0.1:1", id="run, the default"),
        pytest.param(["--when-down", "refuse"], 4, False, "error: no supervisor answers at", id="refuse"),
    ],
)
def test_without_a_supervisor_the_policy_decides(fake: FakeServer, run, tool, monkeypatch, policy, status, ran, said):
    tool()
    run("shim", "install", "train", *policy)
    monkeypatch.setenv("GPU_SUPERVISOR_URL", "http://127.0.0.1:1")

    done = typed("train")

    assert (done.returncode, bool(done.stdout)) == (status, ran)
    assert said in done.stderr


def test_a_tool_that_starts_another_shimmed_tool_needs_one_lease(fake: FakeServer, run, tool):
    fake.documents["/v1/status"] = {"leases": [{"id": "l_1", "gpus": ["SIM-0"]}]}
    tool("outer", '#!/bin/sh\ninner x; outer_again=1\n[ -n "$1" ] || outer again\n')
    tool("inner")
    run("shim", "install", "outer")
    run("shim", "install", "inner")

    done = typed("outer")

    assert (done.returncode, done.stdout.count(": x lease=l_1")) == (0, 2)
    assert len(fake.asked) == 1


def test_a_shim_never_runs_a_shim(fake: FakeServer, run, tool, home: Path, shims: Path, monkeypatch):
    real = tool()
    run("shim", "install", "train")
    run("shim", "install", "train", "--dir", str(home / "more"))
    (home / "link").symlink_to(shims)
    (home / "tools" / "linked").symlink_to(shims / "train")
    monkeypatch.setenv("PATH", f"{home / 'link'}:{home / 'more'}:{shims}:{os.environ['PATH']}")

    assert typed("train").stdout.startswith(f"tool {real}: ")
    assert len(fake.asked) == 1
    real.unlink()
    done = typed("train")
    assert (done.returncode, "train: not found: its shim" in done.stderr) == (127, True)


def test_install_says_what_is_still_to_be_done(run, home: Path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    status, _, err = run("shim", "install", "train", "--dir", str(home / "s"))

    assert status == 0
    assert "warning: no train is on the PATH yet" in err
    assert f'next: export PATH="{home}/s:$PATH"' in err


@pytest.mark.parametrize("name", ["gpurun", "gpu-supervisor", "a/b", "", "..", "-x", "a b", "a\nb", "$(x)"])
def test_a_name_that_cannot_be_shimmed_is_refused(run, home: Path, shims: Path, name):
    assert run("shim", "install", "--", name)[0] == 2
    assert not shims.exists()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda file: file.write_text("#!/bin/sh\necho precious\n"), id="a program of theirs"),
        pytest.param(lambda file: file.symlink_to("/no/such/file"), id="a broken link"),
        pytest.param(lambda file: file.mkdir(), id="a folder"),
    ],
)
def test_what_is_not_ours_is_never_touched(run, shims: Path, make):
    shims.mkdir(parents=True)
    make(shims / "train")
    before = identity(shims / "train")

    for command in ("install", "remove"):
        status, out, err = run("shim", command, "train")
        assert (status, out) in ((1, ""), (2, ""))
        assert "is not a shim: it is left alone" in err
    assert identity(shims / "train") == before
    assert run("shim", "list") == (0, f"no shims in {shims}\n", "")


def test_shims_are_listed_replaced_and_removed(run, tool, shims: Path):
    real = tool()
    run("shim", "install", "train")
    run("shim", "install", "train", "--gpus", "2", "--class", "high", "--when-down", "refuse")

    line = f"train: runs {real}; 2 GPUs, class high; when no supervisor answers it is refused\n"
    assert run("shim", "list") == (0, line, "")
    listed = json.loads(run("shim", "list", "--json")[1])
    assert listed["shims"] == [
        {
            "name": "train",
            "path": str(shims / "train"),
            "real": str(real),
            "terms": {"gpus": 2, "gpu_class": "high", "when_down": "refuse"},
        }
    ]
    assert run("shim", "remove", "train")[:2] == (0, f"removed {shims / 'train'}\n")
    assert list(shims.iterdir()) == []
    assert run("shim", "remove", "train")[0] == 1
    assert json.loads(run("shim", "install", "train", "--json")[1]) == {"installed": str(shims / "train"), "advice": []}
    assert json.loads(run("shim", "remove", "train", "--json")[1]) == {"removed": str(shims / "train")}
    assert typed("train").stdout.startswith(f"tool {real}")


def test_a_shim_whose_maker_is_gone_says_so(fake: FakeServer, run, tool, shims: Path, monkeypatch):
    tool()
    monkeypatch.setattr("sys.executable", "/gone/it's/python")
    assert main(["shim", "install", "train"]) == 0

    done = typed("train")

    assert done.returncode == 127
    assert f"is gone (/gone/it's/python): remove {shims / 'train'}" in done.stderr
