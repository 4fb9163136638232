"""The long parts of the status, kept as they were sent: with a thousand waiters and hundreds of containers, making them
anew costs ten times what all the rest of an answer does.

Nothing here guesses what a change touches. Each part is kept beside all that it was made of, and is made anew as soon
as any of that is another: tickets, leases, specs and containers are never changed in place, so to compare them is to
see whether they are the same objects.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from supervisor.api.views.leases import Reason, Reasons, kind_of, queue_entry
from supervisor.api.views.targets import brief, is_quiet, known_targets
from supervisor.core.model import Now, Ticket
from supervisor.core.state import State

_encode = msgspec.json.Encoder().encode


class Kept:
    """What one API has told last. It reads the state that it is shown, between two steps."""

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []
        self._kinds: list[Ticket] = []
        self._reasons: list[Reason] = []
        self._queue = Raw(b"[]")
        self._made_of: tuple[Any, ...] = ()
        self._names: list[str] = []
        self._quiet: dict[str, Raw] = {}

    def queue(self, state: State, now: Now) -> Raw:
        """Return ``queue_entries``, encoded."""
        tickets = list(state.queue)
        changed = tickets != self._tickets
        if changed:
            # One of each kind: what is said of it is said of all of them.
            self._kinds = list({kind_of(ticket): ticket for ticket in tickets}.values())
        reasons = Reasons(state, now)
        told = [reasons.of(ticket) for ticket in self._kinds]
        if changed or told != self._reasons:
            entries = [queue_entry(ticket, position, reasons.of(ticket)) for position, ticket in enumerate(tickets)]
            self._tickets, self._reasons, self._queue = tickets, told, Raw(_encode(entries))
        return self._queue

    def targets(self, state: State) -> Raw:
        """Return ``briefs``, encoded. Only quiet targets are kept: a word on any other takes the whole state."""
        observed, durable = state.observed, state.durable
        made_of = (
            list(observed.containers.values()),
            list(observed.specs.values()),
            list(durable.remembered),
            list(durable.residents),
            list(durable.leases.values()),
            dict(durable.peaks),
        )
        if made_of != self._made_of:
            self._made_of = made_of
            self._names = known_targets(state)
            self._quiet = {name: Raw(_encode(brief(state, name))) for name in self._names if is_quiet(state, name)}
        return Raw(_encode([self._quiet.get(name) or brief(state, name) for name in self._names]))
