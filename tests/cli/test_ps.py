"""``gpu-supervisor ps``: a table in a pipe, the server's words as JSON, and what to do about strangers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec.structs import replace

from supervisor.answers import ProcessesView
from supervisor.api import describe_examples
from tests.cli.conftest import FakeServer

STRANGER = describe_examples.PROCESSES.processes[0]
OURS = replace(
    STRANGER,
    pid=77,
    user="root",
    container="comfyui-main-1",
    service="main",
    target="comfyui",
    standing="leased",
    used_mib=None,
    gpus=(replace(STRANGER.gpus[0], used_mib=None),),
    why_spared="",
)
VIEW = replace(describe_examples.PROCESSES, processes=(STRANGER, OURS), limited=("the driver is shy",))


def document(view: ProcessesView) -> Any:
    return json.loads(msgspec.json.encode(view))


def test_processes_in_a_pipe_are_plain_columns(fake: FakeServer, run):
    fake.documents["/v1/processes"] = document(VIEW)

    status, out, err = run("ps")

    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[1] == ["gpu", "pid", "user", "memory", "since", "what", "standing"]
    assert rows[2][1:5] == ["48213", "mallory", "2048", "MiB"]
    assert rows[2][-3:] == ["python3", "mine.py", "unapproved"]
    assert rows[3][-3:] == ["comfyui", "(main)", "leased"]
    assert "311 MiB of" in out
    assert "limited: the driver is shy" in out
    assert "processes_allow" in out


def test_nobody_is_said_as_well(fake: FakeServer, run):
    fake.documents["/v1/processes"] = document(replace(VIEW, processes=(), unexplained=(), limited=()))

    assert run("ps") == (0, "no process is known to use a GPU\n", "")


def test_one_that_was_asked_to_end_and_one_that_was_killed_show_it(fake: FakeServer, run):
    asked = replace(STRANGER, asked_to_end_at=STRANGER.started_at)
    fake.documents["/v1/processes"] = document(replace(VIEW, processes=(asked, replace(asked, killed=True))))

    out = run("ps")[1]

    assert "unapproved, asked to end" in out
    assert "unapproved, killed" in out


def test_as_json_it_is_what_the_server_said(fake: FakeServer, run):
    fake.documents["/v1/processes"] = document(VIEW)

    assert json.loads(run("ps", "--json")[1]) == document(VIEW)
