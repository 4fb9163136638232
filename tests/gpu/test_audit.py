"""From what the driver lists to who that is, with real processes; and from a decision to their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor.core.inputs import ProcessesSeen
from supervisor.core.model import Gpu, GpuProcess
from supervisor.gpu.audit import ProcessAudit
from supervisor.gpu.proc_files import stat_of
from tests.core.box import Box


@pytest.fixture(name="job")
def _job() -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours, as it would use a GPU."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def listing(pid: int, started: int = 0) -> Gpu:
    listed = GpuProcess(pid=pid, used_mib=900, started=started)
    return Gpu("GPU-1", total_mib=24_576, used_mib=900, processes=(listed,))


def test_a_listed_process_is_described_with_where_it_came_from(job: subprocess.Popen[bytes]):
    (seen,) = ProcessAudit(host=True).look([listing(job.pid)])

    assert (seen.pid, seen.started, seen.uid) == (job.pid, stat_of(job.pid).started, os.getuid())
    assert "import sys" in " ".join(seen.command)
    assert [ancestor.pid for ancestor in seen.ancestors][:1] == [os.getpid()]
    assert (seen.uses[0].gpu, seen.used_mib) == ("GPU-1", 900)


def test_who_is_gone_or_is_another_one_by_now_is_left_out(job: subprocess.Popen[bytes]):
    audit = ProcessAudit(host=True)
    assert audit.look([listing(job.pid, stat_of(job.pid).started + 1)]) == ()
    job.kill()
    job.wait()

    assert audit.look([listing(job.pid)]) == ()


def test_one_process_on_two_gpus_is_one(job: subprocess.Popen[bytes]):
    first = listing(job.pid)
    (seen,) = ProcessAudit(host=True).look([first, Gpu("GPU-2", index=1, processes=first.processes)])

    assert [use.gpu for use in seen.uses] == ["GPU-1", "GPU-2"]


def test_where_pids_are_not_the_hosts_nobody_is_described(job: subprocess.Popen[bytes]):
    assert ProcessAudit(host=False).look([listing(job.pid)]) == ()


def test_under_the_policy_terminate_a_process_without_a_lease_is_ended(job: subprocess.Popen[bytes]):
    audit = ProcessAudit(host=True)
    box = Box(process_policy="terminate", process_settle_ms=0, process_spare_root=False)

    box.feed(ProcessesSeen(audit.look([listing(job.pid)])))

    (due,) = box.signals
    assert audit.terminate(due.pid, due.started + 1, due.signal) == "other_process"
    assert audit.terminate(due.pid, due.started, due.signal) == "sent"
    assert job.wait(10) == -signal.SIGTERM
    assert audit.terminate(due.pid, due.started, due.signal) == "gone"
