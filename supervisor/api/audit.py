"""Facts as the audit shows them, and ``why``: what last stopped something, in whose favour, and what to type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from supervisor.answers import Event, TargetState, Why
from supervisor.api.sentences import sentence
from supervisor.api.times import rfc3339
from supervisor.api.views.targets import problems_of, target_state
from supervisor.core.facts import (
    AnyFact,
    ContainerRefused,
    ContainerSpared,
    LeaseEnded,
    ResidencyEnded,
    TargetDown,
    TargetRemembered,
)
from supervisor.core.model import Container, Problem, Terms
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
        "caller": terms.caller,
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
CHECK = "gpu-supervisor check"


class Subject(Struct, frozen=True):
    """What ``why`` is asked about: a target, or a container of one. ``target`` None: nothing of that name is there.

    ``problems``: what is wrong with the labels of a container that belongs to no target because of it.
    """

    target: str | None
    container: str | None = None
    problems: tuple[Problem, ...] = ()


def subject(state: State, name: str) -> Subject:
    if name in state.observed.specs or name in state.durable.remembered:
        return Subject(name)
    for container in state.observed.containers.values():
        if _is_container(container, name):
            return Subject(container.target, container.name)
    for stray in state.observed.unlabelled.values():
        if stray.target is None and stray.problems and _is_called(stray, name):
            return Subject(None, stray.name, stray.problems)
    return Subject(None, name)


def _is_container(container: Container, name: str) -> bool:
    return name == container.name or (len(name) >= SHORT_ID and container.id.startswith(name))


def _is_called(stray: Container, name: str) -> bool:
    """Return whether a container without a target is meant: by itself, or by what is no target's name on its label."""
    labelled = any(problem.code == "bad_target_name" and problem.value == shown(name) for problem in stray.problems)
    return labelled or _is_container(stray, name)


def why(state: State, name: str, about: Subject, history: Sequence[tuple[int, AnyFact]]) -> Why | None:
    """Explain what last stopped a target or a container, from facts about it, oldest first.

    None if nobody ever heard of it.
    """
    if about.problems:
        return _why_no_target(name, about.problems)
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
        sentence=f"{told}; {target} is {word} now{_wrong(state, target, told) if word == 'invalid' else ''}",
        stopped=event(*newest) if newest is not None else None,
        by=by,
        for_target=for_target,
        for_owner=for_owner,
        command=_command(state, target, word),
    )


def _why_no_target(name: str, problems: Sequence[Problem]) -> Why:
    """Say what is wrong with the labels of a container that nobody manages because of it."""
    return Why(
        name=name,
        target=None,
        state="invalid",
        sentence=_told(problems),
        stopped=None,
        by=None,
        for_target=None,
        for_owner=None,
        command=CHECK,
    )


def _wrong(state: State, target: str, told: str) -> str:
    """Return what makes a target invalid and how it is mended, to stand behind what was ``told``; once is enough."""
    errors = [problem for problem in problems_of(state, target) if problem.severity == "error"]
    return f": {_told(errors)}" if errors and errors[0].message not in told else ""


def _told(problems: Sequence[Problem]) -> str:
    return "; ".join(f"{problem.message} ({problem.hint})" if problem.hint else problem.message for problem in problems)


def _stops(fact: AnyFact, about: Subject) -> bool:
    """Return whether a fact stopped what was asked about (and not another target in favour of it)."""
    match fact:
        case ContainerRefused() | ContainerSpared():
            if about.container is not None:
                return about.container in {fact.container, fact.container_id}
            return fact.target == about.target
        case ResidencyEnded() | TargetDown():
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
        case TargetDown():
            return None, None, None
        case _:
            return "supervisor", None, None


def _command(state: State, target: str, word: TargetState) -> str:
    lease = f"gpu-supervisor acquire {target}"
    if word == "absent":
        return f"{create_command(state, target)} && {lease}"
    if word == "invalid":
        return CHECK
    return lease
