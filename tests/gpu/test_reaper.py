"""The reaper and real processes: exactly the one that is meant is signalled, and some never are."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from supervisor.gpu.proc_files import stat_of
from supervisor.gpu.reaper import Reaper
from tests.gpu.proc_tree import KERNEL_THREAD, NOBODY, MadeUpProc, as_nobody, fork, process, started, waiting_child

ROOT = Path(__file__).parents[2]
#: A process whose first thread has ended, while another works on.
HEADLESS = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
print(flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""
#: Prints what a user without rights is told who hides from him: as pid 1 of a pid namespace of its own.
HIDDEN = """
import os, signal, subprocess, sys
from supervisor.gpu.processes import ProcessReader
from supervisor.gpu.reaper import Reaper
from supervisor.gpu.proc_files import stat_of
with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
    at = stat_of(other.pid).started
    subprocess.run(["mount", "-o", "remount,hidepid=" + sys.argv[1], "/proc"], check=True)
    if os.fork() == 0:
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        story = ProcessReader().describe(other.pid)
        print(story and (story.started, story.denied), Reaper().terminate(other.pid, at, signal.SIGTERM), flush=True)
        os._exit(0)
    os.wait()
    print(other.poll())
    other.kill()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_process_that_is_meant_gets_the_signal(number: int):
    with process() as one:
        assert Reaper().terminate(one.pid, started(one.pid), number) == "sent"
        assert one.wait() == -number


def test_nobody_else_of_its_family_is_hit():
    with process("sh", "-c", "sleep 60 & echo $!; wait", echoes=False) as parent, process() as sibling:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert Reaper().terminate(parent.pid, started(parent.pid), signal.SIGTERM) == "sent"
            assert parent.wait() == -signal.SIGTERM
            assert sibling.poll() is None
            assert started(child)
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_process_that_started_at_another_time_is_another_process(off: int):
    with process() as one:
        assert Reaper().terminate(one.pid, started(one.pid) + off, signal.SIGKILL) == "other_process"
        assert one.poll() is None


def test_a_process_that_has_ended_is_gone_before_and_after_its_parent_took_note():
    with process() as one:
        at = started(one.pid)
        one.kill()
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)

        assert Reaper().terminate(one.pid, at, signal.SIGTERM) == "gone"
        one.wait()
        assert Reaper().terminate(one.pid, at, signal.SIGTERM) == "gone"


def test_a_process_lives_as_long_as_one_of_its_threads():
    with process(sys.executable, "-c", HEADLESS, echoes=False) as one:
        assert one.stdout is not None
        one.stdout.readline()
        at = started(one.pid)

        assert Reaper().terminate(one.pid, at, signal.SIGKILL) == "sent"
        assert one.wait() == -signal.SIGKILL


def test_a_thread_is_no_process():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        answer = Reaper().terminate(thread.native_id, started(thread.native_id), signal.SIGTERM)
    finally:
        done.set()
        thread.join()

    assert answer == "other_process"


@pytest.mark.parametrize("pid", [1, 0, -1])
def test_the_first_process_and_whole_groups_are_never_signalled(pid: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "pidfd_open")  # it is not even tried

    assert Reaper().terminate(pid, started(1), signal.SIGTERM) == "forbidden"


def test_the_supervisor_and_all_that_started_it_are_never_signalled():
    # Only processes of this test are aimed at: a reaper without the rule ends them, and nothing else.
    def lowest() -> list[str]:
        line = (os.getpid(), os.getppid(), _parent(os.getppid()))
        return [Reaper().terminate(pid, started(pid), signal.SIGTERM) for pid in line]

    assert fork(lambda: fork(lambda: fork(lowest))) == ["forbidden"] * 3


def _parent(pid: int) -> int:
    stat = stat_of(pid)
    assert stat is not None
    return stat.parent


@pytest.mark.parametrize(("flags", "answer"), [(KERNEL_THREAD | 0x40, "forbidden"), (0x400000, "sent")])
def test_threads_of_the_kernel_are_never_signalled(flags: int, answer: str, tmp_path: Path):
    proc = MadeUpProc(tmp_path)
    with process() as one:
        proc.write(one.pid, started=7, flags=flags)

        assert Reaper(proc.path).terminate(one.pid, 7, signal.SIGTERM) == answer


def test_nothing_but_the_end_of_a_process_is_sent():
    with process() as one, pytest.raises(AssertionError, match="only the end"):
        Reaper().terminate(one.pid, started(one.pid), signal.SIGSTOP)


@pytest.mark.root
def test_a_user_without_rights_ends_his_own_processes_and_no_others():
    with process() as of_root, waiting_child(lambda: os.setresuid(NOBODY, NOBODY, NOBODY)) as his:
        aims = [(pid, started(pid)) for pid in (of_root.pid, his)]
        answers = as_nobody(lambda: [Reaper().terminate(pid, at, signal.SIGTERM) for pid, at in aims])

        assert answers == ["forbidden", "sent"]
        assert os.WTERMSIG(os.waitpid(his, 0)[1]) == signal.SIGTERM
        assert of_root.poll() is None


@pytest.mark.root
@pytest.mark.parametrize(
    ("hidepid", "told"),
    [
        pytest.param(
            1, "(0, ('started', 'name', 'user', 'executable', 'command', 'cgroup', 'ancestors'))", id="closed"
        ),
        pytest.param(2, "None", id="invisible"),
    ],
)
def test_a_process_that_proc_hides_is_not_signalled_and_not_taken_for_gone(hidepid: int, told: str):
    # In a pid namespace of its own: before Linux 5.8 the option counts for all of a namespace.
    isolated = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*isolated, sys.executable, "-c", HIDDEN, str(hidepid)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.stdout == f"{told} forbidden\nNone\n", done.stderr


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        pytest.param(errno.ENOSYS, "unsupported", id="an old kernel"),
        pytest.param(errno.EPERM, "unsupported", id="a seccomp filter that does not know the call"),
        pytest.param(errno.EMFILE, "unsupported", id="no descriptor is left"),
        pytest.param(errno.ESRCH, "gone", id="no such process"),
    ],
)
def test_where_no_pidfd_can_be_had_nothing_is_sent(error: int, answer: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(_: int) -> int:
        raise OSError(error, os.strerror(error))

    with process() as one:
        monkeypatch.setattr(os, "pidfd_open", refuse)

        assert Reaper().terminate(one.pid, started(one.pid), signal.SIGTERM) == answer
        assert one.poll() is None


def test_a_python_without_pidfds_sends_nothing(monkeypatch: pytest.MonkeyPatch):
    with process() as one:
        monkeypatch.delattr(os, "pidfd_open")

        assert Reaper().terminate(one.pid, started(one.pid), signal.SIGTERM) == "unsupported"
        assert one.poll() is None


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EINVAL])
def test_a_kernel_that_sends_nothing_through_a_pidfd_is_unsupported(error: int, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    with process() as one:
        assert Reaper().terminate(one.pid, started(one.pid), signal.SIGTERM) == "unsupported"


def test_a_process_whose_start_is_not_known_cannot_be_told_apart():
    with process() as one:
        assert Reaper().terminate(one.pid, 0, signal.SIGTERM) == "unsupported"
        assert one.poll() is None


def test_a_proc_of_another_pid_namespace_is_not_believed(tmp_path: Path):
    proc = MadeUpProc(tmp_path)
    (proc.path / "self").unlink()
    with process() as one:
        proc.write(one.pid, started=7)
        assert Reaper(proc.path).terminate(one.pid, 7, signal.SIGTERM) == "unsupported"

        (proc.path / "self").symlink_to("1")
        assert Reaper(proc.path).terminate(one.pid, 7, signal.SIGTERM) == "unsupported"
        assert one.poll() is None


def test_what_was_refused_is_said_in_one_line_with_its_reason(caplog: pytest.LogCaptureFixture):
    with process() as one, caplog.at_level(logging.WARNING):
        Reaper().terminate(one.pid, started(one.pid) - 1, signal.SIGTERM)
        Reaper().terminate(one.pid, started(one.pid), signal.SIGTERM)

    assert caplog.messages == [
        f"not signalled pid={one.pid} signal=15 outcome=other_process: "
        f"pid {one.pid} belongs to another process now: the one that was meant ended"
    ]


def test_no_descriptor_is_left_open():
    with process() as one:
        at = started(one.pid)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for answer in (at - 1, 0, at):
            Reaper().terminate(one.pid, answer, signal.SIGTERM)
        one.wait()
        Reaper().terminate(one.pid, at, signal.SIGTERM)

        assert len(list(Path("/proc/self/fd").iterdir())) == before
