"""One readable sentence for every fact: what the audit, the log and ``why`` say.

Names of containers, services and the engine's words are anybody's: whatever does not print is escaped, and all of
it stays on one line. There is no token in a fact, and its digest is in no sentence.
"""

from __future__ import annotations

import re
from typing import assert_never

from supervisor.api.times import rfc3339
from supervisor.core.facts import (
    AnyFact,
    ContainerRefused,
    ContainerSpared,
    FirstSync,
    GpuClosed,
    GpuOpened,
    LeaseEnded,
    LeaseGranted,
    LeaseRestarted,
    LeaseRetimed,
    LeaseTold,
    ProcessMissed,
    ProcessReported,
    ProcessSignalled,
    ResidencyBegan,
    ResidencyEnded,
    RoomVerified,
    SignalFailed,
    StopFailed,
    SupervisorStarted,
    SupervisorStopped,
    TargetDown,
    TargetReady,
    TargetRemembered,
    TicketEnded,
    TicketKept,
    TicketMoved,
    TicketQueued,
    UseSeen,
    WindowOpened,
)
from supervisor.core.values import shown

GPU_OPENED = {
    "clean": "its memory came back",
    "used": "something runs on it by right",
    "operator": "an operator said that it is clean",
}
#: Why a container had no right to run, as the end of a sentence.
NO_RIGHT = {
    "no_lease": "it ran without a lease",
    "gpu_held": "{holder} holds the GPU",
    "room_pending": "room for {holder} was still being made",
    "target_invalid": "its target's labels are invalid",
    "other_project": "the lease of {holder} covers another Compose project",
    "lease_ended": "its lease had ended",
}
ENDED = {
    "released": "was released",
    "forced": "was taken away by an operator",
    "expired": "has expired",
    "caller_gone": "was taken back: its caller hung up",
    "target_down": "has ended: its target went down",
    "target_completed": "has ended: its target is done",
    "target_failed": "has ended: its target failed to start",
    "target_unhealthy": "has ended: its target became unhealthy while starting",
    "target_timeout": "has ended: its target was not ready in time",
    "target_gone": "has ended: its containers were removed",
    "insufficient_vram": "has ended: its room is taken by what nobody may stop",
    "process_ended": "has ended with the process that it was tied to",
    "salvaged": "has ended: the journal was salvaged",
    "max_hold": "has ended: it was held for as long as it may be while others wait",
}
TICKET_ENDED = {
    "cancelled": "was cancelled",
    "forced": "was cancelled by an operator",
    "caller_gone": "ended: its caller hung up",
    "scheduler_timeout": "ended: the wait ran out",
    "ticket_expired": "ended: its turn came and was not claimed in time",
    "process_ended": "ended with the process that it was tied to",
}


def sentence(fact: AnyFact) -> str:
    """Return what a fact says, for people: one line, lower case, without a full stop."""
    match fact:
        case SupervisorStarted():
            return f"supervisor {fact.version} started"
        case SupervisorStopped():
            return f"supervisor stopped ({shown(fact.reason)}): leases and containers stay"
        case FirstSync():
            ran = ", ".join(fact.residents)
            return f"first look at the engine: {ran} ran already and may stay" if ran else "first look at the engine"
        case TicketQueued() | TicketKept() | TicketMoved() | TicketEnded() | WindowOpened():
            return _of_ticket(fact)
        case LeaseGranted() | RoomVerified() | LeaseRestarted() | LeaseRetimed() | LeaseTold() | LeaseEnded():
            return _of_lease(fact)
        case TargetReady():
            return f"{fact.target} is ready after {fact.took_ms / 1000:.1f} s (lease {fact.id})"
        case GpuClosed():
            return f"GPU {shown(fact.uuid)} is closed: {_words(fact.detail)}"
        case GpuOpened():
            how = GPU_OPENED.get(fact.reason, shown(fact.reason))
            return f"GPU {shown(fact.uuid)} is open again: {how}{asked_by(fact.caller)}"
        case ProcessReported() | ProcessSignalled() | SignalFailed():
            return _of_process(fact)
        case ProcessMissed():
            return _of_missed(fact)
        case UseSeen():
            return f"{fact.target} was seen to use {fact.peak_mib} MiB, more than ever before"
        case TargetDown():
            return f"{fact.target} went down: {_words(fact.detail)} (lease {fact.id})"
        case ResidencyBegan() | ResidencyEnded():
            return _of_residency(fact)
        case ContainerRefused() | ContainerSpared():
            return _of_container(fact)
        case StopFailed():
            error = _words(fact.error)
            return (
                f"container {shown(fact.container)} of {fact.target} cannot be stopped: {error}; its GPU stays closed"
            )
        case TargetRemembered():
            project = f" (Compose project {shown(fact.project)})" if fact.project else ""
            return f"{fact.name} is known{project}"
        case _:
            assert_never(fact)


def _words(text: str) -> str:
    """Return somebody else's sentence as part of ours. It stands in no quotes, so those in it need no escape."""
    return re.sub(r'\\(["\\])', r"\1", shown(text, 300))


def asked_by(caller: str) -> str:
    """Return who asked for it, to stand behind a sentence; nothing where it was just anybody on this machine."""
    return f" ({shown(caller)})" if caller not in {"", "loopback"} else ""


def named(target: str | None) -> str:
    return target or "the GPU alone"


def _of_ticket(fact: TicketQueued | TicketKept | TicketMoved | TicketEnded | WindowOpened) -> str:
    match fact:
        case TicketQueued():
            terms = fact.terms
            what = f"{named(terms.target)} with priority {terms.priority}"
            by = f", {shown(terms.caller)}" if asked_by(terms.caller) else ""
            return f"{shown(terms.owner)} queued for {what} (ticket {fact.id}{by})"
        case TicketKept():
            return f"ticket {fact.id} keeps its place: its caller comes back with its token"
        case TicketMoved():
            whose = f"the ticket of {shown(fact.owner)} for {named(fact.target)}"
            what = f"was moved by an operator{asked_by(fact.caller)}"
            return f"{whose} {what}: priority {fact.priority} instead of {fact.before} ({fact.id})"
        case WindowOpened():
            until = rfc3339(fact.wall_ms + fact.until_ms - fact.at_ms)
            return f"it is the turn of {shown(fact.owner)} for {named(fact.target)}, to be claimed until {until}"
        case TicketEnded():
            how = TICKET_ENDED.get(fact.reason, f"ended ({shown(fact.reason)})")
            return f"the ticket of {shown(fact.owner)} for {named(fact.target)} {how}{asked_by(fact.caller)}"
        case _:
            assert_never(fact)


def _of_lease(fact: LeaseGranted | RoomVerified | LeaseRestarted | LeaseRetimed | LeaseTold | LeaseEnded) -> str:
    match fact:
        case LeaseGranted():
            if fact.adopted:
                return f"{named(fact.terms.target)} was adopted: it ran while nobody held the GPU (lease {fact.id})"
            warm = " (still running)" if fact.warm else ", which others hold too," if fact.joins else ""
            who = shown(fact.terms.owner)
            on = (
                f" on {', '.join(shown(gpu, 60) for gpu in fact.gpus)}"
                if fact.terms.target is None and fact.gpus
                else ""
            )
            by = f", {shown(fact.terms.caller)}" if asked_by(fact.terms.caller) else ""
            return f"{named(fact.terms.target)}{warm} is leased to {who}{on} (lease {fact.id}, fence {fact.fence}{by})"
        case RoomVerified():
            return f"there is room for {named(fact.target)}: it may run (lease {fact.id})"
        case LeaseRestarted():
            return f"{fact.target} is started again for its owner (lease {fact.id})"
        case LeaseRetimed(answered=True):
            return f"the holder of lease {fact.id} was answered before its target is ready, as it asked"
        case LeaseRetimed():
            return f"lease {fact.id} is renewed by {fact.ttl_ms // 1000} s at a time from now on"
        case LeaseTold():
            until = rfc3339(fact.wall_ms + fact.ends_at_ms - fact.at_ms)
            on = f"the lease of {shown(fact.owner)} on {fact.target}"
            whose = on if fact.target is not None else f"the bare lease of {shown(fact.owner)}"
            return f"others wait: {whose} ends at {until} if they still do (lease {fact.id})"
        case LeaseEnded():
            how = ENDED.get(fact.reason, f"has ended ({shown(fact.reason)})")
            detail = f": {_words(fact.detail)}" if fact.detail else ""
            stays = f"; {fact.target} stays resident" if fact.resident else ""
            ended = f"the lease of {shown(fact.owner)} on {named(fact.target)} {how}{asked_by(fact.caller)}"
            return f"{ended}{detail}{stays}"
        case _:
            assert_never(fact)


def _of_residency(fact: ResidencyBegan | ResidencyEnded) -> str:
    match fact:
        case ResidencyBegan():
            why = "it ran before the very first start" if fact.reason == "first_start" else "mode observe spared it"
            return f"{fact.target} is resident: {why}"
        case ResidencyEnded() if fact.reason == "evicted":
            who = f" of {shown(fact.for_owner)}" if fact.for_owner else ""
            return f"{fact.target} was evicted to make room for {named(fact.for_target)}{who}"
        case ResidencyEnded() if fact.reason == "unused":
            return f"{fact.target} was stopped: nobody leased it for its idle timeout"
        case ResidencyEnded() if fact.reason == "operator":
            return f"{fact.target} was evicted by an operator{asked_by(fact.caller)}"
        case ResidencyEnded():
            return f"{fact.target} is not resident any more: nothing of it has run for a while"
        case _:
            assert_never(fact)


def _of_container(fact: ContainerRefused | ContainerSpared) -> str:
    holder = shown(fact.holder or "somebody else")
    why = NO_RIGHT[fact.reason].format(holder=holder) if fact.reason in NO_RIGHT else "it had no right to run"
    detail = f": {_words(fact.detail)}" if isinstance(fact, ContainerRefused) and fact.detail else ""
    done = "was left alone (mode observe), although" if isinstance(fact, ContainerSpared) else _STOPPED[fact.action]
    times = f", {fact.count} times" if fact.count > 1 else ""
    return f"container {shown(fact.container)} of {fact.target} {done} {why} ({shown(fact.reason)}){times}{detail}"


_STOPPED = {"kill": "was killed:", "stop": "was stopped:"}


def _of_process(fact: ProcessReported | ProcessSignalled | SignalFailed) -> str:
    if isinstance(fact, SignalFailed):
        why = SIGNAL_FAILED.get(fact.outcome, shown(fact.outcome))
        return f"{fact.signal} was not sent to pid {fact.pid}: {why}"
    who = f"pid {fact.pid} ({shown(fact.name, 40)}) of {shown(fact.user or 'an unknown user', 40)}"
    inside = f" in the container {shown(fact.container, 100)}" if fact.container else ""
    holds = ", ".join(
        f"{f'{mib} MiB' if mib is not None else 'memory'} of {shown(gpu, 60)}" for gpu, mib in fact.holds[:4]
    )
    by = f"; started by {' < '.join(shown(one, 40) for one in fact.ancestors[:4])}" if fact.ancestors else ""
    command = f": {shown(fact.command, 200)}" if fact.command else ""
    if isinstance(fact, ProcessReported):
        return f"{who}{inside} uses {holds} without a lease{by}{command}"
    gains = fact.for_target or fact.for_owner
    whom = f" for {named(fact.for_target)} of {shown(fact.for_owner or '', 100)}" if gains else ""
    return f"{who}{inside} is sent {fact.signal}{whom}: it uses {holds} without a lease{by}{command}"


def _of_missed(fact: ProcessMissed) -> str:
    inside = f" in the container {shown(fact.container, 100)}" if fact.container else ""
    peak = f"up to {fact.peak_mib} MiB" if fact.peak_mib is not None else "memory"
    others = f"; so did {fact.more} more" if fact.more else ""
    return (
        f"a process (pid {fact.pid}){inside} came and went unseen: it used {peak} of {shown(fact.gpu, 60)} for "
        f"{fact.ran_ms / 1000:.1f} s from {rfc3339(fact.started_wall_ms)}, while nobody had that GPU; whose it was is "
        f"not known{others}"
    )


SIGNAL_FAILED = {
    "other_process": "its pid belongs to another process by now",
    "forbidden": "that is not permitted",
    "withdrawn": "by now it stands by something, or has left the GPU",
    "unsupported": "this system cannot tell a process from a later one of the same pid",
}
