"""A dry run as its caller sees it."""

from __future__ import annotations

from supervisor.answers import ForecastAnswer
from supervisor.api.views.leases import ahead_of, at, held_until, holders
from supervisor.api.views.targets import problems_of
from supervisor.core.forecast import Forecast, forecast
from supervisor.core.model import Now, Terms
from supervisor.core.state import State
from supervisor.core.wishes import wish_of


def forecast_view(state: State, now: Now, terms: Terms, *, priority_given: bool) -> ForecastAnswer:
    seen = forecast(state, now, terms, priority_given=priority_given)
    waits = seen.would == "wait"
    held = holders(state, wish_of(state, terms))
    return ForecastAnswer(
        would=seen.would,
        why=_why(state, seen),
        code=seen.refusal.code if seen.refusal is not None else None,
        retryable=seen.refusal is not None and seen.refusal.retryable,
        target=terms.target,
        consumer=terms.target,
        owner=terms.owner,
        priority=seen.terms.priority,
        gpus=seen.gpus,
        vram_mib=seen.vram_mib,
        evicts=seen.evicts,
        start=seen.start,
        position=seen.position,
        ahead=ahead_of(state, held, seen.position) if seen.position is not None else (),
        until=at(now, held_until(state, held)) if waits else None,
        problems=problems_of(state, terms.target) if terms.target is not None else (),
    )


def _why(state: State, seen: Forecast) -> str:
    if seen.refusal is not None and seen.position is not None:
        return f"{seen.refusal.detail}; it would get place {seen.position + 1} in the queue"
    if seen.refusal is not None:
        return seen.refusal.detail
    if seen.start == "joined":
        return _joined(state, seen.terms.target or "")
    several = len(seen.gpus) > 1
    where = f"{len(seen.gpus)} GPUs are free" if several else "the GPU is free"
    what = {"warm": f"{seen.terms.target} runs already", "cold": f"{seen.terms.target} would be started"}
    start = what[seen.start] if seen.start is not None else f"{'they' if several else 'the GPU'} would be yours"
    return f"{where}; {start}" + (f", and {', '.join(seen.evicts)} stopped for it" if seen.evicts else "")


def _joined(state: State, target: str) -> str:
    holders = state.holders_of(target)
    owners = ", ".join(dict.fromkeys(lease.terms.owner for lease in holders))
    return f"{target} is leased (owner {owners}), and may have more holders than {len(holders)}; it would be shared"
