"""Facts become state: each kind has its function, and the plain way gives the same."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from supervisor.core.apply import CHANGES, apply
from supervisor.core.facts import AnyFact, Fact, LeaseGranted, RoomVerified
from supervisor.core.model import Lease, Terms
from supervisor.core.state import Settings, State

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
