"""A thousand histories of some simulated minutes each, with every rule checked at every step, and the books balanced.

The first seed is the commit's own, so that each commit meets histories that none before it has met.
"""

from __future__ import annotations

import pytest

from tests.simulation.campaign import Failure, commit_seed, kept_seeds, play, run
from tests.simulation.world import Outcome

HISTORIES = 1_000


@pytest.mark.parametrize("seed", kept_seeds())
def test_a_history_that_once_found_a_bug_does_not_any_more(seed: int):
    result = play(seed)

    assert isinstance(result, Outcome), str(result)


def test_the_same_seed_tells_the_same_history():
    assert play(7) == play(7)


@pytest.mark.timeout(600)
def test_every_rule_holds_in_a_thousand_histories():
    first = commit_seed()
    results = list(run(range(first, first + HISTORIES)))

    failures = [result for result in results if isinstance(result, Failure)]
    assert not failures, f"{len(failures)} of {HISTORIES} histories failed; the first:\n{failures[0]}"
    _were_eventful([result for result in results if isinstance(result, Outcome)])


def _were_eventful(outcomes: list[Outcome]) -> None:
    """A simulation in which nothing happens proves nothing."""
    assert min(outcome.simulated_ms for outcome in outcomes) >= 180_000
    assert sum(outcome.grants for outcome in outcomes) > 5 * HISTORIES
    assert sum(outcome.restarts for outcome in outcomes) > 2 * HISTORIES
    assert sum(outcome.signals for outcome in outcomes) > HISTORIES // 2
    lives_ms = sorted(life_ms for outcome in outcomes for life_ms in outcome.lives_ms)
    assert len(lives_ms) > HISTORIES
    assert lives_ms[len(lives_ms) * 99 // 100] <= 500, "an unleased container lives for half a second at most (p99)"
