"""A small campaign on the real engine, with the tripwire across a restart of the daemon.

The long one is ``python -m tests.cgroups.campaign``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.measure import percentile
from tests.cgroups.campaign import play
from tests.conftest import PrivateEngine

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.cgroup]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("flags", "share"), [pytest.param((), 0.0, id="kill"), pytest.param(("--tripwire",), 0.9, id="tripwire")]
)
def test_no_refused_container_runs_on_none_comes_back_and_nobody_else_is_touched(
    private_engine: PrivateEngine, tmp_path: Path, flags: tuple[str, ...], share: float
):
    report = play(private_engine, tmp_path, 10, *flags, restart=bool(flags))

    assert report.refused >= 7
    assert report.allowed >= 3
    assert (report.touched, report.came_back) == ([], [])
    # In the middle: at the edges a loaded machine measures itself. The long campaign has all of them.
    assert percentile(report.after_event_ms or [0.0], 50) < 50
    assert report.never_ran >= share * report.refused
