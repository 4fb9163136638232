"""One box for tests of the core: a kernel with an instant disk, a fake clock, and an engine that obeys when told to."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from supervisor.core.apply import freeze
from supervisor.core.apply import replay as rebuild
from supervisor.core.facts import AnyFact
from supervisor.core.inputs import (
    Acquire,
    ActionDone,
    Claim,
    ContainerGone,
    ContainerSeen,
    EngineSnapshot,
    Input,
    Release,
    ReleaseByKey,
    Renew,
    SignalSent,
    Started,
    Tick,
    VramRead,
)
from supervisor.core.model import Container, Dependency, Gpu, Now, Terms
from supervisor.core.plan import plan
from supervisor.core.replies import Action, Refused, Reply, SignalProcess, StartContainer
from supervisor.core.state import Settings, State
from supervisor.kernel import Kernel

GPU = Gpu("SIM-0", total_mib=24_576, used_mib=0)
WALL_MS = 1_790_000_000_000


def container(of: str, service: str = "main", **values: Any) -> Container:
    """One container of a target: by default its healthy-when-running master, created and not started."""
    base: dict[str, Any] = {
        "id": f"{of}-{service}",
        "name": f"{of}-{service}-1",
        "target": of,
        "project": of,
        "service": service,
        "master": service == "main",
        "healthcheck": service == "main",
        "created_wall_ms": 1,
    }
    return Container(**{**base, **values})


def after(service: str, condition: str = "service_started") -> tuple[Dependency, ...]:
    return (Dependency(service, condition),)  # type: ignore[arg-type]


class Box:
    """``sync`` False keeps facts off the disk until ``sync_now``. ``facts`` and ``actions`` gather since ``clear``."""

    def __init__(self, *containers: Container, synced: bool = True, first: bool = False, **settings: Any) -> None:
        self.settings = Settings(**{"gpus": (GPU,), **settings})
        self.at_ms = 1_000
        self.sync = True
        self.engine: dict[str, Container] = {}
        self.facts: list[AnyFact] = []
        self.journal: list[AnyFact] = []
        self.actions: list[Action] = []
        self.signals: list[SignalProcess] = []
        self.replies: dict[int, Reply] = {}
        self.requests = 0
        self.runs = 0
        self.kernel = Kernel(State(self.settings))
        self.feed(Started("boot", 0, "test", first=first))
        for item in containers:
            self.engine[item.id] = item
        if synced and not first:
            self.feed(EngineSnapshot(()))
        if synced:
            self.snapshot()

    # ---- time, disk, restart

    @property
    def now(self) -> Now:
        return Now(self.at_ms, WALL_MS + self.at_ms)

    @property
    def state(self) -> State:
        return self.kernel.state

    def feed(self, item: Input) -> list[AnyFact]:
        before = len(self.kernel.pending)
        self.kernel.feed(self.now, item)
        if self.state.observed.read_wanted:
            self.kernel.feed(self.now, VramRead(self.state.observed.gpus))
        facts = self.kernel.pending[before:]
        self.facts += facts
        if self.sync:
            self.sync_now()
        self._drain()
        return facts

    def sync_now(self) -> None:
        while (batch := self.kernel.take_batch()) is not None:
            self.journal += batch
            self.kernel.batch_durable(self.now)
        self._drain()

    def _drain(self) -> None:
        out = self.kernel.drain()
        self.actions += out.actions
        self.signals += out.signals
        for each in out.signals:
            self.kernel.feed(self.now, SignalSent(each.pid, each.started, each.signal, "sent"))
        for reply in out.replies:
            assert reply.request_id not in self.replies, "a request is answered once"
            self.replies[reply.request_id] = reply
        for deliver in out.reads:
            deliver()

    def advance(self, seconds: float) -> None:
        """Let time pass, ticking at every moment something falls due."""
        until_ms = self.at_ms + int(seconds * 1000)
        while (due := self.kernel.wake_at_ms) is not None and due <= until_ms:
            self.at_ms = max(self.at_ms, due)
            self.feed(Tick())
        self.at_ms = until_ms
        if not self.sync:
            return
        assert plan(self.state, self.now) == [], "a full plan finds nothing that the incremental one missed"

    def restart(self, down_s: float = 1.0, *, snapshot: bytes | None = None) -> None:
        """Crash, and come back from the journal alone."""
        self.at_ms += int(down_s * 1000)
        durable = self.state.durable
        state = rebuild(self.settings, snapshot, [self.journal])
        if not self.kernel.pending:
            assert freeze(state.durable) == freeze(durable), "a replay gives the very state that wrote the journal"
        self.kernel = Kernel(state)
        self.actions.clear()
        self.feed(Started("boot", self.at_ms, "test", first=False))

    # ---- the engine

    def snapshot(self) -> list[AnyFact]:
        return self.feed(EngineSnapshot(tuple(self.engine.values())))

    def show(self, container_id: str, **values: Any) -> list[AnyFact]:
        """Change a container and let the supervisor see it."""
        self.engine[container_id] = replace(self.engine[container_id], **values)
        return self.feed(ContainerSeen(self.engine[container_id]))

    def start(self, container_id: str, **values: Any) -> list[AnyFact]:
        """Somebody starts a container (healthy at once where it has a healthcheck)."""
        self.runs += 1
        known = self.engine[container_id]
        fresh = {
            "status": "running",
            "run": f"run-{self.runs}",
            "started_wall_ms": self.now.wall_ms,
            "age_ms": 1,
            "health": "healthy" if known.healthcheck else "none",
        }
        return self.show(container_id, **{**fresh, **values})

    def exit(self, container_id: str, code: int = 0) -> list[AnyFact]:
        return self.show(container_id, status="exited", exit_code=code, health="none")

    def add(self, item: Container) -> list[AnyFact]:
        self.engine[item.id] = item
        return self.feed(ContainerSeen(item))

    def remove(self, container_id: str) -> list[AnyFact]:
        del self.engine[container_id]
        return self.feed(ContainerGone(container_id))

    def take(self) -> list[Action]:
        """Return the calls that were asked for since the last time."""
        taken, self.actions = self.actions, []
        return taken

    def obey(self) -> list[Action]:
        """Carry out every call, and those that follow from it, as a sound engine does."""
        obeyed = []
        while self.actions:
            for action in self.take():
                obeyed.append(action)
                if isinstance(action, StartContainer):
                    self.start(action.id)
                else:
                    self.exit(action.id, 137)
                self.done(action)
        return obeyed

    def done(self, action: Action, outcome: str = "done", message: str = "") -> list[AnyFact]:
        return self.feed(ActionDone(action.id, action.kind, outcome, message))  # type: ignore[arg-type]

    # ---- callers

    def ask(self, target: str | None, owner: str = "ann", **values: Any) -> int:
        """Acquire; returns the request's id. Its token's hash is ``t<id>``, its lease or ticket ``l<id>``."""
        self.requests += 1
        terms = {"ttl_ms": 300_000, "priority": 0, "wait_ready": True}
        terms |= {key: values.pop(key) for key in list(values) if key in Terms.__struct_fields__}
        if terms.get("priority"):
            values.setdefault("priority_given", True)
        self.feed(
            Acquire(
                request_id=self.requests,
                id=f"l{self.requests}",
                token_hash=f"t{self.requests}",
                terms=Terms(target=target, owner=owner, **terms),
                **values,
            )
        )
        return self.requests

    def claim(self, of: int, **values: Any) -> int:
        self.requests += 1
        self.feed(Claim(request_id=self.requests, token_hash=f"t{of}", **values))
        return self.requests

    def renew(self, of: int) -> Reply:
        self.requests += 1
        self.feed(Renew(self.requests, f"t{of}"))
        return self.replies[self.requests]

    def release(self, of: int) -> Reply:
        self.requests += 1
        self.feed(Release(self.requests, f"t{of}"))
        return self.replies[self.requests]

    def release_by_key(self, scope: str) -> Reply:
        self.requests += 1
        self.feed(ReleaseByKey(self.requests, scope))
        return self.replies[self.requests]

    def lease(self, target: str, **values: Any) -> int:
        """Acquire a target and carry out what it takes until the caller is answered."""
        request = self.ask(target, **values)
        self.obey()
        return request

    def code(self, request: int) -> str:
        """Return how a request was answered: the refusal's code, or the name of the reply; "" while on the line."""
        reply = self.replies.get(request)
        if isinstance(reply, Refused):
            return reply.refusal.code
        return type(reply).__name__ if reply is not None else ""


def kinds(facts: list[AnyFact]) -> list[str]:
    return [type(fact).__name__ for fact in facts]
