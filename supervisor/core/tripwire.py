"""Whether a container whose main process is about to run is stopped from it. Pure; asked at the very moment of the act.

Only what is certain counts: a container that was inspected, with a target, whose right to run is not there. Whatever is
in doubt is left to the start event, which comes milliseconds later.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from supervisor.core.facts import AnyFact, FirstSync, LeaseEnded, LeaseGranted, LeaseRestarted, ResidencyEnded
from supervisor.core.state import State
from supervisor.core.targets import right_to_run

#: unknown: it may be known in a moment. leave: it is none of ours, or may run, or might. refuse: it may not run.
Verdict = Literal["unknown", "leave", "refuse"]


def verdict(state: State, container_id: str, unwritten: Iterable[AnyFact] = ()) -> Verdict:
    """Judge a container that is being started by somebody. ``unwritten``: the facts that are not on disk yet.

    Where the end of its right is one of those, the right itself is still what a crash would leave: it is asked for
    again when that is written, as a stop waits for it.

    A start of ours is on its way while its call is in flight, also where its lease has ended since: whoever held it had
    the right, and gets the grace of one. In the modes observe and adopt what starts is not killed, or not at once.
    """
    observed = state.observed
    container = observed.containers.get(container_id)
    if container is None:
        return "leave" if container_id in observed.unlabelled else "unknown"
    if state.settings.mode != "stop" or observed.calls.get(container_id) == "start":
        return "leave"
    if right_to_run(state, container).may_run:
        return "leave"
    return "unknown" if any(_may_end_a_right(fact, container.target) for fact in unwritten) else "refuse"


def _may_end_a_right(fact: AnyFact, target: str | None) -> bool:
    """A grant may too: to another project, or with a cold start. And until the first look is over nobody is judged."""
    match fact:
        case FirstSync():
            return True
        case LeaseEnded() | LeaseRestarted() | ResidencyEnded():
            return fact.target == target
        case LeaseGranted():
            return fact.terms.target == target
    return False
