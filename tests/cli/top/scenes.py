"""What a server could say: scenes that the screen is shown, and the fake server that says them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from supervisor.answers import (
    ContainerView,
    EngineView,
    Event,
    Events,
    GpuUse,
    GpuView,
    JournalView,
    LeaseView,
    ProcessesView,
    ProcessUse,
    ProcessView,
    QueueEntry,
    StatusView,
    TargetBrief,
    TargetsView,
    TargetView,
)
from supervisor.core.model import Problem
from tests.cli.fake import FakeServer
from tests.cli.test_reading import document

NOW = datetime(2026, 11, 21, 14, 32, 10, tzinfo=UTC)
HOSTILE = "[red]eve[/red]\x1b[2J\u202ekcab"


def at(seconds: float) -> str:
    """A time of the API so many seconds after ``NOW``."""
    moment = NOW + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def gpu(index: int = 0, **values: Any) -> GpuView:
    base: dict[str, Any] = {
        "uuid": f"GPU-{index}",
        "index": index,
        "name": "NVIDIA GeForce RTX 4090",
        "state": "ok",
        "total_mib": 24_576,
        "used_mib": 0,
        "reserved_mib": 480,
        "free_mib": 24_096,
        "granted_mib": 0,
        "grantable_mib": 24_096,
        "unexplained_mib": 0,
        "utilization_percent": 0,
        "temperature_c": 41,
        "power_w": 22,
        "lease": None,
        "leases": (),
        "residents": (),
        "targets": (),
        "problem": "",
    }
    return GpuView(**{**base, **values})


def lease(id_: str, target: str | None, owner: str, **values: Any) -> LeaseView:
    base: dict[str, Any] = {
        "id": id_,
        "state": "ready",
        "fence": 7,
        "target": target,
        "consumer": target,
        "owner": owner,
        "priority": 0,
        "granted_at": at(-754),
        "expires_at": at(287),
        "ends_at": None,
        "ttl_seconds": 300,
        "gpus": ("GPU-0",),
        "cuda_visible_devices": "GPU-0",
        "vram_mib": 12_288,
        "adopted": False,
        "joined": False,
        "pid": None,
        "why": "",
        "until": None,
    }
    return LeaseView(**{**base, **values})


def ticket(position: int, target: str | None, owner: str, **values: Any) -> QueueEntry:
    ahead = f"; {position} ahead of it in the queue" if position else ""
    base: dict[str, Any] = {
        "id": f"l_t{position}",
        "state": "queued",
        "target": target,
        "owner": owner,
        "priority": 0,
        "queued_at": at(-61 + position),
        "position": position,
        "gpu_count": 1,
        "vram_mib": 16_384,
        "why": f"comfyui holds the GPU (owner ann){ahead}",
        "until": at(287),
    }
    return QueueEntry(**{**base, **values})


def target(name: str, state: str = "stopped", **values: Any) -> TargetView:
    runs = state in ("ready", "resident", "starting", "unhealthy")
    health = {"ready": "healthy", "resident": "healthy", "starting": "starting", "unhealthy": "unhealthy"}
    main = ContainerView(
        id="c" * 64,
        name=f"{name}-main-1",
        service="main",
        master=True,
        one_off=False,
        status="running" if runs else "exited",
        health=health.get(state, "none"),
        exit_code=0,
        vram_mib=None,
        restart_policy="no",
        endpoint=None,
    )
    base: dict[str, Any] = {
        "name": name,
        "state": state,
        "project": name,
        "master": f"{name}-main-1",
        "vram_mib": 12_288,
        "priority": 0,
        "lease": None,
        "holders": 0,
        "max_holders": 1,
        "seen_mib": None,
        "suggested_label": None,
        "gpus": (),
        "devices": (),
        "gpu_class": None,
        "coexist_with": "none",
        "groups": (),
        "idle_timeout_seconds": None,
        "min_residency_seconds": None,
        "max_hold_seconds": None,
        "endpoint": None,
        "containers": (main,),
        "problems": (),
    }
    return TargetView(**{**base, **values})


def event(seq: int, type_: str, sentence: str, about: str | None = None, **fields: Any) -> Event:
    return Event(seq=seq, time=at(seq - 60), type=type_, sentence=sentence, target=about, container=None, fields=fields)


def process(pid: int, used_mib: int, standing: str = "leased", **values: Any) -> ProcessView:
    base: dict[str, Any] = {
        "pid": pid,
        "started_at": at(-700),
        "name": "python3",
        "user": "ann",
        "uid": 1_000,
        "executable": "/usr/bin/python3",
        "command": "python3 main.py --listen",
        "cgroup": None,
        "container": None,
        "containers": (),
        "service": None,
        "target": None,
        "lease": None,
        "standing": standing,
        "why_spared": "",
        "asked_to_end_at": None,
        "killed": False,
        "gpus": (ProcessUse("GPU-0", used_mib, "compute"),),
        "used_mib": used_mib,
        "ancestors": (),
        "denied": (),
    }
    return ProcessView(**{**base, **values})


class Scene(Struct, frozen=True):
    status: StatusView
    targets: tuple[TargetView, ...]
    events: tuple[Event, ...]
    processes: tuple[ProcessView, ...] = ()

    def said_by(self, fake: FakeServer) -> None:
        after = self.events[-1].seq if self.events else 0
        with fake.changed:
            fake.documents |= {
                "/v1/status": document(self.status),
                "/v1/targets": document(TargetsView(self.targets, ())),
                "/v1/processes": document(
                    ProcessesView(policy="observe", gpus=(), processes=self.processes, finished=(), limited=())
                ),
                "/v1/events": document(Events(self.events, after)),
            }


def scene(
    gpus: tuple[GpuView, ...],
    leases: tuple[LeaseView, ...],
    queue: tuple[QueueEntry, ...],
    targets: tuple[TargetView, ...],
    events: tuple[Event, ...],
    processes: tuple[ProcessView, ...] = (),
    **values: Any,
) -> Scene:
    status = StatusView(
        host="gpubox",
        version="0.2.0",
        mode="stop",
        engine=EngineView(True, "", 0.1),
        journal=JournalView("ok", ""),
        gpus=gpus,
        leases=leases,
        queue=queue,
        targets=tuple(TargetBrief(one.name, one.state, one.problems) for one in targets),
        problems=(),
    )
    return Scene(replace(status, **values), targets, events, processes)


EMPTY = scene((gpu(),), (), (), (), ())

NO_MASTER = Problem("no_master", "no container of llama is the master", "label one of them", target="llama")
BUSY = scene(
    gpus=(
        gpu(
            used_mib=19_100,
            granted_mib=18_432,
            grantable_mib=1_900,
            unexplained_mib=700,
            utilization_percent=87,
            temperature_c=71,
            power_w=312,
            lease="l_8f3kQ2mXw1aZ",
            leases=("l_8f3kQ2mXw1aZ",),
            residents=("whisper",),
            targets=(
                GpuUse(target="comfyui", reserved_mib=12_288, used_mib=10_400),
                GpuUse(target="whisper", reserved_mib=6_144, used_mib=6_000),
            ),
        ),
    ),
    leases=(lease("l_8f3kQ2mXw1aZ", "comfyui", "ann@desk"),),
    queue=(
        ticket(0, "ollama", "bob@cron"),
        ticket(1, None, "cy@lab", gpu_count=2, priority=-5),
        ticket(2, "vllm", HOSTILE, priority=3),
    ),
    targets=(
        target("comfyui", "ready", lease="l_8f3kQ2mXw1aZ", holders=1, seen_mib=10_480),
        target("whisper", "resident", vram_mib=6_144, seen_mib=6_010),
        target("ollama", vram_mib=16_384, seen_mib=15_100),
        target("vllm", vram_mib=None),
        target("llama", "invalid", master=None, problems=(NO_MASTER,)),
    ),
    events=(
        event(38, "LeaseEnded", "the lease of ann on whisper was released; whisper stays resident", "whisper"),
        event(39, "LeaseGranted", "comfyui is leased to ann@desk (lease l_8f3kQ2mXw1aZ, fence 7)", "comfyui"),
        event(41, "TargetReady", "comfyui is ready after 4.2 s (lease l_8f3kQ2mXw1aZ)", "comfyui", took_ms=4_200),
        event(42, "TicketQueued", "bob@cron queued for ollama with priority 0 (ticket l_t0)", "ollama"),
        event(
            43,
            "ContainerRefused",
            "container ollama-main-1 of ollama was killed: comfyui holds the GPU (gpu_held)",
            "ollama",
            reason="gpu_held",
            holder="comfyui",
        ),
    ),
    processes=(
        process(4_711, 10_400, container="comfyui-main-1", target="comfyui"),
        process(666, 2_000, "unleased", user="eve", command=f"python3 {HOSTILE}"),
    ),
)

MANY = scene(
    gpus=tuple(
        gpu(
            index,
            used_mib=index * 3_000,
            granted_mib=index * 3_000,
            utilization_percent=index * 12,
            targets=(GpuUse(target=f"model-{index}", reserved_mib=index * 3_000, used_mib=index * 2_900),),
            state="dirty" if index == 5 else "ok",
            problem="the memory of GPU GPU-5 did not come back 5 s after everything on it was stopped" * (index == 5),
        )
        for index in range(8)
    ),
    leases=tuple(
        lease(f"l_{index}", f"model-{index}", f"user{index}", gpus=(f"GPU-{index}",), expires_at=at(10 * index))
        for index in range(1, 8)
    ),
    queue=tuple(ticket(place, f"model-{place % 300}", f"user{place}") for place in range(1_000)),
    targets=tuple(
        target(f"model-{number}", "ready" if 1 <= number < 8 else "stopped", lease=f"l_{number}" * (number < 8) or None)
        for number in range(300)
    ),
    events=tuple(
        event(seq, "TicketQueued", f"user{seq} queued for model-{seq}", f"model-{seq}") for seq in range(1, 60)
    ),
)
