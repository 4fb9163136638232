"""The tripwire on real hierarchies, with cgroups and processes of our own in the place of an engine's."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from supervisor.cgroups.below import Below
from supervisor.cgroups.trees import Tree
from supervisor.cgroups.tripwire import Tripwire
from supervisor.core.tripwire import Verdict
from tests.gpu.proc_tree import process

pytestmark = pytest.mark.root

#: So many events are kept for whoever does not read.
QUEUE = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


class Wired:
    """A tripwire on a folder of our own. ``verdicts``: what is said of whom; nothing is known of the others."""

    def __init__(self, tree: Tree) -> None:
        self.below = Below(tree)
        self.parent = tree.root / f"gpu-supervisor-test-{secrets.token_hex(6)}"
        self.verdicts: dict[str, Verdict] = {}
        self.asked: list[str] = []
        self.hits: list[str] = []
        self.tripwire = Tripwire(self.below, self._judge, self.hits.append)

    def _judge(self, id_: str) -> Verdict:
        self.asked.append(id_)
        return self.verdicts.get(id_, "unknown")

    def make(self, verdict: Verdict | None = None) -> Path:
        cgroup = self.parent / secrets.token_hex(32)
        if verdict is not None:
            self.verdicts[cgroup.name] = verdict
        cgroup.mkdir(parents=True)
        return cgroup


@contextlib.asynccontextmanager
async def wired(tree: Tree) -> AsyncIterator[Wired]:
    made = Wired(tree)
    try:
        made.tripwire.start()
        made.below.learn(str(made.parent.relative_to(tree.root)))
        yield made
    finally:
        made.tripwire.close()
        for folder in sorted(made.parent.glob("**/"), reverse=True):
            folder.rmdir()


def put(one: subprocess.Popen[bytes], cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(one.pid))


async def until(condition: Callable[[], Any], within_s: float = 5) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - nobody is told of the end of another's process
            await asyncio.sleep(0.002)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_whoever_may_not_run_is_killed_as_soon_as_a_process_is_in_its_cgroup(tree: Tree):
    async def story() -> None:
        async with wired(tree) as it:
            with process() as one:
                cgroup = it.make("refuse")
                await until(lambda: cgroup.name in it.asked)
                put(one, cgroup)
                await until(lambda: one.poll() is not None)
                assert one.returncode == -signal.SIGKILL
            await until(lambda: it.hits == [cgroup.name])

    run(story())


def test_whoever_may_run_is_asked_for_once_and_never_again(tree: Tree):
    async def story() -> None:
        async with wired(tree) as it:
            with process() as one, process() as other:
                cgroup, refused = it.make("leave"), it.make("refuse")
                put(one, cgroup)
                put(other, refused)
                await until(lambda: it.hits)
                it.verdicts[cgroup.name] = "refuse"
                await until(lambda: other.poll() is not None)
                assert one.poll() is None
                assert it.asked.count(cgroup.name) == 1
                assert it.hits == [refused.name]

    run(story())


def test_a_container_that_becomes_known_in_time_is_judged_then_and_a_right_that_comes_in_between_counts(tree: Tree):
    async def story() -> None:
        async with wired(tree) as it:
            with process() as one, process() as other:
                late, granted = it.make(), it.make("refuse")
                put(one, late)
                await until(lambda: {late.name, granted.name} <= set(it.asked))
                assert one.poll() is None
                it.verdicts |= {granted.name: "leave", late.name: "refuse"}
                put(other, granted)
                await until(lambda: one.poll() is not None)
                assert other.poll() is None
                assert it.hits == [late.name]

    run(story())


def test_nobody_who_stays_unknown_is_touched_and_asking_ends(tree: Tree):
    async def story() -> None:
        async with wired(tree) as it:
            with process() as one:
                cgroup = it.make()
                put(one, cgroup)
                await until(lambda: cgroup.name in it.asked)
                await until(lambda: not it.tripwire._coming)
                assert one.poll() is None
                assert it.hits == []

    run(story())


def test_a_parent_that_goes_and_comes_back_with_a_container_in_it_is_watched_again(tree: Tree):
    async def story() -> None:
        async with wired(tree) as it:
            for _ in range(3):
                it.hits.clear()
                with process() as one:
                    # Made at once: nothing can watch the folder before the container's is in it.
                    cgroup = it.make("refuse")
                    put(one, cgroup)
                    await until(lambda: it.hits)
                    await until(lambda one=one: one.poll() is not None)
                cgroup.rmdir()
                it.parent.rmdir()
                await until(lambda: not it.tripwire._coming)

    run(story())


def test_after_more_cgroups_than_the_kernel_keeps_events_of_the_next_is_seen(
    tree: Tree, caplog: pytest.LogCaptureFixture
):
    async def story() -> None:
        async with wired(tree) as it:
            it.make("leave")
            await until(lambda: it.asked)
            for number in range(QUEUE + 1):  # the loop does not run meanwhile
                churn = it.parent / f"churn{number % 2}"  # the same twice would be one event
                churn.mkdir()
                churn.rmdir()
            await until(lambda: "the tripwire missed cgroups" in caplog.text)
            with process() as one:
                put(one, it.make("refuse"))
                await until(lambda: one.poll() is not None)

    run(story())
