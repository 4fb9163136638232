"""Who a process is: real ones of several users, trees, ones that vanish, ones that hide, and some that lie."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.gpu import processes
from supervisor.gpu.ancestry import ANCESTORS_MAX
from supervisor.gpu.proc_files import ProcessFiles, Stat, parse_stat, sees_host, stat_of
from supervisor.gpu.processes import ProcessReader, ProcessStory
from tests.conftest import until
from tests.gpu.proc_tree import KERNEL_THREAD, NOBODY, MadeUpProc, as_nobody, process, started, waiting_child

#: A shell that tells of its child, whose own child waits for a line.
TREE = """sh -c 'sleep 60 & echo $!; wait' & echo $!; wait"""
#: Starts itself once more, with another argument.
ITSELF_AGAIN = """
import os, sys
print(flush=True)
sys.stdin.readline()
if sys.argv[1:] != ["worker"]:
    os.execv(sys.executable, [*sys.orig_argv, "worker"])
"""


@pytest.fixture
def proc(tmp_path: Path) -> MadeUpProc:
    return MadeUpProc(tmp_path)


def describe(pid: int, reader: ProcessReader | None = None) -> ProcessStory:
    story = (reader or ProcessReader()).describe(pid)
    assert story is not None
    return story


@contextlib.contextmanager
def tree() -> Iterator[tuple[int, int, int]]:
    """The pids of a process, its child, and its grandchild."""
    with process("sh", "-c", TREE, echoes=False) as top:
        assert top.stdout is not None
        one, other = int(top.stdout.readline()), int(top.stdout.readline())
        middle, low = (one, other) if stat_of(other).parent == one else (other, one)  # type: ignore[union-attr]
        try:
            yield top.pid, middle, low
        finally:
            for pid in (low, middle):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def end(pid: int) -> None:
    """End a child of a shell of ours. Its own children have another parent then, and its pid is free."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: stat_of(pid) is None, what="the end of the process")


# ---- what is told


def test_a_process_is_told_by_its_user_its_program_its_start_and_where_it_came_from():
    before_ms = time.time() * 1000
    with process("cat", "-", "/dev/null") as one:
        story = describe(one.pid)

    assert (story.pid, story.name, story.command) == (one.pid, "cat", ("cat", "-", "/dev/null"))
    assert story.executable is not None
    assert Path(story.executable).samefile(shutil.which("cat") or "")
    assert (story.uid, story.user) == (os.geteuid(), pwd.getpwuid(os.geteuid()).pw_name)
    assert story.root is (os.geteuid() == 0)
    assert abs(story.started_wall_ms - before_ms) < 2000
    assert (story.kernel_thread, story.denied) == (False, ())
    assert story.ancestors[0].pid == os.getpid()
    assert story.ancestors[0].started == started(os.getpid())


def test_a_tree_is_told_from_the_parent_upwards():
    with tree() as (top, middle, low):
        story = describe(low)

    assert [one.pid for one in story.ancestors[:3]] == [middle, top, os.getpid()]
    assert story.ancestors[0].command == ("sh", "-c", "sleep 60 & echo $!; wait")
    assert len({(one.pid, one.started) for one in story.ancestors}) == len(story.ancestors)


def test_an_ancestor_that_ended_since_still_says_where_a_process_came_from():
    seen_before = ProcessReader()
    with tree() as (_, middle, low):
        first = describe(low, seen_before)
        end(middle)
        again, late = describe(low, seen_before), describe(low)

    assert again.ancestors == first.ancestors
    assert late.ancestors[0].pid != middle


def test_the_line_of_ancestors_is_bounded(proc: MadeUpProc):
    for pid in range(2, 60):
        proc.write(pid, parent=pid - 1)

    ancestors = describe(59, ProcessReader(proc.path)).ancestors

    assert [one.pid for one in ancestors] == list(range(58, 58 - ANCESTORS_MAX, -1))


def test_parents_that_form_a_ring_are_no_endless_line(proc: MadeUpProc):
    proc.write(5, parent=6)
    proc.write(6, parent=5)

    assert len(describe(5, ProcessReader(proc.path)).ancestors) == ANCESTORS_MAX


def test_a_program_that_was_replaced_while_it_runs_is_told_by_the_path_that_it_had(tmp_path: Path):
    program = tmp_path / "game"
    shutil.copy(shutil.which("cat") or "", program)
    with process(str(program)) as one:
        program.unlink()

        assert describe(one.pid).executable == str(program)


def test_a_thread_of_the_kernel_is_told_as_such(proc: MadeUpProc):
    proc.write(2, name="kthreadd", flags=KERNEL_THREAD | 0x40, command=b"", executable=None, uid=0)

    story = describe(2, ProcessReader(proc.path))

    assert (story.kernel_thread, story.executable, story.command, story.denied) == (True, None, (), ())


def test_the_cgroup_that_says_most_is_told(proc: MadeUpProc):
    inner = "c3" * 32
    proc.write(5, cgroup=f"5:cpu:/a/b/c/d\n4:pids:/docker/{inner}\n1:name=systemd:/\n0::/\n")

    story = describe(5, ProcessReader(proc.path))

    assert (story.cgroup, story.containers) == (f"/docker/{inner}", (inner,))


# ---- users


@pytest.mark.root
@pytest.mark.parametrize(
    ("real", "effective", "saved", "uid", "root"),
    [
        pytest.param(NOBODY, NOBODY, NOBODY, NOBODY, False, id="another user"),
        pytest.param(0, 0, 0, 0, True, id="root"),
        pytest.param(NOBODY, 0, NOBODY, 0, True, id="a set-uid program"),
        pytest.param(0, NOBODY, NOBODY, NOBODY, True, id="a server that root started for a user"),
        pytest.param(NOBODY, NOBODY, 0, NOBODY, True, id="one that can become root again"),
    ],
)
def test_a_process_belongs_to_its_effective_user_and_to_root_if_any_of_its_ids_is_root(
    real: int, effective: int, saved: int, uid: int, root: bool
):
    with waiting_child(lambda: os.setresuid(real, effective, saved)) as pid:
        story = describe(pid)

    assert (story.uid, story.user, story.root) == (uid, pwd.getpwuid(uid).pw_name, root)


def test_a_user_without_a_name_is_told_by_the_number_and_names_are_asked_for_once(proc: MadeUpProc):
    asked: list[int] = []

    def name_of(uid: int) -> str | None:
        asked.append(uid)
        return {7: "ann\x1b[2J"}.get(uid)

    reader = ProcessReader(proc.path, name_of_uid=name_of)
    for pid, uid in ((1, 7), (2, 8), (3, 7), (4, 8)):
        proc.write(pid, uid=uid)

    assert [describe(pid, reader).user for pid in (1, 2, 3, 4)] == ["ann\\x1b[2J", "8", "ann\\x1b[2J", "8"]
    assert asked == [7, 8]


@pytest.mark.root
def test_what_may_not_be_read_of_somebody_elses_process_is_none_and_named():
    with process("cat", "-") as of_root:
        story = as_nobody(lambda: ProcessReader().describe(of_root.pid))

    assert story is not None
    assert (story.executable, story.denied) == (None, ("executable",))
    assert (story.name, story.command, story.uid, story.root) == ("cat", ("cat", "-"), 0, True)
    assert story.cgroup is not None
    assert story.ancestors[0].pid == os.getpid()


@pytest.mark.root
@pytest.mark.parametrize(
    ("file", "field", "known"),
    [
        ("status", "user", (None, None, None, "/a", ("a",))),
        ("cgroup", "cgroup", (7, "7", False, None, ("a",))),
        ("cmdline", "command", (7, "7", False, "/a", ())),
    ],
)
def test_each_thing_that_may_not_be_read_is_named_and_the_rest_is_told(
    file: str, field: str, known: tuple[object, ...]
):
    # Not below tmp_path: that is closed to others.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        proc = MadeUpProc(Path(folder))
        proc.write(5, uid=7, cgroup="0::/a\n")
        (proc.path / "5" / file).chmod(0)
        story = as_nobody(lambda: ProcessReader(proc.path, name_of_uid=lambda _: None).describe(5))

    assert story is not None
    assert (story.uid, story.user, story.root, story.cgroup, story.command) == known
    assert story.denied == (field,)


# ---- processes that vanish


@pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1, 2**40])
def test_a_pid_that_nobody_has_is_nobody(pid: int):
    assert ProcessReader().describe(pid) is None


def test_a_process_that_has_ended_and_waits_for_its_parent_is_told_as_far_as_it_is_known():
    with process() as one:
        one.kill()
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        story = describe(one.pid)
        one.wait()

        assert (story.name, story.executable, story.command, story.denied) == ("cat", None, (), ())
        assert story.uid == os.geteuid()
        assert ProcessReader().describe(one.pid) is None


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def ending_at(number: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have ``act`` called just before the read of that number; return the names of all reads."""
    reads: list[str] = []

    def before(real: Callable[..., object]) -> Callable[..., object]:
        def read(files: ProcessFiles, name: str, *rest: int) -> object:
            reads.append(name)
            if len(reads) == number:
                act()
            return real(files, name, *rest)

        return read

    monkeypatch.setattr(ProcessFiles, "read", before(ProcessFiles.read))
    monkeypatch.setattr(ProcessFiles, "link", before(ProcessFiles.link))
    return reads


def test_a_process_may_vanish_before_any_of_the_reads():
    told, number, descriptors = [], 0, open_descriptors()
    while True:
        number += 1
        with process() as one, pytest.MonkeyPatch.context() as patch:
            reads = ending_at(number, lambda one=one: (one.kill(), one.wait()), patch)
            story = ProcessReader().describe(one.pid)
        if len(reads) < number:
            break
        assert story is None or (story.pid, story.name) == (one.pid, "cat")
        told.append(story is not None)

    assert number > 8
    assert open_descriptors() == descriptors
    assert not told[0], "nothing is known of a process that is gone before the first look"


def test_a_parent_may_vanish_before_any_of_the_reads():
    number, descriptors = 0, open_descriptors()
    while True:
        number += 1
        with tree() as (top, middle, low), pytest.MonkeyPatch.context() as patch:
            reads = ending_at(number, partial(end, middle), patch)
            line = [one.pid for one in describe(low).ancestors]
        if len(reads) < number:
            break
        # Either it was read before it ended, with what was above it then, or who took its child in is the parent.
        assert line[:2] in ([middle], [middle, top]) or (line and middle not in line)

    assert number > 8
    assert open_descriptors() == descriptors


def test_a_stranger_who_got_a_parents_pid_is_no_ancestor(proc: MadeUpProc, monkeypatch: pytest.MonkeyPatch):
    proc.write(1, name="init")
    proc.write(3, parent=1, name="shell")
    proc.write(5, parent=3)
    opened: list[int] = []
    real = ProcessFiles.__init__

    def late(files: ProcessFiles, pid: int, *rest: Path) -> None:
        if pid == 3:
            # The child was asked for its parent by now.
            proc.write(3, parent=1, started=200, name="stranger")
            proc.write(5, parent=1)
        opened.append(pid)
        real(files, pid, *rest)

    monkeypatch.setattr(ProcessFiles, "__init__", late)

    assert [one.name for one in describe(5, ProcessReader(proc.path)).ancestors] == ["init"]
    assert 3 in opened


# ---- what is remembered


def test_a_pid_that_was_used_again_is_told_anew(proc: MadeUpProc):
    reader = ProcessReader(proc.path, boot_wall_ms=lambda: 1_000_000)
    proc.write(3, name="shell", command=b"sh\0")
    proc.write(5, parent=3, started=100, command=b"one\0")
    first = describe(5, reader)
    proc.write(5, parent=0, started=200, command=b"other\0")
    other = describe(5, reader)

    assert (first.started, first.command, [one.pid for one in first.ancestors]) == (100, ("one",), [3])
    assert (other.started, other.command, other.ancestors) == (200, ("other",), ())
    assert other.started_wall_ms - first.started_wall_ms == 100 * 1000 / os.sysconf("SC_CLK_TCK")


def test_the_command_and_the_ancestors_of_a_known_process_are_not_read_again(proc: MadeUpProc):
    reader = ProcessReader(proc.path)
    proc.write(3)
    proc.write(5, parent=3, command=b"a\0--x\0")
    first = describe(5, reader)
    proc.remove(3)
    proc.write(5, parent=1, command=b"forged\0", uid=7, cgroup="0::/moved\n")
    again = describe(5, reader)

    assert (again.command, again.ancestors) == (first.command, first.ancestors) == (("a", "--x"), first.ancestors)
    assert (again.uid, again.cgroup) == (7, "/moved")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"name": "b"}, id="another name"),
        pytest.param({"executable": "/bin/b"}, id="another program"),
        pytest.param({"stack": 8192}, id="the same program again"),
    ],
)
def test_the_command_is_read_again_after_an_exec(change: dict[str, object], proc: MadeUpProc):
    reader = ProcessReader(proc.path)
    proc.write(5, command=b"a\0launcher.py\0")
    describe(5, reader)
    proc.write(5, command=b"a\0worker.py\0", **change)  # type: ignore[arg-type]

    assert describe(5, reader).command == ("a", "worker.py")


def test_a_command_that_is_empty_for_a_moment_is_read_again_and_what_was_known_stands(proc: MadeUpProc):
    reader = ProcessReader(proc.path)
    commands = []
    for name, command in (("a", b""), ("a", b"one\0"), ("b", b""), ("b", b"other\0"), ("b", b"forged\0"), ("", b"")):
        proc.write(5, name=name, command=command)
        commands.append(describe(5, reader).command)

    assert commands == [(), ("one",), ("one",), ("other",), ("other",), ("other",)]


def test_a_real_program_that_starts_itself_again_shows_its_new_command():
    reader = ProcessReader()
    with process(sys.executable, "-c", ITSELF_AGAIN, echoes=False) as one:
        assert one.stdout is not None
        assert one.stdin is not None
        one.stdout.readline()
        first = describe(one.pid, reader)
        one.stdin.write(b"\n")
        one.stdin.flush()
        one.stdout.readline()
        second = describe(one.pid, reader)

    assert first.command[-1] != "worker"
    assert second.command[-1] == "worker"
    assert (first.started, first.ancestors) == (second.started, second.ancestors)


def test_only_so_many_are_remembered_and_the_one_seen_longest_ago_is_forgotten(
    proc: MadeUpProc, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processes, "REMEMBERED_MAX", 2)
    reader = ProcessReader(proc.path)
    for pid in (1, 2, 1, 3):
        proc.write(pid, command=f"first-{pid}\0".encode())
        describe(pid, reader)
    for pid in (1, 2, 3):
        proc.write(pid, command=b"later\0")

    assert [describe(pid, reader).command for pid in (1, 3, 2)] == [("first-1",), ("first-3",), ("later",)]


# ---- texts that processes write


def test_a_command_is_cut_and_made_fit_for_a_terminal(proc: MadeUpProc):
    proc.write(
        5, name="x\x1b]0;\n", executable="/bin/\x1b[2Jx", command=b"a\x1b[31m\0b\nc\0\xff\xfe\0" + "\u202e".encode()
    )
    proc.write(6, command=b"x" * 5000)
    proc.write(7, command=b"y\0" * 5000)
    reader = ProcessReader(proc.path)
    story = describe(5, reader)

    assert story.name == "x\\x1b]0;\\n"
    assert story.executable == "/bin/\\x1b[2Jx"
    assert story.command == ("a\\x1b[31m", "b\\nc", "\\udcff\\udcfe", "\\u202e")
    assert len(describe(6, reader).command[0]) < 250
    assert describe(7, reader).command == ("y",) * 64


def test_a_name_with_parentheses_and_line_breaks_forges_no_start_time(tmp_path: Path):
    program = tmp_path / "x) R 1 (y"
    shutil.copy(shutil.which("cat") or "", program)
    with process(str(program)) as one:
        stat = stat_of(one.pid)

        assert stat is not None
        assert (stat.name, stat.parent) == ("x) R 1 (y", os.getpid())
        assert describe(one.pid).name == "x) R 1 (y"


@given(st.text(), st.integers(1, 2**22), st.integers(0), st.booleans())
def test_a_line_of_stat_is_read_back_whatever_the_name(name: str, pid: int, at: int, kernel_thread: bool):
    flags = 0x40 | (KERNEL_THREAD if kernel_thread else 0)
    line = f"{pid} ({name}) S 3 1 1 0 -1 {flags}{' 0' * 12} {at} 0 0 0 0 0 4096 0 0\n"

    assert parse_stat(line) == Stat(pid, name, "S", 3, at, kernel_thread, 4096)


@given(st.text() | st.text("0123456789 ()SR-\n"))
def test_what_is_no_line_of_stat_is_refused(text: str):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_stat(text)


@pytest.mark.root
def test_in_another_pid_namespace_the_pids_of_the_driver_say_nothing():
    look = "from supervisor.gpu.proc_files import sees_host; print(sees_host())"
    inside = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", look],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert inside.stdout == "False\n"
    assert sees_host() == (os.readlink("/proc/self/ns/pid") == "pid:[4026531836]")  # noqa: PTH115
