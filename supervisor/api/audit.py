"""Facts as the audit shows them, and ``why``: what last stopped something, in whose favour, and what to type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from supervisor.api.sentences import sentence
from supervisor.api.shapes import Event, TargetState, Why
from supervisor.api.times import rfc3339
from supervisor.api.views.targets import target_state
from supervisor.core.facts import (
    AnyFact,
    ContainerRefused,
    ContainerSpared,
    LeaseEnded,
    ResidencyEnded,
    TargetRemembered,
)
from supervisor.core.model import Terms
from supervisor.core.requests import create_command
from supervisor.core.state import State
from supervisor.core.values import shown

#: Fields of a fact that an event shows elsewhere, or to nobody: digests of tokens.
NOT_FIELDS = frozenset({"at_ms", "wall_ms", "token_hash", "token_known", "terms", "target", "container"})


def event(seq: int, fact: AnyFact) -> Event:
    values = msgspec.structs.asdict(fact)
    terms = values.get("terms")
    fields = {name: value for name, value in values.items() if name not in NOT_FIELDS}
    if isinstance(terms, Terms):
        fields = _terms_shown(terms) | fields
    return Event(
        seq=seq,
        time=rfc3339(fact.wall_ms),
        type=type(fact).__name__,
        sentence=sentence(fact),
        target=target_of(fact),
        container=values.get("container"),
        fields=fields,
    )


def _terms_shown(terms: Terms) -> dict[str, Any]:
    """Return what was asked for, but for the digests of the caller's key and body.

    ``gpu_count`` to ``pid`` are a bare lease's alone: of a target its labels say it.
    """
    bare: dict[str, Any] = {}
    if terms.target is None:
        bare = {
            "gpu_count": terms.gpus,
            "vram_mib": terms.vram_mib,
            "gpu_class": terms.gpu_class,
            "pid": terms.tie.pid if terms.tie is not None else None,
        }
    return bare | {
        "owner": terms.owner,
        "priority": terms.priority,
        "ttl_ms": terms.ttl_ms,
        "wait_ready": terms.wait_ready,
        "ready_timeout_ms": terms.ready_timeout_ms,
    }


def target_of(fact: AnyFact) -> str | None:
    terms = getattr(fact, "terms", None)
    if isinstance(terms, Terms):
        return terms.target
    if isinstance(fact, TargetRemembered):
        return fact.name  # other facts have a name as well: a process's, say, which is anybody's
    named: str | None = getattr(fact, "target", None)
    return named


# ---- why

#: As much of a container's id as Docker shows, and no less: a short word is a name.
SHORT_ID = 12


class Subject(Struct, frozen=True):
    """What ``why`` is asked about: a target, or a container of one. ``target`` None: nothing of that name is there."""

    target: str | None
    container: str | None = None


def subject(state: State, name: str) -> Subject:
    if name in state.observed.specs or name in state.durable.remembered:
        return Subject(name)
    for container in state.observed.containers.values():
        if name == container.name or (len(name) >= SHORT_ID and container.id.startswith(name)):
            return Subject(container.target, container.name)
    return Subject(None, name)


def why(state: State, name: str, about: Subject, history: Sequence[tuple[int, AnyFact]]) -> Why | None:
    """Explain what last stopped a target or a container, from facts about it, oldest first.

    None if nobody ever heard of it.
    """
    newest = next(((seq, fact) for seq, fact in reversed(history) if _stops(fact, about)), None)
    target = about.target or next((target_of(fact) for _, fact in reversed(history) if target_of(fact)), None)
    if target is None:
        return None
    word = target_state(state, target)
    by, for_target, for_owner = _who(state, newest[1]) if newest is not None else (None, None, None)
    told = sentence(newest[1]) if newest is not None else f"nothing stopped {shown(name)}, as far as is remembered"
    return Why(
        name=name,
        target=target,
        state=word,
        sentence=f"{told}; {target} is {word} now",
        stopped=event(*newest) if newest is not None else None,
        by=by,
        for_target=for_target,
        for_owner=for_owner,
        command=_command(state, target, word),
    )


def _stops(fact: AnyFact, about: Subject) -> bool:
    """Return whether a fact stopped what was asked about (and not another target in favour of it)."""
    match fact:
        case ContainerRefused() | ContainerSpared():
            if about.container is not None:
                return about.container in {fact.container, fact.container_id}
            return fact.target == about.target
        case ResidencyEnded():
            return fact.target == about.target
        case LeaseEnded():
            return fact.target == about.target and not fact.resident
        case _:
            return False


def _who(state: State, fact: AnyFact) -> tuple[str | None, str | None, str | None]:
    """Return who decided it, and the target and owner in whose favour."""
    match fact:
        case ContainerRefused() | ContainerSpared():
            lease = state.lease_of(fact.holder) if fact.holder else None
            same = lease is not None and lease.granted_at_ms <= fact.at_ms
            return "enforcement", fact.holder, lease.terms.owner if lease is not None and same else None
        case ResidencyEnded(reason="evicted"):
            return "eviction", fact.for_target, fact.for_owner
        case ResidencyEnded(reason="operator") | LeaseEnded(reason="forced"):
            return "operator", None, None
        case LeaseEnded(reason="released"):
            return fact.owner, None, None
        case _:
            return "supervisor", None, None


def _command(state: State, target: str, word: TargetState) -> str:
    lease = f"gpu-supervisor acquire {target}"
    if word == "absent":
        return f"{create_command(state, target)} && {lease}"
    if word == "invalid":
        return "gpu-supervisor check"
    return lease
