"""A private engine that is terminated, killed, frozen and started again: the model is the truth afterwards."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import docker
import pytest

from supervisor.core.inputs import EngineContact, EngineLost, EngineSnapshot, StartHinted
from supervisor.core.model import RUNNING
from supervisor.core.replies import KillContainer
from tests.conftest import IMAGE, PrivateEngine
from tests.engine.conftest import QUICK, socket_path
from tests.engine.inbox import Inbox
from tests.engine.proxy import Proxy

POLICIES = ("no", "always", "unless-stopped", "on-failure")
IDLE = ("sleep", "3600")
WAYS = ("running", "stopped")

Truth = dict[str, tuple[str, str, int]]


def truth(engine: PrivateEngine) -> Truth:
    """id -> (status, run, exit code) of every labelled container, as the engine itself tells it."""
    found: Truth = {}
    with engine.api() as api:
        for row in api.containers(all=True, filters={"label": "gpu.target"}):
            with suppress(docker.errors.NotFound):
                state = api.inspect_container(row["Id"])["State"]
                run = "" if state["StartedAt"].startswith("0001") else state["StartedAt"]
                found[row["Id"]] = (state["Status"], run, state["ExitCode"])
    return found


def model(inbox: Inbox) -> Truth:
    return {found.id: (found.status, found.run, found.exit_code) for found in inbox.model.values()}


def create(
    engine: PrivateEngine, name: str, *, policy: str = "no", command: tuple[str, ...] = ("sleep", "3600"), **more
) -> str:
    with engine.api() as api:
        host = api.create_host_config(network_mode="none", restart_policy={"Name": policy}, **more)
        made = api.create_container(
            IMAGE, list(command), name=name, labels={"gpu.target": name}, host_config=host, stop_signal="SIGKILL"
        )
        return made["Id"]


@pytest.mark.parametrize("live_restore", [False, True], ids=["", "live-restore"])
@pytest.mark.parametrize("end", [PrivateEngine.terminate, PrivateEngine.kill], ids=["terminated", "killed"])
def test_after_a_restart_of_the_daemon_the_model_is_the_truth(
    watch, private_engine: PrivateEngine, end: Callable[[PrivateEngine], None], live_restore: bool
):
    if live_restore:
        private_engine.terminate()
        private_engine.start(live_restore=True)
    boxes = {
        (policy, way): create(private_engine, f"{policy}-{way}", policy=policy) for policy in POLICIES for way in WAYS
    }
    boxes["no", "dies"] = create(private_engine, "dies", command=("sleep", "1"))
    with private_engine.api() as api:
        for (_, way), box in boxes.items():
            api.start(box)
            if way == "stopped":
                api.stop(box, timeout=0)
    _, inbox = watch(private_engine.url)
    inbox.until(lambda: inbox.synced and set(boxes.values()) <= inbox.model.keys())
    after = inbox.mark()

    end(private_engine)
    lost = inbox.wait_for(EngineLost, after=after)
    private_engine.start(live_restore=live_restore)
    back_s = time.monotonic()

    again = inbox.wait_for(EngineSnapshot, after=inbox.inputs.index(lost))
    assert inbox.time_of(again) - back_s < 3.0, "in sync within three seconds after the API is back"
    inbox.until(lambda: model(inbox) == truth(private_engine), within_s=15, what="model == truth")
    # Contract: a stopped container comes back at a daemon restart if, and only if, its policy is "always".
    assert inbox.model[boxes["always", "stopped"]].status in RUNNING
    assert inbox.model[boxes["unless-stopped", "stopped"]].status == "exited"
    assert inbox.model[boxes["always", "running"]].status in RUNNING


def test_a_container_that_docker_starts_at_boot_is_hinted_at(watch, private_engine: PrivateEngine):
    box = create(private_engine, "boot", policy="always")
    with private_engine.api() as api:
        api.start(box)
        api.kill(box)
    _, inbox = watch(private_engine.url)
    inbox.seen(box, lambda seen: seen.status == "exited")
    after = inbox.mark()

    private_engine.kill()
    private_engine.start()

    inbox.wait_for(StartHinted, lambda hint: hint.id == box, after=after)
    inbox.seen(box, lambda seen: seen.status == "running", after=after)


def test_a_hung_engine_is_lost_within_four_seconds_and_nothing_of_ours_hangs(watch, private_engine: PrivateEngine):
    engine, inbox = watch(private_engine.url)
    inbox.wait_for(EngineContact)
    after = inbox.mark()
    began_s = time.monotonic()

    private_engine.freeze()

    lost = inbox.wait_for(EngineLost, after=after, within_s=6)
    assert inbox.time_of(lost) - began_s < 4.5
    assert lost.reason == "a ping failed: the engine did not answer in time"
    began_s = time.monotonic()
    assert engine.describe().startswith("Docker Engine ")
    assert engine.logs(f"{1:064x}", 5, 0.2) == ""
    engine.perform(KillContainer(f"{1:064x}"), inbox)
    assert time.monotonic() - began_s < 1

    thawed = inbox.mark()
    private_engine.thaw()
    inbox.wait_for(EngineSnapshot, after=thawed)
    assert inbox.answer(f"{1:064x}").outcome == "gone"


def test_close_is_prompt_while_the_engine_hangs(watch, private_engine: PrivateEngine):
    engine, inbox = watch(private_engine.url, pace=QUICK)
    inbox.wait_for(EngineContact)
    private_engine.freeze()
    inbox.wait_for(EngineLost)

    began_s = time.monotonic()
    engine.close()

    assert time.monotonic() - began_s < 2


def test_a_slow_start_of_one_container_does_not_delay_the_news_of_another(watch, private_engine: PrivateEngine):
    _, inbox = watch(private_engine.url)
    inbox.wait_for(EngineSnapshot)
    slow, quick = create(private_engine, "slow", runtime="slow"), create(private_engine, "quick")
    inbox.seen(slow, lambda _: True)
    with private_engine.api() as api:
        starting = threading.Thread(target=api.start, args=(slow,))
        starting.start()
        with private_engine.api() as other:
            other.start(quick)
            inbox.seen(quick, lambda seen: seen.runs, within_s=1.5)
            assert inbox.model[slow].status == "created"
        inbox.seen(slow, lambda seen: seen.runs)
        starting.join(10)


# ---- chaos

CHAOS_S = 22.0
OPERATIONS = ("start", "start", "start", "stop", "kill", "pause", "unpause", "rename", "remove")


@pytest.mark.timeout(300)
def test_chaos_and_the_model_is_the_truth_at_the_end(watch, private_engine: PrivateEngine, tmp_path_factory, capsys):
    """Three users, a daemon that is killed, frozen and cut off, and one who hears only what is posted."""
    seed = random.SystemRandom().randrange(10**6)
    proxy = Proxy(socket_path(tmp_path_factory), private_engine.url)
    _, inbox = watch(proxy.url)
    over = threading.Event()
    operations: list[str] = []
    users = [
        threading.Thread(
            target=_use, args=(private_engine, random.Random(seed * 10 + number), f"u{number}", over, operations)
        )
        for number in range(3)
    ]
    for user in users:
        user.start()

    trouble: list[str] = []
    for blow in _blows(random.Random(seed), private_engine, proxy, over):
        trouble.append(blow)
    over.set()
    for user in users:
        user.join(30)
    if not private_engine.runs:
        private_engine.start()

    inbox.until(lambda: inbox.synced, within_s=20, what="being in sync")
    inbox.until(lambda: _settled(private_engine, inbox), within_s=30, what=f"model == truth (seed {seed})")
    losses = sum(isinstance(item, EngineLost) for item in inbox.inputs)
    with capsys.disabled():
        print(f"\nchaos {seed}: {len(operations)} operations, blows: {trouble}, {losses} losses, model == truth")
    assert len(operations) > 50
    assert losses >= 3
    proxy.close()


def _settled(engine: PrivateEngine, inbox: Inbox) -> bool:
    """Crash loops go on: the truth is only comparable if it did not change while it was taken."""
    before = truth(engine)
    return model(inbox) == before and truth(engine) == before


def _blows(chance: random.Random, engine: PrivateEngine, proxy: Proxy, over: threading.Event) -> Iterator[str]:
    until_s = time.monotonic() + CHAOS_S
    while time.monotonic() < until_s:
        over.wait(chance.uniform(0.3, 2.0))
        match chance.choice(("kill", "cut", "cut", "freeze")):
            case "kill":
                began_s = time.monotonic()
                engine.kill()
                engine.start()
                until_s += time.monotonic() - began_s  # nobody does anything meanwhile
                yield "kill"
            case "cut":
                proxy.cut()
                yield "cut"
            case "freeze":
                engine.freeze()
                over.wait(chance.uniform(0.5, 5.0))
                engine.thaw()
                yield "freeze"


def _use(engine: PrivateEngine, chance: random.Random, user: str, over: threading.Event, done: list[str]) -> None:
    mine: list[str] = []
    # A name is used once: a create whose answer the daemon took along has taken its name all the same.
    names = (f"{user}-{number}" for number in itertools.count())
    while not over.is_set():
        with suppress(docker.errors.DockerException, OSError), engine.api(timeout=15) as api:
            if len(mine) < 3:
                command = chance.choice((IDLE, IDLE, ("sh", "-c", "sleep 0.5; exit 3")))
                mine.append(create(engine, next(names), policy=chance.choice(POLICIES), command=command))
            box = chance.choice(mine)
            operation = chance.choice(
                ("start", "start", "start", "stop", "kill", "pause", "unpause", "rename", "remove")
            )
            match operation:
                case "stop":
                    api.stop(box, timeout=0)
                case "rename":
                    api.rename(box, f"{next(names)}-renamed")
                case "remove":
                    mine.remove(box)
                    api.remove_container(box, force=True)
                case _:
                    getattr(api, operation)(box)
            done.append(operation)
        over.wait(chance.uniform(0, 0.15))
