"""One life of the supervisor's process: the kernel with its edges, as ``supervisor/pump.py`` drives them, in fake time.

What leaves the kernel goes to the simulated engine, disk and callers; what comes back is fed at once, or waits while
the process is stopped (SIGSTOP). Everything ends with ``end``: a call that is under way then still happens.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from supervisor.clock import Clock
from supervisor.core.facts import AnyFact
from supervisor.core.inputs import (
    ActionDone,
    CallerGone,
    Input,
    Outcome,
    Request,
    SignalSent,
    Started,
    StartPrevented,
    Tick,
    VramRead,
)
from supervisor.core.model import Now
from supervisor.core.replies import Action, Granted, KillContainer, Reply, SignalProcess, StartContainer, StopContainer
from supervisor.core.state import Settings
from supervisor.core.tripwire import verdict
from supervisor.kernel import Kernel
from tests.simulation.containers import ApiError, Done
from tests.simulation.disk import Disk
from tests.simulation.engine import SimEngine
from tests.simulation.gpu import GpuMemory
from tests.simulation.process_edge import ProcessEdge
from tests.simulation.processes import Processes
from tests.simulation.timeline import Timeline
from tests.simulation.watcher import Noise, Watcher

VRAM_POLL_MS = 100
#: How often the GPUs are read while nobody waits for it.
READ_EVERY_MS = 2_000
#: How long the supervisor waits for the engine's answer (``supervisor/engine/calls.py``); a stop's grace comes on top.
LIMIT_MS = {"kill": 20_000, "stop": 20_000, "start": 120_000}
SNAPSHOT_FACTS = 50


class Trouble(Struct):
    """What goes wrong with calls and the disk: chances per call, and how long a sync takes at most (milliseconds).

    ``unreachable``: it never arrives. ``refused``: the engine answers 500. ``unanswered``: it happens, and the answer
    is lost. ``late``: it happens after its caller has given up. ``slow``: it takes seconds.

    ``look_ms``, ``end_ms``: how long a look at the processes takes at most, and the news that one has ended.
    """

    unreachable: float = 0.0
    refused: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0
    slow: float = 0.0
    sync_ms: int = 3
    look_ms: int = 20
    end_ms: int = 2


class Waiting(Struct, eq=False):
    """A request whose caller is on the line. ``left``: it hung up, and nobody has noticed yet."""

    resume: Callable[[Reply | None], object]
    left: bool = False


class Observer(Protocol):
    """Sees every step before and after it, and everything that leaves."""

    def stepping(self, now: Now, item: Input) -> None: ...
    def decided(self, now: Now, item: Input, facts: list[AnyFact]) -> None: ...
    def stepped(self, now: Now, item: Input) -> None: ...
    def synced(self, facts: list[AnyFact]) -> None: ...
    def acting(self, now: Now, action: Action) -> None: ...
    def tripping(self, now: Now, container_id: str) -> None: ...
    def signalling(self, now: Now, signal: SignalProcess) -> None: ...
    def signalled(self, sent: SignalSent) -> None: ...
    def replying(self, now: Now, reply: Reply) -> None: ...


class Box(Struct, eq=False):
    """What one life finds and leaves: the machine around the process.

    ``below``: containers can be killed through their cgroups. ``tripwire``: it is armed.
    """

    timeline: Timeline
    rng: random.Random
    engine: SimEngine
    gpu: GpuMemory
    processes: Processes
    disk: Disk
    settings: Settings
    noise: Noise
    trouble: Trouble
    below: bool = False
    tripwire: bool = False


class Incarnation:
    def __init__(self, box: Box, observer: Observer) -> None:
        self.box, self.observer = box, observer
        state = box.disk.replay(box.settings)
        self.first = not state.durable.boot_id
        self.clock = Clock(state.durable, box.timeline.boot_id, box.timeline.boot_ms, box.timeline.wall_ms)
        self.kernel = Kernel(state)
        self.watcher = Watcher(box.timeline, box.engine, box.rng, box.noise, self.post)
        self.waiting: dict[int, Waiting] = {}
        self.calls: dict[str, Action] = {}
        self._under_way: Counter[str] = Counter()
        self.troubled_until_ms: dict[str, int] = {}
        self.ended = self.stopped = self.catching_up = False
        self.pauses = 0
        self._inbox: deque[Input] = deque()
        self._sync_waits: deque[tuple[bytes, int] | None] = deque()
        self._tick_at_ms: int | None = None
        self._reading = False
        self.read_at_ms = -1
        self.processes = ProcessEdge(self)
        self._facts_since_snapshot = 0
        self._requests = 0

    # ---- the process

    def begin(self, safe_mode: str = "") -> None:
        timeline = self.box.timeline
        self.post(Started(timeline.boot_id, timeline.boot_ms(), "simulated", self.first, safe_mode))
        self.watcher.watch()
        timeline.after(READ_EVERY_MS, self._read_now_and_then)

    def stop(self) -> None:
        """SIGSTOP: inputs wait, timers do not fire."""
        self.stopped = True
        self.pauses += 1

    def go_on(self) -> None:
        self.stopped, self.catching_up = False, True
        while self._inbox and not self.ended:
            self._feed(self._inbox.popleft())
        while self._sync_waits and not self.ended:
            self._synced(self._sync_waits.popleft())
        self._tick_at_ms = None
        if not self.ended:
            self._feed(Tick())
        self.catching_up = False
        self.wake()

    def end(self) -> None:
        """The process is gone; whoever was on the line sees its connection break."""
        self.ended = True
        self.watcher.close()
        for waiting in self.waiting.values():
            if not waiting.left:
                waiting.resume(None)
        self.waiting.clear()

    def post(self, item: Input) -> None:
        if self.ended:
            return
        if self.stopped:
            self._inbox.append(item)
        else:
            self._feed(item)

    def _feed(self, item: Input) -> None:
        now = self.clock.now()
        seq = self.kernel.state.durable.fact_seq
        self.observer.stepping(now, item)
        if isinstance(item, ActionDone):
            self._under_way[item.container_id] -= 1
            if not self._under_way[item.container_id]:
                del self.calls[item.container_id]
        self.kernel.feed(now, item)
        facts: list[AnyFact] = []
        for number, fact in reversed(self.kernel.recent):
            if number <= seq:
                break
            facts.append(fact)
        self.observer.decided(now, item, facts[::-1])
        self._let_out(now)
        self.observer.stepped(now, item)

    def _let_out(self, now: Now) -> None:
        out = self.kernel.drain()
        for action in out.actions:
            self.observer.acting(now, action)
            self._perform(action)
        for reply in out.replies:
            self.observer.replying(now, reply)
            self._answer(reply)
        for signal in out.signals:
            self.observer.signalling(now, signal)
            self.processes.send(signal)
        self._write()
        self.wake()
        self._read_gpus()
        self.processes.follow()

    # ---- disk, timers, GPUs

    def _write(self) -> None:
        batch = self.kernel.take_batch()
        if batch is None:
            return
        self._facts_since_snapshot += len(batch)
        snapshot = None
        if self._facts_since_snapshot > SNAPSHOT_FACTS and not self.kernel.pending:
            snapshot, self._facts_since_snapshot = self.kernel.freeze(), 0
        self.box.disk.write(batch)
        sync_ms = self.box.rng.randint(0, self.box.trouble.sync_ms)
        self.box.timeline.after(sync_ms, lambda: None if self.ended else self._synced(snapshot))

    def _synced(self, snapshot: tuple[bytes, int] | None) -> None:
        if self.stopped:
            # The disk's thread stands still as well; what it has to say comes behind what waits in the inbox.
            self._sync_waits.append(snapshot)
            return
        self.observer.synced(self.box.disk.sync())
        if snapshot is not None:
            self.box.disk.save_snapshot(*snapshot)
        now = self.clock.now()
        self.kernel.batch_durable(now)
        self._let_out(now)

    def wake(self) -> None:
        """Have the next timer fire on time."""
        due_ms = self.kernel.wake_at_ms
        if due_ms is None or self.ended:
            return
        at_ms = self.box.timeline.at_ms + max(0, due_ms - self.clock.now().at_ms)
        if self._tick_at_ms is None or at_ms < self._tick_at_ms:
            self._tick_at_ms = at_ms
            self.box.timeline.after(at_ms - self.box.timeline.at_ms, lambda: self._tick(at_ms))

    def _tick(self, at_ms: int) -> None:
        if at_ms != self._tick_at_ms or self.ended:
            return
        self._tick_at_ms = None
        due_ms = self.kernel.wake_at_ms
        if self.stopped:
            return
        if due_ms is not None and due_ms <= self.clock.now().at_ms:
            self._feed(Tick())
        else:
            self.wake()

    def _read_gpus(self) -> None:
        if self.kernel.state.observed.memory_wanted and not self._reading:
            self._reading = True
            self.box.timeline.after(self.box.rng.randint(0, VRAM_POLL_MS), self._read)

    def _read(self) -> None:
        self._reading = False
        if self.kernel.state.observed.memory_wanted:
            self._post_reading()

    def _read_now_and_then(self) -> None:
        if not self.ended:
            self._post_reading()
            self.box.timeline.after(READ_EVERY_MS, self._read_now_and_then)

    def _post_reading(self) -> None:
        if not self.stopped:
            self.read_at_ms = self.box.timeline.at_ms
            gpus = self.box.gpu.read()
            self.post(VramRead(gpus))
            self.processes.look_if_due(gpus)

    # ---- callers

    def ask(
        self, make: Callable[[int], Request], resume: Callable[[Reply | None], object], *, left: bool = False
    ) -> int:
        """Take a request; ``resume`` is called with its reply, or with None when the process ends before it.

        ``left``: its caller is gone already, which is noticed when the answer cannot be handed over.
        """
        self._requests += 1
        self.waiting[self._requests] = Waiting(resume, left)
        self.post(make(self._requests))
        return self._requests

    def leave(self, request_id: int, notice_ms: int) -> None:
        """A caller hangs up; the server notices in ``notice_ms``, or when it cannot hand over the answer."""
        waiting = self.waiting.get(request_id)
        if waiting is None:
            return
        waiting.left = True
        waiting.resume(None)
        self.box.timeline.after(notice_ms, lambda: self._notice(request_id))

    def _notice(self, request_id: int) -> None:
        if self.waiting.pop(request_id, None) is not None:
            self.post(CallerGone(request_id))

    def _answer(self, reply: Reply) -> None:
        waiting = self.waiting.pop(reply.request_id, None)
        if waiting is None:
            return
        if waiting.left:
            lease_id = reply.lease.id if isinstance(reply, Granted) else None
            self.box.timeline.after(0, lambda: self.post(CallerGone(reply.request_id, lease_id)))
        else:
            waiting.resume(reply)

    # ---- the tripwire

    def cgroup_made(self, container_id: str) -> bool:
        """Judge a container that somebody starts (``supervisor/cgroups/tripwire.py``). True: it was killed."""
        if self.ended or self.stopped:
            return False
        if verdict(self.kernel.state, container_id, self.kernel.unwritten()) != "refuse":
            return False
        self.observer.tripping(self.clock.now(), container_id)
        self.post(StartPrevented(container_id))
        return True

    # ---- calls

    def _perform(self, action: Action) -> None:
        box = self.box
        self.calls[action.id] = action
        self._under_way[action.id] += 1
        if box.below and isinstance(action, KillContainer):
            box.engine.kill_cgroup(action.id)
        answered = False

        def done(outcome: Outcome, message: str = "") -> None:
            nonlocal answered
            if answered or self.ended:
                return
            answered = True
            if outcome != "done":
                self.troubled_until_ms[action.id] = box.timeline.at_ms + 10_000
            self.post(ActionDone(action.id, action.kind, outcome, message))
            self.watcher.look_again(action.id)

        def take() -> None:
            _send(box.engine, action, lambda error: done(*_outcome(action, error)))

        limit_ms = LIMIT_MS[action.kind] + (action.grace_s * 1000 if isinstance(action, StopContainer) else 0)
        box.timeline.after(limit_ms, lambda: done("timeout", "the engine did not answer in time"))
        arrive_ms, lose_answer = self._fate(action, limit_ms, done)
        if arrive_ms is None:
            return
        arrived = (lambda: _send(box.engine, action, lambda _: None)) if lose_answer else take
        box.timeline.after(arrive_ms, lambda: box.engine.call(arrived, lambda error: done(*_outcome(action, error))))

    def _fate(self, action: Action, limit_ms: int, done: Callable[..., None]) -> tuple[int | None, bool]:
        """Decide when the call arrives (None: never), and whether its answer is lost."""
        rng, trouble = self.box.rng, self.box.trouble
        arrive_ms = rng.randint(0, 5)
        luck = rng.random()
        for chance in ("unreachable", "refused", "unanswered", "late", "slow"):
            luck -= getattr(trouble, chance)
            if luck < 0:
                break
        else:
            return arrive_ms, False
        self.troubled_until_ms[action.id] = self.box.timeline.at_ms + limit_ms + 10_000
        match chance:
            case "unreachable":
                self.box.timeline.after(arrive_ms, lambda: done("failed", "connection refused"))
                return None, False
            case "refused":
                self.box.timeline.after(arrive_ms, lambda: done("refused", "a device is missing"))
                return None, False
            case "unanswered":
                return arrive_ms, True
            case "late":
                return limit_ms + rng.randint(1, 5_000), True
            case _:
                return rng.randint(500, 5_000), False


def _send(engine: SimEngine, action: Action, done: Done) -> None:
    match action:
        case StartContainer():
            engine.start(action.id, done)
        case StopContainer():
            engine.stop(action.id, action.grace_s, done)
        case _:
            engine.kill(action.id, done)


def _outcome(action: Action, error: ApiError | None) -> tuple[Outcome, str]:
    """What the supervisor makes of an answer (``supervisor/engine/calls.py``)."""
    if error is None or (error.status == 409 and action.kind == "kill"):
        return "done", ""
    if error.status == 404:
        return "gone", str(error)
    return ("failed" if error.status == 0 else "refused"), str(error)
