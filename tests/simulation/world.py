"""One seed is one history: a box with its stacks, callers, people and faults, and then the proof that all is paid.

First everything that the seed enabled goes wrong, for some simulated minutes, with every rule checked at every step.
Then the box is healed: nothing breaks any more, nobody begins anything new, and everything owed must be paid.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from msgspec import Struct

from supervisor.core.facts import AnyFact
from supervisor.core.inputs import Input, OpenGpu, SignalSent
from supervisor.core.model import RUNNING, Gpu, Now
from supervisor.core.replies import Action, Reply, SignalProcess
from supervisor.core.state import Settings
from supervisor.core.targets import is_named
from tests.simulation import faults, processes, stacks
from tests.simulation.clients import Callers
from tests.simulation.disk import JournaledDisk, SimDisk
from tests.simulation.engine import SimEngine
from tests.simulation.gpu import SETS, GpuMemory
from tests.simulation.incarnation import Box, Incarnation, Trouble
from tests.simulation.ledger import require
from tests.simulation.processes import Processes, SimProcess
from tests.simulation.rules import Rules
from tests.simulation.timeline import Script, Timeline
from tests.simulation.watcher import Noise

ACTIVE_MS = 180_000
HEAL_MS = 240_000
TRACE = 40
#: The share of histories that are written into the real journal, on a file system in memory.
REAL_JOURNAL = 0.15
#: In so many of all histories kills go through the cgroup as well, and in so many the tripwire is armed too.
WITH_CGROUPS, WITH_TRIPWIRE = 0.5, 0.3
#: The share of histories in which bare leases are tied to processes, and the processes on the GPUs are looked at.
WITH_PROCESSES = 0.35


class Outcome(Struct):
    """What a history came to. ``lives_ms``: how long unleased containers lived that were started while all was well."""

    seed: int
    steps: int
    facts: int
    restarts: int
    grants: int
    signals: int
    simulated_ms: int
    lives_ms: list[int]


class World:
    def __init__(self, seed: int, *, trace: int = TRACE, with_processes: float = WITH_PROCESSES) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.timeline = Timeline()
        self.calm = False
        self.life: Incarnation | None = None
        engine = SimEngine(self.timeline)
        gpus = rng.choices(*zip(*SETS, strict=True))[0]
        memory = GpuMemory(self.timeline, rng, gpus)
        # Of their own luck: a history without them is what it was before there were any.
        luck = random.Random(f"processes of {seed}")
        self.processes = Processes(self.timeline, luck, memory, enabled=luck.random() < with_processes)
        self.box = Box(
            timeline=self.timeline,
            rng=rng,
            engine=engine,
            gpu=memory,
            processes=self.processes,
            disk=JournaledDisk() if rng.random() < REAL_JOURNAL else SimDisk(),
            settings=_settings(rng, gpus),
            noise=Noise(),
            trouble=Trouble(),
        )
        depth = random.Random(f"below the engine of {seed}").random()
        self.box.below, self.box.tripwire = depth < WITH_CGROUPS, depth < WITH_TRIPWIRE
        if self.processes.enabled:
            self.box.settings = processes.settings(luck, self.box.settings)
        self.processes.on_end = self._tied_process_ended
        self.rules = Rules(self.box)
        self.trace: deque[tuple[int, str, Any]] = deque(maxlen=trace)
        engine.on_cgroup = self._cgroup_made
        engine.on_start = self._process_started
        engine.on_death = self._process_died
        self.where: dict[str | None, tuple[str, ...]] = {}
        self.stacks = stacks.pick(rng, len(gpus))
        self.targets = sorted({stack.target for stack in self.stacks})
        self.people = stacks.People(engine, rng)
        self.callers = Callers(self)

    # ---- the history

    def play(self, active_ms: int = ACTIVE_MS) -> Outcome:
        """Live through the whole history.

        Raises:
            Violation, AssertionError: a rule did not hold.
        """
        for stack in self.stacks:
            if self.rng.random() < 0.9:
                self.people.create(stack)
                if self.rng.random() < 0.3:
                    self.timeline.drive(self.people.up(stack))
        self.timeline.run(self.rng.randint(0, 3_000))
        self.start()
        for _ in range(self.rng.randint(2, 12)):
            self.timeline.drive(self._callers())
        self.timeline.drive(self._people())
        faults.enable(self)
        self.timeline.run(self.timeline.at_ms + active_ms)
        self._heal()
        self.timeline.run(self.timeline.at_ms + HEAL_MS)
        self._drain_queue()
        self._open_gpus()
        self._settle_accounts()
        return self._outcome()

    def _callers(self) -> Script:
        pace_ms = self.rng.choice((200, 1_000, 4_000))
        while not self.calm:
            yield self.rng.randint(0, 2 * pace_ms)
            if not self.calm:
                yield from self.callers.anybody()

    def _people(self) -> Script:
        pace_ms = self.rng.choice((1_000, 4_000, 12_000))
        while not self.calm:
            yield self.rng.randint(0, 2 * pace_ms)
            if not self.calm:
                yield from self.people.anything(self.stacks)

    def _heal(self) -> None:
        """Nothing goes wrong any more, and nobody begins anything new."""
        self.note("healed", "")
        self.calm = True
        faults.heal(self)
        self.timeline.drive(self.callers.end_adopted())

    def _drain_queue(self) -> None:
        """Each ticket that nobody claims any more takes one claim window."""
        assert self.life is not None
        durable = self.life.kernel.state.durable
        for _ in range(len(durable.tickets) + 1):
            if durable.tickets:
                self.timeline.run(self.timeline.at_ms + self.box.settings.claim_window_ms)
        self.timeline.run(self.timeline.at_ms + 1_000)

    def _open_gpus(self) -> None:
        """Where the driver does not say who uses what, a person looks, and opens what stayed closed."""
        assert self.life is not None
        for uuid in list(self.life.kernel.state.observed.dirty) if self.box.gpu.silent else ():
            self.life.ask(lambda number, uuid=uuid: OpenGpu(number, uuid), lambda _: None)
        self.timeline.run(self.timeline.at_ms + 1_000)

    def _settle_accounts(self) -> None:
        """Everything owed is paid: every request answered, the queue empty, no lease, nothing runs without a right."""
        assert self.life is not None
        rules, state = self.rules, self.life.kernel.state
        observed = state.observed
        require(observed.synced, "in sync again")
        require(not self.life.waiting, "every caller on the line is answered")
        require(not observed.holds, "nobody is on the line")
        require(not state.durable.tickets, "the queue has drained")
        adopted = all(lease.adopted for lease in state.durable.leases.values())
        require(adopted, "the leases of those who died have expired, the others were given back")
        require(not observed.calls, "no call is under way")
        require(not observed.dirty, "the GPU has opened again")
        require(not self.life.kernel.pending, "all facts are on disk")
        rules.compare_replay(state)
        rules.processes.settle(rules.decided)
        running = {one.target for one in self.box.engine.containers.values() if one.status in RUNNING}
        require(
            state.durable.residents.keys() <= running, "a residency ends some time after the last of it has stopped"
        )
        for container in self.box.engine.containers.values():
            if container.target is None:
                continue
            seen = observed.containers.get(container.id)
            require(seen is not None and seen.status == container.status, "what is seen is what is true")
            verdict = rules.decided.may_run(container.target, container.shown.project)
            strict = self.box.settings.mode == "stop"
            require(
                verdict != "no" or container.status not in RUNNING or not strict,
                f"nothing runs without the right to: {container.name} does",
            )

    def _outcome(self) -> Outcome:
        return Outcome(
            seed=self.seed,
            steps=self.rules.steps,
            facts=len(self.box.disk.facts()),
            restarts=self.rules.restarts,
            grants=len(self.rules.on_disk.granted),
            signals=self.rules.processes.signals,
            simulated_ms=self.timeline.at_ms,
            lives_ms=self.rules.lives_ms,
        )

    # ---- the supervisor's process

    def start(self, safe_mode: str = "") -> None:
        """Start the supervisor, unless it runs."""
        if self.life is not None:
            return
        self.note("starts", safe_mode)
        life = Incarnation(self.box, self)
        self.rules.begins(life)
        self.life = life
        life.begin(safe_mode)

    def crash(self) -> None:
        """kill -9: what was being synced is on disk, or not."""
        if self.life is None:
            return
        self.note("crashes", "")
        life, self.life = self.life, None
        safe = bool(life.kernel.state.observed.safe_mode)
        life.end()
        kept = self.box.disk.crash(self.rng)
        if not safe:
            self.rules.synced(kept)
        self.rules.ends()

    # ---- Observer

    def note(self, what: str, detail: Any) -> None:
        self.trace.append((self.timeline.at_ms, what, detail))

    def stepping(self, now: Now, item: Input) -> None:
        self.trace.append((now.at_ms, "input", item))
        self.rules.stepping(now, item)

    def decided(self, now: Now, item: Input, facts: list[AnyFact]) -> None:
        for fact in facts:
            self.trace.append((now.at_ms, "  fact", fact))
        self.rules.decide(facts)

    def stepped(self, now: Now, item: Input) -> None:
        self.rules.stepped(now, item)

    def synced(self, facts: list[AnyFact]) -> None:
        self.rules.synced(facts)

    def acting(self, now: Now, action: Action) -> None:
        self.trace.append((now.at_ms, "  action", action))
        self.rules.acting(now, action)

    def tripping(self, now: Now, container_id: str) -> None:
        self.trace.append((now.at_ms, "  trips", container_id))
        self.rules.tripping(container_id)

    def signalling(self, now: Now, signal: SignalProcess) -> None:
        self.trace.append((now.at_ms, "  signal", signal))
        self.rules.signalling(now, signal)

    def signalled(self, sent: SignalSent) -> None:
        self.rules.signalled(sent)

    def replying(self, now: Now, reply: Reply) -> None:
        self.trace.append((now.at_ms, "  reply", reply))
        self.rules.replying(now, reply)

    def _cgroup_made(self, container: Any) -> bool:
        return self.box.tripwire and self.life is not None and self.life.cgroup_made(container.id)

    def _tied_process_ended(self, process: SimProcess) -> None:
        self.note("ended", process.tie)
        if self.life is not None:
            self.life.processes.ended(process.tie)

    def _process_started(self, container: Any) -> None:
        self.note("runs", (container.name, container.id))
        self.box.gpu.take(container, self._gpus_of(container))
        self.rules.started(container)

    def _process_died(self, container: Any) -> None:
        self.note("died", (container.name, container.id))
        self.box.gpu.give_back(container)
        self.rules.died(container)

    def _gpus_of(self, container: Any) -> tuple[str, ...]:
        """Where a process loads: on its own GPUs if it is pinned, else where the supervisor put its target."""
        target, gpus = container.target, self.box.gpu.gpus
        every = container.shown.all_devices
        pinned = tuple(gpu.uuid for gpu in gpus if every or is_named(gpu, container.shown.devices))
        first = pinned or (gpus[0].uuid,)
        if target is None or self.life is None:
            return self.where.get(target, first)
        state = self.life.kernel.state
        lease, resident = state.lease_of(target), state.durable.residents.get(target)
        granted = lease.gpus if lease is not None else resident.gpus if resident is not None else ()
        self.where[target] = pinned or granted or self.where.get(target, first)
        return self.where[target]


def _settings(rng: random.Random, gpus: tuple[Gpu, ...]) -> Settings:
    return Settings(
        mode=rng.choices(("stop", "observe", "adopt"), (80, 10, 10))[0],
        aging_per_minute=rng.choice((0.0, 1.0, 1.0, 30.0)),
        ttl_min_ms=rng.choice((2_000, 10_000)),
        claim_window_ms=rng.choice((3_000, 10_000)),
        queue_max=rng.choice((3, 20_000)),
        gpus=gpus,
        placement=rng.choice(("pack", "spread")),
        headroom_mib=rng.choice((0, 0, 512)),
        min_residency_ms=rng.choice((0, 0, 4_000)),
        idle_timeout_ms=rng.choice((0, 0, 8_000)),
        max_hold_ms=rng.choice((0, 0, 9_000)),
        affinity_points=rng.choice((0.0, 0.5, 5.0)),
    )


def describe(world: World) -> str:
    """Tell the end of a history, one line each."""
    return "\n".join(f"{at_ms:>9} {what:<9} {detail}" for at_ms, what, detail in world.trace)
