"""The pump: one owner of the state, a disk that may be slow, full or broken, and callers that hang up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from supervisor.clock import Clock
from supervisor.core.facts import AnyFact, LeaseEnded, LeaseGranted, RoomVerified, SignalFailed
from supervisor.core.inputs import (
    Acquire,
    ActionDone,
    ContainerSeen,
    EngineContact,
    EngineLost,
    EngineSnapshot,
    Input,
    ProcessesSeen,
    Release,
    Renew,
    Sent,
    Started,
)
from supervisor.core.model import Container, Gpu, Terms
from supervisor.core.processes import SeenProcess, Use
from supervisor.core.replies import Action, Granted, Queued, Refused, Released, Renewed
from supervisor.core.state import Durable, Settings, State
from supervisor.gpu.load import Load
from supervisor.gpu.reading import Reading
from supervisor.gpu.sim import SimulatedGpus
from supervisor.kernel import Kernel
from supervisor.pump import Pump
from supervisor.writer import Writer
from tests.core.box import container

GPUS = (Gpu("SIM-0", total_mib=24_576, used_mib=0),)


class SlowDisk:
    """A journal in memory whose syncs can be held, whose room can run out, and that can break."""

    ballast_bytes = 1 << 20

    def __init__(self) -> None:
        self.facts: list[AnyFact] = []
        self.open = threading.Event()
        self.open.set()
        self.room = 64 << 20
        self.broken = False

    def write(self, facts: list[AnyFact]) -> None:
        assert self.open.wait(20)
        if self.broken:
            raise OSError("I/O error")
        self.facts += facts

    def headroom_bytes(self) -> int:
        return self.room

    def replenish(self) -> bool:
        return True

    def save_snapshot(self, payload: bytes, fact_seq: int) -> None:
        raise AssertionError("no snapshot is due in these tests")

    def history(self, after: int, limit: int) -> list[tuple[int, AnyFact]]:
        return list(enumerate(self.facts, 1))[after : after + limit]


class ObedientEngine:
    """Carries out every call at once and reports it."""

    def __init__(self, *containers: Container) -> None:
        self.containers = {item.id: item for item in containers}
        self.performed: list[Action] = []
        self.post: Callable[[Input], None] = lambda _: None

    def watch(self, post: Callable[[Input], None]) -> None:
        self.post = post
        post(EngineSnapshot(tuple(self.containers.values())))

    def start(self, container_id: str, **values: object) -> None:
        known = self.containers[container_id]
        fresh = {"status": "running", "health": "healthy", "run": f"{known.run}+", "age_ms": 1, **values}
        self.containers[container_id] = replace(known, **fresh)
        self.post(ContainerSeen(self.containers[container_id]))

    def perform(self, action: Action, done: Callable[[ActionDone], None]) -> None:
        self.performed.append(action)
        if action.kind == "start":
            self.start(action.id)
        else:
            self.containers[action.id] = replace(self.containers[action.id], status="exited", exit_code=137)
            self.post(ContainerSeen(self.containers[action.id]))
        done(ActionDone(action.id, action.kind, "done"))

    def logs(self, container_id: str, lines: int, timeout_s: float) -> str:
        return ""

    def close(self) -> None:
        pass


class SlowDriver:
    """GPUs of which nothing is known before the test says so, in a thread of its own, as the driver's are."""

    def __init__(self) -> None:
        self.asked = 0
        self._report: Callable[[Reading], None] = lambda _: None

    def start(self, report: Callable[[Reading], None]) -> None:
        self._report = report

    def read_soon(self, _loads: Sequence[Load]) -> None:
        self.asked += 1

    def close(self) -> None:
        pass

    def answer(self, gpus: tuple[Gpu, ...], problem: str = "") -> None:
        reading = Reading(gpus=gpus, problem=problem, began_s=time.monotonic(), took_s=0.1)
        thread = threading.Thread(target=self._report, args=(reading,))
        thread.start()
        thread.join()


class Rig:
    def __init__(self, *containers: Container, driver: SlowDriver | None = None) -> None:
        self.disk = SlowDisk()
        self.engine = ObedientEngine(*containers)
        self.told: list[AnyFact] = []
        kernel = Kernel(State(Settings(gpus=() if driver else GPUS)))
        clock = Clock(Durable(), "boot")
        gpus = driver or SimulatedGpus(GPUS)
        self.pump = Pump(kernel, self.disk, self.engine, gpus, clock, self._tell)

    def _tell(self, facts: list[tuple[int, AnyFact]]) -> None:
        self.told += [fact for _, fact in facts]

    def acquire(self, target: str | None, **values: object) -> asyncio.Task[object]:
        request_id = self.pump.next_request_id()
        terms = Terms(target=target, owner="ann", priority=0, ttl_ms=60_000)
        request = Acquire(
            request_id=request_id, id=f"l{request_id}", token_hash=f"t{request_id}", terms=terms, **values
        )
        return asyncio.ensure_future(self.pump.ask(request))


@asynccontextmanager
async def rig(*containers: Container, driver: SlowDriver | None = None) -> AsyncIterator[Rig]:
    made = Rig(*containers, driver=driver)
    task = asyncio.ensure_future(made.pump.run(Started("boot", 0, "v", first=False)))
    made.engine.watch(made.pump.post)
    try:
        yield made
    finally:
        made.disk.open.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # each turn lets the pump's own task run; there is no event to wait for
            await asyncio.sleep(0)


def run(story: Callable[[], object]) -> None:
    asyncio.run(story())


def test_a_lease_is_granted_started_answered_renewed_and_released():
    async def story() -> None:
        async with rig(container("a")) as box:
            reply = await box.acquire("a")
            assert isinstance(reply, Granted)
            assert any(isinstance(fact, LeaseGranted) for fact in box.disk.facts)
            assert isinstance(await box.pump.ask(Renew(99, "t1")), Renewed)
            assert await box.pump.ask(Release(100, "t1")) == Released(100, True)
            await until(lambda: box.told and isinstance(box.told[-1], LeaseEnded))

    run(story)


def test_an_answer_does_not_wait_for_the_log_and_the_log_misses_nothing_at_the_end():
    async def answered_first() -> bool:
        async with rig() as box:
            await until(lambda: box.disk.facts and box.told == box.disk.facts)
            assert isinstance(await box.acquire(None), Granted)
            told = any(isinstance(fact, RoomVerified) for fact in box.told)
        assert box.told == box.disk.facts
        return not told

    async def story() -> None:
        # On a machine that is busy with other things a sync may take longer than the log is made to wait.
        assert any([await answered_first() for _ in range(5)])

    run(story)


def test_the_log_is_told_few_facts_at_a_time_so_that_it_holds_up_nothing(monkeypatch):
    monkeypatch.setattr("supervisor.telling.TELL_MAX", 2)

    async def story() -> None:
        async with rig() as box:
            await until(lambda: box.disk.facts and box.told == box.disk.facts)
            tickets = [box.acquire(None, on_busy="ticket") for _ in range(9)]
            await asyncio.gather(*tickets)
            sizes = set()
            while box.told != box.disk.facts:
                before = len(box.told)
                await asyncio.sleep(0)
                sizes.add(len(box.told) - before)
        assert max(sizes) == 2

    run(story)


def test_a_renewal_is_answered_where_it_is_asked_for_and_waits_for_nobody():
    async def story() -> None:
        async with rig() as box:
            await box.acquire(None)
            box.disk.open.clear()
            waiting = box.acquire(None, on_busy="ticket")
            await asyncio.sleep(0)
            asking = box.pump.ask(Renew(99, "t1"))
            with pytest.raises(StopIteration) as told:
                asking.send(None)
            assert isinstance(told.value.value, Renewed)
            assert not waiting.done()
            box.disk.open.set()
            await waiting

    run(story)


def test_who_asks_first_has_a_turn_at_once_and_those_of_the_same_round_have_one_together(monkeypatch):
    turns = []
    turn = Pump._turn
    monkeypatch.setattr(Pump, "_turn", lambda pump, now: turns.append(len(pump._inbox)) or turn(pump, now))

    async def story() -> None:
        async with rig() as box:
            await until(lambda: box.disk.facts and box.told == box.disk.facts)
            turns.clear()
            tickets = [box.acquire(None, on_busy="ticket") for _ in range(9)]
            await asyncio.sleep(0)
            assert turns == [1], "the first one does not wait for the others"
            await asyncio.gather(*tickets)
            assert [size for size in turns if size] == [1, 8]

    run(story)


def test_what_goes_wrong_in_a_turn_ends_the_owner_and_not_who_asked(monkeypatch):
    async def story() -> None:
        box = Rig()
        owner = asyncio.ensure_future(box.pump.run(Started("boot", 0, "v", first=False)))
        box.engine.watch(box.pump.post)
        await until(lambda: box.pump.kernel.state.observed.synced and box.pump.kernel.rests)
        monkeypatch.setattr(box.pump.kernel, "take_batch", lambda: 1 / 0)
        asked = box.acquire(None)
        with pytest.raises(ZeroDivisionError):
            await owner
        assert not asked.done()
        asked.cancel()

    run(story)


def test_who_is_granted_the_gpu_hears_of_it_before_who_gave_it_back():
    async def story() -> None:
        async with rig() as box:
            await box.acquire(None)
            answered: list[str] = []
            waiter = box.acquire(None, wait_ms=60_000)
            await until(lambda: box.pump.kernel.state.queue)
            giver = asyncio.ensure_future(box.pump.ask(Release(99, "t1")))
            for name, task in (("giver", giver), ("waiter", waiter)):
                task.add_done_callback(lambda _task, name=name: answered.append(name))
            await asyncio.gather(giver, waiter)
        assert answered == ["waiter", "giver"]

    run(story)


@pytest.fixture
def stood_by(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long at most the loop stood by the disk, each time that it did. A busy machine may take its time."""
    waits: list[float] = []
    wait = Writer.wait
    monkeypatch.setattr("supervisor.pump.STAND_BY_S", 10.0)
    monkeypatch.setattr(Writer, "wait", lambda writer, s: waits.append(s) or wait(writer, s))
    return waits


async def rest(box: Rig) -> None:
    """Let the loop go round until nothing of what was asked before is left in it."""
    await until(lambda: box.pump.kernel.rests and not box.pump._inbox)
    for _ in range(5):
        await asyncio.sleep(0)


async def quiet(box: Rig, stood_by: list[float]) -> None:
    """Let somebody have the GPU, and then nobody ask for a while: whoever asks next is alone."""
    await box.acquire(None)
    await box.acquire(None, on_busy="ticket")
    await rest(box)
    stood_by.clear()


def test_who_asks_alone_is_answered_on_the_spot(stood_by: list[float]):
    async def story() -> None:
        async with rig() as box:
            await box.acquire(None)
            await box.pump.ask(Release(98, "t1"))
            await rest(box)
            stood_by.clear()
            terms = Terms(target=None, owner="ann", priority=0, ttl_ms=60_000)
            for request in (Acquire(request_id=90, id="l90", token_hash="t90", terms=terms), Release(91, "t90")):
                asking = box.pump.ask(request)
                with pytest.raises(StopIteration):
                    asking.send(None)
                assert isinstance(box.disk.facts[-1], RoomVerified | LeaseEnded), "and what it rests on is on disk"
                await rest(box)
        assert len(stood_by) == 2

    run(story)


def test_the_loop_stands_by_a_disk_for_a_moment_and_not_again_while_it_is_slow(
    stood_by: list[float], monkeypatch: pytest.MonkeyPatch
):
    async def story() -> None:
        async with rig() as box:
            await quiet(box, stood_by)
            monkeypatch.setattr("supervisor.pump.STAND_BY_S", 1e-4)
            box.disk.open.clear()
            waiting = box.acquire(None, on_busy="ticket")
            for _ in range(5):
                await asyncio.sleep(0)
            assert stood_by == [1e-4]
            assert isinstance(await box.pump.ask(Renew(99, "t1")), Renewed), "the loop goes on"
            assert not waiting.done()
            box.disk.open.set()
            await waiting
            await rest(box)
            await box.acquire(None, on_busy="ticket")
            assert stood_by == [1e-4], "the last one was slow"
            monkeypatch.setattr("supervisor.pump.STAND_BY_S", 10.0)
            await rest(box)
            await box.acquire(None, on_busy="ticket")
            assert stood_by == [1e-4, 10.0], "this one was not"

    run(story)


@pytest.mark.parametrize("when", ["in the same round", "while it was waited for"])
def test_the_loop_stands_by_no_disk_where_others_ask(stood_by: list[float], monkeypatch: pytest.MonkeyPatch, when: str):
    async def story() -> None:
        async with rig() as box:
            await quiet(box, stood_by)
            others: list[asyncio.Task[object]] = []

            def more_ask(_seconds: float = 0) -> None:
                others.extend(box.acquire(None, on_busy="ticket") for _ in range(3))

            with monkeypatch.context() as patch:
                if when == "while it was waited for":
                    patch.setattr(Writer, "wait", lambda writer, s: more_ask() or stood_by.append(s))
                first = box.acquire(None, on_busy="ticket")
                if when == "in the same round":
                    more_ask()
                await first
            await asyncio.gather(*others)
            assert len(stood_by) == 1, "nobody knew yet that they would"
            await rest(box)
            await box.acquire(None, on_busy="ticket")
            assert len(stood_by) == 1
            await rest(box)
            await box.acquire(None, on_busy="ticket")
            assert len(stood_by) == 2, "and that was the only one"

    run(story)


def test_a_report_that_comes_while_the_loop_stands_by_is_taken_in_right_after(stood_by: list[float]):
    async def story() -> None:
        async with rig(container("a")) as box:
            await quiet(box, stood_by)
            write = box.disk.write

            def write_and_report(facts: list[AnyFact]) -> None:
                box.engine.start("a-main")
                write(facts)

            box.disk.write = write_and_report
            asking = box.acquire(None, on_busy="ticket")
            await asyncio.sleep(0)
            assert len(stood_by) == 1
            assert [action.kind for action in box.engine.performed] == ["kill"], "it holds no lease"
            box.disk.write = write
            await asking

    run(story)


def test_a_reading_that_comes_while_the_loop_stands_by_is_not_overheard(
    stood_by: list[float], monkeypatch: pytest.MonkeyPatch
):
    async def story() -> None:
        driver = SlowDriver()
        async with rig(driver=driver) as box:
            await until(lambda: box.pump.kernel.rests and box.pump.kernel.state.observed.synced)
            driver.answer(GPUS)
            holder = box.acquire(None)
            await until(lambda: box.pump.kernel.state.durable.leases)
            driver.answer(GPUS)
            await holder
            await box.acquire(None, on_busy="ticket")
            await rest(box)
            stood_by.clear()
            closer = (replace(GPUS[0], used_mib=1),)
            patched = Writer.wait
            monkeypatch.setattr(Writer, "wait", lambda writer, s: driver.answer(closer) or patched(writer, s))
            await box.acquire(None, on_busy="ticket")
            assert len(stood_by) == 1
            await until(lambda: box.pump.kernel.state.observed.gpus == closer)

    run(story)


def test_a_disk_that_breaks_while_the_loop_stands_by_ends_the_task_and_nothing_is_answered(stood_by: list[float]):
    async def story() -> None:
        box = Rig()
        owner = asyncio.ensure_future(box.pump.run(Started("boot", 0, "v", first=False)))
        box.engine.watch(box.pump.post)
        await quiet(box, stood_by)
        box.disk.broken = True
        asked = box.acquire(None, on_busy="ticket")
        with pytest.raises(OSError, match="I/O error"):
            await owner
        assert len(stood_by) == 1
        assert not asked.done()
        asked.cancel()

    run(story)


def test_who_is_granted_the_gpu_hears_of_it_before_who_gave_it_back_also_where_the_loop_stood_by(
    stood_by: list[float],
):
    async def story() -> None:
        async with rig() as box:
            await box.acquire(None)
            answered: list[str] = []
            waiter = box.acquire(None, wait_ms=60_000)
            await until(lambda: box.pump.kernel.state.queue)
            await rest(box)
            stood_by.clear()
            giver = asyncio.ensure_future(box.pump.ask(Release(99, "t1")))
            for name, task in (("giver", giver), ("waiter", waiter)):
                task.add_done_callback(lambda _task, name=name: answered.append(name))
            await asyncio.gather(giver, waiter)
        assert len(stood_by) == 1
        assert answered == ["waiter", "giver"]

    run(story)


def test_a_slow_disk_holds_answers_back_and_neither_renewals_nor_kills():
    async def story() -> None:
        async with rig(container("a"), container("b")) as box:
            await box.acquire("a")
            box.disk.open.clear()
            queued = box.acquire("b", on_busy="ticket")
            await until(lambda: box.pump.kernel.state.durable.tickets)
            assert isinstance(await box.pump.ask(Renew(99, "t1")), Renewed)
            reading = asyncio.ensure_future(box.pump.read(lambda state, _now: len(state.durable.tickets)))
            box.engine.start("b-main")
            await until(lambda: any(action.kind == "kill" for action in box.engine.performed))
            assert not queued.done()
            assert not reading.done()
            box.disk.open.set()
            assert isinstance(await queued, Queued)
            assert await reading == 1

    run(story)


def test_what_is_seen_with_a_reply_is_what_it_was_decided_in_and_comes_with_its_own_sync():
    async def story() -> None:
        async with rig() as box:
            await box.acquire(None)
            terms = Terms(target=None, owner="ann", priority=0, ttl_ms=60_000)
            box.disk.open.clear()
            asked = [
                asyncio.ensure_future(
                    box.pump.ask_and_see(
                        Acquire(
                            request_id=number, id=f"t{number}", token_hash=f"h{number}", terms=terms, on_busy="ticket"
                        ),
                        lambda state, _now, _reply: len(state.durable.tickets),
                    )
                )
                for number in (11, 12)
            ]
            await until(lambda: len(box.pump.kernel.state.durable.tickets) == 2)
            syncs = len(box.disk.facts)
            box.disk.open.set()
            (first, seen_by_first), (second, seen_by_second) = await asyncio.gather(*asked)
            assert isinstance(first, Queued)
            assert isinstance(second, Queued)
            assert (seen_by_first, seen_by_second, len(box.disk.facts)) == (1, 2, syncs + 2)

    run(story)


def test_a_view_that_fails_is_the_trouble_of_its_asker_alone():
    async def story() -> None:
        async with rig() as box:
            terms = Terms(target=None, owner="ann", priority=0, ttl_ms=60_000)
            with pytest.raises(ZeroDivisionError):
                await box.pump.ask_and_see(
                    Acquire(request_id=9, id="l1", token_hash="h1", terms=terms), lambda _state, _now, _reply: 1 // 0
                )
            assert isinstance(await box.acquire(None, on_busy="ticket"), Queued)

    run(story)


def test_what_the_journal_left_is_taken_up_before_the_first_report_of_the_engine():
    async def story() -> None:
        made = Rig(container("a"))
        made.engine.watch(made.pump.post)
        task = asyncio.ensure_future(made.pump.run(Started("boot", 0, "v", first=False)))
        await until(lambda: made.disk.facts)
        assert type(made.disk.facts[0]).__name__ == "SupervisorStarted"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(story)


def test_cancelling_a_wait_hangs_up():
    async def story() -> None:
        async with rig(container("a"), container("b")) as box:
            await box.acquire("a")
            waiter = box.acquire("b", wait_ms=60_000)
            await until(lambda: box.pump.kernel.state.durable.tickets)
            waiter.cancel()
            await until(lambda: not box.pump.kernel.state.durable.tickets)

    run(story)


def test_a_failed_write_ends_the_task_and_nothing_is_answered():
    async def story() -> None:
        made = Rig(container("a"))
        task = asyncio.ensure_future(made.pump.run(Started("boot", 0, "v", first=False)))
        made.engine.watch(made.pump.post)
        await until(lambda: made.pump.kernel.state.observed.synced)
        made.disk.broken = True
        asked = made.acquire("a")
        with pytest.raises(OSError, match="I/O error"):
            await task
        assert not asked.done()
        asked.cancel()

    run(story)


def test_of_a_damaged_journal_nobody_says_that_its_disk_is_full(caplog: pytest.LogCaptureFixture):
    async def story() -> None:
        box = Rig()
        box.disk.room = 0
        owner = asyncio.ensure_future(box.pump.run(Started("boot", 0, "v", first=False, safe_mode="a torn record")))
        await asyncio.sleep(0)
        assert box.pump.kernel.state.observed.safe_mode
        assert not box.pump.kernel.state.observed.storage_full
        owner.cancel()
        await asyncio.gather(owner, return_exceptions=True)

    run(story)
    assert "is full" not in caplog.text


def test_a_full_disk_is_foreseen_and_recovered_from():
    async def story() -> None:
        async with rig(container("a")) as box:
            await box.acquire("a")
            box.disk.room = box.disk.ballast_bytes
            refused = await box.acquire(None)
            assert isinstance(refused, Refused)
            assert refused.refusal.code == "storage_full"
            assert (await box.pump.ask(Release(55, "t1"))).released
            box.disk.room = 64 << 20
            assert isinstance(await box.acquire("a"), Granted)

    run(story)


def test_the_history_is_told_in_order_and_can_be_followed():
    async def story() -> None:
        async with rig(container("a")) as box:
            await box.acquire("a")
            seen = await box.pump.history(0, 100)
            assert [seq for seq, _ in seen] == list(range(1, len(seen) + 1))
            follow = asyncio.ensure_future(box.pump.next_fact(seen[-1][0], 20))
            await box.pump.ask(Release(55, "t1"))
            await follow
            newer = await box.pump.history(seen[-1][0], 100, target="a")
            assert isinstance(newer[0][1], LeaseEnded)

    run(story)


def test_a_shut_down_answers_who_waits_and_is_on_disk_when_it_returns():
    async def story() -> None:
        async with rig(container("a"), container("b")) as box:
            await box.acquire("a")
            waiter = box.acquire("b", wait_ms=60_000)
            await until(lambda: box.pump.kernel.state.durable.tickets)
            await box.pump.shut_down("SIGTERM")
            assert (await waiter).refusal.code == "shutting_down"
            assert type(box.disk.facts[-1]).__name__ == "SupervisorStopped"

    run(story)


def test_memory_that_is_awaited_is_read_until_it_came_back():
    async def story() -> None:
        async with rig(container("a", vram_mib=20_000), container("b", vram_mib=20_000)) as box:
            await box.acquire("a")
            await box.pump.ask(Release(55, "t1"))
            assert isinstance(await box.acquire("b"), Granted)

    run(story)


def test_nothing_is_granted_before_the_gpus_were_read_and_nothing_waits_for_the_driver():
    async def story() -> None:
        driver = SlowDriver()
        async with rig(container("a"), driver=driver) as box:
            await until(lambda: box.pump.kernel.state.observed.synced)
            refused = await box.acquire("a")
            assert isinstance(refused, Refused)
            assert refused.refusal.code == "gpu_unavailable"
            box.engine.start("a-main")
            await until(lambda: any(action.kind == "kill" for action in box.engine.performed))
            waits = asyncio.ensure_future(box.pump.first_reading(20))
            await asyncio.sleep(0)
            assert not waits.done()

            driver.answer(GPUS)
            await waits
            granted = box.acquire("a")
            await until(lambda: driver.asked)
            assert not granted.done(), "a lease waits for a reading that began after everything stopped"
            driver.answer(GPUS)
            assert isinstance(await granted, Granted)

    run(story)


def test_what_is_wrong_with_the_gpus_is_refused_with_and_logged_once(caplog: pytest.LogCaptureFixture):
    async def story() -> None:
        driver = SlowDriver()
        async with rig(container("a"), driver=driver) as box:
            await until(lambda: box.pump.kernel.state.observed.synced)
            driver.answer((), "no driver is here")
            driver.answer((), "no driver is here")
            await box.pump.first_reading(20)
            refused = await box.acquire("a")
            assert isinstance(refused, Refused)
            assert refused.refusal.detail.startswith("no GPU is known: no driver is here; to try it without one")
            driver.answer(GPUS)
            await until(lambda: box.pump.kernel.state.observed.gpus)

    run(story)
    assert [one.message for one in caplog.records if one.message.startswith("GPUs")] == [
        "GPUs: no driver is here",
        "GPUs: all is well again",
    ]


def test_the_processes_on_the_gpus_are_looked_at_and_taken_in():
    class Machine:
        def look(self, gpus: Sequence[Gpu]) -> tuple[str, ...]:
            return tuple(process.container or "" for gpu in gpus for process in gpu.processes or ())

        def terminate(self, pid: int, started: int, signal: int) -> str:
            raise AssertionError("nothing is terminated here")

    async def story() -> None:
        seen: list[tuple[str, ...]] = []

        def as_input(containers: tuple[str, ...], _finished: object) -> Input:
            seen.append(containers)
            return EngineLost("a was seen") if "a-main" in containers else EngineContact()

        async with rig(container("a")) as box:
            box.pump.watch_processes(Machine(), as_input)
            box.acquire("a")
            await until(lambda: box.pump.kernel.state.observed.engine_reason == "a was seen")
            assert seen[-1] == ("a-main",)

    run(story)


class Watched:
    """One process on a GPU; it ends when it is asked to."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def look(self, _gpus: object) -> tuple[SeenProcess, ...]:
        return (SeenProcess(pid=4_711, started=77, uses=(Use("SIM-0", 900),), root=False),)

    def terminate(self, pid: int, started: int, signal: int) -> Sent:
        self.asked.append((pid, started, signal))
        return "forbidden"


def test_who_stands_by_no_lease_is_signalled_and_a_signal_that_failed_is_told():
    async def story() -> None:
        async with rig() as box:
            state, watched = box.pump.kernel.state, Watched()
            state.settings = replace(state.settings, process_policy="terminate", process_settle_ms=0)
            box.pump.watch_processes(watched, ProcessesSeen)
            await until(lambda: any(isinstance(fact, SignalFailed) for fact in box.told))
            assert watched.asked == [(4_711, 77, 15)]
        told = [type(fact).__name__ for fact in box.disk.facts]
        assert told[-3:] == ["ProcessReported", "ProcessSignalled", "SignalFailed"]

    run(story)
