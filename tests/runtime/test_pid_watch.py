"""Watching processes until they end: real ones, by pidfd; and by looking, where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from supervisor.clock import read_boot_id
from supervisor.core.errors import Refusal
from supervisor.core.inputs import Input, ProcessEnded
from supervisor.core.model import Lease, Terms, Tie
from supervisor.core.state import Settings, State
from supervisor.gpu.proc_files import stat_of
from supervisor.peers import Peer, identify
from supervisor.pid_watch import PidWatch, open_pidfd

BOOT = read_boot_id()
ROOT = Peer(os.getpid(), 0, 0)


def run(story: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await story

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@contextlib.contextmanager
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one:
        try:
            yield one
        finally:
            one.kill()


def tie_of(pid: int) -> Tie:
    stat = stat_of(pid)
    assert stat is not None
    return Tie(pid, stat.started, BOOT)


class Scene:
    """A watch over the ties of a state, and what it told."""

    def __init__(self, open_fd: Callable[[int], int], boot_id: str) -> None:
        self.state = State(Settings())
        self.told: list[Input] = []
        self.news = asyncio.Event()
        self.watch = PidWatch(self._post, boot_id, open_fd=open_fd)

    def _post(self, item: Input) -> None:
        self.told.append(item)
        self.news.set()

    def tie(self, *ties: Tie) -> None:
        """Let these be all that leases are tied to."""
        for lease in list(self.state.durable.leases.values()):
            del self.state.durable.leases[lease.id]
            self.state.unindex_lease(lease)
        for number, tie in enumerate(ties):
            terms = Terms(target=None, owner="ann", priority=0, ttl_ms=1, tie=tie)
            lease = Lease(
                id=f"l{number}",
                fence=number,
                token_hash=f"t{number}",
                token_known=True,
                terms=terms,
                project="",
                gpus=(),
                vram_mib=None,
                phase="ready",
                granted_at_ms=0,
                granted_wall_ms=0,
                phase_at_ms=0,
            )
            self.state.durable.leases[lease.id] = lease
            self.state.index_lease(lease)
        self.watch.follow(self.state)


@contextlib.asynccontextmanager
async def scene(open_fd: Callable[[int], int] = open_pidfd, boot_id: str = BOOT) -> AsyncIterator[Scene]:
    it = Scene(open_fd, boot_id)
    try:
        yield it
    finally:
        it.watch.close()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_the_end_of_a_process_is_told_at_once_and_once():
    async def story() -> None:
        with process() as one:
            async with scene() as it:
                it.tie(tie_of(one.pid))
                await asyncio.sleep(0)
                assert it.told == []
                tie = tie_of(one.pid)
                began_s = asyncio.get_running_loop().time()
                one.kill()
                await it.news.wait()
                assert it.told == [ProcessEnded(tie)]
                assert asyncio.get_running_loop().time() - began_s < 0.9, "sooner than by looking once a second"
                it.watch.look()
                it.watch.follow(it.state)
                assert len(it.told) == 1

    run(story())


@pytest.mark.parametrize(
    "another",
    [
        pytest.param(lambda tie: Tie(tie.pid, tie.started + 1, tie.boot), id="a later process with its pid"),
        pytest.param(lambda tie: Tie(tie.pid, tie.started, "another boot"), id="the same numbers before a reboot"),
        pytest.param(lambda tie: Tie(2**31 - 1, tie.started, tie.boot), id="no process at all"),
    ],
)
def test_what_ended_before_anybody_looked_is_told_as_well(another):
    async def story() -> None:
        with process() as one:
            async with scene() as it:
                before = descriptors()
                gone = another(tie_of(one.pid))
                it.tie(gone, tie_of(one.pid))
                assert it.told == [ProcessEnded(gone)]
                assert descriptors() == before + 1

    run(story())


def test_nothing_is_told_of_a_process_that_no_lease_is_tied_to_any_more():
    async def story() -> None:
        with process() as one, process() as other:
            async with scene() as it:
                before = descriptors()
                kept = tie_of(other.pid)
                it.tie(tie_of(one.pid), kept)
                it.tie(kept)
                assert descriptors() == before + 1
                one.kill()
                one.wait()
                other.kill()
                await it.news.wait()
                assert it.told == [ProcessEnded(kept)]

    run(story())


def test_no_descriptor_is_left_behind_by_a_thousand_leases():
    async def story() -> None:
        with process() as one:
            async with scene() as it:
                tie = tie_of(one.pid)
                it.tie(tie)
                it.tie()
                before = descriptors()
                for _ in range(1_000):
                    it.tie(tie)
                    it.tie()
                    await asyncio.sleep(0)
                assert descriptors() == before
                it.tie(tie)
            assert descriptors() == before, "nor by the end"
            assert it.told == []

    run(story())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_where_there_is_no_pidfd_a_process_is_looked_at_and_the_log_says_so_once(number, monkeypatch, caplog):
    monkeypatch.setattr("supervisor.pid_watch.POLL_S", 0.01)

    def none(_pid: int) -> int:
        raise OSError(number, os.strerror(number))

    async def story() -> None:
        with process() as one, process() as other:
            async with scene(none) as it:
                tie = tie_of(one.pid)
                it.tie(tie, tie_of(other.pid))
                it.watch.look()
                assert it.told == []
                one.kill()  # and nobody reaps it
                await it.news.wait()
                assert it.told == [ProcessEnded(tie)]

    with caplog.at_level(logging.WARNING):
        run(story())
    assert [one.message.startswith("no pidfd can be had here") for one in caplog.records] == [True]


def test_where_no_descriptor_is_left_a_pidfd_is_tried_for_again():
    tries: list[int] = []

    def scarce(pid: int) -> int:
        tries.append(pid)
        if len(tries) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_pidfd(pid)

    async def story() -> None:
        with process() as one:
            async with scene(scarce) as it:
                tie = tie_of(one.pid)
                it.tie(tie)
                assert it.told == []
                it.watch.look()
                it.watch.look()
                assert tries == [one.pid] * 2
                one.kill()
                await it.news.wait()
                assert it.told == [ProcessEnded(tie)]

    run(story())


# ---- who may name which process


def test_a_process_is_named_by_its_pid_its_start_and_this_boot():
    with process() as one:
        assert identify(Peer(os.getpid(), os.getuid(), 0), one.pid) == tie_of(one.pid)


def refused(peer: Peer, pid: int) -> Refusal:
    found = identify(peer, pid)
    assert isinstance(found, Refusal)
    return found


def test_only_ones_own_processes_may_be_named_but_root_names_any():
    with process() as one:
        stranger = Peer(os.getpid(), os.getuid() + 1, 0)
        assert refused(stranger, one.pid).code == "forbidden"
        assert isinstance(identify(ROOT, one.pid), Tie)


def test_a_process_that_has_ended_is_none_whether_it_was_reaped_or_not():
    with process() as one:
        one.kill()
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        assert (refused(ROOT, one.pid).code, refused(ROOT, one.pid).retryable) == ("bad_request", False)
        one.wait()
        assert "in a container" in refused(ROOT, one.pid).detail


def test_a_thread_is_no_process():
    import threading

    end, began = threading.Event(), threading.Event()

    def live() -> None:
        began.set()
        end.wait(20)

    thread = threading.Thread(target=live)
    thread.start()
    began.wait(20)
    try:
        assert thread.native_id is not None
        assert refused(ROOT, thread.native_id).detail.endswith(f"thread of process {os.getpid()}: name the process")
    finally:
        end.set()
        thread.join()


def test_a_caller_whose_pids_are_not_ours_cannot_name_one(tmp_path):
    assert "another pid namespace" in refused(Peer(0, 0, 0), os.getpid()).detail
    inside = tmp_path / "7"
    inside.mkdir()
    (inside / "status").write_text("Name:\tx\nNSpid:\t7\t1\n")
    found = identify(Peer(7, 0, 0), os.getpid(), tmp_path)
    assert isinstance(found, Refusal)
    assert "another pid namespace" in found.detail


def test_without_a_free_descriptor_a_process_is_refused_for_now():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        found = identify(ROOT, os.getpid())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(found, Refusal)
    assert (found.code, found.retryable) == ("overloaded", True)
    assert "too many files open" in found.detail
