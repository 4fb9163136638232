"""Real processes for the tests of who is on a GPU, other users among them, and a /proc that tests write themselves."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from supervisor.gpu.proc_files import stat_of

NOBODY = 65534
#: include/linux/sched.h, PF_KTHREAD
KERNEL_THREAD = 0x00200000

_T = TypeVar("_T")


@contextlib.contextmanager
def process(*command: str, echoes: bool = True, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until the test is over: without a command, one that waits for a line.

    ``echoes``: it is cat, and has run as far as to copy its input. (``Popen`` returns in the middle of an exec.)
    """
    with subprocess.Popen(command or ("cat",), stdin=subprocess.PIPE, stdout=subprocess.PIPE, **how) as one:
        assert one.stdin is not None
        assert one.stdout is not None
        try:
            if echoes:
                one.stdin.write(b"\n")
                one.stdin.flush()
                assert one.stdout.read(1) == b"\n"
            yield one
        finally:
            one.kill()


def started(pid: int) -> int:
    stat = stat_of(pid)
    assert stat is not None
    return stat.started


def fork(work: Callable[[], _T]) -> _T:
    """Return what ``work`` returns in a child of ours, which may give its rights away."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer: tuple[bool, Any] = (True, work())
        except BaseException as error:
            answer = (False, repr(error))
        os.write(write_end, pickle.dumps(answer))
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(child, 0)
    assert raw, "the child ended without an answer"
    worked, value = pickle.loads(raw)
    assert worked, value
    return value  # type: ignore[no-any-return]


def as_nobody(work: Callable[[], _T]) -> _T:
    """Return what ``work`` returns as a user without any rights."""

    def dropped() -> _T:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return work()

    return fork(dropped)


@contextlib.contextmanager
def waiting_child(become: Callable[[], None] = lambda: None) -> Iterator[int]:
    """The pid of a fork of ours that waits, after it has done ``become``."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become()
            os.write(write_end, b"!")
        finally:
            while True:
                signal.pause()
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as ready:
            assert ready.read(1) == b"!"
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


class MadeUpProc:
    """A /proc in a folder, with the processes that a test writes into it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        (folder / "self").symlink_to(str(os.getpid()))

    def write(
        self,
        pid: int,
        *,
        parent: int = 0,
        started: int = 100,
        name: str = "a",
        flags: int = 0,
        uid: int = 1000,
        command: bytes = b"a\0",
        executable: str | None = "/bin/a",
        cgroup: str = "0::/\n",
        stack: int = 4096,
    ) -> None:
        """Write a process, or write it anew."""
        folder = self.path / str(pid)
        folder.mkdir(exist_ok=True)
        zeros = " 0" * 12
        stat = f"{pid} ({name}) S {parent} 1 1 0 -1 {flags}{zeros} {started} 0 0 0 0 0 {stack}\n"
        (folder / "stat").write_bytes(stat.encode(errors="surrogateescape"))
        (folder / "status").write_text(f"Name:\ta\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        (folder / "cmdline").write_bytes(command)
        (folder / "cgroup").write_text(cgroup)
        (folder / "exe").unlink(missing_ok=True)
        if executable is not None:
            (folder / "exe").symlink_to(executable)

    def remove(self, pid: int) -> None:
        for file in (self.path / str(pid)).iterdir():
            file.unlink()
        (self.path / str(pid)).rmdir()
