"""Facts become state: each kind has its function, and the plain way gives the same."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.apply import CHANGES, apply, apply_all, freeze, replay
from supervisor.core.facts import AnyFact, Fact, LeaseGranted, RoomVerified
from supervisor.core.model import Ended, Lease, Terms
from supervisor.core.remember import forget
from supervisor.core.state import Replaying, Settings, State
from tests.benchmarks import history
from tests.journal.facts import ONE_OF_EACH

KINDS = get_args(AnyFact)


def test_every_kind_of_fact_has_a_function():
    assert CHANGES.keys() == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_function_takes_the_kind_of_fact_that_it_stands_for(kind: type[Fact]):
    hints = get_type_hints(CHANGES[kind])
    taken = [hint for name, hint in hints.items() if name not in ("state", "return")]

    assert [kind in (get_args(hint) or (hint,)) for hint in taken] == [True]


def test_a_grant_makes_a_lease_of_what_it_says_by_name():
    terms = Terms(target="a", owner="ann", priority=3, ttl_ms=60_000)
    state = State(Settings())

    apply(state, LeaseGranted(1, 2, "l", 3, "hash", True, terms, "art", ("GPU-1",), 8_192, True, False, True))

    assert state.durable.leases["l"] == Lease(
        id="l",
        fence=3,
        token_hash="hash",
        token_known=True,
        terms=terms,
        project="art",
        gpus=("GPU-1",),
        vram_mib=8_192,
        phase="making_room",
        granted_at_ms=1,
        granted_wall_ms=2,
        phase_at_ms=1,
        needs_cold_start=True,
        adopted=False,
        warm=True,
    )


def test_a_later_holder_gets_by_name_what_is_so_of_the_first():
    terms = Terms(target="a", owner="ann", priority=3, ttl_ms=60_000)
    state = State(Settings())
    apply(state, LeaseGranted(1, 2, "l", 3, "hash", True, terms, "art", ("GPU-1",), 8_192, warm=True))
    apply(state, RoomVerified(5, 6, "l", "a"))

    apply(state, LeaseGranted(7, 8, "m", 4, "other", False, terms, "art", ("GPU-1",), 8_192, joins="l"))

    assert state.durable.leases["m"] == Lease(
        id="m",
        fence=4,
        token_hash="other",
        token_known=False,
        terms=terms,
        project="art",
        gpus=("GPU-1",),
        vram_mib=8_192,
        phase="starting",
        granted_at_ms=7,
        granted_wall_ms=8,
        phase_at_ms=5,
        warm=True,
    )


@given(cuts=st.sets(st.integers(0, len(ONE_OF_EACH))))
def test_a_replay_in_bulk_gives_what_one_fact_after_another_gives(cuts):
    ends = sorted({0, *cuts, len(ONE_OF_EACH)})
    live = State(Settings())
    for fact in ONE_OF_EACH:
        apply(live, fact)

    state = replay(Settings(), None, [ONE_OF_EACH[first:end] for first, end in pairwise(ends)])

    assert freeze(state.durable) == freeze(live.durable)


@pytest.mark.parametrize("settings", [Settings(ended_max=20), Settings(ended_ms=20_000)], ids=["too many", "too old"])
def test_a_replay_forgets_the_ended_when_one_fact_after_another_does(settings: Settings):
    facts = history.facts(6 * 100)  # a turn of six takes a second, and a lease ends in it
    live, bulk, at_once = State(settings), Replaying(settings), Replaying(settings)
    for fact in facts:
        apply(live, fact)
        apply_all(bulk, [fact])
        assert list(bulk.durable.ended) == list(live.durable.ended)
    apply_all(at_once, facts)

    assert 15 < len(live.durable.ended) < 25
    assert freeze(live.durable) == freeze(bulk.durable) == freeze(at_once.durable)


def plain_trim(ended: list[tuple[str, int]], now_ms: int, keep_ms: int, most: int) -> list[tuple[str, int]]:
    """One after the other, as long as the oldest must go."""
    slack = 17 / 16
    if len(ended) <= int(most * slack) and not (ended and ended[0][1] + int(keep_ms * slack) < now_ms):
        return ended
    while ended and (len(ended) > most or ended[0][1] + keep_ms < now_ms):
        ended = ended[1:]
    return ended


@given(
    times=st.lists(st.integers(0, 400), max_size=60),
    now_ms=st.integers(0, 600),
    keep_ms=st.integers(0, 320),
    most=st.integers(1, 64),
)
def test_what_has_ended_is_forgotten_as_if_one_after_the_other_was_asked(times, now_ms, keep_ms, most):
    state = State(Settings(ended_ms=keep_ms, ended_max=most))
    kept = [(str(number), at_ms) for number, at_ms in enumerate(times)]
    for key, at_ms in kept:
        state.durable.ended[key] = Ended(key, key, "lease", "released", at_ms, 0)

    forget(state, now_ms)

    assert [(each.id, each.at_ms) for each in state.durable.ended.values()] == plain_trim(kept, now_ms, keep_ms, most)
