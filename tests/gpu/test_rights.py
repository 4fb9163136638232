"""What a supervisor that is not root may see and do, on this very kernel, and which of it is said."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor.gpu.proc_files import ProcessFiles
from supervisor.gpu.reaper import Reaper
from supervisor.gpu.rights import Rights, limits, own_rights
from tests.gpu.proc_tree import as_nobody

NOBODY = 65_534
ALL = Rights(0, others=True, programs=True, signals=True)
NONE = Rights(998, others=False, programs=False, signals=False)


@pytest.fixture
def of_root() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as one:
        yield one.pid
        one.kill()


@pytest.mark.root
def test_root_may_do_everything_and_nothing_is_said():
    rights = own_rights()

    assert rights == replace(ALL, uid=0)
    assert limits(rights, terminates=True, allows_programs=True) == ()


@pytest.mark.root
def test_another_user_may_read_who_it_is_but_neither_its_program_nor_signal_it():
    assert as_nobody(own_rights) == Rights(NOBODY, others=True, programs=False, signals=False)


@pytest.mark.root
def test_a_signal_that_the_kernel_forbids_is_an_outcome_and_harms_nobody(of_root: int):
    with ProcessFiles(of_root) as files:
        started = files.stat().started

    sent = as_nobody(lambda: Reaper().send(of_root, started, signal.SIGTERM))

    assert (sent.outcome, sent.detail) == (
        "forbidden",
        f"process {of_root} belongs to another user, and we may not signal it",
    )
    os.kill(of_root, 0)


def test_a_hidden_proc_is_noticed(tmp_path: Path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("Name:\tx\nCapEff:\t0000000000080020\n")

    assert own_rights(tmp_path) == Rights(os.geteuid(), others=False, programs=True, signals=True)

    (tmp_path / "1").mkdir()
    (tmp_path / "1/stat").write_text("1 (init) S")
    assert own_rights(tmp_path).others


@pytest.mark.parametrize(
    ("rights", "terminates", "allows_programs", "said"),
    [
        pytest.param(replace(ALL, signals=False), False, False, [], id="nothing is to be ended"),
        pytest.param(replace(ALL, signals=False), True, False, ["CAP_KILL"], id="nothing can be ended"),
        pytest.param(replace(ALL, programs=False), False, False, [], id="nobody asks for programs"),
        pytest.param(replace(ALL, programs=False), False, True, ["CAP_SYS_PTRACE"], id="programs cannot be told"),
        pytest.param(replace(ALL, others=False), False, False, ["hidepid"], id="nobody can be told"),
        pytest.param(NONE, True, True, ["hidepid", "CAP_SYS_PTRACE", "CAP_KILL"], id="all of it"),
    ],
)
def test_what_is_lacking_is_said_where_it_matters(rights, terminates, allows_programs, said):
    sentences = limits(rights, terminates=terminates, allows_programs=allows_programs)

    assert len(sentences) == len(said)
    assert all(word in sentence for word, sentence in zip(said, sentences, strict=True))
