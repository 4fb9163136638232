"""What goes wrong in a history: a swarm. Each seed enables some faults and leaves the others alone.

A history with every fault at once never gets anywhere; with a few at a time each combination is met some day.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor.core.inputs import ShutDown, StorageFull
from tests.simulation import daemon
from tests.simulation.processes import STRANGERS
from tests.simulation.timeline import Script

if TYPE_CHECKING:
    from tests.simulation.world import World


def enable(world: World) -> None:
    """Let the seed choose what goes wrong, and begin it."""
    rng = world.rng
    if world.processes.enabled:
        own = world.processes.rng
        box = world.box
        box.trouble.look_ms = own.choice((20, 500, 8_000))
        box.trouble.end_ms = own.choice((2, 2, 1_000))  # without a pidfd it is looked at once a second
        for script in (strangers, ends, sticks):
            world.timeline.drive(_repeat(world, script, own))
    for trouble in (_lines, _calls, _memory):
        if rng.random() < 0.4:
            trouble(world)
    chosen = [script for script in SCRIPTS if rng.random() < 0.25]
    for script in chosen:
        world.timeline.drive(_repeat(world, script))


def _repeat(world: World, script: Callable[[World], Script], rng: random.Random | None = None) -> Script:
    rng = rng or world.rng
    mean_ms = rng.choice((8_000, 25_000, 60_000))
    while not world.calm:
        yield rng.randint(0, 2 * mean_ms)
        if not world.calm:
            world.rules.unwell()
            world.note("fault", script.__name__)
            yield from script(world)
            world.note("over", script.__name__)
            world.rules.unwell()


def heal(world: World) -> None:
    """End everything that is wrong now; scripts that are in the middle of something come to an end by themselves."""
    box = world.box
    if box.noise.lost:
        world.rules.blinded(0)
    box.noise.lost = box.noise.doubled = 0.0
    trouble = box.trouble
    trouble.unreachable = trouble.refused = trouble.unanswered = trouble.late = trouble.slow = 0.0
    trouble.sync_ms = 3
    trouble.look_ms = 20
    box.gpu.mend()
    world.timeline.drive(_mend_processes(world))
    world.timeline.drive(_end_processes(world))


def _mend_processes(world: World) -> Script:
    """Processes that would not die do, and what starts to hang later on is none of ours."""
    for container in list(world.box.engine.containers.values()):
        world.box.engine.let_go(container)
    for process in list(world.processes.alive.values()):
        world.processes.let_go(process)
    yield 0


def _end_processes(world: World) -> Script:
    """Jobs are done after a while. Who stands by nothing stays, unless the supervisor is to end him."""
    yield 20_000
    for process in list(world.processes.alive.values()):
        owed = world.box.settings.process_policy == "terminate" or world.processes.rng.random() < 0.5
        if not process.gpus or process.story.ancestors or not owed:
            world.processes.end(process)


# ---- troubles that last for the whole history


def _lines(world: World) -> None:
    noise, rng = world.box.noise, world.rng
    noise.lost = rng.choice((0.0, 0.0, 0.02, 0.3))
    noise.doubled = rng.choice((0.0, 0.3))
    noise.event_ms = rng.choice((1, 3, 80))
    noise.answer_ms = rng.choice((2, 8, 80))


def _calls(world: World) -> None:
    trouble, rng = world.box.trouble, world.rng
    for chance in ("unreachable", "refused", "unanswered", "late", "slow"):
        if rng.random() < 0.4:
            setattr(trouble, chance, rng.choice((0.05, 0.2)))
    if rng.random() < 0.5:
        trouble.sync_ms = rng.choice((50, 1_000, 5_000))


def _memory(world: World) -> None:
    world.box.gpu.late = world.rng.choice((0.1, 0.5))
    world.box.gpu.never = world.rng.choice((0.0, 0.0, 0.1))
    world.box.gpu.silent = world.rng.random() < 0.3


# ---- scripts


def crash(world: World) -> Script:
    """kill -9, and a start a while later."""
    world.crash()
    yield world.rng.choice((1, 500, 8_000))
    world.start()


def stop_in_peace(world: World) -> Script:
    """SIGTERM: held requests are answered, leases and containers stay."""
    life = world.life
    if life is None or life.stopped:
        return
    on_the_line = {id_ for id_, waiting in life.waiting.items() if not waiting.left}
    pauses = life.pauses
    life.post(ShutDown("terminated"))
    yield 20 + world.box.trouble.sync_ms * 2
    if life is world.life:
        if life.pauses == pauses:
            world.rules.shut_down(on_the_line)
        world.crash()
    yield world.rng.choice((100, 3_000))
    world.start()


def damaged(world: World) -> Script:
    """A start with a damaged journal: known holders are enforced, nothing is granted, until it is mended."""
    world.crash()
    yield 500
    world.start("a bad record in the middle")
    yield 10_000
    world.crash()
    yield 100
    world.start()


def reboot(world: World) -> Script:
    """The power fails. Docker's own starts come before ours."""
    engine = world.box.engine
    world.crash()
    world.processes.power_cut()
    daemon.power_cut(engine)
    world.timeline.reboot()
    down = engine.incarnation
    yield world.rng.randint(1_000, 20_000)
    if engine.incarnation == down:
        daemon.come_back(engine, "killed")
    yield world.rng.randint(0, 3_000)
    world.start()


def pause(world: World) -> Script:
    """SIGSTOP of the supervisor: everything waits, and comes at once afterwards."""
    life = world.life
    if life is None:
        return
    life.stop()
    yield world.rng.choice((200, 3_000, 20_000))
    life.go_on()


def suspend(world: World) -> Script:
    """The lid is closed for a while: time passes, and nothing else happens."""
    world.timeline.suspend(world.rng.choice((5_000, 60_000, 3_600_000)))
    if world.life is not None:
        world.life.wake()
    yield 1


def step_clock(world: World) -> Script:
    """Somebody sets the wall clock. Events and inspects are told apart by it, so the line is as good as blind then."""
    world.rules.blinded(86_400_000)
    world.timeline.step_wall(world.rng.choice((-86_400_000, -2_000, 2_000, 86_400_000)))
    yield 1


def hang(world: World) -> Script:
    """The engine hangs."""
    engine = world.box.engine
    if engine.power != "up":
        return
    daemon.hang(engine)
    yield world.rng.choice((300, 3_000, 15_000))
    if engine.power == "hung":
        daemon.go_on(engine)


def restart_engine(world: World) -> Script:
    """The engine's daemon ends and comes back."""
    engine = world.box.engine
    if engine.power != "up":
        return
    how: daemon.How = world.rng.choice(("terminated", "killed", "live-restore"))
    daemon.go_down(engine, how)
    down = engine.incarnation
    yield world.rng.choice((300, 2_000, 12_000))
    if engine.incarnation == down:
        daemon.come_back(engine, how)


def cut(world: World) -> Script:
    """The line to the engine breaks."""
    if world.life is not None:
        world.life.watcher.shut("the connection was cut")
    yield 1


def fill_disk(world: World) -> Script:
    """The reserve cannot be had for a while."""
    if world.life is not None:
        world.life.post(StorageFull(True))
    yield world.rng.choice((500, 5_000, 20_000))
    if world.life is not None:
        world.life.post(StorageFull(False))


def stick(world: World) -> Script:
    """A process in state D: nothing ends it, until the driver lets go."""
    alive = [one for one in world.box.engine.containers.values() if one.alive]
    if not alive:
        return
    stuck = world.rng.choice(alive)
    stuck.unkillable = True
    yield world.rng.choice((3_000, 20_000, 60_000))
    world.box.engine.let_go(stuck)


def game(world: World) -> Script:
    """Somebody plays on a GPU that nobody granted."""
    key = world.box.gpu.play()
    yield world.rng.choice((1_000, 10_000, 40_000))
    world.box.gpu.held.pop(key, None)


# ---- scripts where processes are looked at


def strangers(world: World) -> Script:
    """Somebody's process comes to a GPU without asking."""
    rng, gpus = world.processes.rng, world.box.gpu.gpus
    on = tuple(gpu.uuid for gpu in rng.sample(gpus, rng.choice((1, len(gpus)))))
    lives_ms = rng.choice((None, 300, 4_000, 40_000))
    world.processes.start(gpus=tuple(sorted(on)), mib=rng.choice((30, 90)), lives_ms=lives_ms, **rng.choice(STRANGERS))
    yield 0


def ends(world: World) -> Script:
    """One process ends, and another one gets its pid."""
    alive = list(world.processes.alive.values())
    if alive:
        world.processes.end(world.processes.rng.choice(alive))
    yield from strangers(world)


def sticks(world: World) -> Script:
    """A process comes into state D for a while."""
    alive = list(world.processes.alive.values())
    if not alive:
        return
    stuck = world.processes.rng.choice(alive)
    stuck.unkillable = True
    yield world.processes.rng.choice((3_000, 30_000))
    world.processes.let_go(stuck)


SCRIPTS: tuple[Callable[[World], Script], ...] = (
    crash,
    crash,
    stop_in_peace,
    damaged,
    reboot,
    pause,
    suspend,
    step_clock,
    hang,
    restart_engine,
    cut,
    fill_disk,
    stick,
    game,
)
