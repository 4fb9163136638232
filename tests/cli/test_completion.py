"""``completion``: the script, really sourced by the shell that it is for, completes against a live server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor.answers import TargetsView
from tests.cli.fake import FakeServer
from tests.cli.test_reading import answering, document, view

#: What each shell does: it sources the script, then completes the words of a line, the last of which is unfinished.
ASK = {
    "bash": """
        source "$SCRIPT"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        function=$(complete -p gpu-supervisor | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
        $function gpu-supervisor
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() { completer=$1 }
        _arguments() { print -r -- "$@" | grep -o '[( ]"[^"]*"' | tr -d '(" ' }  # not :"what it does"
        source "$SCRIPT"
        words=("$@"); CURRENT=$#
        $completer
    """,
    "fish": """
        source "$SCRIPT"
        complete -C "$(string join ' ' $argv)" | string replace -r '\\t.*' ''
    """,
}
INSTALLED = [shell for shell in ASK if shutil.which(shell)]


@pytest.fixture
def environ(run, tmp_path: Path) -> dict[str, str]:
    """The command on the PATH under its name, as an installation puts it there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, function in (("gpu-supervisor", "main"), ("gpurun", "gpurun_main")):
        code = f"import sys; from supervisor.cli import {function} as run; sys.exit(run())"
        (folder / name).write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
        (folder / name).chmod(0o755)
    for shell in ASK:
        (tmp_path / shell).write_text(run("completion", shell)[1])
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def complete(environ: dict[str, str], *words: str, shell: str = "bash") -> list[str]:
    first = {"bash": ["bash", "--norc", "-c", ASK["bash"], "bash"], "zsh": ["zsh", "-f", "-c", ASK["zsh"], "zsh"]}
    command = first.get(shell, ["fish", "--no-config", "-c", ASK["fish"]])
    environ = {**environ, "SCRIPT": f"{environ['HOME']}/{shell}"}
    done = subprocess.run([*command, *words], env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert done.stderr == "", "nothing may be said into a line that is being typed"
    return sorted(filter(None, done.stdout.splitlines()))


@pytest.fixture
def known(fake: FakeServer, monkeypatch) -> None:
    fake.documents["/v1/targets"] = document(TargetsView((view("comfyui"), view("ollama"), view("olmo")), ()))


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["sta"], ["status"], id="a command"),
        pytest.param(["journal", "s"], ["salvage", "show"], id="a command of a group"),
        pytest.param(["acquire", "--d"], ["--detach", "--dry-run"], id="an option"),
        pytest.param(["serve", "--claim"], ["--claim-window"], id="a setting"),
        pytest.param(["completion", ""], ["bash", "fish", "zsh"], id="a shell"),
        pytest.param(["shim", "install", "--when"], ["--when-down"], id="an option of a shim"),
        pytest.param(["acquire", "ol"], ["ollama", "olmo"], id="a target to lease"),
        pytest.param(["why", "com"], ["comfyui"], id="a target to ask about"),
        pytest.param(["release", "--target", "com"], ["comfyui"], id="a target to release"),
        pytest.param(["acquire", "ollama", "--", "com"], [], id="nothing of ours in somebody else's command"),
    ],
)
def test_bash_completes(environ, words, expected):
    assert complete(environ, "gpu-supervisor", *words) == expected


def test_gpurun_completes_with_a_script_of_its_own(environ, run):
    script = run("completion", "bash", "gpurun")[1]
    (Path(environ["HOME"]) / "bash").write_text(script)
    ask = ASK["bash"].replace("gpu-supervisor", "gpurun")
    done = subprocess.run(
        ["bash", "--norc", "-c", ask, "bash", "gpurun", "--lo"],
        env={**environ, "SCRIPT": f"{environ['HOME']}/bash"},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )

    assert done.stdout.split() == ["--loss-grace"]


def test_a_shell_that_it_does_not_know_is_refused_with_those_that_it_does(run):
    status, _, err = run("completion", "tcsh")

    assert status == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in err
    assert "Value error" not in err


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("shell", INSTALLED)
def test_every_shell_that_is_installed_completes_alike(environ, shell):
    assert complete(environ, "gpu-supervisor", "journal", "s", shell=shell) == ["salvage", "show"]
    assert complete(environ, "gpu-supervisor", "evict", "ol", shell=shell) == ["ollama", "olmo"]


@pytest.mark.parametrize("shell", ASK)
def test_every_shell_has_a_script_that_is_its_own(run, shell):
    status, out, _ = run("completion", shell)

    assert status == 0
    assert f"_GPU_SUPERVISOR_COMPLETE=complete_{shell}" in out


def test_containers_complete_where_one_can_be_asked_about(fake: FakeServer, environ):
    container = {
        "id": "c1",
        "name": "comfyui-web-1",
        "service": "web",
        "master": True,
        "one_off": False,
        "status": "running",
        "health": "healthy",
        "exit_code": 0,
        "vram_mib": None,
        "restart_policy": "no",
        "endpoint": None,
    }
    fake.documents["/v1/targets"] = document(TargetsView((view("comfyui", containers=(container,)),), ()))

    assert complete(environ, "gpu-supervisor", "why", "com") == ["comfyui", "comfyui-web-1"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_without_a_server_there_is_nothing_to_complete_and_nothing_said(environ, url):
    assert complete({**environ, "GPU_SUPERVISOR_URL": url}, "gpu-supervisor", "acquire", "") == []


def test_another_server_completes_nothing(environ):
    with answering(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n") as url:
        assert complete({**environ, "GPU_SUPERVISOR_URL": url}, "gpu-supervisor", "acquire", "") == []


def test_a_server_that_hangs_is_given_up_before_it_is_felt(fake: FakeServer, environ):
    with fake.changed:  # every answer waits for it
        began = time.monotonic()
        assert complete(environ, "gpu-supervisor", "acquire", "") == []
    assert time.monotonic() - began < 10
