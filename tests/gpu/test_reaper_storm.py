"""Pids that are given out again while the reaper is at work: nobody is hit in another's place. See ``storm``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROUNDS = 10_000


@pytest.mark.root
def test_in_ten_thousand_rounds_of_pids_that_are_used_again_nobody_is_hit_who_was_not_meant():
    done = subprocess.run(
        [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            sys.executable,
            "-m",
            "tests.gpu.storm",
            str(ROUNDS),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    turns, pace = report["in_turns"], report["at_its_own_pace"]
    assert (turns["wrong"], pace["wrong"]) == (0, 0)
    assert turns["reused"] == ROUNDS - turns["hits"]
    assert (turns["hits"], turns["outcomes"]["hit sent"]) == (ROUNDS // 50, ROUNDS // 50)
    # A pid that changed hands before the look at its start time is told apart, one that did so later is out of reach.
    answers = {key for key in turns["outcomes"] if not key.startswith("hit")}
    assert answers == {"before other_process", "between other_process", "after gone"}
    assert pace["owners"] >= ROUNDS
    assert set(pace["outcomes"]) <= {"other_process", "gone"}
