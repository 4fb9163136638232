"""Everything that was decided: the journal's schema.

A fact carries every value that ``apply`` needs, so a replay never decides again. Tags (the class names) are
never renamed or reused; a new field goes at the end and has a default; journals of every released version
are kept by a test and replayed. ``at_ms`` is supervisor time, ``wall_ms`` is beside it for people. ``caller``: who
asked for it (``key ci``, ``uid 1000``, ``loopback``), "" where nobody did; of a grant it is in the ``terms``.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from supervisor.core.model import Terms


class Fact(Struct, frozen=True, array_like=True, tag=True, gc=False):
    # No fact can refer back to itself, and the collector took half of the time in which a million are decoded.
    at_ms: int
    wall_ms: int


class SupervisorStarted(Fact, frozen=True, array_like=True, tag=True):
    """``boot_id`` and ``boot_ms`` (the boot-time clock) tie supervisor time to this boot."""

    boot_id: str
    boot_ms: int
    version: str


class FirstSync(Fact, frozen=True, array_like=True, tag=True):
    """The very first look at the engine is over: from here on a container without a right to run is stopped."""

    residents: tuple[str, ...]


class SupervisorStopped(Fact, frozen=True, array_like=True, tag=True):
    reason: str


class TicketQueued(Fact, frozen=True, array_like=True, tag=True):
    id: str
    token_hash: str
    token_known: bool
    terms: Terms


class TicketKept(Fact, frozen=True, array_like=True, tag=True):
    """A waiter's wait ran out and its caller got the ticket's token: it is a polled ticket now."""

    id: str


class TicketMoved(Fact, frozen=True, array_like=True, tag=True):
    """An operator gave a ticket another priority than ``before``; what it has aged stays."""

    id: str
    priority: int
    before: int
    owner: str
    target: str | None
    caller: str = ""


class TicketEnded(Fact, frozen=True, array_like=True, tag=True):
    """``reason``: cancelled, caller_gone, scheduler_timeout, ticket_expired, process_ended, forced, ..."""

    id: str
    reason: str
    owner: str
    target: str | None
    caller: str = ""


class WindowOpened(Fact, frozen=True, array_like=True, tag=True):
    """The room that it reserves: ``vram_mib`` on each of ``gpus``."""

    id: str
    until_ms: int
    owner: str
    target: str | None
    gpus: tuple[str, ...] = ()
    vram_mib: int | None = None


class LeaseGranted(Fact, frozen=True, array_like=True, tag=True):
    """A ticket of the same id, if there is one, becomes this lease; a residency of its target ends in it (``warm``).

    ``joins``: the target's first lease, if it has one already: what is so of that one is so of this one.
    """

    id: str
    fence: int
    token_hash: str
    token_known: bool
    terms: Terms
    project: str
    gpus: tuple[str, ...]
    vram_mib: int | None
    needs_cold_start: bool = False
    adopted: bool = False
    warm: bool = False
    joins: str | None = None


class RoomVerified(Fact, frozen=True, array_like=True, tag=True):
    """From here on the lease's target may run. This, and what follows, is so for all holders of the target."""

    id: str
    target: str | None


class TargetReady(Fact, frozen=True, array_like=True, tag=True):
    id: str
    target: str
    took_ms: int


class TargetDown(Fact, frozen=True, array_like=True, tag=True):
    """A leased target went down after it was ready. Changes nothing by itself: a grace runs from here."""

    id: str
    target: str
    detail: str


class LeaseRestarted(Fact, frozen=True, array_like=True, tag=True):
    """The owner of a lease whose target was down asked for it again: room is made and it is started anew."""

    id: str
    target: str


class LeaseRetimed(Fact, frozen=True, array_like=True, tag=True):
    """A refresh asked for another TTL than the grant's, or one was ``answered`` before the grant's own terms say so."""

    id: str
    ttl_ms: int
    answered: bool = False


class LeaseTold(Fact, frozen=True, array_like=True, tag=True):
    """The holder was told that others wait, and that its lease ends at ``ends_at_ms`` if they still do then."""

    id: str
    ends_at_ms: int
    owner: str
    target: str | None


class LeaseEnded(Fact, frozen=True, array_like=True, tag=True):
    """``reason``: released, forced, expired, caller_gone, target_down, target_completed, target_failed,
    target_unhealthy, target_timeout, max_hold, process_ended, salvaged. ``resident``: what still runs of it stays,
    warm.
    """

    id: str
    reason: str
    resident: bool
    owner: str
    target: str | None
    detail: str = ""
    caller: str = ""


class ResidencyBegan(Fact, frozen=True, array_like=True, tag=True):
    """``reason``: first_start (ran before the very first start), observed (mode observe spared it).

    ``gpus`` empty: nobody knows which it uses.
    """

    target: str
    project: str
    reason: str
    gpus: tuple[str, ...] = ()
    vram_mib: int | None = None


class ResidencyEnded(Fact, frozen=True, array_like=True, tag=True):
    """``reason``: evicted (``for_lease`` names whose room it makes), stopped (nothing ran for a while), unused (nobody
    leased it for its idle timeout), operator.
    """

    target: str
    reason: str
    for_lease: str | None = None
    for_target: str | None = None
    for_owner: str | None = None
    caller: str = ""


class ContainerRefused(Fact, frozen=True, array_like=True, tag=True):
    """A labelled container ran without the right to. ``count`` starts of it since the last such fact.

    ``reason``: no_lease, gpu_held, room_pending, target_invalid, other_project, lease_ended.
    ``holder`` names who has the GPU, where somebody has.
    """

    container_id: str
    container: str
    target: str
    service: str
    reason: str
    action: Literal["kill", "stop"]
    count: int = 1
    holder: str | None = None
    detail: str = ""


class ContainerSpared(Fact, frozen=True, array_like=True, tag=True):
    """The same in mode observe: it was seen and left alone."""

    container_id: str
    container: str
    target: str
    service: str
    reason: str
    count: int = 1
    holder: str | None = None


class StopFailed(Fact, frozen=True, array_like=True, tag=True):
    """A container will not die: its GPU stays closed until it does."""

    container_id: str
    container: str
    target: str
    error: str


class GpuClosed(Fact, frozen=True, array_like=True, tag=True):
    """Memory did not come back after everything stopped. For the audit: a restart looks again."""

    uuid: str
    detail: str


class ProcessReported(Fact, frozen=True, array_like=True, tag=True):
    """A process uses GPUs and stands by no lease. ``holds``: (GPU, MiB or None) each; ``ancestors``: the parent first.

    ``started``: clock ticks since the boot. ``policy``: observe, warn or terminate. For the audit alone.
    """

    pid: int
    started: int
    started_wall_ms: int
    name: str
    user: str | None
    command: str
    container: str | None
    holds: tuple[tuple[str, int | None], ...]
    ancestors: tuple[str, ...]
    policy: str


class ProcessSignalled(Fact, frozen=True, array_like=True, tag=True):
    """Such a process is sent ``signal`` (SIGTERM, SIGKILL). ``for_...``: who gains its GPU. For the audit."""

    pid: int
    started: int
    started_wall_ms: int
    name: str
    user: str | None
    command: str
    container: str | None
    holds: tuple[tuple[str, int | None], ...]
    ancestors: tuple[str, ...]
    signal: str
    for_target: str | None = None
    for_owner: str | None = None


class SignalFailed(Fact, frozen=True, array_like=True, tag=True):
    """A signal was not sent. ``outcome``: other_process (its pid was used again), forbidden, unsupported,
    withdrawn (by now it stands by something, or has left the GPU).
    """

    pid: int
    started: int
    signal: str
    outcome: str


class ProcessMissed(Fact, frozen=True, array_like=True, tag=True):
    """A process used a GPU that nobody had, and had ended before anybody looked: the driver's accounts say so.

    Who it was is not known any more. ``more``: how many others like it were found at the same time, beyond the first
    few. ``policy`` as in ``ProcessReported``. For the audit alone.
    """

    pid: int
    gpu: str
    started_wall_ms: int
    ran_ms: int
    peak_mib: int | None
    gpu_percent: int | None
    memory_percent: int | None
    container: str | None
    policy: str
    more: int = 0


class GpuOpened(Fact, frozen=True, array_like=True, tag=True):
    """``reason``: clean (its memory is back), used (something runs there by right), operator."""

    uuid: str
    reason: str
    caller: str = ""


class UseSeen(Fact, frozen=True, array_like=True, tag=True):
    """A target was seen to use more memory than ever before: ``peak_mib``, on all its GPUs together."""

    target: str
    peak_mib: int


class TargetRemembered(Fact, frozen=True, array_like=True, tag=True):
    name: str
    project: str
    working_dir: str
    config_files: str


AnyFact = (
    SupervisorStarted
    | FirstSync
    | SupervisorStopped
    | TicketQueued
    | TicketKept
    | TicketEnded
    | WindowOpened
    | LeaseGranted
    | RoomVerified
    | TargetReady
    | TargetDown
    | LeaseRestarted
    | LeaseRetimed
    | LeaseTold
    | LeaseEnded
    | ResidencyBegan
    | ResidencyEnded
    | ContainerRefused
    | ContainerSpared
    | StopFailed
    | TargetRemembered
    | UseSeen
    | GpuClosed
    | GpuOpened
    | ProcessReported
    | ProcessSignalled
    | SignalFailed
    | ProcessMissed
    | TicketMoved
)
