"""What is remembered of a lease or a ticket that has ended: for minutes for whoever has its token, for a day for
whoever repeats its idempotency key. Changes durable state, so nothing but ``apply`` calls it.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import takewhile
from typing import Literal

from supervisor.core.facts import LeaseEnded, TicketEnded
from supervisor.core.model import Ended, Lease, Ticket
from supervisor.core.state import State

#: Ends that were answered with a refusal: an idempotent retry may try again.
REFUSALS = frozenset(
    {
        "scheduler_timeout",
        "shutting_down",
        "insufficient_vram",
        "target_absent",
        "target_failed",
        "target_invalid",
        "target_timeout",
        "target_unknown",
        "target_unhealthy",
    }
)


def remember_end(
    state: State, held: Ticket | Lease, fact: TicketEnded | LeaseEnded, what: Literal["lease", "ticket"]
) -> None:
    durable, terms = state.durable, held.terms
    ended = Ended(
        held.id,
        held.token_hash,
        what,
        fact.reason,
        fact.at_ms,
        fact.wall_ms,
        terms.scope,
        terms.body,
        terms.target,
    )
    if held.token_hash:
        _put(state, durable.ended, held.token_hash, ended)
    if terms.scope and _is_final(held, fact):
        _put(state, durable.ended_keys, terms.scope, ended)


def _put(state: State, kept: OrderedDict[str, Ended], key: str, ended: Ended) -> None:
    if not kept:
        state.forget_at_ms = 0  # the next fact finds out when this one, the oldest now, is due
    kept[key] = ended
    if len(kept) > _slack(state.settings.ended_max):
        forget(state, ended.at_ms)


def _is_final(held: Ticket | Lease, fact: TicketEnded | LeaseEnded) -> bool:
    # Whoever was told a lease or a ticket has had an answer, and a later failure is its end: a retry is no second one.
    answered = held.token_known or (isinstance(held, Lease) and held.answer_due)
    return answered or fact.reason not in REFUSALS


def forget(state: State, now_ms: int) -> None:
    """Drop what was remembered for long enough. Facts alone decide when, so that a replay forgets the same."""
    durable, settings = state.durable, state.settings
    state.forget_at_ms = min(
        _trim(durable.ended, now_ms, settings.ended_ms, settings.ended_max),
        _trim(durable.ended_keys, now_ms, settings.keys_ms, settings.ended_max),
    )


def _slack(amount: int) -> int:
    """Let a limit be passed by a sixteenth: what is over it is dropped in bulk, not with every fact."""
    return amount + amount // 16


def _trim(ended: OrderedDict[str, Ended], now_ms: int, keep_ms: int, most: int) -> float:
    """Drop what is too old or too much, once there is enough of it; return when the next one will be too old."""
    if len(ended) > _slack(most) or (ended and _oldest_ms(ended) + _slack(keep_ms) < now_ms):
        for _ in range(len(ended) - most):
            ended.popitem(last=False)
        for _ in list(takewhile(lambda each: each.at_ms + keep_ms < now_ms, ended.values())):
            ended.popitem(last=False)
    return _oldest_ms(ended) + _slack(keep_ms)


def _oldest_ms(ended: OrderedDict[str, Ended]) -> float:
    return next(iter(ended.values())).at_ms if ended else float("inf")
