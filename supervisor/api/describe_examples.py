"""An example of every answer, as the Structs that are answered: one small story, so that they go together.

ann leases comfyui, bob waits for ollama. Tokens and ids are made up.
"""

from __future__ import annotations

from msgspec import structs

from supervisor.answers import (
    AcquireAnswer,
    Ahead,
    AncestorView,
    ContainerLog,
    ContainerView,
    EndedView,
    EngineView,
    Event,
    Events,
    EvictAnswer,
    FinishedView,
    ForecastAnswer,
    GpuInUse,
    GpuPast,
    GpuUse,
    GpuView,
    HistoryView,
    Hold,
    JournalView,
    LeaseAnswer,
    LeaseView,
    LogsView,
    MovedAnswer,
    OpenedAnswer,
    PlainLease,
    PlainService,
    PlainState,
    PlainStatus,
    PlainTarget,
    PlainTicket,
    ProcessesView,
    ProcessUse,
    ProcessView,
    QueuedAnswer,
    QueueEntry,
    Readiness,
    ReleaseAnswer,
    ReleasedAnswer,
    RenewAnswer,
    StatusView,
    TargetBrief,
    TargetsView,
    TargetView,
    TicketAnswer,
    TicketView,
    Why,
)
from supervisor.core.model import Endpoint

TOKEN = "Zt3vQ0kq5f1mJr8wYc2hXn7bLd9sPg4eUa6oTi-RyEw"  # noqa: S105  # made up
_TICKET_TOKEN = "uB7xQ2mK9rW4tY6pL1sD8fG3hJ5kZ0cV-nMbQeRtYuI"  # noqa: S105  # made up
_LEASE_ID = "l_8f3kQ2mXw1aZ"
_TICKET_ID = "l_Qw7yT0bN4cVd"
_GPU, _OTHER_GPU = "GPU-4f1c2b7e", "GPU-9a0d5e13"
_AT, _UNTIL, _LATER = "2026-11-21T10:00:00.000Z", "2026-11-21T10:05:00.000Z", "2026-11-21T10:07:30.000Z"
_AT_S, _UNTIL_S = 1_795_255_200, 1_795_255_500
_ENDPOINT = Endpoint("127.0.0.1", 8188)
_BUSY = "comfyui holds the GPU (owner ann)"

# ---- plain endpoints

_ENFORCING = (
    "kills through the cgroup, and the engine (cgroup v2 with cgroupfs and systemd; "
    "ahead of all that wants a processor); tripwire off"
)
READY = Readiness(
    ready=True,
    engine="in sync, last contact 0.4 s ago",
    journal="ok",
    gpus=f"1 known: {_GPU}",
    enforcing=_ENFORCING,
)
NOT_READY = Readiness(
    ready=False,
    engine="not in sync: connection refused, last contact 12.0 s ago",
    journal="ok",
    gpus=f"1 known: {_GPU}",
    enforcing=_ENFORCING,
)

_STATE = PlainState(target="comfyui", at=_AT_S, lease=PlainLease("ann", _UNTIL_S), queue=())
_SERVICE = PlainService(
    status="healthy",
    healthy_container_count=1,
    unhealthy_container_count=0,
    no_healthcheck_container_count=1,
    container_count=2,
    logs_tail="To see the GUI go to: http://0.0.0.0:8188",
)
_SERVICES = {"comfyui": PlainTarget("ready", ()), "ollama": PlainTarget("stopped", ())}

PLAIN_STATUS = PlainStatus(
    state=structs.replace(_STATE, queue=(PlainTicket("bob", 0, "ollama", None),)), service=_SERVICE, services=_SERVICES
)
PLAIN_IDLE = PlainStatus(
    state=PlainState(target=None, at=_AT_S, queue=()),
    service={},
    services={"comfyui": PlainTarget("stopped", ()), "ollama": PlainTarget("stopped", ())},
)
ACQUIRED = AcquireAnswer(
    lease_token=TOKEN,
    lease_expires_at=_UNTIL_S,
    lease_ttl_s=300,
    lease_state="ready",
    fence=7,
    endpoint=_ENDPOINT,
    state=_STATE,
    service=_SERVICE,
    services=_SERVICES,
)
ACQUIRE_QUEUED = QueuedAnswer(
    lease_token=_TICKET_TOKEN,
    queue_index=0,
    state=PLAIN_STATUS.state,
    service=_SERVICE,
    services=_SERVICES,
)
RELEASED_PLAIN = ReleaseAnswer(
    released=True,
    state=PlainState(target="comfyui", at=_AT_S, queue=()),
    service=_SERVICE,
    services={"comfyui": PlainTarget("resident", ()), "ollama": PlainTarget("stopped", ())},
)

# ---- leases

LEASED = LeaseAnswer(
    token=TOKEN,
    id=_LEASE_ID,
    fence=7,
    target="comfyui",
    consumer="comfyui",
    owner="ann",
    state="ready",
    granted_at=_AT,
    expires_at=_UNTIL,
    ends_at=None,
    ttl_seconds=300,
    gpus=(_GPU,),
    cuda_visible_devices=_GPU,
    vram_mib=16_384,
    joined=False,
)
LEASED_BARE = structs.replace(
    LEASED,
    target=None,
    consumer=None,
    gpus=(_GPU, _OTHER_GPU),
    cuda_visible_devices=f"{_GPU},{_OTHER_GPU}",
    vram_mib=8_192,
)

_HOLDER = Ahead(_LEASE_ID, "comfyui", "ann", 0, "ready")
TICKET = TicketView(
    id=_TICKET_ID,
    state="queued",
    target="ollama",
    consumer="ollama",
    owner="bob",
    priority=0,
    ttl_seconds=300,
    queued_at=_AT,
    position=0,
    ahead=(_HOLDER,),
    why=_BUSY,
    until=_UNTIL,
)
TICKETED = TicketAnswer(token=_TICKET_TOKEN, **structs.asdict(TICKET))
LEASE = LeaseView(
    id=_LEASE_ID,
    state="ready",
    fence=7,
    target="comfyui",
    consumer="comfyui",
    owner="ann",
    priority=0,
    granted_at=_AT,
    expires_at=_UNTIL,
    ends_at=None,
    ttl_seconds=300,
    gpus=(_GPU,),
    cuda_visible_devices=_GPU,
    vram_mib=16_384,
    adopted=False,
    joined=False,
    why="",
    until=_UNTIL,
)
ENDED = EndedView(id=_LEASE_ID, what="lease", target="comfyui", consumer="comfyui", reason="expired", ended_at=_UNTIL)
RENEWED = RenewAnswer(TOKEN, _LATER, 300, None)
RENEWED_TOLD = RenewAnswer(TOKEN, _LATER, 300, _UNTIL)
RELEASED = ReleasedAnswer(released=True)
NOT_ENDED = ReleasedAnswer(released=False, reason="unknown_or_ended")
NOT_RELEASED = ReleasedAnswer(released=False, reason="unknown_or_expired")
FORECAST = ForecastAnswer(
    would="wait",
    why=f"{_BUSY}; it would get place 1 in the queue",
    code="gpu_busy",
    retryable=True,
    target="ollama",
    consumer="ollama",
    owner="bob",
    priority=0,
    gpus=(_GPU,),
    vram_mib=12_288,
    evicts=("comfyui",),
    start="cold",
    position=0,
    ahead=(_HOLDER,),
    until=_UNTIL,
    problems=(),
)

# ---- everything else

TARGET = TargetView(
    name="comfyui",
    state="ready",
    project="comfyui",
    master="comfyui-web-1",
    vram_mib=16_384,
    priority=0,
    lease=_LEASE_ID,
    holders=1,
    max_holders=1,
    seen_mib=15_012,
    suggested_label=None,
    gpus=(_GPU,),
    devices=(),
    gpu_class=None,
    coexist_with="whisper, @small",
    groups=("images",),
    idle_timeout_seconds=1_800,
    min_residency_seconds=None,
    max_hold_seconds=14_400,
    endpoint=_ENDPOINT,
    containers=(
        ContainerView(
            id="3f1e9a7c5b2d4806a1c3e5f7092b4d6e8a0c2e4f6081a3c5e7092b4d6f80a1c3",
            name="comfyui-web-1",
            service="web",
            master=True,
            one_off=False,
            status="running",
            health="healthy",
            exit_code=0,
            vram_mib=16_384,
            restart_policy="no",
            endpoint=_ENDPOINT,
        ),
    ),
    problems=(),
)
TARGETS = TargetsView((TARGET,), ())
STATUS = StatusView(
    host="box",
    version="0.2.0",
    mode="stop",
    engine=EngineView(synced=True, reason="", contact_age_seconds=0.412),
    journal=JournalView("ok", ""),
    gpus=(
        GpuView(
            uuid=_GPU,
            index=0,
            name="NVIDIA GeForce RTX 4090",
            state="ok",
            total_mib=24_576,
            used_mib=15_012,
            reserved_mib=512,
            free_mib=9_052,
            granted_mib=16_384,
            grantable_mib=7_680,
            unexplained_mib=0,
            utilization_percent=87,
            temperature_c=61,
            power_w=312,
            lease=_LEASE_ID,
            leases=(_LEASE_ID,),
            residents=(),
            targets=(GpuUse(target="comfyui", reserved_mib=16_384, used_mib=15_012),),
            problem="",
        ),
    ),
    leases=(LEASE,),
    queue=(
        QueueEntry(
            id=_TICKET_ID,
            state="queued",
            target="ollama",
            owner="bob",
            priority=0,
            queued_at=_AT,
            position=0,
            gpu_count=1,
            vram_mib=12_288,
            why=_BUSY,
            until=_UNTIL,
        ),
    ),
    targets=(TargetBrief("comfyui", "ready", ()), TargetBrief("ollama", "stopped", ())),
    problems=(),
)
HISTORY = HistoryView(
    span="hour",
    began_at="2026-11-21T09:00:00.000Z",
    ended_at=_AT,
    step_seconds=10,
    first_at="2026-11-21T09:00:10.000Z",
    sampled_since="2026-11-21T09:59:40.000Z",
    known_since=None,
    gpus=(
        GpuPast(
            uuid=_GPU,
            index=0,
            name="NVIDIA GeForce RTX 4090",
            total_mib=24_576,
            used_mib=(*(None,) * 357, 512, 9_850, 15_012),
            utilization_percent=(*(None,) * 357, 0, 41, 87),
        ),
    ),
    holds=(
        Hold(
            kind="lease",
            id=_LEASE_ID,
            target="comfyui",
            owner="ann",
            gpus=(_GPU,),
            began_at="2026-11-21T09:59:50.000Z",
            ended_at=None,
            reason="",
        ),
    ),
)
PROCESSES = ProcessesView(
    policy="observe",
    gpus=(
        GpuInUse(
            uuid=_GPU,
            index=0,
            name="NVIDIA GeForce RTX 4090",
            total_mib=24_564,
            used_mib=2_359,
            unexplained_mib=311,
            listed=True,
            accounting="on",
        ),
    ),
    processes=(
        ProcessView(
            pid=48_213,
            started_at=_AT,
            name="python3",
            user="mallory",
            uid=1_001,
            executable="/usr/bin/python3.11",
            command="python3 mine.py",
            cgroup="/user.slice/user-1001.slice/session-7.scope",
            container=None,
            containers=(),
            service=None,
            target=None,
            lease=None,
            standing="unapproved",
            why_spared="the policy is observe",
            asked_to_end_at=None,
            killed=False,
            gpus=(ProcessUse(_GPU, 2_048, "compute"),),
            used_mib=2_048,
            ancestors=(AncestorView(48_100, "bash", "-bash"),),
            denied=(),
        ),
    ),
    finished=(
        FinishedView(
            pid=48_190,
            gpu=_GPU,
            started_at=_AT,
            ended_at=_AT,
            peak_mib=612,
            gpu_percent=38,
            memory_percent=4,
            container=None,
            target=None,
            standing="unapproved",
            meanwhile=(),
        ),
    ),
    limited=(),
)
MOVED = MovedAnswer(moved=True, position=0)
WOULD_MOVE = MovedAnswer(moved=False, position=2, reason="dry_run")
NOT_MOVED = MovedAnswer(moved=False, position=None, reason="granted")
LOGS = LogsView(
    "comfyui",
    (ContainerLog(container="comfyui-main-1", service="main", lines=("loading the model", "ready on :8188")),),
    0,
)
OPENED = OpenedAnswer(opened=True)
NOT_OPENED = OpenedAnswer(opened=False, reason="not_closed")
EVICTED = EvictAnswer(evicted=True)
NOT_EVICTED = EvictAnswer(evicted=False, reason="not_resident")
REFUSED_FACT = Event(
    seq=42,
    time=_AT,
    type="ContainerRefused",
    sentence="killed ollama-ollama-1 of ollama: comfyui holds the GPU",
    target="ollama",
    container="ollama-ollama-1",
    fields={"reason": "gpu_held", "holder": "comfyui"},
)
EVENTS = Events((REFUSED_FACT,), 42)
WHY = Why(
    name="ollama",
    target="ollama",
    state="stopped",
    sentence=f"{REFUSED_FACT.sentence}; ollama is stopped now",
    stopped=REFUSED_FACT,
    by="enforcement",
    for_target="comfyui",
    for_owner="ann",
    command="gpu-supervisor acquire ollama",
)
