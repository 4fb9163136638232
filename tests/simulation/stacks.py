"""The stacks of the simulated box, and what people do to them with ``docker`` and ``docker compose``."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.model import RUNNING
from tests.simulation.containers import ApiError, Behaviour, Done, Recipe, SimContainer
from tests.simulation.engine import SimEngine
from tests.simulation.timeline import Script

COMPOSE = "com.docker.compose."
MASTER = (("gpu.healthcheck-master", "true"),)
Labels = tuple[tuple[str, str], ...]


class Service(Struct, frozen=True, kw_only=True):
    """One service of a compose file. ``needs``: service -> condition. ``labels`` None: it is not ours."""

    name: str = "model"
    labels: Labels | None = MASTER
    needs: tuple[tuple[str, str], ...] = ()
    behaviour: Behaviour = Behaviour()
    healthcheck: bool = True
    restart: str = "no"
    grace_s: int = 10


class Stack(Struct, frozen=True, kw_only=True):
    """One compose file (``project`` "": plain ``docker create``). Services are in the order of their dependencies."""

    target: str
    project: str
    services: tuple[Service, ...]

    def recipe(self, service: Service, *, name: str = "", **values: object) -> Recipe:
        """What Compose creates for a service; ``values`` are labels of Compose that differ from the usual ones."""
        labels = {} if service.labels is None else {"gpu.target": self.target, **dict(service.labels)}
        if self.project:
            needs = ",".join(f"{other}:{condition}:false" for other, condition in service.needs)
            labels |= {
                f"{COMPOSE}project": self.project,
                f"{COMPOSE}service": service.name,
                f"{COMPOSE}container-number": "1",
                f"{COMPOSE}oneoff": "False",
                f"{COMPOSE}depends_on": needs,
                f"{COMPOSE}project.working_dir": f"/srv/{self.project}",
                **{f"{COMPOSE}{key}": str(value) for key, value in values.items()},
            }
        return Recipe(
            name=name or self.container_name(service),
            labels=labels,
            behaviour=service.behaviour,
            healthcheck=service.healthcheck,
            restart_policy=service.restart,
            stop_grace_s=service.grace_s,
        )

    def container_name(self, service: Service) -> str:
        return f"{self.project or self.target}-{service.name}-1"


def chain(**model: object) -> tuple[Service, ...]:
    """Every condition of Compose, and two services that are needed and not ours."""
    idle = Service(name="store", labels=None, healthcheck=False)
    job = Behaviour(exits_after_ms=300)
    migrate = Service(
        name="migrate", labels=None, healthcheck=False, behaviour=job, needs=(("store", "service_started"),)
    )
    conditions = (("store", "service_started"), ("migrate", "service_completed_successfully"))
    master = Service(needs=conditions, labels=(*MASTER, ("gpu.vram-mib", "8192")), **model)  # type: ignore[arg-type]
    web = Service(name="web", labels=(), healthcheck=False, needs=(("model", "service_healthy"),))
    return (idle, migrate, master, web)


#: What a box may have, by what is special about it.
SERVICES: dict[str, tuple[Service, ...]] = {
    "single": (Service(labels=(*MASTER, ("gpu.vram-mib", "16000"))),),
    "whole": (Service(behaviour=Behaviour(healthy_after_ms=3_000)),),
    "chain": chain(),
    "always": (Service(restart="always"),),
    "unless-stopped": (Service(restart="unless-stopped", grace_s=2, behaviour=Behaviour(term_ms=None)),),
    "stubborn": (Service(grace_s=3, behaviour=Behaviour(term_ms=None)),),
    "slow": (Service(behaviour=Behaviour(healthy_after_ms=12_000, term_ms=1_500)),),
    "crash": (Service(restart="always", behaviour=Behaviour(exits_after_ms=60, exit_code=7)),),
    "fails-late": (Service(restart="on-failure", behaviour=Behaviour(exits_after_ms=9_000, exit_code=3)),),
    "job": (Service(behaviour=Behaviour(exits_after_ms=7_000)),),
    "sick": (Service(behaviour=Behaviour(healthy_after_ms=None, unhealthy_after_ms=4_000)),),
    "falls-ill": (Service(behaviour=Behaviour(unhealthy_after_ms=15_000)),),
    "flaps": (Service(behaviour=Behaviour(flaps_every_ms=1_700)),),
    "refused": (Service(behaviour=Behaviour(start_error="exec: no such file")),),
    "never-ready": (Service(behaviour=Behaviour(healthy_after_ms=None)),),
    "too-big": (Service(labels=(*MASTER, ("gpu.vram-mib", "30000"))),),
    "no-check": (Service(healthcheck=False),),
    "no-master": (Service(labels=(("gpu.priority", "3"),)),),
    "bad-label": (Service(labels=(*MASTER, ("gpu.vram-mib", "8GiB"))),),
    "bad-target": (Service(labels=(*MASTER, ("gpu.target", "Not A Target"))),),
    "with-init": (
        Service(name="init", labels=(), healthcheck=False, behaviour=Behaviour(exits_after_ms=400)),
        Service(needs=(("init", "service_completed_successfully"),), labels=(*MASTER, ("gpu.priority", "5"))),
    ),
}
COMMON = ("single", "whole", "chain", "always", "stubborn", "with-init", "job", "slow")


def pick(rng: random.Random, gpus: int = 1) -> list[Stack]:
    """Choose the stacks of one box: some that work, and some with something special about them."""
    kinds = rng.sample(COMMON, 2) + rng.sample(sorted(set(SERVICES) - set(COMMON)), rng.randint(0, 2))
    stacks = [Stack(target=kind, project=f"p-{kind}", services=SERVICES[kind]) for kind in kinds]
    if rng.random() < 0.2:
        stacks.append(Stack(target="plain", project="", services=SERVICES["single"]))
    if rng.random() < 0.1:
        stacks.append(replace(stacks[0], project="p-other"))
    if rng.random() < 0.5:
        return stacks
    return [_sociable(rng, stack, [one.target for one in stacks], gpus) for stack in stacks]


def _sociable(rng: random.Random, stack: Stack, targets: list[str], gpus: int) -> Stack:
    """Let a stack share its GPU with some, and be small enough for that; or pin it."""
    labels = [
        ("gpu.coexist-with", rng.choice(("any", "any", "none", "@friends", ",".join([*targets, "@bare"])))),
        ("gpu.groups", rng.choice(("friends", "others"))),
    ]
    if rng.random() < 0.2:
        labels.append(("gpu.devices", rng.choice(("all", *map(str, range(gpus))))))
    if rng.random() < 0.2:
        labels.append(("gpu.min-residency", "3s"))
    if rng.random() < 0.3:
        labels.append(("gpu.max-holders", rng.choice(("2", "unlimited"))))
    smaller = ("gpu.vram-mib", str(rng.choice((2_000, 6_000, 11_000, 16_000))))
    services = []
    for service in stack.services:
        if service.labels is None:
            services.append(service)
            continue
        own = dict(service.labels)
        if "gpu.healthcheck-master" in own and rng.random() < 0.8:
            own |= dict([smaller])
        services.append(replace(service, labels=(*own.items(), *labels)))
    return replace(stack, services=tuple(services))


class People:
    """What people type. Every call may fail; they do not try again."""

    def __init__(self, engine: SimEngine, rng: random.Random) -> None:
        self._engine, self._rng = engine, rng

    def _call(self, make: Callable[[Done], object]) -> Callable[[Done], None]:
        """A call of the engine as something that a script can wait for."""
        return lambda resume: self._engine.call(lambda: make(resume), resume)

    def find(self, stack: Stack, service: Service) -> SimContainer | None:
        name = stack.container_name(service)
        return next((one for one in self._engine.containers.values() if one.name == name), None)

    def of(self, stack: Stack) -> list[SimContainer]:
        own = f"{stack.project or stack.target}-"
        return [one for one in self._engine.containers.values() if one.name.startswith(own)]

    def create(self, stack: Stack) -> None:
        for service in stack.services:
            if self.find(stack, service) is None:
                self._engine.create(stack.recipe(service))

    def start(self, id_: str) -> Script:
        yield self._call(lambda done: self._engine.start(id_, done))

    def stop(self, id_: str, grace_s: int = 10) -> Script:
        yield self._call(lambda done: self._engine.stop(id_, grace_s, done))

    def up(self, stack: Stack) -> Script:
        """``docker compose up -d``: create what is missing, start in order, wait for the conditions."""
        if self._engine.power != "up":
            return
        self.create(stack)
        for service in stack.services:
            yield from self._wait_for_needs(stack, service)
            container = self.find(stack, service)
            if container is None or self._needs(stack, service) is not True:
                return
            yield from self.start(container.id)

    def _wait_for_needs(self, stack: Stack, service: Service) -> Script:
        for _ in range(100):
            if self._needs(stack, service) is not None:
                return
            yield 100

    def _needs(self, stack: Stack, service: Service) -> bool | None:
        """True: it may start; False: it never will; None: not yet."""
        met = [self._met(stack, other, condition) for other, condition in service.needs]
        return False if False in met else None if None in met else True

    def _met(self, stack: Stack, name: str, condition: str) -> bool | None:
        service = next(one for one in stack.services if one.name == name)
        container = self.find(stack, service)
        if container is None:
            return False
        if condition == "service_completed_successfully":
            done = container.status == "exited"
            return None if not done else container.exit_code == 0
        if container.status not in RUNNING:
            return False
        return True if condition == "service_started" or container.health == "healthy" else None

    def down(self, stack: Stack) -> Script:
        """``docker compose down``: stop in reverse order, then remove; ``create`` again some time later."""
        for container in reversed(self.of(stack)):
            yield from self.stop(container.id, 3)
        for container in self.of(stack):
            yield from self._remove(container.id)
        yield self._rng.choice((500, 5_000, 30_000))
        if self._engine.power == "up":
            self.create(stack)

    def _remove(self, id_: str) -> Script:
        yield self._call(lambda done: self._engine.remove(id_, done, force=True))

    def recreate(self, stack: Stack) -> Script:
        """``docker compose up --force-recreate``: a new one beside the old one, under another name for a while."""
        for service in stack.services:
            old = self.find(stack, service)
            if old is None or self._engine.power != "up" or not stack.project:
                return
            final = old.name
            try:
                new = self._engine.create(stack.recipe(service, name=f"{old.id}_{final}", replace=old.id))
            except ApiError:
                return
            yield 20
            yield from self.stop(old.id, 3)
            yield from self._remove(old.id)
            yield self._call(lambda done, new=new, final=final: self._engine.rename(new, final, done))  # type: ignore[misc]
            yield from self.start(new)

    def run(self, stack: Stack) -> Script:
        """``docker compose run --rm``: a one-off with the labels of its service."""
        if self._engine.power != "up" or not stack.project:
            return
        service = self._rng.choice(stack.services)
        name = f"{stack.project}-{service.name}-run-{self._rng.getrandbits(24):06x}"
        recipe = stack.recipe(service, name=name, oneoff="True")
        lives_ms = self._rng.choice((50, 2_000, 30_000))
        behaviour = replace(recipe.behaviour, exits_after_ms=lives_ms, exit_code=0, start_error="")
        id_ = self._engine.create(replace(recipe, behaviour=behaviour, auto_remove=True, restart_policy="no"))
        yield from self.start(id_)

    def meddle(self, stack: Stack) -> Script:
        """One thing that somebody does to one container."""
        containers = self.of(stack)
        if not containers:
            return
        one = self._rng.choice(containers)
        what = self._rng.choice(("start", "start", "start", "stop", "kill", "pause", "unpause", "restart", "dies"))
        engine = self._engine
        if what == "restart":
            yield from self.stop(one.id, 1)
            yield from self.start(one.id)
        elif what == "stop":
            yield from self.stop(one.id, self._rng.randint(0, 5))
        elif what == "dies":
            engine.end(one, self._rng.choice((0, 1, 137)))
        else:
            calls = {"start": engine.start, "kill": engine.kill, "pause": engine.pause, "unpause": engine.unpause}
            yield self._call(lambda done: calls[what](one.id, done))

    def anything(self, stacks: list[Stack]) -> Iterator[object]:
        """Return one more thing that people do."""
        often = (self.meddle, self.meddle, self.meddle, self.meddle, self.up, self.up)
        acts = (*often, self.run, self.recreate, self.down)
        return self._rng.choice(acts)(self._rng.choice(stacks))
