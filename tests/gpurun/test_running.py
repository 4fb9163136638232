"""gpurun without a terminal: what is asked for, what the command gets, how both end, and what programs are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.fake import FakeServer
from tests.gpurun.conftest import Outcome

Run = Callable[..., Outcome]
Spawn = Callable[..., "subprocess.Popen[str]"]


def told(err: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in err.splitlines()]


def test_the_command_gets_its_gpus_and_its_status_is_passed_on(fake: FakeServer, gpurun: Run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    fake.gpus = {"gpus": ["GPU-1", "GPU-2"], "cuda_visible_devices": "GPU-1,GPU-2"}
    show = 'echo "$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $GPURUN_LEASE"; exit 7'

    status, out, err = gpurun("-n", "2", "--", "sh", "-c", show)

    assert (status, out) == (7, "GPU-1,GPU-2 PCI_BUS_ID l_1\n")
    assert err == "gpurun: 2 GPUs are yours: lease l_1 on GPU-1, GPU-2, fence 7\n"
    assert fake.ended == {"t-1": "released"}


def test_what_is_asked_for_is_what_was_typed(fake: FakeServer, gpurun: Run):
    typed = "-n 4 --vram 8GiB --class high --priority 5 --wait 2h --ttl 2m --name eval --"

    assert gpurun(*typed.split(), "true")[0] == 0

    asked = fake.asked[0]
    assert asked.pop("owner").endswith(":eval")
    assert asked == {
        "gpus": 4,
        "vram_mib": 8192,
        "gpu_class": "high",
        "priority": 5,
        "ttl_seconds": 120,
        "wait_ready": False,
        "queue": True,
    }


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        pytest.param(("--", "echo", "-n", "2", "--", "x"), "2 -- x", id="everything behind --"),
        pytest.param(("echo", "--wait", "0", "--help"), "--wait 0 --help", id="and behind the command's name"),
        pytest.param(("-q", "--", "echo", "--json"), "--json", id="a --json of the command's"),
    ],
)
def test_the_commands_own_options_are_left_to_it(fake: FakeServer, gpurun: Run, typed, expected):
    status, out, err = gpurun(*typed)

    assert (status, out.strip()) == (0, expected)
    assert "{" not in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(["--signal", "NOPE", "--", "true"], '--signal: "NOPE" is not a signal', id="no signal"),
        pytest.param(["--wait", "soon", "--", "true"], '--wait: "soon" is not a duration', id="no duration"),
        pytest.param(["--vram", "8192", "--", "true"], "say of what: 8192MiB, or 8192GiB", id="a size without a unit"),
        pytest.param(["-n", "0", "--", "true"], "'-n' / '--gpus'", id="no GPU"),
        pytest.param(["--wate", "0", "--", "true"], "did you mean --wait?", id="no such option"),
        pytest.param(["-n", "2"], "missing argument", id="no command"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused_with_2(fake: FakeServer, gpurun: Run, line, said):
    status, out, err = gpurun(*line)

    assert (status, out) == (2, "")
    assert said in err
    assert fake.asked == []


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        pytest.param(["sh", "-c", "kill -9 $$"], 137, id="killed"),
        pytest.param(["sh", "-c", "kill -SEGV $$"], 139, id="crashed"),
        pytest.param(["/no/such/command"], 127, id="not there"),
        pytest.param(["/etc"], 126, id="no program"),
    ],
)
def test_the_exit_status_is_that_of_a_shell(fake: FakeServer, gpurun: Run, command, expected):
    assert gpurun("--", *command)[0] == expected
    assert fake.ended == {"t-1": "released"}


#: Both name each signal that they get, and end with SIGTERM; the parent after its child.
PARENT_AND_CHILD = """
import os, signal, sys
awaited = {getattr(signal, "SIG" + name) for name in sys.argv[1:]}
signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
child = os.fork()
if not child:
    print("began", flush=True)
name = ""
while name != "SIGTERM":
    name = signal.Signals(signal.sigwait(awaited)).name
    print(name, flush=True)
os._exit(3 if child and os.wait() else 0)
"""
PASSED = ["INT", "HUP", "QUIT", "USR1", "USR2", "WINCH", "TERM"]


def test_signals_are_the_commands_and_all_of_its_group_gets_them(fake: FakeServer, spawn: Spawn):
    """Its child too, which the command waits for: nothing is left on the GPU."""
    process = spawn("-q", "--", sys.executable, "-ISc", PARENT_AND_CHILD, *PASSED)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    for name in PASSED:
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert [process.stdout.readline(), process.stdout.readline()] == [f"SIG{name}\n"] * 2

    assert process.wait(10) == 3
    assert fake.holder is None


def test_what_we_were_started_to_ignore_the_command_ignores_as_well(fake: FakeServer, spawn: Spawn, programs: Path):
    process = subprocess.Popen(
        ["nohup", "gpurun", "-q", "--", "sh", "-c", "echo began; kill -HUP $$; echo lives"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    assert process.communicate(timeout=10)[0] == "began\nlives\n"


def test_a_signal_while_it_waits_gives_the_place_up(fake: FakeServer, spawn: Spawn):
    fake.take()
    process = spawn("--", "true")
    fake.until(lambda: fake.queue and fake.looks)
    process.send_signal(signal.SIGTERM)

    _, err = process.communicate(timeout=10)

    assert (process.returncode, fake.queue) == (143, [])
    assert err.splitlines()[-1] == "gpurun: gave up waiting for the GPU"


def test_a_signal_before_the_first_answer_came_leaves_nothing(fake: FakeServer, spawn: Spawn):
    fake.silent = True
    process = spawn("--", "true")
    fake.until(lambda: fake.holder)
    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 143
    assert fake.ended == {"t-1": "released"}
    assert fake.by_key == fake.keys


def test_a_second_ctrl_c_does_not_wait_for_a_server_that_is_away(fake: FakeServer, spawn: Spawn):
    fake.take()
    process = spawn("--", "true")
    fake.until(lambda: fake.queue and fake.looks)
    fake.set_cut(True)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "gave up waiting" in line:
            break
    process.send_signal(signal.SIGINT)

    assert process.wait(3) == 130


# ---- a lease that is lost


def test_a_lost_lease_is_told_by_the_signal_of_choice_and_ends_with_5(fake: FakeServer, spawn: Spawn):
    fake.ttl_s = 0.3
    command = 'trap "echo saved; exit 0" USR1; sleep 30 & echo began; wait'
    process = spawn("--signal", "USR1", "--", "sh", "-c", command)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    fake.end("t-1", "forced")

    out, err = process.communicate(timeout=10)

    assert (process.returncode, out) == (5, "saved\n")
    assert "gpurun: the lease was lost (forced): the command gets SIGUSR1, and SIGKILL in 10 s\n" in err
    assert "error: the lease of the GPU was lost: this lease has ended (forced)\n" in err


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_what_does_not_heed_it_is_killed_with_all_that_it_started(fake: FakeServer, spawn: Spawn, until, stopped):
    fake.ttl_s = 0.3
    command = 'trap "" TERM; sleep 30 & echo $! $$; wait; wait'
    process = spawn("--loss-grace", "0", "--", "sh", "-c", command)
    assert process.stdout is not None
    child, first = map(int, process.stdout.readline().split())
    if stopped:
        os.killpg(first, signal.SIGSTOP)
    fake.end("t-1", "forced")

    assert process.wait(10) == 5
    until(lambda: not Path(f"/proc/{child}").exists(), 5, "its end, and init's reaping it")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_it_goes_on_where_nobody_can_read_what_it_says(fake: FakeServer, spawn: Spawn, form):
    reading, writing = os.pipe()
    os.close(reading)
    process = spawn(*form, "--", "sh", "-c", "echo begun; read x; exit 3", stdin=subprocess.PIPE, stderr=writing)
    os.close(writing)
    assert process.stdout.readline() == "begun\n"
    assert fake.ended == {}

    assert process.communicate("x\n", timeout=10) == ("", None)
    assert process.returncode == 3
    assert fake.ended == {"t-1": "released"}


def test_a_command_of_a_gpurun_that_is_killed_is_told_as_well(fake: FakeServer, spawn: Spawn):
    command = ["sh", "-c", 'trap "echo told; exit" TERM; echo began; read -r line']
    process = spawn("--", *command, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.kill()

    assert process.stdout.readline() == "told\n"


def test_a_command_that_is_stopped_without_a_shell_keeps_its_lease_and_goes_on(fake: FakeServer, spawn: Spawn):
    fake.ttl_s = 0.3
    process = spawn("-q", "--", "sh", "-c", "echo $$; read -r line; echo got $line", stdin=subprocess.PIPE)
    assert process.stdout is not None
    os.kill(int(process.stdout.readline()), signal.SIGSTOP)
    seen = fake.renewals
    fake.until(lambda: fake.renewals > seen + 2)
    process.send_signal(signal.SIGCONT)

    assert process.communicate("it", timeout=10)[0] == "got it\n"


# ---- for programs


def test_a_program_is_told_on_stderr_and_stdout_is_the_commands(fake: FakeServer, gpurun: Run, quick):
    fake.take()
    threading.Timer(0.3, fake.end, ("t-other", "released")).start()

    status, out, err = gpurun("--json", "--", "echo", "mine")

    waiting, granted, ended = told(err)
    assert (status, out) == (0, "mine\n")
    assert (waiting["event"], waiting["position"], waiting["why"]) == (
        "waiting",
        0,
        "comfyui holds the GPU (owner ann)",
    )
    assert (granted["event"], granted["lease"]["id"]) == ("granted", "l_1")
    assert "t-1" not in err
    assert ended == {"event": "ended", "message": "", "exit_status": 0, "signal": None}


def test_a_program_is_told_of_a_loss_and_of_a_refusal(fake: FakeServer, gpurun: Run, quick):
    threading.Timer(0.3, fake.end, ("t-1", "forced")).start()
    status, _, err = gpurun("--json", "--", "sleep", "30")
    lost, error = told(err)[-2:]
    assert (status, lost["event"], lost["reason"], lost["signal"]) == (5, "lost", "forced", "SIGTERM")
    assert (error["event"], error["code"], error["exit_status"]) == ("error", "lease_lost", 5)

    fake.take()
    status, _, err = gpurun("--json", "--wait", "0", "--", "true")
    assert (status, told(err)[-1]["code"]) == (3, "gpu_busy")


def test_quiet_says_nothing_but_why_it_waits(fake: FakeServer, gpurun: Run, quick):
    assert gpurun("-q", "--", "true") == (0, "", "")
    fake.take()
    threading.Timer(0.3, fake.end, ("t-other", "released")).start()
    _, _, err = gpurun("-q", "--", "true")
    assert err == "gpurun: waiting for the GPU at place 1: comfyui holds the GPU (owner ann)\n"


def test_no_server_is_said_with_4(gpurun: Run, monkeypatch):
    monkeypatch.setenv("GPU_SUPERVISOR_URL", "http://127.0.0.1:1")

    status, out, err = gpurun("--", "echo", "it ran")

    assert (status, out) == (4, "")
    assert "no supervisor answers at http://127.0.0.1:1" in err


# ---- inside another one


@pytest.fixture
def inside(fake: FakeServer, programs: Path) -> FakeServer:
    fake.documents["/v1/status"] = {"leases": [{"id": "l_1", "gpus": ["SIM-0"]}]}
    return fake


def test_inside_another_gpurun_its_lease_is_used(inside: FakeServer, gpurun: Run):
    status, out, err = gpurun("-q", "--", "gpurun", "--", "sh", "-c", "echo $GPURUN_LEASE; exit 8")

    assert (status, out, len(inside.asked)) == (8, "l_1\n", 1)
    assert err == "gpurun: runs under lease l_1 of the gpurun around it\n"


def test_inside_another_gpurun_there_are_no_more_gpus_than_that_has(inside: FakeServer, gpurun: Run):
    status, _, err = gpurun("-q", "--", "gpurun", "-n", "2", "--", "true")

    assert status == 2
    assert "2 GPUs are asked for inside a gpurun that has 1" in err


def test_a_variable_that_has_outlived_its_lease_means_nothing(inside: FakeServer, gpurun: Run, monkeypatch):
    monkeypatch.setenv("GPURUN_LEASE", "l_of_yesterday")

    assert gpurun("-q", "--", "true")[0] == 0
    assert inside.ended == {"t-1": "released"}
