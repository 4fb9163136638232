"""Listed processes are put into their containers: real ones, gone ones, and others by the same pid."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from msgspec.structs import replace

from supervisor.core.model import FinishedUse, Gpu, GpuProcess
from supervisor.gpu.located import BLIND, Locator
from supervisor.gpu.proc_files import stat_of
from supervisor.gpu.reading import Reading


def listing(*pids: int, started: int = 0) -> Reading:
    processes = tuple(GpuProcess(pid=pid, used_mib=900, started=started) for pid in pids)
    return Reading(gpus=(Gpu("GPU-1", total_mib=24_576, used_mib=900, processes=processes),), began_s=0.0, took_s=0.0)


def containers(reading: Reading) -> list[str | None]:
    return [process.container for gpu in reading.gpus for process in gpu.processes or ()]


@pytest.fixture(name="sleeper")
def _sleeper() -> Iterator[Any]:
    client = docker.from_env()
    container = client.containers.run("local/busybox:1", ["sleep", "60"], detach=True)
    try:
        container.reload()
        yield container
    finally:
        container.remove(force=True)
        client.close()


@pytest.mark.engine
def test_a_process_in_a_container_is_in_that_one_and_a_later_one_of_its_pid_is_not(sleeper: Any):
    pid = sleeper.attrs["State"]["Pid"]
    stat = stat_of(pid)
    assert stat is not None

    assert containers(Locator(host=True).locate(listing(pid, started=stat.started))) == [sleeper.id]
    assert containers(Locator(host=True).locate(listing(pid, started=stat.started + 1))) == [None]


def test_a_process_of_the_host_is_in_none():
    locator = Locator(host=True)

    assert containers(locator.locate(listing(os.getpid()))) == [None]


def test_who_is_gone_is_in_none():
    with subprocess.Popen(["true"]) as gone:
        gone.wait()

    assert containers(Locator(host=True).locate(listing(gone.pid))) == [None]


def test_where_pids_are_not_the_hosts_nobody_says_who_uses_what():
    reading = Locator(host=False).locate(replace(listing(os.getpid()), problem="GPU 1 is hot"))

    assert reading.gpus[0].processes is None
    assert reading.problem == f"GPU 1 is hot; {BLIND}"


def test_a_reading_of_no_gpus_is_left_alone():
    nothing = Reading(gpus=(), problem="no driver", began_s=0.0, took_s=0.0)

    assert Locator(host=False).locate(nothing) == nothing


# ---- those that have ended


def ended(pid: int, at_ms: int) -> Reading:
    use = FinishedUse(gpu="GPU-1", pid=pid, started_wall_ms=at_ms, ran_ms=1)
    return Reading(gpus=(Gpu("GPU-1"),), finished=(use,), began_s=0.0, took_s=0.0)


@pytest.mark.engine
def test_one_that_was_seen_while_it_ran_was_in_its_container_and_an_earlier_one_of_its_pid_was_not(sleeper: Any):
    pid = sleeper.attrs["State"]["Pid"]
    locator = Locator(host=True, wall_ms=lambda: 5_000)
    locator.locate(listing(pid))

    found = [locator.locate(ended(pid, at_ms)).finished[0].container for at_ms in (4_000, 6_000)]

    assert found == [sleeper.id, None]


def test_where_pids_are_not_the_hosts_nobody_is_told_to_have_ended():
    assert Locator(host=False).locate(ended(4_000, 0)).finished == ()
