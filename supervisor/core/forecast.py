"""What a request for a lease would be answered if it came now: the dry run. It changes nothing and promises nothing.

It asks the very functions that decide a real request (``requests``), so the two cannot come apart.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from supervisor.core.errors import Refusal
from supervisor.core.leases import needs_cold_start
from supervisor.core.model import Now, Terms
from supervisor.core.requests import find_place, is_final, never, queue_full, settled_terms
from supervisor.core.room import Placement
from supervisor.core.state import State
from supervisor.core.targets import runs
from supervisor.core.wishes import wish_of

Start = Literal["warm", "cold", "joined"]


class Forecast(Struct, frozen=True, kw_only=True):
    """``would``: grant it at once, let it wait in the queue, or refuse it whether or not it would wait.

    ``refusal``: why it would wait or be refused. ``evicts``: residents that would be stopped for it. ``start``: what
    would happen to the target: it runs already (warm), is started (cold), or others hold it, and whatever they have is
    shared (joined). ``position``: its place in the queue.
    """

    would: Literal["grant", "wait", "refuse"]
    terms: Terms
    refusal: Refusal | None = None
    gpus: tuple[str, ...] = ()
    vram_mib: int | None = None
    evicts: tuple[str, ...] = ()
    start: Start | None = None
    position: int | None = None


def forecast(state: State, now: Now, terms: Terms, *, priority_given: bool) -> Forecast:
    """Return what a fresh request with ``terms`` would be answered."""
    wish = wish_of(state, terms)
    refusal = never(state, wish, terms.caller)
    if refusal is not None:
        return Forecast(would="refuse", terms=terms, refusal=refusal)
    terms = settled_terms(state, terms, priority_given=priority_given)
    found = find_place(state, now.at_ms, wish, terms.priority)
    if isinstance(found, Refusal) and is_final(found):
        return Forecast(would="refuse", terms=terms, refusal=found)
    full = queue_full(state, terms.caller) if isinstance(found, Refusal) else None
    if full is not None:
        return Forecast(would="refuse", terms=terms, refusal=full)
    start = _start(state, terms.target)
    if isinstance(found, Placement):
        return Forecast(
            would="grant",
            terms=terms,
            gpus=found.gpus,
            vram_mib=found.need_mib,
            evicts=tuple(sorted(found.evicts)),
            start="joined" if found.joins is not None else start,
        )
    place = state.position_of_next(terms.priority, now.at_ms)
    return Forecast(would="wait", terms=terms, refusal=found, vram_mib=wish.need_mib, start=start, position=place)


def _start(state: State, target: str | None) -> Literal["warm", "cold"] | None:
    if target is None:
        return None
    return "warm" if runs(state, target) and not needs_cold_start(state, target) else "cold"
