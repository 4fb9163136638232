"""The queue: order, aging, waiters, claim windows, and time-outs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.facts import TicketEnded
from supervisor.core.inputs import CallerGone, EngineLost
from supervisor.core.model import Terms, Ticket
from supervisor.core.replies import Granted, Queued
from supervisor.core.state import Settings, State
from tests.core.box import Box, container, kinds

A, B, C = container("a"), container("b"), container("c")


def test_a_waiter_is_granted_the_moment_the_gpu_is_free():
    box = Box(A, B)
    first = box.lease("a")
    waiter = box.ask("b", wait_ms=60_000, wait_ready=False)
    assert box.code(waiter) == ""

    box.release(first)

    assert isinstance(box.replies[waiter], Granted)


def test_a_polled_ticket_gets_a_claim_window_and_only_it_may_claim():
    box = Box(A, B, C)
    first = box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    early = box.claim(polled)
    assert box.code(early) == "gpu_busy"
    assert box.replies[early].refusal.context["queue_index"] == 0

    box.release(first)
    assert kinds(box.facts)[-1] == "WindowOpened"
    fresh = box.ask("c", priority=1_000)
    assert box.code(fresh) == "gpu_busy"
    assert "queued claimant pending" in box.replies[fresh].refusal.detail

    claimed = box.claim(polled)
    box.obey()
    assert box.replies[claimed].lease.id == f"l{polled}"
    assert box.replies[claimed].lease.token_hash == f"t{polled}"


def test_an_open_window_is_not_withdrawn_by_a_later_higher_ticket():
    box = Box(A, B, C)
    first = box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    box.release(first)
    urgent = box.ask("c", priority=1_000, wait_ms=60_000)
    assert box.code(urgent) == ""

    assert box.code(box.claim(polled, wait_ready=False)) == "Granted"


def test_a_lapsed_window_ends_its_ticket_and_serves_the_next_head():
    box = Box(A, B, C)
    first = box.lease("a")
    lazy = box.ask("b", on_busy="ticket")
    waiter = box.ask("c", wait_ms=60_000, wait_ready=False)
    box.release(first)
    box.advance(10)

    assert box.code(waiter) == "Granted"
    assert box.code(box.claim(lazy, refresh=True)) == "ticket_expired"


def test_a_claimant_that_waits_on_the_line_becomes_a_waiter_again():
    box = Box(A, B)
    first = box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    on_line = box.claim(polled, wait_ms=60_000)
    box.release(first)
    box.obey()

    assert box.code(on_line) == "Granted"


def test_a_wait_that_runs_out_is_refused_or_turns_into_a_ticket():
    box = Box(A, B)
    box.lease("a")
    refused = box.ask("b", wait_ms=5_000)
    kept = box.ask("b", wait_ms=5_000, on_busy="ticket")
    box.advance(5)

    assert box.code(refused) == "scheduler_timeout"
    assert box.replies[kept] == Queued(kept, f"l{kept}", 0)
    assert [fact.reason for fact in box.facts if isinstance(fact, TicketEnded)] == ["scheduler_timeout"]


def test_a_waiter_that_hung_up_is_granted_nothing():
    box = Box(A, B, C)
    first = box.lease("a")
    gone = box.ask("b", wait_ms=60_000)
    patient = box.ask("c", wait_ms=60_000, wait_ready=False)
    box.feed(CallerGone(gone))
    box.release(first)

    assert box.code(patient) == "Granted"
    assert box.code(gone) == ""


def test_a_hang_up_with_a_key_leaves_a_polled_ticket():
    box = Box(A, B)
    box.lease("a")
    first = box.ask("b", wait_ms=60_000, scope="s", body="x")
    box.feed(CallerGone(first))
    retry = box.ask("b", wait_ms=60_000, scope="s", body="x")
    box.release(1)
    box.obey()

    assert box.replies[retry].lease.id == f"l{first}"


def test_a_cancelled_ticket_is_gone():
    box = Box(A, B)
    box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    assert box.release(polled).released
    assert not box.release(polled).released
    assert box.state.durable.tickets == {}


def test_higher_priority_goes_first_then_arrival():
    box = Box(A, B, aging_per_minute=0)
    held = box.lease("a")
    order = [box.ask("b", wait_ms=10**6, wait_ready=False, priority=p) for p in (1, 5, 5, 9)]
    served = []
    while len(served) < 4:
        box.release(held)
        held = next(r for r in order if r in box.replies and r not in served)
        served.append(held)

    assert served == [order[3], order[1], order[2], order[0]]


def test_a_request_without_a_priority_takes_its_targets_label():
    box = Box(A, B, container("vip", priority=50), aging_per_minute=0)
    held = box.lease("a")
    low = box.ask("b", wait_ms=10**6, wait_ready=False)
    high = box.ask("vip", wait_ms=10**6, wait_ready=False)
    box.release(held)

    assert (box.code(high), box.code(low)) == ("Granted", "")


def test_waiting_makes_up_for_priority_at_the_configured_rate():
    box = Box(A, B, aging_per_minute=1)
    held = box.lease("a", ttl_ms=3_600_000)
    early = box.ask("b", wait_ms=10**7, wait_ready=False, priority=1)
    box.advance(61)
    late = box.ask("b", wait_ms=10**7, wait_ready=False, priority=2)
    box.release(held)

    assert (box.code(early), box.code(late)) == ("Granted", "")


@given(
    rate=st.sampled_from([0.0, 0.5, 1.0, 60.0]),
    tickets=st.lists(st.tuples(st.integers(-1000, 1000), st.integers(0, 10**9)), max_size=30),
    later_ms=st.integers(0, 10**10),
)
def test_the_fixed_rank_orders_like_the_aged_priorities_recomputed_at_any_moment(rate, tickets, later_ms):
    state = State(Settings(aging_per_minute=rate))
    queued = sorted(tickets, key=lambda item: item[1])
    for order, (priority, at_ms) in enumerate(queued):
        terms = Terms(target=None, owner="o", priority=priority, ttl_ms=1)
        state.index_ticket(
            Ticket(
                id=str(order),
                order=order,
                token_hash=str(order),
                token_known=True,
                terms=terms,
                queued_at_ms=at_ms,
                queued_wall_ms=0,
            )
        )
    now_ms = (queued[-1][1] if queued else 0) + later_ms

    # Exact arithmetic in 1/120000 points: rates here are multiples of a half.
    def aged(ticket: Ticket) -> tuple[int, int]:
        waited = now_ms - ticket.queued_at_ms
        return (-(ticket.terms.priority * 120_000 + int(rate * 2) * waited), ticket.order)

    slow = sorted(state.queue, key=aged)
    assert [ticket.id for ticket in state.queue] == [ticket.id for ticket in slow]


def test_a_full_queue_says_so():
    box = Box(A, B, queue_max=1)
    box.lease("a")
    box.ask("b", on_busy="ticket")

    assert box.code(box.ask("b", on_busy="ticket")) == "queue_full"


def test_a_ticket_whose_target_went_away_is_ended_with_the_reason_and_the_next_is_served():
    box = Box(A, B, C)
    held = box.lease("a")
    lost = box.ask("b", wait_ms=60_000)
    served = box.ask("c", wait_ms=60_000, wait_ready=False)
    box.remove("b-main")
    box.release(held)

    assert box.code(lost) == "target_absent"
    assert box.code(served) == "Granted"


def test_after_a_restart_waiters_are_cancelled_keyed_ones_are_polled_and_windows_start_afresh():
    box = Box(A, B)
    held = box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    box.ask("b", wait_ms=60_000)
    box.ask("b", wait_ms=60_000, scope="s", body="x")
    box.release(held)
    box.advance(9)
    box.restart(down_s=60)

    assert len(box.state.durable.tickets) == 2
    box.snapshot()
    box.advance(9)
    assert box.code(box.claim(polled, wait_ready=False)) == "Granted"


def test_a_window_is_paused_while_nobody_could_claim():
    box = Box(A, B)
    held = box.lease("a")
    polled = box.ask("b", on_busy="ticket")
    box.release(held)
    box.feed(EngineLost("restarting"))
    assert box.code(box.claim(polled)) == "engine_unavailable"
    box.advance(60)
    box.snapshot()
    box.advance(9)

    assert box.code(box.claim(polled, wait_ready=False)) == "Granted"


@pytest.mark.parametrize("waiters", [10, 1_000])
def test_every_one_of_many_waiters_is_served_once(waiters):
    box = Box(A)
    held = box.lease("a")
    requests = [box.ask("a", wait_ms=10**8, wait_ready=False) for _ in range(waiters)]
    for request in requests:
        box.release(held)
        assert box.code(request) == "Granted"
        held = request
    fences = [box.replies[request].lease.fence for request in requests]

    assert fences == sorted(set(fences))
