"""What the client does, without doing it: generators that yield a request or a pause, and are sent the answer.

So the order of things is written once, for threads and for every event loop, and is tried without either. Whoever
drives one carries out what it yields, and throws into it what went wrong (``lines``).
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from msgspec import Struct

from supervisor.answers import EndedView, LeaseAnswer, LeaseView, ReleasedAnswer, RenewAnswer, TicketAnswer
from supervisor.client import asks
from supervisor.client.asks import Ask
from supervisor.client.errors import LeaseLost, Refused, SupervisorError, Unreachable
from supervisor.client.refusals import LeaseEnded, LeaseUnknown, TicketExpired
from supervisor.client.retries import NOT_NOW, Retries
from supervisor.client.wishes import Wish

T = TypeVar("T")


class Pause(Struct, frozen=True):
    seconds: float


Flow = Generator[Ask[Any] | Pause, Any, T]

#: One claim stays on the line for this long, then it is made again: a dead line is noticed by then.
CLAIM_S = 30
#: How often a lease is looked at between two renewals: whoever lost it must stop soon.
LOOK_S = 2.0
#: How long giving back is tried; the TTL does it otherwise.
GIVE_BACK_S = 5.0
#: A renewal's answer that takes longer is asked for again, while there is time for it.
RENEWAL_S = 10.0

#: Refusals that leave a ticket in the queue.
STILL_QUEUED = NOT_NOW | {"gpu_busy", "scheduler_timeout", "engine_unavailable", "gpu_dirty", "storage_full"}


class Holding:
    """What is known of one lease (or ticket) on this side. Written by one flow at a time, read by anybody.

    ``token``: of what has to be given back, or None. ``answer`` outlives it. ``key``: of a request whose answer is not
    known, or None: it may have got something.

    ``ends_s``: when its TTL is over if nothing is heard any more, on the clock of ``Retries``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.token: str | None = None
        self.key: str | None = None
        self.answer: LeaseAnswer | None = None
        self.state = ""
        self.ttl_s = 0.0
        self.ends_s = math.inf
        self.expires_at: str | None = None
        self.ends_at: str | None = None
        self.lost: LeaseLost | None = None

    def told(self, token: str) -> None:
        """In this order: an interrupt in between must find at least one of them."""
        self.token = token
        self.key = None

    def let_go(self) -> Ask[ReleasedAnswer] | None:
        """Return what gives back all that there may be, or None; and forget it."""
        token, key = self.token, self.key
        self.token = self.key = None
        if token is not None:
            return asks.release(token)
        return asks.release_by_key(key) if key is not None else None

    def granted(self, answer: LeaseAnswer, now_s: float) -> None:
        self.token, self.answer, self.state, self.ends_at = answer.token, answer, answer.state, answer.ends_at
        self._lasts(answer.ttl_seconds, answer.expires_at, now_s)
        if answer.state == "ended":
            self.lose(f"it has ended ({answer.reason})", str(answer.reason))

    def renewed(self, answer: RenewAnswer, asked_s: float) -> None:
        """It lasts a TTL from when the server heard of it, which was not before we asked."""
        self.ends_at = answer.ends_at
        self._lasts(answer.ttl_seconds, answer.expires_at, asked_s)

    def _lasts(self, ttl_s: float, expires_at: str | None, since_s: float) -> None:
        self.ttl_s, self.expires_at = float(ttl_s), expires_at
        self.ends_s = since_s + ttl_s if expires_at is not None else math.inf

    def lose(self, why: str, reason: str | None) -> LeaseLost:
        """The first reason stays."""
        self.lost = self.lost or LeaseLost(self.name, why, reason)
        return self.lost

    def overdue(self, now_s: float) -> LeaseLost | None:
        """Return why the lease is lost, where it is: also where nobody could renew it until its TTL was over."""
        if self.lost is None and now_s >= self.ends_s:
            return self.lose(f"it could not be renewed for its whole TTL of {self.ttl_s:g} s", None)
        return self.lost


def repeated(ask: Ask[T], retries: Retries) -> Flow[T]:
    """Ask, and ask again while the line is cut, for as long as ``retries`` says.

    Raises:
        Unreachable, Refused: what the last try raised. ``asked``: any of them may have reached a server.
    """
    backoff = retries.backoff()
    give_up_s: float | None = None
    reached = False
    while True:
        try:
            answer: T = yield ask
        except SupervisorError as error:
            now_s = retries.clock()
            give_up_s = now_s + retries.cut_s if give_up_s is None else give_up_s
            worth_it = retries.worth_it(error, once=ask.once)
            if isinstance(error, Unreachable):
                error.asked = reached = reached or error.asked
            if not worth_it or now_s >= give_up_s:
                raise
            # The last try is made when the time is over, not a pause before that.
            yield Pause(min(backoff.pause_s(), give_up_s - now_s))
        else:
            return answer


# ---- getting it


def obtain(wish: Wish, holding: Holding, retries: Retries, new_key: Callable[[], str]) -> Flow[LeaseAnswer]:
    """Ask for the lease, and wait for it as long as was wished. From its first answer on ``holding`` has the token.

    Raises:
        Refused: it cannot be had, or not in the time that was wished for it (``retryable``).
        Unreachable: no server answers.
    """
    give_up_s = math.inf if wish.wait_s is None else retries.clock() + wish.wait_s
    while True:
        answer = yield from asked(wish, holding, retries, new_key, queue=wish.wait_s != 0)
        if isinstance(answer, TicketAnswer) or wish.waits_ready:
            try:
                answer = yield from claimed(answer.token, wish, give_up_s, retries)
            except TicketExpired:
                # The line was cut for longer than a claim window. A place is not worth giving up for that.
                holding.token = None
                if retries.clock() >= give_up_s:
                    raise
                continue
        holding.granted(answer, retries.clock())
        return answer


def asked(
    wish: Wish, holding: Holding, retries: Retries, new_key: Callable[[], str], *, queue: bool
) -> Flow[LeaseAnswer | TicketAnswer]:
    """Ask for the lease, or for a place in the queue. Whoever closes this flow finds in ``holding`` what to give back.

    Raises:
        Refused: neither can be had.
        Unreachable: no server answers.
    """
    # One key for every try of one request: one whose answer was lost must not become a second lease.
    holding.key = new_key()
    try:
        answer = yield from repeated(asks.lease(wish, holding.key, queue=queue), retries)
    except SupervisorError as error:
        if not (isinstance(error, Unreachable) and error.asked):
            holding.key = None
        raise
    holding.told(answer.token)
    return answer


def claimed(token: str, wish: Wish, give_up_s: float, retries: Retries) -> Flow[LeaseAnswer]:
    """Wait with a token for the turn until ``give_up_s``, and then for readiness. The place is kept meanwhile.

    Raises:
        Refused: why it is not ours by then; or it never will be.
        Unreachable: the line was cut for longer than ``retries`` allows, and the time is over.
    """
    backoff = retries.backoff()
    cut_s: float | None = None
    while True:
        asked_s = retries.clock()
        trouble: SupervisorError
        try:
            answer: LeaseAnswer = yield asks.claim(
                token,
                wait_s=max(0, math.ceil(min(CLAIM_S, give_up_s - asked_s))),
                wait_ready=wish.wait_ready,
                ready_timeout_s=wish.ready_timeout_s,
            )
        except Unreachable as error:
            trouble, cut_s = error, asked_s if cut_s is None else cut_s
        except Refused as error:
            if error.code not in STILL_QUEUED:
                raise
            trouble = error
            cut_s = None if error.code not in NOT_NOW else asked_s if cut_s is None else cut_s
        else:
            return answer
        now_s = retries.clock()
        over_s = give_up_s if cut_s is None else max(give_up_s, cut_s + retries.cut_s)
        if now_s >= over_s:
            raise trouble
        if cut_s is None and now_s - asked_s >= 1:
            # It waited on the line as it should. Only what comes back at once must not make us spin.
            backoff.reset()
        else:
            yield Pause(min(backoff.pause_s(), over_s - now_s))


# ---- having it


def keep(holding: Holding, retries: Retries) -> Flow[LeaseLost]:
    """Renew at a third of the TTL for as long as the lease lives, and return how it was lost.

    A renewal that cannot be delivered is repeated until the TTL is over: a supervisor that is away hands out nothing
    meanwhile. Only a definite answer, or the end of the TTL, is a loss. In between the lease is looked at.
    """
    backoff = retries.backoff()
    token = holding.token
    assert token is not None, "a lease that is kept has a token"
    renew_s = _renewal_s(holding, retries.clock())
    pause_s = min(LOOK_S, renew_s - retries.clock())
    while True:
        yield Pause(max(0.0, min(pause_s, holding.ends_s - retries.clock())))
        asked_s = retries.clock()
        if (lost := holding.overdue(asked_s)) is not None:
            return lost
        answer_s = min(RENEWAL_S, holding.ends_s - asked_s)
        try:
            if asked_s >= renew_s:
                holding.renewed((yield asks.renew(token, answer_s)), asked_s)
                renew_s = _renewal_s(holding, asked_s)
            else:
                _look(holding, (yield asks.look(token, answer_s)))
        except (LeaseUnknown, LeaseEnded) as error:
            if asked_s >= renew_s:
                return holding.lose(str(error), error.context.get("reason"))
            renew_s, pause_s = asked_s, 0.0  # the answer to a renewal says how it ended
            continue
        except (Unreachable, Refused):
            pause_s = backoff.pause_s()
            continue
        if holding.lost is not None:
            return holding.lost
        backoff.reset()
        pause_s = min(LOOK_S, renew_s - retries.clock())


def _renewal_s(holding: Holding, since_s: float) -> float:
    # A lease without an end (one that is tied to a process) is only looked at.
    return since_s + holding.ttl_s / 3 if holding.expires_at is not None else math.inf


def _look(holding: Holding, seen: object) -> None:
    if isinstance(seen, EndedView):
        holding.lose(f"it has ended ({seen.reason})", seen.reason)
    elif isinstance(seen, LeaseView):
        holding.state, holding.ends_at = seen.state, seen.ends_at


# ---- giving it back


def give_back(release: Ask[ReleasedAnswer], retries: Retries) -> Flow[bool]:
    """End a lease or cancel a ticket. Returns whether a server has confirmed that it is gone.

    One that is older than giving back by key refuses that, and confirms nothing.
    """
    # A token is the word of a server. With a key there may never have been one, and nothing to give back.
    cut_s = GIVE_BACK_S if retries.met or release.key is None else 0
    patience = Retries(cut_s, clock=retries.clock, chance=retries.chance)
    patience.met = True
    try:
        yield from repeated(release, patience)
    except SupervisorError:
        return False
    return True


def new_key() -> str:
    return str(uuid.uuid4())
