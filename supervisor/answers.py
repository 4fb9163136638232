"""What callers are answered: one Struct per answer. Never a token but in ``LeaseAnswer``, ``TicketAnswer``,
``RenewAnswer`` and ``AcquireAnswer``, which hand it to its owner, and never a digest of one.

Times named ``*_at`` are RFC 3339 strings under ``/v1`` and whole epoch seconds on the plain endpoints (``Plain*``).
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from supervisor.core.model import Endpoint, Enforcing, Mode, Problem

TargetState = Literal["absent", "invalid", "stopped", "starting", "ready", "unhealthy", "resident", "stopping", "down"]
LeaseState = Literal["queued", "claimable", "starting", "ready", "down", "yielding", "parked", "ended"]


# ---- plain endpoints


class PlainLease(Struct, frozen=True):
    owner: str
    expires_at: int | None


class PlainTicket(Struct, frozen=True):
    """``claim_expires_at`` is None until its claim window is open."""

    owner: str
    priority: int
    target: str | None
    claim_expires_at: int | None


class PlainState(Struct, frozen=True, kw_only=True):
    """``target``: the last one granted, while it has a lease or is resident; ``at``: since when it is like that."""

    mode: Literal["service"] = "service"
    target: str | None
    at: int
    lease: PlainLease | UnsetType = UNSET
    queue: tuple[PlainTicket, ...]


class PlainService(Struct, frozen=True, kw_only=True):
    """The current target: its master's ``Status`` (its health while it runs and has one) and its containers."""

    status: str = field(name="Status")
    healthy_container_count: int
    unhealthy_container_count: int
    no_healthcheck_container_count: int
    container_count: int
    logs_tail: str = ""


class PlainTarget(Struct, frozen=True):
    state: TargetState
    problems: tuple[Problem, ...]


class PlainStatus(Struct, frozen=True, kw_only=True):
    """``GET /status``. ``service`` is ``{}`` while no target is current."""

    state: PlainState
    service: PlainService | dict[str, Any]
    services: dict[str, PlainTarget]


class AcquireAnswer(Struct, frozen=True, kw_only=True):
    """``POST /acquire``, granted. ``lease_state`` ``ended`` (with ``reason``): a job that was already done."""

    lease_token: str
    lease_expires_at: int | None
    lease_ttl_s: int
    lease_state: str
    reason: str | UnsetType = UNSET
    fence: int
    endpoint: Endpoint | None
    state: PlainState
    service: PlainService | dict[str, Any]
    services: dict[str, PlainTarget]


class QueuedAnswer(Struct, frozen=True, kw_only=True):
    """``POST /acquire``, queued: come back with the token."""

    queued: Literal[True] = True
    lease_token: str
    queue_index: int
    state: PlainState
    service: PlainService | dict[str, Any]
    services: dict[str, PlainTarget]


class ReleaseAnswer(Struct, frozen=True, kw_only=True):
    """``POST /release``. ``released`` False: a forced release found no lease."""

    released: bool
    state: PlainState
    service: PlainService | dict[str, Any]
    services: dict[str, PlainTarget]


class Readiness(Struct, frozen=True):
    """``GET /readyz``: one line each."""

    ready: bool
    engine: str
    journal: str
    gpus: str
    enforcing: str = ""


# ---- /v1: leases and tickets


class LeaseAnswer(Struct, frozen=True, kw_only=True):
    token: str
    id: str
    fence: int
    target: str | None
    consumer: str | None
    owner: str
    state: str
    reason: str | UnsetType = UNSET
    granted_at: str
    expires_at: str | None
    ends_at: str | None
    ttl_seconds: int
    gpus: tuple[str, ...]
    cuda_visible_devices: str
    vram_mib: int | None
    joined: bool
    pid: int | None = None


class RenewAnswer(Struct, frozen=True):
    token: str
    expires_at: str | None
    ttl_seconds: int
    ends_at: str | None


class ReleasedAnswer(Struct, frozen=True):
    released: bool
    reason: str | UnsetType = UNSET


class MovedAnswer(Struct, frozen=True):
    """``position`` counts from 0, the head: where it is now, or with ``dry_run`` would be."""

    moved: bool
    position: int | None
    reason: str | UnsetType = UNSET


class EvictAnswer(Struct, frozen=True):
    evicted: bool
    reason: str | UnsetType = UNSET


class OpenedAnswer(Struct, frozen=True):
    opened: bool
    reason: str | UnsetType = UNSET


class Ahead(Struct, frozen=True):
    """Somebody who has or gets the GPU first."""

    id: str
    target: str | None
    owner: str
    priority: int
    state: LeaseState


class TicketView(Struct, frozen=True, kw_only=True):
    """``position`` counts from 0, the head. ``until``: how long this lasts at most, as far as is known."""

    id: str
    state: LeaseState
    target: str | None
    consumer: str | None
    owner: str
    priority: int
    ttl_seconds: int
    queued_at: str
    position: int
    ahead: tuple[Ahead, ...]
    pid: int | None = None
    why: str
    until: str | None


class TicketAnswer(TicketView, frozen=True, kw_only=True):
    """A ticket that was just handed out."""

    token: str


class ForecastAnswer(Struct, frozen=True, kw_only=True):
    """``POST /v1/lease`` as a dry run: what would happen now. Nothing is promised, and nothing has changed.

    ``would``: grant at once, wait in the queue (with ``wait_seconds`` 0 and no ``queue``: be refused with ``code``), or
    refuse whatever happens. ``evicts``: the residents that would be stopped. ``start``: whether the target runs already
    (warm), is started (cold), or is leased by others that it would be shared with (joined); null for a bare lease.
    ``until``: how long whoever has the GPU keeps it at most, unless renewed. ``vram_mib`` null: the whole GPU.
    """

    would: Literal["grant", "wait", "refuse"]
    why: str
    code: str | None
    retryable: bool
    target: str | None
    consumer: str | None
    owner: str
    priority: int
    gpus: tuple[str, ...]
    vram_mib: int | None
    evicts: tuple[str, ...]
    start: Literal["warm", "cold", "joined"] | None
    position: int | None
    ahead: tuple[Ahead, ...]
    until: str | None
    problems: tuple[Problem, ...]


class LeaseView(Struct, frozen=True, kw_only=True):
    """``why`` says what a lease that is not ready waits for."""

    id: str
    state: LeaseState
    fence: int
    target: str | None
    consumer: str | None
    owner: str
    priority: int
    granted_at: str
    expires_at: str | None
    ends_at: str | None
    ttl_seconds: int
    gpus: tuple[str, ...]
    cuda_visible_devices: str
    vram_mib: int | None
    adopted: bool
    joined: bool
    pid: int | None = None
    why: str
    until: str | None


class EndedView(Struct, frozen=True, kw_only=True):
    id: str
    state: Literal["ended"] = "ended"
    what: Literal["lease", "ticket"]
    target: str | None
    consumer: str | None
    reason: str
    ended_at: str


# ---- /v1: everything else


class QueueEntry(Struct, frozen=True, kw_only=True):
    id: str
    state: LeaseState
    target: str | None
    owner: str
    priority: int
    queued_at: str
    position: int
    gpu_count: int
    vram_mib: int | None
    why: str
    until: str | None


class EngineView(Struct, frozen=True):
    """``contact_age_seconds``: since the engine last answered; None if it never did."""

    synced: bool
    reason: str
    contact_age_seconds: float | None


class JournalView(Struct, frozen=True):
    state: Literal["ok", "full", "damaged"]
    detail: str


class GpuUse(Struct, frozen=True, kw_only=True):
    """One target on a GPU: what is reserved for it there, and what it uses. They are two numbers."""

    target: str
    reserved_mib: int | None
    used_mib: int | None


class GpuView(Struct, frozen=True, kw_only=True):
    """``reserved_mib`` is the driver's own, ``granted_mib`` what leases and residents have been promised.

    ``lease`` is the first of ``leases``.
    """

    uuid: str
    index: int
    name: str
    state: Literal["ok", "dirty", "lost", "mig", "unreadable"]
    total_mib: int | None
    used_mib: int | None
    reserved_mib: int | None
    free_mib: int | None
    granted_mib: int | None
    grantable_mib: int | None
    unexplained_mib: int | None
    utilization_percent: int | None
    temperature_c: int | None
    power_w: int | None
    lease: str | None
    leases: tuple[str, ...]
    residents: tuple[str, ...]
    targets: tuple[GpuUse, ...]
    problem: str


class ProcessUse(Struct, frozen=True):
    """What a process uses of one GPU."""

    gpu: str
    used_mib: int | None
    kind: str


class AncestorView(Struct, frozen=True):
    pid: int
    name: str
    command: str


class ProcessView(Struct, frozen=True, kw_only=True):
    """One process on the GPUs. ``container`` is the outermost of ``containers`` that the engine knows."""

    pid: int
    started_at: str | None
    name: str
    user: str | None
    uid: int | None
    executable: str | None
    command: str
    cgroup: str | None
    container: str | None
    containers: tuple[str, ...]
    service: str | None
    target: str | None
    lease: str | None
    standing: Literal["leased", "resident", "bare_lease", "allowed", "unapproved", "unleased"]
    why_spared: str
    asked_to_end_at: str | None
    killed: bool
    gpus: tuple[ProcessUse, ...]
    used_mib: int | None
    ancestors: tuple[AncestorView, ...]
    denied: tuple[str, ...]


class GpuInUse(Struct, frozen=True, kw_only=True):
    """What is in use of a GPU; ``listed``: whether anybody says which processes are on it."""

    uuid: str
    index: int
    name: str
    total_mib: int | None
    used_mib: int | None
    unexplained_mib: int | None
    listed: bool
    accounting: Literal["on", "off", "unsupported", "denied", "unknown"]


class FinishedView(Struct, frozen=True, kw_only=True):
    """A process that used a GPU and had ended before anybody looked at it, by the driver's accounts."""

    pid: int
    gpu: str
    started_at: str
    ended_at: str
    peak_mib: int | None
    gpu_percent: int | None
    memory_percent: int | None
    container: str | None
    target: str | None
    standing: Literal["target", "allowed", "unknown", "unapproved"]
    meanwhile: tuple[str, ...]


class ProcessesView(Struct, frozen=True, kw_only=True):
    """Who is on the GPUs, by GPU and size; and who came and went unseen, the last first."""

    policy: Literal["observe", "warn", "terminate"]
    gpus: tuple[GpuInUse, ...]
    processes: tuple[ProcessView, ...]
    finished: tuple[FinishedView, ...]
    limited: tuple[str, ...]


class ContainerView(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    service: str
    master: bool
    one_off: bool
    status: str
    health: str
    exit_code: int
    vram_mib: int | None
    restart_policy: str
    endpoint: Endpoint | None


class TargetView(Struct, frozen=True, kw_only=True):
    """``create``: what to type so that an absent target's containers exist again.

    What it declares (``vram_mib``) and what it was seen to use (``seen_mib``) are two numbers, each for all of its GPUs
    together. Limits in seconds are those that count, its labels' or else the configuration's.
    """

    name: str
    state: TargetState
    project: str
    master: str | None
    vram_mib: int | None
    priority: int
    lease: str | None
    holders: int
    max_holders: int | None
    seen_mib: int | None
    suggested_label: str | None
    gpus: tuple[str, ...]
    devices: tuple[str, ...]
    gpu_class: str | None
    coexist_with: str
    groups: tuple[str, ...]
    idle_timeout_seconds: int | None
    min_residency_seconds: int | None
    max_hold_seconds: int | None
    endpoint: Endpoint | None
    containers: tuple[ContainerView, ...]
    problems: tuple[Problem, ...]
    create: str | UnsetType = UNSET


class TargetsView(Struct, frozen=True):
    targets: tuple[TargetView, ...]
    problems: tuple[Problem, ...]


class ContainerLog(Struct, frozen=True, kw_only=True):
    """What a container last wrote, oldest first; nothing where it cannot be had in time."""

    container: str
    service: str
    lines: tuple[str, ...]


class LogsView(Struct, frozen=True):
    """``GET /v1/targets/{name}/logs``. The master comes first; ``left_out`` containers of it are not shown."""

    target: str
    containers: tuple[ContainerLog, ...]
    left_out: int


class TargetBrief(Struct, frozen=True):
    name: str
    state: TargetState
    problems: tuple[Problem, ...]


class StatusView(Struct, frozen=True, kw_only=True):
    """``GET /v1/status``. ``problems`` are those that belong to no target."""

    host: str
    version: str
    mode: Mode
    engine: EngineView
    journal: JournalView
    gpus: tuple[GpuView, ...]
    leases: tuple[LeaseView, ...]
    queue: tuple[QueueEntry, ...]
    targets: tuple[TargetBrief, ...]
    problems: tuple[Problem, ...]
    enforcing: Enforcing = Enforcing()


class Event(Struct, frozen=True, kw_only=True):
    """One fact of the audit. ``fields``: what it says beyond the others, never a token or its digest."""

    seq: int
    time: str
    type: str
    sentence: str
    target: str | None
    container: str | None
    fields: dict[str, Any]


class Events(Struct, frozen=True):
    """``after``: pass it to get what comes next."""

    events: tuple[Event, ...]
    after: int


class GpuPast(Struct, frozen=True, kw_only=True):
    """One GPU over a span: a value for each step, oldest first; null where nobody looked or nobody could read it."""

    uuid: str
    index: int
    name: str
    total_mib: int | None
    used_mib: tuple[int | None, ...]
    utilization_percent: tuple[int | None, ...]


class Hold(Struct, frozen=True, kw_only=True):
    """A stretch of time in which a lease, or a target that ran on without one, had room on GPUs."""

    kind: Literal["lease", "resident"]
    id: str | None
    target: str | None
    owner: str | None
    gpus: tuple[str, ...]
    began_at: str
    ended_at: str | None
    reason: str


class HistoryView(Struct, frozen=True, kw_only=True):
    """``GET /v1/history``. Who held is taken from the audit; memory is only remembered since the last start."""

    span: Literal["hour", "day"]
    began_at: str
    ended_at: str
    step_seconds: int
    first_at: str
    sampled_since: str | None
    known_since: str | None
    gpus: tuple[GpuPast, ...]
    holds: tuple[Hold, ...]


class Why(Struct, frozen=True, kw_only=True):
    """``stopped``: the decision that last stopped it, or kept it from running; None if none is remembered.

    ``by`` is who decided, ``for_target`` and ``for_owner`` whom it was for, ``command`` what to type to get the GPU.
    """

    name: str
    target: str | None
    state: TargetState
    sentence: str
    stopped: Event | None
    by: str | None
    for_target: str | None
    for_owner: str | None
    command: str
