"""The order of things, without a line and without time: whatever fails in between, no lease is doubled, forgotten, or
given up too early, and nobody is asked without a pause.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.answers import Ahead, EndedView, LeaseAnswer, LeaseView, RenewAnswer, TicketAnswer
from supervisor.client import asks
from supervisor.client.asks import Ask
from supervisor.client.errors import Refused, SupervisorError, Unreachable
from supervisor.client.flows import LOOK_S, Flow, Holding, Pause, give_back, keep, obtain, repeated
from supervisor.client.refusals import REFUSALS
from supervisor.client.retries import FIRST_S, LONGEST_S, Retries
from supervisor.client.wishes import Wish, wish_for

TTL_S = 30
#: What one request costs, so that time goes on without a pause, too.
TRIP_S = 0.01


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def refused(code: str, **context: Any) -> Refused:
    return REFUSALS[code](code, f"{code}, says the test", status=503, retryable=True, context=context)


class Supervisor:
    """One GPU, leases and tickets by token and by key; ``free_at_s`` is when somebody else gives it back."""

    def __init__(self, clock: Clock, free_at_s: float = -math.inf) -> None:
        self.clock, self.free_at_s = clock, free_at_s
        self.tokens: dict[str, str] = {}
        self.held: dict[str, float] = {}
        self.queued: set[str] = set()
        self.asked: list[tuple[float, str]] = []

    def answer(self, ask: Ask[Any]) -> Any:
        self.asked.append((self.clock(), ask.path))
        now_s = self.clock()
        self.held = {token: until for token, until in self.held.items() if until > now_s}
        match ask.method, ask.path.split("/")[3:]:
            case "POST", []:
                assert ask.key is not None
                return self._lease(ask.key, ask.body or {})
            case "POST", [token, "claim"]:
                return self._claim(token, (ask.body or {})["wait_seconds"])
            case "POST", [token, "renew"]:
                if token not in self.held:
                    raise refused("lease_unknown", reason="expired")
                self.held[token] = now_s + TTL_S
                return RenewAnswer(token, "later", TTL_S, None)
            case "GET", [token]:
                if token in self.held:
                    return lease_view()
                return EndedView(id=token, what="lease", target=None, consumer=None, reason="expired", ended_at="now")
            case "DELETE", [token]:
                return self._end(token)
            case "DELETE", []:
                assert ask.key is not None
                return self._end(self.tokens.get(ask.key, ""))
        raise AssertionError(f"nobody asks this: {ask}")

    def _lease(self, key: str, body: dict[str, Any]) -> Any:
        token = self.tokens.setdefault(key, f"token-{len(self.tokens)}")
        if token in self.held:
            return leased(token)
        if self.clock() < self.free_at_s:
            if not body["queue"]:
                raise refused("gpu_busy")
            self.queued.add(token)
            return queued(token)
        return self._grant(token)

    def _claim(self, token: str, wait_s: int) -> Any:
        if token in self.held:
            return leased(token)
        if token not in self.queued:
            raise refused("lease_unknown")
        if self.clock() + wait_s < self.free_at_s:
            self.clock.now_s += wait_s
            raise refused("scheduler_timeout" if wait_s else "gpu_busy")
        self.clock.now_s = max(self.clock(), self.free_at_s)
        return self._grant(token)

    def _end(self, token: str) -> None:
        self.held.pop(token, None)
        self.queued.discard(token)

    def _grant(self, token: str) -> Any:
        self.queued.discard(token)
        self.held[token] = self.clock() + TTL_S
        return leased(token)


def leased(token: str) -> LeaseAnswer:
    return LeaseAnswer(
        token=token,
        id=token,
        fence=1,
        target=None,
        consumer=None,
        owner="ann",
        state="ready",
        granted_at="now",
        expires_at="later",
        ends_at=None,
        ttl_seconds=TTL_S,
        gpus=("SIM-0",),
        cuda_visible_devices="SIM-0",
        vram_mib=None,
        joined=False,
    )


def lease_view() -> LeaseView:
    return LeaseView(
        id="l",
        state="ready",
        fence=1,
        target=None,
        consumer=None,
        owner="ann",
        priority=0,
        granted_at="now",
        expires_at="later",
        ends_at=None,
        ttl_seconds=TTL_S,
        gpus=("SIM-0",),
        cuda_visible_devices="SIM-0",
        vram_mib=None,
        adopted=False,
        joined=False,
        why="",
        until=None,
    )


def queued(token: str) -> TicketAnswer:
    ahead = (Ahead("l", "a", "bob", 0, "ready"),)
    return TicketAnswer(
        token=token,
        id=token,
        state="queued",
        target=None,
        consumer=None,
        owner="ann",
        priority=0,
        ttl_seconds=TTL_S,
        queued_at="now",
        position=0,
        ahead=ahead,
        why="",
        until=None,
    )


def drive(
    flow: Flow[Any], server: Supervisor, clock: Clock, faults: Iterator[str], until_s: float = math.inf
) -> tuple[Any, list[float]]:
    """Carry a flow out with faults in the order given (then none); return what it returns or raises, and its pauses."""
    pauses: list[float] = []
    try:
        step = next(flow)
        while clock() < until_s:
            if isinstance(step, Pause):
                assert step.seconds >= 0
                pauses.append(step.seconds)
                clock.now_s += step.seconds
                step = flow.send(None)
                continue
            clock.now_s += TRIP_S
            try:
                answer = perform(step, server, next(faults, "no"))
            except SupervisorError as error:
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as done:
        return done.value, pauses
    except SupervisorError as error:
        return error, pauses
    finally:
        flow.close()
    return None, pauses


def perform(ask: Ask[Any], server: Supervisor, fault: str) -> Any:
    match fault:
        case "not there":
            raise Unreachable("no supervisor answers", asked=False)
        case "cut on the way":
            raise Unreachable("went away")
        case "answer lost":
            server.answer(ask)
            raise Unreachable("went away")
        case "interrupted on the way":
            raise KeyboardInterrupt
        case "interrupted behind it":
            server.answer(ask)
            raise KeyboardInterrupt
        case "no":
            return server.answer(ask)
        case code:
            raise refused(code)


CUTS = ["not there", "cut on the way", "answer lost", "shutting_down"]
faults = st.lists(st.sampled_from([*CUTS, "no", "no"]), max_size=30)
chances = st.floats(0, 1)


def patient(clock: Clock, chance: float, cut_s: float = 15.0) -> Retries:
    retries = Retries(cut_s, clock=clock, chance=lambda: chance)
    retries.met = True
    return retries


# ---- one request


@given(chance=chances, cut_s=st.floats(0, 60))
def test_a_request_is_repeated_until_the_time_is_over_with_pauses_that_grow_and_end(chance: float, cut_s: float):
    clock = Clock()
    began_s = clock()

    result, pauses = drive(
        repeated(asks.status(), patient(clock, chance, cut_s)), Supervisor(clock), clock, iter(["not there"] * 10_000)
    )

    assert isinstance(result, Unreachable)
    assert all(FIRST_S / 2 <= pause <= LONGEST_S for pause in pauses[:-1]), pauses
    assert sorted(pauses[:-1]) == pauses[:-1]
    # The last try is made at the end of the time, and not much later.
    assert cut_s <= clock() - began_s <= cut_s + (len(pauses) + 1) * TRIP_S + 1e-6
    assert len(pauses) <= 10 + cut_s / (LONGEST_S / 2)


@pytest.mark.parametrize(
    ("fault", "once", "met", "tries"),
    [
        pytest.param("not there", False, False, 1, id="nobody was ever there"),
        pytest.param("not there", False, True, 2, id="it is restarted"),
        pytest.param("cut on the way", False, False, 2, id="somebody was there"),
        pytest.param("shutting_down", False, True, 2, id="it says that it is about to be back"),
        pytest.param("not there", True, True, 2, id="it cannot have been done already"),
        pytest.param("cut on the way", True, True, 1, id="it may have been done already"),
        pytest.param("gpu_busy", False, True, 1, id="an answer is an answer, though retryable"),
    ],
)
def test_what_is_worth_another_try(fault: str, once: bool, met: bool, tries: int):
    clock = Clock()
    retries = Retries(10, clock=clock, chance=lambda: 0)
    retries.met = met
    ask = asks.Ask(method="GET", path="/v1/lease/token-0", decode=bytes, once=once)

    result, pauses = drive(repeated(ask, retries), Supervisor(clock), clock, iter([fault]))

    assert len(pauses) + 1 == tries
    assert isinstance(result, SupervisorError) == (tries == 1)


def test_no_patience_is_one_try():
    clock = Clock()
    result, pauses = drive(repeated(asks.status(), patient(clock, 0, 0)), Supervisor(clock), clock, iter(["not there"]))
    assert (isinstance(result, Unreachable), pauses) == (True, [])


# ---- getting it


def wished(wait: float | None) -> Wish:
    return wish_for(None, owner="ann", wait=wait, ttl=TTL_S)


@given(
    faults=faults, chance=chances, free_s=st.sampled_from([-1.0, 0.5, 20, 100]), wait=st.sampled_from([0, 10, 60, None])
)
def test_whatever_fails_there_is_one_lease_or_none_and_nothing_is_left(faults, chance, free_s, wait):
    clock = Clock()
    server = Supervisor(clock, free_at_s=clock() + free_s)
    retries, keys = patient(clock, chance), iter(range(100))
    wish = wished(wait)
    holding = Holding(wish.name)

    result, _ = drive(obtain(wish, holding, retries, lambda: f"key-{next(keys)}"), server, clock, iter(faults))

    assert len(server.tokens) <= 1, "one key for every try"
    if isinstance(result, LeaseAnswer):
        assert list(server.held) == [result.token] == [holding.token]
        assert server.queued == set()
    else:
        assert isinstance(result, SupervisorError)
        if (release := holding.let_go()) is not None:
            assert drive(give_back(release, retries), server, clock, iter(()))[0] is True
            assert (server.held, server.queued) == ({}, set())


@given(
    faults=faults,
    interrupt=st.sampled_from(["interrupted on the way", "interrupted behind it"]),
    chance=chances,
    free_s=st.sampled_from([-1.0, 0.5, 20, 100]),
    wait=st.sampled_from([0, 10, 60, None]),
)
def test_wherever_it_is_interrupted_nothing_is_left_when_it_was_given_back(faults, interrupt, chance, free_s, wait):
    """Also between a try and the next one: nothing happens there that would make a difference to the next one."""
    clock = Clock()
    server = Supervisor(clock, free_at_s=clock() + free_s)
    retries, keys = patient(clock, chance), iter(range(100))
    wish = wished(wait)
    holding = Holding(wish.name)

    with suppress(KeyboardInterrupt):
        flow = obtain(wish, holding, retries, lambda: f"key-{next(keys)}")
        drive(flow, server, clock, iter([*faults, interrupt]))
    release = holding.let_go()

    if release is not None:
        assert drive(give_back(release, retries), server, clock, iter(["cut on the way"]))[0] is True
        assert (server.held, server.queued) == ({}, set())
    elif "answer lost" not in faults:
        assert (server.held, server.queued) == ({}, set()), "somebody said no, or nobody was ever there"
    assert holding.let_go() is None


def test_what_a_definite_refusal_answered_is_not_given_back():
    clock = Clock()
    server = Supervisor(clock, free_at_s=math.inf)
    holding = Holding("x")

    result, _ = drive(obtain(wished(0), holding, patient(clock, 0), lambda: "key"), server, clock, iter(()))

    assert isinstance(result, Refused)
    assert holding.let_go() is None


def test_a_request_whose_answer_was_lost_for_good_is_given_back():
    clock = Clock()
    server = Supervisor(clock, free_at_s=math.inf)
    holding = Holding("x")

    result, _ = drive(
        obtain(wished(None), holding, patient(clock, 0), lambda: "key"),
        server,
        clock,
        iter(["answer lost", *["not there"] * 1_000]),
    )

    assert isinstance(result, Unreachable)
    assert server.queued
    assert holding.let_go() == asks.release_by_key("key")


@given(faults=st.lists(st.sampled_from(CUTS), max_size=12), chance=chances)
def test_a_line_that_is_cut_while_it_waits_costs_nothing_if_it_comes_back_in_time(faults, chance):
    clock = Clock()
    server = Supervisor(clock, free_at_s=clock() + 40)
    wish = wished(100)

    result, _ = drive(
        obtain(wish, Holding(wish.name), patient(clock, chance), lambda: "key"), server, clock, iter(["no", *faults])
    )

    assert isinstance(result, LeaseAnswer)
    # No more is lost of the time than the pauses while the line was cut.
    assert clock() <= server.free_at_s + (len(faults) + 1) * (LONGEST_S + TRIP_S)


def test_a_wait_is_bounded_by_what_was_wished_and_says_why():
    clock = Clock()
    server = Supervisor(clock, free_at_s=math.inf)
    began_s = clock()

    result, _ = drive(obtain(wished(70), Holding("x"), patient(clock, 0), lambda: "key"), server, clock, iter(()))

    assert isinstance(result, Refused)
    assert result.code in {"gpu_busy", "scheduler_timeout"}
    assert 70 <= clock() - began_s <= 71


def test_a_turn_that_lapsed_while_the_line_was_cut_is_queued_for_again():
    clock = Clock()
    server = Supervisor(clock, free_at_s=clock() + 50)
    keys = iter(["first", "second"])

    result, _ = drive(
        obtain(wished(None), Holding("x"), patient(clock, 0), lambda: next(keys)),
        server,
        clock,
        iter(["no", "ticket_expired"]),
    )

    assert isinstance(result, LeaseAnswer)
    assert list(server.tokens) == ["first", "second"]


def test_refusals_that_come_back_at_once_do_not_make_it_spin():
    clock = Clock()
    server = Supervisor(clock, free_at_s=clock() + 1)

    result, pauses = drive(
        obtain(wished(60), Holding("x"), patient(clock, 0), lambda: "key"),
        server,
        clock,
        iter(["no", *["engine_unavailable"] * 500]),
    )

    assert isinstance(result, Refused)
    assert len(pauses) < 60


# ---- having it


def holding_of(server: Supervisor, clock: Clock) -> Holding:
    holding = Holding("x")
    holding.granted(server._grant("token-0"), clock())
    return holding


@given(faults=st.lists(st.sampled_from([*CUTS, "internal_error", "engine_unavailable"]), max_size=12), chance=chances)
def test_a_lease_that_the_server_still_has_is_not_given_up(faults, chance):
    """However often the line fails, as long as it comes back within the TTL; and a lease is renewed in time."""
    clock = Clock()
    server = Supervisor(clock)
    holding = holding_of(server, clock)

    lost, _ = drive(keep(holding, patient(clock, chance)), server, clock, iter(faults), until_s=clock() + 10 * TTL_S)

    assert (lost, holding.lost) == (None, None)
    assert holding.token in server.held
    renewals = [at_s for at_s, path in server.asked if path.endswith("/renew")]
    assert 25 <= len(renewals) <= 40, "at a third of the TTL, for ten of them"
    gaps = [after - before for (before, _), (after, _) in zip(server.asked, server.asked[1:], strict=False)]
    assert max(gaps) <= LOOK_S + 2 * TRIP_S + sum([FIRST_S, 0.2, 0.4, 0.8, 1.6, *[LONGEST_S] * 12]), "it is looked at"


@given(sound_s=st.floats(0, 100), chance=chances, fault=st.sampled_from([*CUTS[:2], "shutting_down", "internal_error"]))
def test_a_lease_that_cannot_be_renewed_is_lost_when_its_ttl_is_over_and_not_before(sound_s, chance, fault):
    clock = Clock()
    server = Supervisor(clock)
    holding = holding_of(server, clock)
    cut_s = clock() + sound_s

    class Faults:
        def __iter__(self):
            return self

        def __next__(self) -> str:
            return fault if clock() >= cut_s else "no"

    lost, pauses = drive(keep(holding, patient(clock, chance)), server, clock, Faults())

    assert lost is holding.lost
    assert lost.reason is None
    assert clock() == pytest.approx(holding.ends_s, abs=2 * TRIP_S)
    # It ends on this side before anybody else can have it, and by no more than a renewal's way.
    until_s = server.held["token-0"] if server.held else cut_s
    assert holding.ends_s <= until_s + TRIP_S
    assert len(pauses) < 20 + (clock() - 1_000) / (FIRST_S / 2)


@pytest.mark.parametrize("gone", ["lease_unknown", "lease_ended"])
def test_a_definite_answer_is_a_loss_at_once(gone: str):
    clock = Clock()
    server = Supervisor(clock)
    holding = holding_of(server, clock)
    clock.now_s += 12  # a renewal is due
    lost, _ = drive(keep(holding, patient(clock, 0)), server, clock, iter([gone] * 2), until_s=1_000 + TTL_S)

    assert lost is holding.lost is not None
    assert clock() - 1_012 < LOOK_S + 1


def test_a_lease_that_was_taken_away_is_noticed_long_before_its_renewal():
    clock = Clock()
    server = Supervisor(clock)
    holding = holding_of(server, clock)
    server.held.clear()

    lost, _ = drive(keep(holding, patient(clock, 0)), server, clock, iter(()))

    assert lost.reason == "expired"
    assert clock() - 1_000 <= LOOK_S + 2 * TRIP_S


def test_who_slept_past_the_ttl_has_lost_it_whatever_the_server_would_say():
    clock = Clock()
    server = Supervisor(clock)
    holding = holding_of(server, clock)
    clock.now_s += TTL_S
    assert holding.overdue(clock()) is not None

    lost, _ = drive(keep(holding, patient(clock, 0)), server, clock, iter(()))

    assert (lost.reason, server.asked) == (None, [])


def test_giving_back_ends_when_nobody_answers():
    clock = Clock()
    result, _ = drive(
        give_back(asks.release("token-0"), patient(clock, 0, 600)),
        Supervisor(clock),
        clock,
        iter(["not there"] * 10_000),
    )
    assert result is False
    assert clock() - 1_000 < 6


@pytest.mark.parametrize("fault", ["not there", "cut on the way"])
def test_a_server_that_never_answered_is_not_waited_for_to_give_something_back(fault: str):
    clock = Clock()
    result, pauses = drive(
        give_back(asks.release_by_key("key"), Retries(600, clock=clock, chance=lambda: 0)),
        Supervisor(clock),
        clock,
        iter([fault] * 10_000),
    )
    assert (result, pauses) == (False, [])


@pytest.mark.parametrize("code", ["method_not_allowed", "not_found"])
def test_a_server_that_cannot_give_back_by_key_confirms_nothing_and_is_asked_once(code: str):
    clock = Clock()
    server = Supervisor(clock)
    result, pauses = drive(give_back(asks.release_by_key("key"), patient(clock, 0)), server, clock, iter([code]))
    assert (result, pauses) == (False, [])
