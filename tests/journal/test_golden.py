"""Journals of every released version open, replay to the facts that were written, and take new ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import supervisor
from supervisor.core.apply import replay
from supervisor.core.facts import AnyFact
from supervisor.core.state import Settings
from supervisor.journal import Journal, show, verify
from supervisor.journal.inspection import Shown
from tests.golden.record import GOLDEN, SNAPSHOT_AFTER
from tests.journal.facts import fact

VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if (path / "facts.json").exists())


@pytest.fixture(name="data_dir", params=VERSIONS)
def _data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one version's golden journal, as its data directory."""
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "data"))


@pytest.fixture(name="expected")
def _expected(data_dir: Path) -> list[AnyFact]:
    # Decoded with the facts of today: fields that came later have their defaults on both sides.
    return msgspec.json.decode((data_dir / "facts.json").read_bytes(), type=list[AnyFact])


def test_it_verifies_and_shows_every_fact(data_dir: Path, expected: list[AnyFact]):
    verdict = verify(data_dir, version=supervisor.__version__)
    shown = [item for item in show(data_dir, version=supervisor.__version__) if isinstance(item, Shown)]

    assert (verdict.ok, verdict.facts, len(verdict.snapshots)) == (True, len(expected), 1)
    assert [fact for item in shown for fact in item.facts] == expected


def test_it_replays_to_the_same_state_with_and_without_its_snapshot(data_dir: Path, expected: list[AnyFact]):
    journal = Journal.open(data_dir, version=supervisor.__version__)
    rest = list(journal.replay())
    journal.close()

    assert [fact for batch in rest for fact in batch] == expected[SNAPSHOT_AFTER:]
    assert replay(Settings(), journal.snapshot, rest).durable == replay(Settings(), None, [expected]).durable, (
        "the snapshot says something else than the facts before it"
    )


def test_it_goes_on_taking_facts(data_dir: Path, expected: list[AnyFact]):
    journal = Journal.open(data_dir, version=supervisor.__version__)
    journal.write([fact(1)])

    assert journal.history(0, 1_000) == list(enumerate([*expected, fact(1)], 1))
    journal.close()


def test_this_version_has_a_golden_journal_with_every_kind_of_fact():
    """A new kind of fact belongs into ``ONE_OF_EACH``; ``tests/golden/record.py`` says when to record."""
    recorded = (GOLDEN / supervisor.__version__ / "facts.json").read_bytes()
    kinds = {type(item) for item in msgspec.json.decode(recorded, type=list[AnyFact])}

    assert kinds == set(get_args(AnyFact))
