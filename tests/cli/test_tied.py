"""``acquire --bare --pid``: a lease that a process holds by living."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.cli.fake import FakeServer, Problem
from tests.cli.test_acquire import until_line

PID = str(os.getpid())


def test_a_tied_lease_is_asked_for_with_its_process_and_without_a_ttl(socket_fake: FakeServer, run):
    status, out, err = run("acquire", "--bare", "--pid", PID, "--vram", "8GiB", "--owner", "ann", "--detach")

    assert (status, out) == (0, "t-1\n")
    assert socket_fake.asked == [
        {"owner": "ann", "wait_ready": False, "queue": True, "vram_mib": 8_192, "pid": os.getpid()}
    ]
    assert err == (
        f"the GPU is yours: lease l_1 on SIM-0, fence 7; it ends with process {PID}, or sooner with: "
        "gpu-supervisor release TOKEN\n"
    )
    assert socket_fake.holder is not None


def test_it_is_held_without_a_renewal_until_its_process_has_ended(socket_fake: FakeServer, run, quick):
    socket_fake.ttl_s = 0.1

    def end() -> None:
        socket_fake.until(lambda: socket_fake.looks >= 20)
        socket_fake.end("t-1", "process_ended")

    thread = threading.Thread(target=end)
    thread.start()
    status, out, err = run("acquire", "--bare", "--pid", PID)
    thread.join(10)

    assert (status, out) == (0, "")
    assert f"held until process {PID} ends, or Ctrl-C\n" in err
    assert err.endswith(f"process {PID} has ended, and its lease with it\n")
    assert socket_fake.renewals == 0


def test_a_server_that_is_away_is_waited_for_and_still_nothing_is_renewed(socket_fake: FakeServer, run, quick):
    socket_fake.ttl_s = 0.1

    def restart() -> None:
        socket_fake.until(lambda: socket_fake.looks >= 1)
        socket_fake.set_cut(True)
        threading.Event().wait(0.1)
        socket_fake.set_cut(False)
        looks = socket_fake.looks
        socket_fake.until(lambda: socket_fake.looks >= looks + 2)
        socket_fake.end("t-1", "process_ended")

    thread = threading.Thread(target=restart)
    thread.start()
    status, _, err = run("acquire", "--bare", "--pid", PID)
    thread.join(10)

    assert (status, err.count("the server answers again")) == (0, 1)
    assert socket_fake.renewals == 0


@pytest.mark.parametrize("how", ["taken away", "forgotten"])
def test_a_tied_lease_that_is_lost_while_its_process_lives_is_5(socket_fake: FakeServer, run, quick, how):
    def lose() -> None:
        socket_fake.until(lambda: socket_fake.looks >= 1)
        socket_fake.end("t-1", "forced")
        if how == "forgotten":
            socket_fake.ended.clear()

    thread = threading.Thread(target=lose)
    thread.start()
    status, _, err = run("acquire", "--bare", "--pid", PID)
    thread.join(10)

    assert status == 5
    assert "the lease of the GPU was lost" in err


def test_ctrl_c_gives_a_tied_lease_back(socket_fake: FakeServer, spawn):
    process = spawn(["acquire", "--bare", "--pid", PID])
    until_line(process, f"held until process {PID} ends")
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 0
    assert socket_fake.ended == {"t-1": "released"}


def test_a_dry_run_names_the_process_too(socket_fake: FakeServer, run):
    socket_fake.forecast = {"would": "grant"}
    run("acquire", "--bare", "--pid", PID, "--dry-run", "--json")

    assert socket_fake.asked[0]["pid"] == os.getpid()


def test_a_process_of_somebody_else_is_the_server_s_word(socket_fake: FakeServer, run):
    socket_fake.refusals[None] = Problem(403, "forbidden", "process 1 is of user 0, and this caller of user 7")

    status, _, err = run("acquire", "--bare", "--pid", "1")

    assert status == 1
    assert "error: process 1 is of user 0, and this caller of user 7" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["llm", "--pid", PID], "--pid is for --bare", id="of a target"),
        pytest.param(
            ["--bare", "--pid", PID, "--", "true"], "--pid and -- COMMAND both say what the lease ends with", id="both"
        ),
        pytest.param(["--bare", "--pid", PID, "--ttl", "5m"], "--ttl: a lease with --pid has none", id="with a TTL"),
        pytest.param(["--bare", "--pid", "0"], "--pid", id="no process"),
        pytest.param(["--bare", "--pid", "self"], "--pid", id="no number"),
    ],
)
def test_what_a_tied_lease_cannot_be_is_a_wrong_command_line(socket_fake: FakeServer, run, arguments, message):
    status, out, err = run("acquire", *arguments)

    assert (status, out) == (2, "")
    assert message in err
    assert socket_fake.asked == []


@pytest.mark.parametrize("more", [["--detach"], ["--dry-run"], []])
def test_over_tcp_it_names_the_socket_and_asks_nobody(fake: FakeServer, run, more):
    status, out, err = run("acquire", "--bare", "--pid", PID, *more)

    assert (status, out) == (2, "")
    assert f"over TCP ({fake.url}) nobody can tell whose process it is" in err
    assert "GPU_SUPERVISOR_URL=unix:///path/to/socket" in err
    assert "serve --socket" in err
    assert fake.asked == []
