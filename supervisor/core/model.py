"""The nouns: what is remembered for ever (Durable) and what is only seen (Observed).

Durable is rebuilt from the journal and nothing else; Observed from Docker and the GPUs, and never written
down. In doubt, ask what a restart should do with a field. Nothing in here decides.

Times are supervisor time in milliseconds (``*_at_ms``) unless their name says ``wall`` (Unix milliseconds).
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Status = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
Health = Literal["none", "starting", "healthy", "unhealthy"]
Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]
Phase = Literal["making_room", "starting", "ready"]
Mode = Literal["stop", "observe", "adopt"]

#: States in which a container's processes exist or may come back by themselves at any moment.
#: ``restarting`` is where a crash loop spends its time, ``paused`` keeps its VRAM.
RUNNING: frozenset[Status] = frozenset({"running", "paused", "restarting"})


class Now(Struct, frozen=True):
    """One instant on both clocks: supervisor time decides, wall time is for people."""

    at_ms: int
    wall_ms: int

    def wall_of(self, at_ms: int) -> int:
        """Return the wall time that belongs to a supervisor time, in Unix milliseconds."""
        return self.wall_ms + at_ms - self.at_ms


class Enforcing(Struct, frozen=True):
    """How what may not run is ended here, from ``Observed``.

    ``kills``: through the container's cgroup first, or through the engine alone; ``kills_detail`` says which or why.
    ``tripwire``: armed, off, or blind (it was armed, and sees nothing now), and why.
    """

    kills: Literal["cgroup", "engine"] = "engine"
    kills_detail: str = ""
    tripwire: Literal["armed", "blind", "off"] = "off"
    tripwire_detail: str = ""


class Problem(Struct, frozen=True):
    """One thing wrong with a target's labels. ``message`` names container and service; ``hint`` what to type."""

    code: str
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"
    target: str | None = None
    container: str | None = None
    service: str | None = None
    label: str | None = None
    value: str | None = None


class Dependency(Struct, frozen=True):
    """One entry of ``com.docker.compose.depends_on``."""

    service: str
    condition: Condition


class Endpoint(Struct, frozen=True):
    """The first published port of a container, as the host sees it."""

    host: str
    port: int


class Sharing(Struct, frozen=True):
    """With whom a target shares a GPU: with anybody, or with targets and groups of them, by name; else with nobody."""

    any: bool = False
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def accepts(self, name: str | None, groups: tuple[str, ...]) -> bool:
        """Return whether the target ``name`` in ``groups`` is welcome. ``name`` None: a bare lease, group ``bare``."""
        if name is None:
            return self.any or BARE in self.groups
        return self.any or name in self.names or not set(groups).isdisjoint(self.groups)


BARE = "bare"
"""The group of bare leases, reserved."""


class Container(Struct, frozen=True, kw_only=True):
    """One container as ``inspect`` last described it, labels already parsed.

    ``target`` is None for an unlabelled container (kept only where a labelled service depends on its
    service) and for one whose ``gpu.target`` is malformed: the supervisor never stops either.
    ``run`` names one run of the container (Docker's ``StartedAt``, verbatim): it changes at every start.
    ``age_ms`` is how long that run had lasted when it was inspected, by the engine's own wall clock.
    ``project`` is "" without Compose; ``service`` is then the container's name.
    ``devices`` are the GPUs it is pinned to (UUIDs or indices, as they were written), ``all_devices`` all of them,
    ``device_count`` the first so many by index; with none of the three it may use any one.
    ``coexist`` and the fields after it are what its labels say for the whole target; None: nothing.
    """

    id: str
    name: str
    target: str | None = None
    master: bool = False
    vram_mib: int | None = None
    priority: int | None = None
    problems: tuple[Problem, ...] = ()
    project: str = ""
    service: str = ""
    number: int = 1
    one_off: bool = False
    replaces: str | None = None
    depends_on: tuple[Dependency, ...] = ()
    working_dir: str = ""
    config_files: str = ""
    status: Status = "created"
    health: Health = "none"
    exit_code: int = 0
    error: str = ""
    run: str = ""
    started_wall_ms: int = 0
    created_wall_ms: int = 0
    age_ms: int = 0
    restart_policy: str = "no"
    stop_grace_s: int = 10
    auto_remove: bool = False
    healthcheck: bool = False
    endpoint: Endpoint | None = None
    devices: tuple[str, ...] = ()
    all_devices: bool = False
    device_count: int = 0
    coexist: Sharing | None = None
    groups: tuple[str, ...] = ()
    max_holders: int | None = None
    idle_timeout_ms: int | None = None
    min_residency_ms: int | None = None
    max_hold_ms: int | None = None
    gpu_class: str | None = None

    @property
    def runs(self) -> bool:
        return self.status in RUNNING

    @property
    def place(self) -> tuple[str, str, int | str]:
        """Identity across a recreate: (project, service, number); one-offs and plain containers have their id."""
        if self.one_off or not self.project:
            return (self.project, self.service, self.id)
        return (self.project, self.service, self.number)


class Bystander(Struct, frozen=True):
    """A container that is no business of ours: a process on a GPU may be in it. ``service`` is "" without Compose."""

    id: str
    name: str
    service: str = ""


class GpuProcess(Struct, frozen=True, kw_only=True):
    """One process on a GPU, by its pid on the host. ``used_mib`` None: the driver does not say.

    ``started`` tells a process from a later one with the same pid: its start time as ``/proc/PID/stat`` has it (clock
    ticks since the boot), 0 where it could not be read. ``container``: the full id of the container that it is in.
    """

    pid: int
    used_mib: int | None = None
    kind: Literal["compute", "graphics"] = "compute"
    started: int = 0
    container: str | None = None


class FinishedUse(Struct, frozen=True, kw_only=True):
    """A process that used a GPU and has ended, as the driver's accounts have it: its pid is anybody's by now.

    ``started_wall_ms`` (Unix milliseconds): when it began to use the GPU; ``ran_ms``: for how long it did.
    ``peak_mib``: the most memory that it had; the percentages are of that time; None where the driver does not say.
    ``container``: the full id of the container that it was in, where it was seen in one while it ran.
    """

    gpu: str
    pid: int
    started_wall_ms: int
    ran_ms: int
    peak_mib: int | None = None
    gpu_percent: int | None = None
    memory_percent: int | None = None
    container: str | None = None

    @property
    def ended_wall_ms(self) -> int:
        return self.started_wall_ms + self.ran_ms


GpuState = Literal["ok", "lost", "mig", "unreadable"]
#: Whether the driver keeps accounts of the processes on a GPU. ``denied``: it does not let this user read them.
Accounting = Literal["on", "off", "unsupported", "denied", "unknown"]


class Gpu(Struct, frozen=True):
    """One GPU. ``total_mib`` and ``used_mib`` are None where nobody can read them (sizes are not checked then).

    ``used_mib`` is what processes use; ``reserved_mib`` is what the driver keeps for itself, and what is left is
    ``free_mib``. ``state`` other than ok closes it to new grants, and ``detail`` says why in a sentence.
    ``processes`` None: the driver does not say who uses it. ``accounting``: whether those that have ended are told.
    """

    uuid: str
    index: int = 0
    name: str = ""
    total_mib: int | None = None
    used_mib: int | None = None
    reserved_mib: int | None = None
    free_mib: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: int | None = None
    state: GpuState = "ok"
    detail: str = ""
    processes: tuple[GpuProcess, ...] | None = None
    accounting: Accounting = "unsupported"


# ---- durable nouns


class Tie(Struct, frozen=True):
    """One process, for ever: ``started`` is its start time in clock ticks since the boot (``/proc/PID/stat``, field
    22), and ``boot`` the id of that boot. A pid alone comes back.
    """

    pid: int
    started: int
    boot: str


class Terms(Struct, frozen=True, kw_only=True, gc=False):
    """What a caller asked for; travels unchanged from request to ticket to lease.

    ``target`` None is a bare lease. ``priority`` is the resolved rank. ``scope`` is a digest of caller and
    idempotency key, ``body`` a digest of the request's body: both None without a key.
    ``ready_timeout_ms`` counts from the grant and only for a caller that waits for readiness.
    ``gpus``, ``vram_mib`` (on each; None: all of it) and ``gpu_class`` are a bare lease's: a target has its labels.
    ``tie``, too: the process with which a bare lease or its ticket ends; it has no TTL then.
    ``caller``: who asked, as the edge knows it (``key ci``, ``uid 1000``, ``loopback``); ``owner`` is what it says.
    """

    target: str | None
    owner: str
    priority: int
    ttl_ms: int
    wait_ready: bool = True
    ready_timeout_ms: int = 900_000
    scope: str | None = None
    body: str | None = None
    gpus: int = 1
    vram_mib: int | None = None
    gpu_class: str | None = None
    tie: Tie | None = None
    caller: str = ""


class Ticket(Struct, frozen=True, gc=False):
    """A place in the queue. ``order`` is its arrival number: the tie-break of equal ranks.

    ``token_known`` says that its caller was told the token (a polled ticket); a waiter's caller is not.
    ``window_gpus`` and ``window_mib``: the room that its open claim window reserves.
    """

    id: str
    order: int
    token_hash: str
    token_known: bool
    terms: Terms
    queued_at_ms: int
    queued_wall_ms: int
    window_until_ms: int | None = None
    window_gpus: tuple[str, ...] = ()
    window_mib: int | None = None


class Lease(Struct, frozen=True, gc=False):
    """The right to use the GPU. Its expiry is observed, not durable: a renewal writes nothing.

    ``fence`` grows with every grant, so a later holder always has a larger one.
    ``vram_mib`` is reserved on each of ``gpus``; None: nobody knows how large they are. ``loaded_at_ms``: since when
    its target is loaded, 0 while it is not.
    ``project`` is the Compose project that it was granted for. ``needs_cold_start`` means that what runs of
    the target must go first; ``warm`` that it was resident until the grant. ``adopted`` leases have no TTL and no
    token: they live as long as their containers. ``restarted``: it was answered, went down, and its owner asked again.
    ``ends_at_ms``: its holder was told that it has held for long, and that it ends then if others still wait.
    """

    id: str
    fence: int
    token_hash: str
    token_known: bool
    terms: Terms
    project: str
    gpus: tuple[str, ...]
    vram_mib: int | None
    phase: Phase
    granted_at_ms: int
    granted_wall_ms: int
    phase_at_ms: int
    needs_cold_start: bool = False
    adopted: bool = False
    warm: bool = False
    restarted: bool = False
    loaded_at_ms: int = 0
    ends_at_ms: int | None = None

    @property
    def target(self) -> str | None:
        return self.terms.target

    @property
    def answer_due(self) -> bool:
        """Whether its caller's answer is, or was, due: a restart tells by this who was still on the line."""
        if self.adopted or self.restarted or self.phase == "ready":
            return True
        if self.terms.target is None:
            return self.phase != "making_room"
        return not self.terms.wait_ready


class Resident(Struct, frozen=True, gc=False):
    """A target whose containers run on without a lease; it may be evicted at any time.

    It keeps what was reserved for it: ``vram_mib`` on each of ``gpus`` (none: nobody knows which). ``loaded_at_ms``:
    since when it is loaded, 0 if nobody knows.
    """

    target: str
    project: str
    since_ms: int
    since_wall_ms: int
    gpus: tuple[str, ...] = ()
    vram_mib: int | None = None
    loaded_at_ms: int = 0


class Ended(Struct, frozen=True, gc=False):
    """An ended lease or ticket, remembered for a while so that its caller hears what happened."""

    id: str
    token_hash: str
    what: Literal["lease", "ticket"]
    reason: str
    at_ms: int
    wall_ms: int
    scope: str | None = None
    body: str | None = None
    target: str | None = None


class Remembered(Struct, frozen=True, gc=False):
    """What is known of a target after its containers are gone: enough to say what to type."""

    name: str
    project: str
    working_dir: str
    config_files: str
    seen_at_ms: int
