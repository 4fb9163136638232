"""``acquire`` and ``release``: asking, queueing, holding, giving back; what is said and with which exit status."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from supervisor.cli.connection import Line
from supervisor.cli.errors import Unreachable
from tests.cli.fake import FakeServer, Problem

TRUE = ("--", "true")


def test_a_command_runs_under_the_lease_and_its_status_is_passed_on(fake: FakeServer, run, tmp_path):
    seen = tmp_path / "seen"
    status, out, err = run("acquire", "comfyui", "--", "sh", "-c", f"touch {seen}; echo hello; exit 7")

    assert (status, out) == (7, "hello\n")
    assert "comfyui is ready: lease l_1 on SIM-0, fence 7" in err
    assert seen.exists()
    assert fake.holder is None
    assert fake.ended == {"t-1": "released"}


def test_what_is_asked_for_is_what_was_typed(fake: FakeServer, run):
    run("acquire", "comfyui", "--owner", "ann", "--priority", "5", "--ttl", "2m", "--no-wait-ready", *TRUE)

    assert fake.asked == [
        {
            "target": "comfyui",
            "owner": "ann",
            "priority": 5,
            "ttl_seconds": 120,
            "wait_ready": False,  # asked for with the claim: the first answer brings the token at once
            "queue": True,
        }
    ]
    assert fake.keys[0]


def test_nothing_is_made_up_where_nothing_was_typed(fake: FakeServer, run):
    run("acquire", "--bare", *TRUE)

    assert "target" not in fake.asked[0]
    assert "priority" not in fake.asked[0]
    assert "@" in fake.asked[0]["owner"]


def test_a_bare_lease_asks_for_gpus_a_size_and_a_class(fake: FakeServer, run):
    run("acquire", "--bare", "--gpus", "2", "--vram", "8GiB", "--class", "high", *TRUE)

    assert {name: fake.asked[0].get(name) for name in ("target", "gpus", "vram_mib", "gpu_class")} == {
        "target": None,
        "gpus": 2,
        "vram_mib": 8_192,
        "gpu_class": "high",
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(("llm", "--gpus", "2"), "--gpus is for --bare", id="gpus of a target"),
        pytest.param(("llm", "--vram", "8GiB"), "--vram is for --bare", id="the size of a target"),
        pytest.param(("llm", "--class", "high"), "--class is for --bare", id="the class of a target"),
        pytest.param(("--bare", "--vram", "8192"), "say of what: 8192MiB, or 8192GiB", id="a size without its unit"),
        pytest.param(("--bare", "--gpus", "0"), "--gpus", id="no gpu"),
    ],
)
def test_what_a_lease_cannot_ask_for_is_a_wrong_command_line(fake: FakeServer, run, line, said):
    status, out, err = run("acquire", *line)

    assert (status, out) == (2, "")
    assert said in err
    assert fake.asked == []


PRINT_CUDA = ("--", "sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER"')


def test_a_command_under_a_bare_lease_sees_the_gpus_of_the_lease_and_no_others(fake: FakeServer, run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    fake.gpus = {"gpus": ["GPU-1", "GPU-2"], "cuda_visible_devices": "GPU-1,GPU-2"}

    status, out, err = run("acquire", "--bare", "--gpus", "2", *PRINT_CUDA)
    assert (status, out) == (0, "GPU-1,GPU-2 PCI_BUS_ID\n")
    assert "2 GPUs are yours: lease " in err


def test_what_a_command_sees_beside_a_target_is_left_alone(fake: FakeServer, run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    assert run("acquire", "comfyui", *PRINT_CUDA)[:2] == (0, "0 \n")


def test_a_holder_is_told_once_that_its_lease_ends_because_others_wait(fake: FakeServer, run, quick, tmp_path):
    fake.ends_at = "2001-01-02T03:08:00.000Z"
    fake.ttl_s = 0.3
    done = tmp_path / "done"

    def leave() -> None:
        fake.until(lambda: fake.renewals >= 2 and fake.looks >= 4)
        done.touch()

    thread = threading.Thread(target=leave)
    thread.start()
    status, _, err = run("acquire", "--bare", "--", "sh", "-c", f"until [ -e {done} ]; do sleep 0.02; done")
    thread.join(10)

    assert status == 0
    assert err.count("others wait: the lease of the GPU ends at 2001-01-02 03:08:00 if they still do") == 1


def test_detach_prints_the_token_alone_and_leaves_the_lease(fake: FakeServer, run):
    status, out, err = run("acquire", "comfyui", "--detach")

    assert (status, out) == (0, "t-1\n")
    assert "t-1" not in err
    assert fake.holder is not None
    assert fake.asked[0]["ttl_seconds"] == 300
    assert run("release", "t-1") == (0, "released\n", "")
    assert fake.holder is None


def test_a_busy_gpu_is_queued_for_and_the_place_and_the_holder_are_shown(fake: FakeServer, run, quick):
    fake.take(owner="ann")

    def release_once_its_place_was_asked_for() -> None:
        fake.until(lambda: fake.looks >= 2, 30)
        fake.end("t-other", "released")

    threading.Thread(target=release_once_its_place_was_asked_for).start()

    status, _, err = run("acquire", "ollama", *TRUE)

    assert status == 0
    assert "waiting for ollama at place 1: comfyui holds the GPU (owner ann)" in err
    assert err.count("waiting for ollama") == 1, "only what changes is said"
    assert "ollama is ready" in err


def test_a_busy_gpu_that_is_not_waited_for_is_refused_with_3(fake: FakeServer, run):
    fake.take()

    status, out, err = run("acquire", "ollama", "--wait", "0s")

    assert (status, out) == (3, "")
    assert err == (
        "busy: comfyui holds the GPU (owner ann), until 2001-01-02 03:09:05 unless renewed\n"
        "hint: wait with --wait 10m, or see the queue with: gpu-supervisor queue\n"
    )
    assert fake.asked[0]["queue"] is False
    assert fake.queue == []


def test_a_wait_that_runs_out_leaves_the_queue_with_3(fake: FakeServer, run, quick):
    fake.take()

    status, _, err = run("acquire", "ollama", "--wait", "1s")

    assert status == 3
    assert "busy: comfyui holds the GPU (owner ann)" in err
    assert fake.queue == []


def test_a_ticket_that_expired_while_the_line_was_cut_is_asked_for_again(fake: FakeServer, run, quick):
    fake.take()

    def expire() -> None:
        fake.until(lambda: fake.queue)
        fake.end("t-1", "ticket_expired")
        fake.until(lambda: len(fake.asked) == 2)
        fake.end("t-other", "released")

    thread = threading.Thread(target=expire)
    thread.start()
    status, _, err = run("acquire", "ollama", *TRUE)
    thread.join(10)

    assert status == 0
    assert "queueing again" in err
    assert fake.keys[0] != fake.keys[1], "a new ticket is a new request"


def test_a_server_that_goes_away_while_we_queue_is_waited_for(fake: FakeServer, run, quick):
    fake.take()

    def restart() -> None:
        fake.until(lambda: fake.queue)
        fake.set_cut(True)
        fake.until(lambda: fake.cut, 1)
        threading.Event().wait(0.2)
        fake.set_cut(False)
        fake.end("t-other", "released")

    thread = threading.Thread(target=restart)
    thread.start()
    status, _, err = run("acquire", "ollama", *TRUE)
    thread.join(10)

    assert status == 0
    assert "its place in the queue is kept, trying again" in err
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    ("problem", "status", "shown"),
    [
        pytest.param(
            Problem(404, "target_unknown", "no container is labelled gpu.target=comfy; did you mean comfyui?"),
            1,
            "error: no container is labelled gpu.target=comfy; did you mean comfyui?\n"
            "hint:  see what there is with: gpu-supervisor targets\n",
            id="no such target",
        ),
        pytest.param(
            Problem(503, "queue_full", "20000 tickets wait already", retryable=True),
            3,
            "busy: 20000 tickets wait already\nhint: see the queue with: gpu-supervisor queue\n",
            id="a full queue may have room later",
        ),
        pytest.param(
            Problem(500, "something_new", "a \x07 bell"),
            1,
            "error: a \\x07 bell\n",
            id="a code that this version does not know",
        ),
    ],
)
def test_a_refusal_is_shown_with_what_to_do_about_it(fake: FakeServer, run, problem, status, shown):
    fake.refusals["comfy"] = problem

    assert run("acquire", "comfy", *TRUE) == (status, "", shown)


def test_a_start_that_fails_is_shown_with_its_last_words_made_harmless(fake: FakeServer, run):
    fake.start_failure = Problem(502, "target_failed", "comfyui exited with 1", logs_tail="one\n\x1b[31mtwo")

    status, _, err = run("acquire", "comfyui", *TRUE)

    assert status == 1
    assert "error: comfyui exited with 1\n  | one\n  | \\x1b[31mtwo\nhint:  see why with: docker logs" in err
    assert fake.holder is None


def test_a_machine_without_the_container_toolkit_is_told_what_to_install_and_not_to_read_logs(fake: FakeServer, run):
    detail = 'the engine refused to start comfyui-1: could not select device driver "nvidia" with capabilities: [[gpu]]'
    fake.start_failure = Problem(502, "target_failed", detail)

    _, _, err = run("acquire", "comfyui", *TRUE)

    assert "hint:  install the NVIDIA Container Toolkit, or leave the GPU reservation out of the compose file" in err
    assert "docker logs" not in err


def test_an_interrupted_start_is_given_back_at_once(fake: FakeServer, spawn):
    fake.starting = True
    process = spawn(["acquire", "comfyui"])
    until_line(process, "starting comfyui: room is being made")
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 130
    assert fake.ended == {"t-1": "released"}


@pytest.mark.parametrize("taken", [True, False], ids=["a place in the queue", "a lease"])
def test_an_interrupt_before_the_first_answer_came_leaves_nothing(fake: FakeServer, spawn, taken):
    if taken:
        fake.take()
    fake.silent = True
    process = spawn(["acquire", "whisper", *TRUE])
    fake.until(lambda: fake.queue if taken else fake.holder)
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 130
    assert fake.ended == {"t-1": "released"}
    assert fake.by_key == fake.keys
    assert "gave up waiting for whisper" in process.stderr.read()


def test_a_server_that_is_too_old_to_give_it_back_without_its_token_is_not_asked_for_long(fake: FakeServer, spawn):
    fake.silent = True
    fake.answers["DELETE /v1/lease"] = Problem(405, "method_not_allowed", "this path takes POST")
    process = spawn(["acquire", "whisper", *TRUE])
    fake.until(lambda: fake.holder)
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 130
    assert len(fake.calls) == 1
    said = process.stderr.read()
    assert "could not take the request back (this path takes POST): it ends by itself within 60 s" in said


@pytest.mark.parametrize(
    "later",
    [
        pytest.param([Unreachable("no supervisor answers", asked=False)], id="then nobody was there"),
        pytest.param([Unreachable("no supervisor answers")] * 2, id="then every try was cut"),
    ],
)
def test_an_answer_that_was_lost_in_a_restart_is_given_back_when_the_server_is_there_again(
    fake: FakeServer, run, quick, monkeypatch, later
):
    """The first try arrives and is cut off, the later ones fail, and then the server is back."""
    fake.silent = True
    asks = iter([None, *later])
    honest = Line.ask_raw

    async def ask_raw(self: Line, method: str, path: str, **options: object) -> bytes:
        fault = next(asks) if method == "POST" else None
        if fault is not None:
            raise fault
        if method == "POST":
            threading.Thread(target=lambda: (fake.until(lambda: fake.holder), fake.set_cut(True))).start()
        else:
            fake.set_cut(False)
        return await honest(self, method, path, **options)

    monkeypatch.setattr(Line, "ask_raw", ask_raw)
    status, _, err = run("acquire", "whisper", *TRUE)

    assert (status, "no supervisor answers" in err) == (4, True)
    assert fake.ended == {"t-1": "released"}


def test_nobody_is_asked_to_give_back_what_nobody_can_have(run, monkeypatch):
    asked = []

    async def ask_raw(self: Line, method: str, path: str, **options: object) -> bytes:
        asked.append(method)
        raise Unreachable("no supervisor answers", asked=False)

    monkeypatch.setattr(Line, "ask_raw", ask_raw)

    assert run("acquire", "whisper", *TRUE)[0] == 4
    assert asked == ["POST"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["acquire"], "name a target, or say --bare", id="no target"),
        pytest.param(["acquire", "x", "--bare"], "name a target, or say --bare", id="a bare target"),
        pytest.param(["acquire", "x", "--"], "there is no command after --", id="no command"),
        pytest.param(["acquire", "x", "--detach", *TRUE], "--detach leaves at once", id="detached, but for a command"),
        pytest.param(["acquire", "x", "--ttl", "soon"], '--ttl: "soon" is not a duration', id="no duration"),
        pytest.param(["acquire", "x", "--wait", "-1"], '--wait: "-1" is not a duration', id="a negative wait"),
        pytest.param(["acquire", "x", "y"], "unexpected extra argument", id="two targets are no command"),
        pytest.param(
            ["acquire", "x", "--prio", "1"],
            "error: no such option: --prio\nhint:  did you mean --priority?",
            id="no such option",
        ),
        pytest.param(["release"], "name the token of a lease, or --force", id="nothing to release"),
        pytest.param(["release", "t", "--force"], "name the token of a lease, or --force", id="both"),
        pytest.param(
            ["release", "--target", "x"], "name the token of a lease, or --force", id="a target without force"
        ),
        pytest.param(["frobnicate"], "error: no such command", id="no such command"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused_with_2(fake: FakeServer, run, arguments, message):
    status, out, err = run(*arguments)

    assert (status, out) == (2, "")
    assert message in err
    assert fake.asked == []


def test_a_command_that_does_not_exist_gives_the_lease_back(fake: FakeServer, run):
    status, _, err = run("acquire", "comfyui", "--", "/no/such/command")

    assert status == 127
    assert "error: /no/such/command: no such file or directory" in err
    assert fake.holder is None


def test_a_command_that_dies_of_a_signal_has_the_status_that_a_shell_gives_it(fake: FakeServer, run):
    assert run("acquire", "comfyui", "--", "sh", "-c", "kill -9 $$")[0] == 137


def test_the_lease_is_renewed_while_the_command_runs(fake: FakeServer, spawn, monkeypatch):
    fake.ttl_s = 0.3
    process = spawn(["acquire", "comfyui", "--", "sleep", "30"])

    fake.until(lambda: fake.renewals >= 3)

    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    assert fake.holder is None


def test_a_server_that_restarts_while_we_hold_is_waited_for(fake: FakeServer, spawn):
    fake.ttl_s = 0.3
    process = spawn(["acquire", "comfyui"])
    fake.until(lambda: fake.renewals >= 1)
    fake.set_cut(True)
    assert process.stderr is not None
    until_line(process, "the lease is kept, trying again")
    seen = fake.renewals
    fake.set_cut(False)

    fake.until(lambda: fake.renewals > seen)
    until_line(process, "the server answers again")


def test_a_lost_lease_ends_the_command_with_5(fake: FakeServer, spawn):
    fake.ttl_s = 0.3
    process = spawn(["acquire", "comfyui", "--", "sleep", "30"])
    fake.until(lambda: fake.renewals >= 1)
    fake.end("t-1", "forced")

    _, err = process.communicate(timeout=15)

    assert process.returncode == 5
    assert "error: the lease of comfyui was lost: this lease has ended (forced)" in err
    assert "gpu-supervisor audit" in err


def test_a_lost_lease_is_noticed_long_before_the_next_renewal(fake: FakeServer, spawn):
    process = spawn(["acquire", "comfyui", "--ttl", "1h"])
    until_line(process, "held until Ctrl-C")
    fake.end("t-1", "expired")

    _, err = process.communicate(timeout=10)

    assert process.returncode == 5
    assert "error: the lease of comfyui was lost: it has ended (expired)" in err
    assert fake.renewals == 0


def test_a_target_that_went_down_is_said_once(fake: FakeServer, run, quick, tmp_path):
    fake.holder_state = "down"

    def finish() -> None:
        fake.until(lambda: fake.looks >= 5)
        (tmp_path / "done").touch()

    thread = threading.Thread(target=finish)
    thread.start()
    wait = f"until [ -e {tmp_path}/done ]; do sleep 0.05; done"
    status, _, err = run("acquire", "comfyui", "--", "sh", "-c", wait)
    thread.join(10)

    assert status == 0
    assert err.count("comfyui is down: it went down") == 1


def test_a_job_that_is_done_ends_the_hold_with_0(fake: FakeServer, spawn):
    fake.ttl_s = 0.3
    process = spawn(["acquire", "batch"])
    fake.until(lambda: fake.renewals >= 1)
    fake.end("t-1", "target_completed")

    _, err = process.communicate(timeout=15)

    assert (process.returncode, err.splitlines()[-1]) == (0, "batch is done")


def test_a_job_that_is_done_leaves_the_command_to_end_by_itself(fake: FakeServer, spawn, tmp_path):
    fake.ttl_s = 0.3
    wait = f"until [ -e {tmp_path}/done ]; do sleep 0.05; done; exit 6"
    process = spawn(["acquire", "batch", "--", "sh", "-c", wait])
    fake.until(lambda: fake.renewals >= 1)
    fake.end("t-1", "target_completed")
    until_line(process, "batch is done, and its lease has ended; the command goes on")
    (tmp_path / "done").touch()

    assert process.wait(10) == 6


def test_a_job_that_was_over_at_once_is_not_held(fake: FakeServer, run):
    fake.answer_state = "ended"

    status, _, err = run("acquire", "batch")

    assert (status, err.splitlines()[-1]) == (0, "batch is done (ended)")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_holding_releases(fake: FakeServer, spawn, number):
    process = spawn(["acquire", "comfyui"])
    until_line(process, "held until Ctrl-C")
    process.send_signal(number)

    assert process.wait(10) == 0
    assert fake.holder is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_queueing_gives_the_place_up(fake: FakeServer, spawn, number):
    fake.take()
    process = spawn(["acquire", "ollama"])
    until_line(process, "waiting for ollama")
    process.send_signal(number)

    _, err = process.communicate(timeout=10)

    assert process.returncode == 128 + number
    assert "gave up waiting for ollama" in err
    assert fake.queue == []


def test_a_signal_goes_to_the_command_which_may_take_its_time(fake: FakeServer, spawn, tmp_path):
    ready = "trap 'echo saved; exit 3' TERM; echo started; while :; do sleep 0.05; done"
    process = spawn(["acquire", "comfyui", "--", "sh", "-c", ready])
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)

    out, _ = process.communicate(timeout=10)

    assert (process.returncode, out) == (3, "saved\n")
    assert fake.holder is None


def test_a_ctrl_c_at_a_terminal_reaches_the_command_once(fake: FakeServer):
    """The terminal sends it to the whole foreground group: forwarding it as well would make it two."""
    ours, its = os.openpty()
    script = "trap 'echo got; exit 4' INT; echo started; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "supervisor.cli", "acquire", "x", "--", "sh", "-c", script],
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    shown = b""
    with os.fdopen(ours, "r+b", buffering=0) as terminal, suppress(OSError):  # EIO: everybody has closed it
        while b"started" not in shown:
            shown += terminal.read(1000)
        terminal.write(b"\x03")
        while data := terminal.read(1000):
            shown += data

    assert process.wait(10) == 4
    assert shown.count(b"got") == 1
    assert fake.holder is None


def test_a_token_may_come_from_stdin_where_nobody_sees_it(fake: FakeServer, run, monkeypatch):
    run("acquire", "comfyui", "--detach")
    monkeypatch.setattr("sys.stdin", io.StringIO("t-1\n"))

    assert run("release", "-") == (0, "released\n", "")
    assert fake.holder is None


def test_release_says_so_if_nothing_has_the_token(fake: FakeServer, run):
    status, out, err = run("release", "t-gone")

    assert (status, out) == (1, "")
    assert "no lease or ticket has this token" in err
    assert "t-gone" not in err


def test_somebody_elses_lease_is_released_by_force_only(fake: FakeServer, run):
    fake.take()

    status, _, err = run("release", "--target", "other", "--force")
    assert (status, err.splitlines()[0]) == (1, "error: other has no lease")
    assert run("release", "--target", "comfyui", "--force") == (0, "released comfyui\n", "")
    assert fake.holder is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "unix:///no/such/socket"])
def test_no_server_is_said_with_how_to_start_one_and_4(run, monkeypatch, url):
    monkeypatch.setenv("GPU_SUPERVISOR_URL", url)

    status, out, err = run("acquire", "comfyui")

    assert (status, out) == (4, "")
    assert f"error: no supervisor answers at {url}" in err
    assert "gpu-supervisor serve" in err


def test_a_url_that_is_none_is_refused_with_2(run, monkeypatch):
    monkeypatch.setenv("GPU_SUPERVISOR_URL", "localhost:8080")

    status, _, err = run("acquire", "comfyui")

    assert status == 2
    assert "write http://127.0.0.1:8080 or unix:///path/to/socket" in err


def until_line(process: subprocess.Popen[str], text: str) -> None:
    """Read stderr up to a line with ``text``; the test's own time limit bounds it."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without saying: {text}")
