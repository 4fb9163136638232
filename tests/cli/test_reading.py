"""``status``, ``why``, ``audit`` and ``check``: what people are shown, and what scripts get."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.answers import (
    EngineView,
    Event,
    Events,
    GpuView,
    JournalView,
    LeaseView,
    QueueEntry,
    StatusView,
    TargetBrief,
    TargetsView,
    TargetView,
    Why,
)
from supervisor.asking import messages
from supervisor.cli.output import clean, clock_time
from supervisor.core.model import Problem
from tests.cli.fake import FakeServer
from tests.cli.fake import Problem as Answer

LEASE = LeaseView(
    id="l_abc",
    state="ready",
    fence=7,
    target="comfyui",
    consumer="comfyui",
    owner="ann",
    priority=0,
    granted_at="2001-01-02T03:04:05.000Z",
    expires_at="2001-01-02T03:09:05.000Z",
    ends_at=None,
    ttl_seconds=300,
    gpus=("SIM-0",),
    cuda_visible_devices="SIM-0",
    vram_mib=16_000,
    adopted=False,
    joined=False,
    why="",
    until=None,
)
TICKET = QueueEntry(
    id="l_def",
    state="queued",
    target=None,
    owner="bob\x1b[31m",
    priority=5,
    queued_at="2001-01-02T03:05:05.000Z",
    position=0,
    gpu_count=2,
    vram_mib=8_192,
    why="comfyui holds the GPU (owner ann)",
    until=None,
)
NO_MASTER = Problem("no_master", "no container of whisper is the master", "label one of them", target="whisper")
GPU = GpuView(
    uuid="SIM-0",
    index=0,
    name="simulated",
    state="ok",
    total_mib=24_576,
    used_mib=15_000,
    reserved_mib=None,
    free_mib=9_576,
    granted_mib=20_000,
    grantable_mib=4_576,
    unexplained_mib=0,
    utilization_percent=None,
    temperature_c=None,
    power_w=None,
    lease="l_abc",
    leases=("l_abc",),
    residents=("ollama",),
    targets=(),
    problem="",
)
STATUS = StatusView(
    host="box",
    version="0.2.0",
    mode="stop",
    engine=EngineView(True, "", 0.1),
    journal=JournalView("ok", ""),
    gpus=(GPU,),
    leases=(LEASE,),
    queue=(TICKET,),
    targets=(TargetBrief("comfyui", "ready", ()), TargetBrief("whisper", "invalid", (NO_MASTER,))),
    problems=(),
)


def document(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def event(seq: int, sentence: str) -> Event:
    return Event(
        seq=seq,
        time="2001-01-02T03:04:05.678Z",
        type="ContainerRefused",
        sentence=sentence,
        target="whisper",
        container="whisper-1",
        fields={},
    )


def test_status_in_a_pipe_is_plain_columns(fake: FakeServer, run):
    fake.documents["/v1/status"] = document(STATUS)

    assert run("status") == (
        0,
        """\
gpu-supervisor 0.2.0 on box: in sync with the engine, enforcement stop
GPUs:
  gpu    name       state  memory                   granted    free      on it
  SIM-0  simulated  ok     15000 of 24576 MiB used  20000 MiB  4576 MiB  comfyui of ann, ollama (resident)
Leases:
  target   owner  state  since                expires              needs      lease
  comfyui  ann    ready  2001-01-02 03:04:05  2001-01-02 03:09:05  16000 MiB  l_abc
Queue:
  place  target  owner        priority  needs         since                waits because
  1      (bare)  bob\\x1b[31m  5         2 x 8192 MiB  2001-01-02 03:05:05  comfyui holds the GPU (owner ann)
Targets:
  target   state    problems
  comfyui  ready    -
  whisper  invalid  1 error
error: no container of whisper is the master; label one of them
""",
        "",
    )


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [
        pytest.param({}, True, id="colours"),
        pytest.param({"NO_COLOR": "1"}, False, id="no colours where none are wanted"),
    ],
)
def test_a_terminal_gets_frames_and_colours(fake: FakeServer, spawn, environ, coloured):
    fake.documents["/v1/status"] = document(STATUS)
    fake.refusals["x"] = Answer(404, "target_unknown", "there is no x")
    terminal = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environ}

    framed = on_a_terminal(spawn, ["status"], terminal)
    refused = on_a_terminal(spawn, ["acquire", "x"], terminal)

    assert "│ comfyui │ ann" in framed
    assert "bob\\x1b[31m" in framed
    assert ("\x1b[31merror:" in refused) == coloured
    assert "there is no x" in refused


def on_a_terminal(spawn, arguments: list[str], environ: dict[str, str]) -> str:
    """Run a command whose stdout and stderr are one terminal, and return what that shows."""
    ours, its = os.openpty()
    process = spawn(arguments, env=environ, stdout=its, stderr=its)
    os.close(its)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, suppress(OSError):  # EIO: the other side has closed it
        while data := terminal.read(65536):
            shown += data
    process.wait(10)
    return shown.decode()


def test_status_for_a_script_is_the_servers_answer(fake: FakeServer, run):
    fake.documents["/v1/status"] = document(STATUS)

    status, out, _ = run("status", "--json")

    assert (status, json.loads(out)) == (0, document(STATUS))


def test_status_shows_who_is_on_each_gpu_and_why_one_is_closed(fake: FakeServer, run):
    bare = msgspec.structs.replace(
        LEASE, id="l_bare", target=None, owner="bob", gpus=("SIM-0", "SIM-1"), ends_at="2001-01-02T03:08:00.000Z"
    )
    fake.documents["/v1/status"] = document(
        msgspec.structs.replace(
            STATUS,
            leases=(LEASE, bare),
            gpus=(
                msgspec.structs.replace(GPU, leases=("l_abc", "l_bare"), residents=()),
                msgspec.structs.replace(
                    GPU,
                    uuid="SIM-1",
                    state="dirty",
                    leases=("l_bare",),
                    granted_mib=None,
                    grantable_mib=None,
                    problem="512 MiB did not come back",
                ),
                msgspec.structs.replace(GPU, uuid="SIM-2", total_mib=None, used_mib=None, leases=(), residents=()),
            ),
        )
    )

    _, out, _ = run("status")

    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "SIM-0 simulated ok 15000 of 24576 MiB used 20000 MiB 4576 MiB comfyui of ann, (bare) of bob" in lines
    assert "SIM-1 simulated dirty 15000 of 24576 MiB used - - (bare) of bob, ollama (resident)" in lines
    assert "SIM-2 simulated ok unknown size 20000 MiB 4576 MiB -" in lines
    assert "warning: SIM-1 is closed: 512 MiB did not come back" in lines
    assert any("2001-01-02 03:09:05, ends 2001-01-02 03:08:00 2 x 16000 MiB l_bare" in line for line in lines)


def test_status_says_what_is_wrong_and_what_to_do_first(fake: FakeServer, run):
    fake.documents["/v1/status"] = document(
        msgspec.structs.replace(
            STATUS,
            engine=EngineView(False, "connection refused", None),
            journal=JournalView("full", "the disk of the data directory is full"),
            leases=(),
            queue=(),
            targets=(),
        )
    )

    _, out, _ = run("status")

    assert "NOT IN SYNC with the engine: connection refused" in out
    assert "journal full: the disk of the data directory is full" in out
    assert "no target yet: label a compose file with gpu.target" in out
    assert "Leases" not in out
    assert "Queue" not in out


def test_status_without_a_gpu_says_where_the_reason_is(fake: FakeServer, run):
    fake.documents["/v1/status"] = document(msgspec.structs.replace(STATUS, gpus=()))

    assert "no GPU is known, so nothing is granted; the supervisor's log and /readyz say why" in run("status")[1]


def test_why_says_it_in_one_sentence_with_what_to_type(fake: FakeServer, run):
    fake.documents["/v1/why/whisper-1"] = document(
        Why(
            name="whisper-1",
            target="whisper",
            state="stopped",
            sentence="whisper-1 was killed: comfyui holds the GPU",
            stopped=event(9, "refused"),
            by="the enforcer",
            for_target="comfyui",
            for_owner="ann",
            command="gpu-supervisor acquire whisper",
        )
    )

    assert run("why", "whisper-1") == (
        0,
        "2001-01-02 03:04:05  whisper-1 was killed: comfyui holds the GPU\n"
        "whisper-1 belongs to whisper, which is stopped\n"
        "to get the GPU: gpu-supervisor acquire whisper\n",
        "",
    )


def test_why_of_labels_that_are_wrong_sends_back_to_check_and_not_to_acquire(fake: FakeServer, run):
    fake.documents["/v1/why/x-1"] = document(
        Why(
            name="x-1",
            target=None,
            state="invalid",
            sentence="container x-1 has a bad gpu.target",
            stopped=None,
            by=None,
            for_target=None,
            for_owner=None,
            command="gpu-supervisor check",
        )
    )

    assert run("why", "x-1")[1] == "container x-1 has a bad gpu.target\nonce it is mended: gpu-supervisor check\n"


def test_why_of_something_unknown_is_an_error(fake: FakeServer, run):
    fake.documents["/v1/why/x%20y"] = Answer(404, "not_found", "no container or target is called x y")

    assert run("why", "x y") == (1, "", "error: no container or target is called x y\n")


def test_audit_shows_one_decision_a_line_and_escapes_what_is_in_it(fake: FakeServer, run):
    fake.documents["/v1/events"] = document(Events((event(1, "one"), event(2, "two\x1b]0;owned\x07")), 2))

    assert run("audit")[1] == ("     1  2001-01-02 03:04:05  one\n     2  2001-01-02 03:04:05  two\\x1b]0;owned\\x07\n")


def test_audit_for_a_script_is_one_object_a_line(fake: FakeServer, run):
    events = (event(1, "one"), event(2, "two"))
    fake.documents["/v1/events"] = document(Events(events, 2))

    _, out, _ = run("audit", "--json")

    assert [json.loads(line) for line in out.splitlines()] == [document(one) for one in events]


def test_a_followed_audit_resumes_behind_the_last_event_when_the_stream_breaks(fake: FakeServer, spawn):
    fake.documents["/v1/events"] = document(Events((event(1, "one"),), 1))
    fake.streams = [[(2, document(event(2, "two")))], [(3, document(event(3, "three")))]]

    process = spawn(["audit", "--follow"])
    assert process.stdout is not None
    lines = [process.stdout.readline().split()[-1] for _ in range(3)]
    fake.until(lambda: len(fake.resumed_from) == 3)
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 0
    assert lines == ["one", "two", "three"]
    assert fake.resumed_from == ["1", "2", "3"]


def test_the_lines_of_an_event_stream_are_read_as_the_standard_says():
    lines = [": hello", "id: 1", "data: a", "data:b", "", "", "event: fact", "data:  c", "", "data: unfinished"]

    assert list(messages(lines)) == ["a\nb", " c"]


# ---- what answers is not what was meant


@contextmanager
def answering(raw: bytes) -> Iterator[str]:
    """A listener that answers every connection with the same bytes, then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(raw)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
            "is no GPU supervisor (HTTP 200, text/html)",
            id="a web page",
        ),
        pytest.param(
            b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
            "is no GPU supervisor (HTTP 404, application/json)",
            id="another service",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
            "is not understood",
            id="an answer of another shape",
        ),
        pytest.param(b"", "went away", id="nothing at all"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", "went away", id="another protocol"),
    ],
)
def test_another_server_is_told_apart_from_ours_and_4(run, monkeypatch, raw, message):
    with answering(raw) as url:
        monkeypatch.setenv("GPU_SUPERVISOR_URL", url)
        status, out, err = run("status")

    assert (status, out) == (4, "")
    assert message in err


def test_a_reader_that_leaves_early_is_no_error(fake: FakeServer, spawn):
    fake.documents["/v1/events"] = document(Events(tuple(event(n, "x" * 500) for n in range(1000)), 1000))
    process = spawn(["audit", "--limit", "1000"])
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()

    assert process.wait(10) != 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_text_of_others_cannot_drive_the_terminal():
    assert clean("plain ümläut 日本") == "plain ümläut 日本"
    assert clean("a\x1b[2Jb\r\n\x00\u202ec") == "a\\x1b[2Jb\\r\\n\\x00\\u202ec"


def test_times_are_shown_as_this_machines_clock_shows_them():
    assert clock_time("2001-01-02T03:04:05.678Z") == "2001-01-02 03:04:05"
    assert clock_time(None) == ""
    assert clock_time("soon") == "soon"


# ---- check


def view(name: str, **fields: Any) -> TargetView:
    known = {
        "name": name,
        "state": "stopped",
        "project": name,
        "master": f"{name}-1",
        "vram_mib": 8_192,
        "priority": 0,
        "lease": None,
        "holders": 0,
        "max_holders": 1,
        "seen_mib": None,
        "suggested_label": None,
        "gpus": (),
        "devices": (),
        "gpu_class": None,
        "coexist_with": "none",
        "groups": (),
        "idle_timeout_seconds": None,
        "min_residency_seconds": None,
        "max_hold_seconds": None,
        "endpoint": None,
        "containers": (),
        "problems": (),
    }
    return msgspec.convert({**known, **fields}, TargetView)


def test_check_without_files_asks_the_server(fake: FakeServer, run):
    fake.documents["/v1/targets"] = document(TargetsView((view("comfyui"), view("gone", state="absent")), ()))

    assert run("check") == (
        0,
        "comfyui: ok, needs 8192 MiB, priority 0, Compose project comfyui\nnext: gpu-supervisor acquire comfyui\n",
        "",
    )


def test_check_fails_with_1_if_a_label_must_be_mended_and_says_which(fake: FakeServer, run):
    stray = Problem("bad_target_name", 'container x: "A B" is not a target name', "did you mean a-b?")
    fake.documents["/v1/targets"] = document(
        TargetsView((view("whisper", vram_mib=None, problems=(NO_MASTER,)),), (stray,))
    )

    status, out, _ = run("check")

    assert status == 1
    assert out == (
        "whisper: INVALID, needs the whole GPU, priority 0, Compose project whisper\n"
        "  error: no container of whisper is the master [no_master]\n"
        "    hint: label one of them\n"
        "of no target:\n"
        '  error: container x: "A B" is not a target name [bad_target_name]\n'
        "    hint: did you mean a-b?\n"
        "next: gpu-supervisor check\n"
    )


def test_check_beside_a_compose_file_says_that_it_did_not_read_it(fake: FakeServer, run, tmp_path, monkeypatch):
    fake.documents["/v1/targets"] = document(TargetsView((view("comfyui"),), ()))
    monkeypatch.chdir(tmp_path)
    assert run("check")[2] == ""
    (tmp_path / "compose.yml").touch()

    assert run("check")[2] == "these are the containers that are there; of the file: gpu-supervisor check compose.yml\n"


def test_check_for_a_script_is_json(fake: FakeServer, run):
    fake.documents["/v1/targets"] = document(TargetsView((view("comfyui"),), ()))

    status, out, _ = run("check", "--json")

    report = json.loads(out)
    assert (status, report["ok"], report["targets"][0]["name"]) == (0, True, "comfyui")


def test_check_of_a_file_that_is_not_there_is_an_error(run):
    status, _, err = run("check", "/no/such/file.yml")

    assert status == 1
    assert "there is no file /no/such/file.yml" in err


def test_check_without_server_and_engine_says_where_it_looked(run, monkeypatch):
    monkeypatch.setenv("GPU_SUPERVISOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/engine.sock")

    status, _, err = run("check")

    assert status == 1
    assert "error: unix:///no/such/engine.sock: the engine cannot be reached" in err
    assert "DOCKER_HOST" in err


@pytest.mark.engine
def test_check_reads_compose_files_and_says_what_to_type_next(run, engine_url):
    for name in ("ollama", "whisper"):
        file = Path(__file__).parents[2] / "examples" / f"{name}.yml"

        status, out, _ = run("check", str(file))

        assert status == 0, out
        assert out.splitlines()[-1] == f"next: docker compose -f {file} create && gpu-supervisor acquire {name}"


@pytest.mark.engine
def test_check_asks_docker_where_no_supervisor_answers(run, monkeypatch, make_stack, label_prefix, engine_url):
    stack = make_stack("single")
    monkeypatch.setenv("GPU_SUPERVISOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GPU_SUPERVISOR_LABEL_PREFIX", label_prefix)
    monkeypatch.setenv("DOCKER_HOST", engine_url)

    _, out, err = run("check")

    assert "no supervisor answers: asking Docker" in err
    assert f"{stack.target}: ok" in out
