"""``gpu-supervisor ps``: a table in a pipe, the server's words as JSON, and what to do about strangers."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from supervisor.answers import ProcessesView
from supervisor.api import describe_examples
from supervisor.cli.output import Grid, framed
from tests.cli.conftest import FakeServer

STRANGER = describe_examples.PROCESSES.processes[0]
OURS = replace(
    STRANGER,
    pid=77,
    user="root",
    container="comfyui-main-1",
    containers=("comfyui-main-1",),
    service="main",
    target="comfyui",
    standing="leased",
    used_mib=None,
    gpus=(replace(STRANGER.gpus[0], used_mib=None),),
    why_spared="",
)
MISSED = describe_examples.PROCESSES.finished[0]
VIEW = replace(describe_examples.PROCESSES, processes=(STRANGER, OURS), finished=(), limited=("the driver is shy",))


def document(view: ProcessesView) -> Any:
    return json.loads(msgspec.json.encode(view))


def test_processes_in_a_pipe_are_plain_columns(fake: FakeServer, run):
    fake.documents["/v1/processes"] = document(VIEW)

    status, out, err = run("ps")

    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert out.splitlines()[0] == (
        "GPU 0 (GPU-4f1c2b7e, NVIDIA GeForce RTX 4090), 2359 of 24564 MiB used, "
        "311 MiB of it by no process that is known:"
    )
    assert rows[1] == ["pid", "user", "memory", "since", "what", "standing"]
    assert rows[2][:4] == ["48213", "mallory", "2048", "MiB"]
    assert rows[2][-3:] == ["python3", "mine.py", "unapproved"]
    assert rows[3][-3:] == ["comfyui", "(main)", "leased"]
    assert "limited: the driver is shy" in out
    assert "processes_allow" in out


def test_each_gpu_has_a_table_of_its_own_and_a_process_on_both_is_in_both(fake: FakeServer, run):
    (first,) = VIEW.gpus
    second = replace(first, uuid="GPU-2", index=1, name="", used_mib=None, unexplained_mib=None)
    both = replace(STRANGER, gpus=(STRANGER.gpus[0], replace(STRANGER.gpus[0], gpu="GPU-2", used_mib=None)))
    on_a_lost_one = replace(STRANGER, pid=9, gpus=(replace(STRANGER.gpus[0], gpu="GPU-lost"),))
    view = replace(VIEW, gpus=(first, second), processes=(both, OURS, on_a_lost_one))
    fake.documents["/v1/processes"] = document(view)

    lines = run("ps")[1].splitlines()

    titles = [at for at, line in enumerate(lines) if line.endswith(":")]
    assert [lines[at].partition(",")[0] for at in titles] == ["GPU 0 (GPU-4f1c2b7e", "GPU 1 (GPU-2):", "GPU-lost:"]
    tables = [[line.split()[0] for line in lines[at + 2 : at + 4]] for at in titles]
    assert tables == [["48213", "77"], ["48213", "GPU-lost:"], ["9", "limited:"]]
    assert lines[titles[1] + 2].split()[2] == "unknown"


def test_nobody_is_said_as_well_and_told_from_not_knowing(fake: FakeServer, run):
    (gpu,) = VIEW.gpus
    unknown = replace(gpu, uuid="GPU-2", index=1, name="", unexplained_mib=None, listed=False)
    said = replace(VIEW, gpus=(replace(gpu, unexplained_mib=0), unknown), processes=(), limited=())
    fake.documents["/v1/processes"] = document(said)

    assert run("ps") == (
        0,
        "GPU 0 (GPU-4f1c2b7e, NVIDIA GeForce RTX 4090), 2359 of 24564 MiB used: nobody is known to use it\n"
        "GPU 1 (GPU-2), 2359 of 24564 MiB used: who uses it is not known\n",
        "",
    )

    fake.documents["/v1/processes"] = document(replace(said, gpus=()))
    assert run("ps")[1] == "no process is known to use a GPU\n"


def test_one_in_a_container_in_a_container_is_shown_in_both(fake: FakeServer, run):
    nested = replace(STRANGER, container="runner", containers=("runner", "a" * 64))
    fake.documents["/v1/processes"] = document(replace(VIEW, processes=(nested,)))

    assert f"python3 mine.py in runner > {'a' * 40}" in run("ps")[1]


@pytest.mark.parametrize(
    ("standing", "coloured"),
    [
        pytest.param("unapproved", "1;31", id="nothing: red"),
        pytest.param("unapproved, killed", "1;31", id="whatever follows"),
        pytest.param("leased", "32", id="a lease: green"),
    ],
)
def test_the_standing_has_a_colour_on_a_terminal(standing, coloured):
    console = Console(force_terminal=True, color_system="standard", width=100, file=io.StringIO())
    console.print(framed([Grid("t", ("standing",), [(standing,)])]))

    assert f"\x1b[{coloured}m{standing}" in console.file.getvalue()


def test_one_that_was_asked_to_end_and_one_that_was_killed_show_it(fake: FakeServer, run):
    asked = replace(STRANGER, asked_to_end_at=STRANGER.started_at)
    fake.documents["/v1/processes"] = document(replace(VIEW, processes=(asked, replace(asked, killed=True))))

    out = run("ps")[1]

    assert "unapproved, asked to end" in out
    assert "unapproved, killed" in out


def test_as_json_it_is_what_the_server_said(fake: FakeServer, run):
    fake.documents["/v1/processes"] = document(VIEW)

    assert json.loads(run("ps", "--json")[1]) == document(VIEW)


# ---- who came and went


def finished_lines(fake: FakeServer, run, view: ProcessesView) -> list[str]:
    fake.documents["/v1/processes"] = document(view)
    status, out, err = run("ps", "--finished")
    assert (status, err) == (0, "")
    return out.splitlines()


def test_who_came_and_went_unseen_is_a_table_of_its_own_and_is_hinted_at(fake: FakeServer, run):
    view = replace(
        VIEW,
        finished=(
            MISSED,
            replace(MISSED, pid=2, standing="unknown", meanwhile=("comfyui", "ann"), peak_mib=None),
            replace(MISSED, pid=3, standing="target", target="comfyui", container="comfyui-main-1"),
            replace(MISSED, pid=4, standing="allowed", container="jupyter", gpu="GPU-gone"),
            replace(MISSED, pid=5, standing="unknown"),
        ),
    )

    lines = finished_lines(fake, run, view)

    assert lines[0] == "came and went unseen:"
    rows = [line.split() for line in lines[1:-1]]
    assert rows[0] == ["pid", "gpu", "from", "to", "memory", "whose"]
    assert [row[:2] for row in rows[1:]] == [["48190", "0"], ["2", "0"], ["3", "0"], ["4", "GPU-gone"], ["5", "0"]]
    whose = [line.partition("MiB  ")[2] or line.partition("unknown  ")[2] for line in lines[2:-1]]
    assert [text.strip() for text in whose] == [
        "unapproved, nobody had the GPU",
        "not known; comfyui or ann had the GPU",
        "comfyui, in the container comfyui-main-1",
        "allowed, in the container jupyter",
        "not known",
    ]
    assert lines[-1].startswith("GPU 0 (GPU-4f1c2b7e): the driver's accounts are on")
    assert "5 processes came and went unseen: gpu-supervisor ps --finished" in run("ps")[1]


@pytest.mark.parametrize(
    ("accounting", "says"),
    [
        pytest.param("off", "nvidia-smi -am 1", id="off: how to turn them on"),
        pytest.param("unsupported", "keeps no accounts", id="unsupported"),
        pytest.param("denied", "run it as root", id="denied"),
        pytest.param("unknown", "nobody can say", id="unknown"),
    ],
)
def test_why_nobody_is_known_to_have_come_and_gone_is_said(fake: FakeServer, run, accounting, says):
    gpus = (replace(VIEW.gpus[0], accounting=accounting),)

    lines = finished_lines(fake, run, replace(VIEW, gpus=gpus))

    assert lines[0] == "nobody is known to have come and gone unseen"
    assert says in lines[1]
