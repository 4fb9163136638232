"""gpurun in a shell on a real terminal: Ctrl-C, Ctrl-Z and fg, background, pipelines, the window's size."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.fake import FakeServer
from tests.gpurun.conftest import PROMPT, Shell

#: It counts, so that one sees whether it goes on. It starts nothing: of a shell that is stopped while it forks (vfork)
#: only the child stops. Its text is not what it prints: fg shows the text.
COUNTS = (
    f"gpurun -q -- {sys.executable} -ISc 'import itertools as it, time\n"
    'for i in it.count(): print("co" + "unt", i, flush=True); time.sleep(0.02)\''
)


def test_a_ctrl_c_reaches_the_command_once_and_its_status_is_the_commands(fake: FakeServer, shell: Shell):
    shell.type("gpurun -- sh -c 'trap \"echo caught; exit 4\" INT; echo began; while :; do sleep 0.02; done'\n")
    shell.until("began\r\n")
    shell.type("\x03")
    shown = shell.until(PROMPT)

    assert (shown.count("caught"), shell.run("echo $?").split()[0]) == (1, "4")
    assert fake.ended == {"t-1": "released"}


def test_a_ctrl_c_that_kills_the_command_ends_the_script_around_it(fake: FakeServer, shell: Shell, tmp_path: Path):
    (tmp_path / "all.sh").write_text(
        "for i in 1 2; do gpurun -q -- sh -c 'echo began; exec sleep 30'; done; echo went on\n"
    )
    shell.type(f"bash {tmp_path}/all.sh\n")
    shell.until("began\r\n")
    shell.type("\x03")

    assert "began" not in shell.until(PROMPT)
    assert shell.run("echo $?").split()[0] == "130"
    assert "went on" not in shell.shown
    assert fake.ended == {"t-1": "released"}


def test_ctrl_z_stops_it_as_a_job_whose_lease_is_renewed_until_fg(fake: FakeServer, shell: Shell):
    fake.ttl_s = 0.9
    shell.type(COUNTS + "\n")
    shell.until("count 3\r\n")
    shell.type("\x1a")
    assert "stopped; the lease is held and renewed" in shell.until(PROMPT)

    assert "Stopped" in shell.run("jobs")
    seen = fake.renewals
    fake.until(lambda: fake.renewals >= seen + 3)
    assert fake.holder is not None
    last = shell.shown.rindex("count ")
    assert "count" not in shell.run("echo it stands still")

    shell.type("fg\n")
    shell.until("count ")
    assert shell.shown.rindex("count ") > last
    shell.type("\x03")
    shell.until(PROMPT)
    assert shell.run("echo $?").split()[0] == "130"
    assert fake.ended == {"t-1": "released"}


def test_it_can_be_stopped_and_continued_again_and_again_and_goes_on_in_the_background(fake: FakeServer, shell: Shell):
    shell.type(COUNTS + "\n")
    for _ in range(2):
        shell.until("count ")
        shell.type("\x1a")
        shell.until(PROMPT)
        shell.type("fg\n")
    shell.until("count ")
    shell.type("\x1a")
    shell.until(PROMPT)
    shell.run("bg")
    shell.until("count ")
    assert "Running" in shell.run("jobs")
    shell.type("kill %1; wait %1; echo status $?\n")

    shell.until("status 143\r\n")
    assert fake.ended == {"t-1": "released"}


def test_a_lease_that_is_lost_while_it_is_stopped_is_told_at_once(fake: FakeServer, shell: Shell):
    shell.type("gpurun --signal USR1 -- sh -c 'trap \"echo saved; exit\" USR1; sleep 30 & echo began; wait'\n")
    shell.until("began\r\n")
    shell.type("\x1a")
    shell.until(PROMPT)
    fake.end("t-1", "forced")

    shell.until("the lease was lost (forced): the command gets SIGUSR1")
    shell.until("saved")
    shell.type("wait %1; echo status $?\n")
    shell.until("status 5\r\n")


def test_a_command_that_is_killed_while_it_is_stopped_gives_the_lease_back(
    fake: FakeServer, shell: Shell, tmp_path: Path
):
    shell.type(f"gpurun -- sh -c 'echo $$ >{tmp_path}/pid; echo began; exec sleep 30'\n")
    shell.until("began\r\n")
    shell.type("\x1a")
    shell.until(PROMPT)
    shell.type(f"kill -9 $(cat {tmp_path}/pid)\n")

    fake.until(lambda: fake.ended == {"t-1": "released"})
    shell.type("wait %1; echo status $?\n")
    shell.until("status 137\r\n")


def test_the_windows_size_reaches_the_command(fake: FakeServer, shell: Shell):
    shell.resize(30, 100)
    shell.type("gpurun -- bash -c 'trap \"stty size\" WINCH; stty size; while :; do sleep 0.02; done'\n")
    shell.until("30 100\r\n")
    shell.resize(40, 120)

    shell.until("40 120\r\n")


def test_a_command_reads_the_terminal_and_one_in_the_background_waits_for_it(fake: FakeServer, shell: Shell):
    shell.type("gpurun -q -- sh -c 'read line; echo got $line'\nhello\n")
    shell.until("got hello\r\n")
    shell.until(PROMPT)
    shell.type("gpurun -q -- sh -c 'echo asks; read line; echo got $line' &\n")
    shell.until("asks\r\n")
    shell.type("until jobs | grep Stopped; do sleep 0.02; done\n")
    shell.until("Stopped ")
    shell.until(PROMPT)
    shell.type("fg\n")
    shell.until("sh -c")
    shell.type("later\n")

    shell.until("got later\r\n")
    shell.until(PROMPT)
    assert fake.ended == {"t-1": "released", "t-2": "released"}


def test_in_a_pipeline_the_terminal_stays_with_the_pager(fake: FakeServer, shell: Shell):
    shell.type("gpurun -q -- sh -c 'echo from the command' | sh -c 'cat; read key </dev/tty; echo key $key'\n")
    shell.until("from the command\r\n")
    shell.type("q\n")

    shell.until("key q\r\n")


def test_in_a_pipeline_ctrl_z_and_ctrl_c_reach_both(fake: FakeServer, shell: Shell):
    shell.type(COUNTS + " | cat\n")
    shell.until("count ")
    shell.type("\x1a")
    shell.until("Stopped")
    shell.until(PROMPT)
    shell.type("fg\n")
    shell.until("count ")
    shell.type("\x03")
    shell.until(PROMPT)

    fake.until(lambda: fake.ended == {"t-1": "released"})


def test_a_wait_that_is_stopped_leaves_the_line_and_keeps_its_place(fake: FakeServer, shell: Shell):
    fake.take()
    shell.type("gpurun -- echo it runs\n")
    shell.until("gpurun: waiting for the GPU at place 1: comfyui holds the GPU (owner ann)")
    shell.type("\x1a")
    shell.until(PROMPT)
    assert [ticket["token"] for ticket in fake.queue] == ["t-1"]
    looks = fake.looks

    fake.end("t-other", "released")
    assert fake.queue, "what is stopped is granted nothing"
    assert fake.looks <= looks + 1
    shell.type("fg\n")
    shell.until("it runs\r\n")
    shell.until(PROMPT)
    assert (len(fake.asked), fake.ended["t-1"]) == (1, "released")


def test_a_wait_whose_turn_was_missed_while_it_was_stopped_queues_again(fake: FakeServer, shell: Shell):
    fake.take()
    shell.type("gpurun -- echo it runs\n")
    shell.until("waiting for the GPU")
    shell.type("\x1a")
    shell.until(PROMPT)
    fake.end("t-1", "ticket_expired")
    fake.end("t-other", "released")
    shell.type("fg\n")

    shell.until("its turn came while nobody was on the line: queueing again")
    shell.until("it runs\r\n")


def test_in_the_background_it_draws_no_live_line_over_the_prompt(fake: FakeServer, on_a_terminal: Callable[..., Shell]):
    shell = on_a_terminal("bash", "--norc", "--noediting", "-i", TERM="xterm")
    shell.until(PROMPT)
    fake.take()
    shell.type("gpurun -- echo it runs &\n")
    shell.until("waiting for the GPU at place 1: comfyui holds the GPU (owner ann)\r\n")
    looks = fake.looks
    fake.until(lambda: fake.looks >= looks + 2)
    fake.end("t-other", "released")
    shell.until("it runs\r\n")

    assert "(0:0" not in shell.shown
    assert shell.shown.count("waiting for the GPU") == 1


@pytest.mark.parametrize("keys", ["\x1a", "\x1a\x1a"])
def test_where_no_shell_could_continue_it_ctrl_z_stops_nothing(
    fake: FakeServer, on_a_terminal: Callable[..., Shell], keys: str
):
    script = "echo began; read line; echo got $line; exit 6"
    alone = on_a_terminal("gpurun", "-q", "--", "sh", "-c", script)
    alone.until("began\r\n")
    alone.type(keys)
    alone.type("hello\n")
    alone.until("got hello\r\n")

    assert alone.end() == 6
    assert fake.ended == {"t-1": "released"}


def test_the_terminal_is_the_shells_again_when_the_command_cannot_be_run(fake: FakeServer, shell: Shell):
    assert "error: no-such: no such file or directory" in shell.run("gpurun -- no-such")
    assert shell.run("echo $?").split()[0] == "127"
