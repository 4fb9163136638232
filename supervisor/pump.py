"""The one owner of the state: in turns, it takes the inbox, feeds the kernel, and lets out what may leave.

A turn is a plain call in the loop, so nothing comes between what it checks and what it does. Whoever asks while nothing
is being written has a turn at once; all others of one round of the loop have one together, at its end.

The disk has a thread of its own: while it syncs one batch, the loop goes on stepping and the next batch gathers. Only
where there is nothing to go on with is it waited for: somebody asks, nobody else does, and the disk is quick.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from msgspec import Struct

from supervisor.clock import Clock
from supervisor.core.facts import AnyFact
from supervisor.core.inputs import (
    ActionDone,
    CallerGone,
    Input,
    Renew,
    Request,
    ShutDown,
    SignalSent,
    Started,
    StartPrevented,
    StorageFull,
    Tick,
)
from supervisor.core.model import FinishedUse, Now
from supervisor.core.replies import Granted, Queued, Reply, SignalProcess
from supervisor.core.state import State
from supervisor.core.tripwire import Verdict, verdict
from supervisor.crowd import Crowd
from supervisor.kernel import Kernel
from supervisor.looks import Looks, ProcessPort
from supervisor.notify import ServiceManager
from supervisor.pid_watch import PidWatch
from supervisor.ports import EnginePort, JournalPort
from supervisor.readings import GpuPort, Readings
from supervisor.telling import Audit, Changes
from supervisor.writer import Writer

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Room in the journal that must be there before anything new is decided, in bytes (beside the ballast for releases).
ROOM_BYTES = 512 * 1024
#: A snapshot is taken after this many facts.
SNAPSHOT_FACTS = 100_000
#: How often a full disk is tried again.
DISK_RETRY_S = 1.0
#: Nothing that is due by itself waits longer than this.
SLEEP_S = 60.0
#: The loop stands by a disk for no longer than this: a start is judged that much later. A quick sync takes 0.1 ms.
STAND_BY_S = 0.0005


class _Asked(Struct):
    """Somebody who waits for a reply. ``seen``: what ``view`` made of the state when it was decided, or ``failed``."""

    reply: asyncio.Future[Reply]
    view: Callable[[State, Now, Reply], Any] | None = None
    seen: Any = None
    failed: Exception | None = None


class Pump:
    """Implements ``Desk`` for the API, and takes the reports of the engine (``post``)."""

    def __init__(
        self,
        kernel: Kernel,
        disk: JournalPort,
        engine: EnginePort,
        gpus: GpuPort,
        clock: Clock,
        on_facts: Callable[[list[tuple[int, AnyFact]]], None],
        manager: ServiceManager | None = None,
    ) -> None:
        self.kernel = kernel
        self._disk = disk
        self._engine = engine
        self._readings = Readings(gpus, self._rouse)
        self._clock = clock
        self._pids = PidWatch(self.post, clock.boot_id)
        self._manager = manager or ServiceManager()
        self._beat_due_at = 0.0
        self._changes = Changes(kernel.state.observed, self._manager)
        self._audit = Audit(kernel, disk, on_facts)
        self._inbox: deque[Input] = deque()
        self._asked: dict[int, _Asked] = {}
        kernel.on_reply = self._see
        self._last_request_id = 0
        self._synced: deque[BaseException | None] = deque()
        self._facts_since_snapshot = 0
        self._looks: Looks[Any] | None = None
        self._processes: ProcessPort[Any] | None = None
        self._disk_retry_at = 0.0
        self._first_look = asyncio.Event()
        self._first_reading = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at_s = 0.0
        # Until it runs nothing has a turn.
        self._runs, self._turn_is_due, self._gathering = False, True, False
        self._writer = Writer(disk, self._batch_done)
        self._standing_by, self._crowd = False, Crowd()

    def watch_processes(
        self, port: ProcessPort[T], as_input: Callable[[tuple[T, ...], tuple[FinishedUse, ...]], Input]
    ) -> None:
        """Look at the processes on the GPUs from now on, and take in what ``as_input`` makes of them."""
        self._processes = port
        self._looks = Looks(port, lambda seen, finished: self.post(as_input(seen, finished)))

    def _send_signal(self, due: SignalProcess) -> None:
        port = self._processes
        assert port is not None, "who is asked to end was looked at"

        def send() -> None:
            self.post(SignalSent(due.pid, due.started, due.signal, port.terminate(due.pid, due.started, due.signal)))

        # A thread of its own, as for looking: /proc of a process that hangs in the kernel may block.
        threading.Thread(target=send, name="gpu-signal", daemon=True).start()

    # ---- from other threads

    def post(self, item: Input) -> None:
        """Put an input into the inbox; from any thread."""
        self._inbox.append(item)
        self._rouse()

    def _batch_done(self, error: BaseException | None) -> None:
        self._synced.append(error)
        if not self._standing_by:
            self._rouse()

    def _rouse(self) -> None:
        """Have a turn soon, one for all who ask until then; from any thread."""
        if self._turn_is_due:
            return
        self._turn_is_due = True
        try:
            self._loop.call_soon_threadsafe(self._take_turn)
        except RuntimeError:
            log.debug("the loop is closed: a late report is dropped")

    # ---- for the tripwire, in the loop

    def judge(self, container_id: str) -> Verdict:
        """Say whether a container that is being started may run. True for as long as nothing is awaited."""
        return verdict(self.kernel.state, container_id, self.kernel.unwritten())

    def prevented(self, container_id: str) -> None:
        """Take in that it was kept from running: like any kill it leaves at once, and its fact follows."""
        self.post(StartPrevented(container_id))

    # ---- turns

    async def run(self, started: Started) -> None:
        """Own the state until cancelled.

        Raises:
            JournalBroken (or whatever the disk raised): the process must end; a replay knows what was written.
        """
        self._writer.start()
        self._readings.start(self._clock.now())
        self._runs = True
        try:
            # Before the first turn, which may have reports of the engine, and before anything is said of the disk.
            self.kernel.feed(self._clock.now(), started)
            self._take_turn()
            await self._over
        finally:
            self._runs = False
            if self._alarm is not None:
                self._alarm.cancel()
            self._pids.close()
            self._audit.tell_the_rest()
            self._writer.end()

    def _take_turn(self) -> None:
        """Have a turn, and see to the next one. Whatever goes wrong ends ``run``: it is in nobody else's hands."""
        self._turn_is_due = False
        if not self._runs or self._over.done():
            return
        try:
            now = self._clock.now()
            self._turn(now)
            self._set_alarm(now)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    def _set_alarm(self, now: Now) -> None:
        """Have a turn when something falls due by itself. One that comes too early only looks again."""
        delay_s = self._delay_s(now)
        at_s = self._loop.time() + delay_s
        if self._alarm is not None:
            if self._alarm_at_s <= at_s:
                return
            self._alarm.cancel()
        self._alarm, self._alarm_at_s = self._loop.call_later(delay_s, self._ring), at_s

    def _ring(self) -> None:
        self._alarm = None
        self._take_turn()

    def _gather(self) -> bool:
        """Have a turn at the end of this round of the loop. Returns whether this is the first that was asked for."""
        if self._gathering:
            return False
        self._gathering = True
        self._loop.call_soon(self._gathered)
        return True

    def _gathered(self) -> None:
        self._gathering = False
        if self._inbox:
            self._take_turn()

    def _delay_s(self, now: Now) -> float:
        observed, at_s = self.kernel.state.observed, time.monotonic()
        due = [SLEEP_S, self._beat_due_at - at_s, self._readings.due_at_s(observed) - at_s]
        wake_at_ms = self.kernel.wake_at_ms
        if wake_at_ms is not None:
            due.append((wake_at_ms - now.at_ms) / 1000)
        if observed.storage_full:
            due.append(self._disk_retry_at - at_s)
        if self._looks is not None:
            due.append(self._looks.due_at_s(observed.gpus) - at_s)
        return max(0.0, min(due))

    def _turn(self, now: Now) -> None:
        """One batch: what came in, what was synced, what fell due; then let out what may leave."""
        self._beat_due_at = self._manager.beat(time.monotonic())
        self._watch_storage(now)
        # What came in first, so that the calls which a finished batch releases are planned from the newest sightings.
        for _ in range(len(self._inbox)):
            self.kernel.feed(now, self._inbox.popleft())
        self._take_synced(now)
        wake_at_ms = self.kernel.wake_at_ms
        if wake_at_ms is not None and wake_at_ms <= now.at_ms:
            self.kernel.feed(now, Tick())
        self._read_gpus(now)
        self._let_out()
        self._hand_over_batch()
        self._pids.follow(self.kernel.state)
        if self.kernel.state.observed.ever_synced:
            self._first_look.set()
        self._changes.tell(self.kernel.state.observed)

    def _take_synced(self, now: Now) -> None:
        while self._synced:
            if (error := self._synced.popleft()) is not None:
                raise error
            self._crowd.batch_ends()
            self.kernel.batch_durable(now)

    def _hand_over_batch(self) -> None:
        batch = self.kernel.take_batch()
        if batch is not None:
            self._facts_since_snapshot += len(batch)
            snapshot = None
            if self._facts_since_snapshot >= SNAPSHOT_FACTS and not self.kernel.pending:
                snapshot, self._facts_since_snapshot = self.kernel.freeze(), 0
            self._crowd.batch_begins()
            self._writer.put(batch, snapshot)

    async def first_look(self, timeout_s: float) -> None:
        """Wait until the engine was seen for the first time, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._first_look.wait()

    async def first_reading(self, timeout_s: float) -> None:
        """Wait until the GPUs were read for the first time, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._first_reading.wait()

    def _watch_storage(self, now: Now) -> None:
        """Foresee a full disk: nothing is decided that could not be written."""
        observed = self.kernel.state.observed
        if observed.safe_mode:
            return
        pending = 256 * len(self.kernel.pending)
        full = self._disk.headroom_bytes() - self._disk.ballast_bytes - pending < ROOM_BYTES
        if full != observed.storage_full:
            log.warning("the disk of the data directory is full" if full else "the disk has room again")
            self.kernel.feed(now, StorageFull(full))
        if full and time.monotonic() >= self._disk_retry_at:
            self._disk_retry_at = time.monotonic() + DISK_RETRY_S
            self._writer.put([], None)

    def _read_gpus(self, now: Now) -> None:
        self._readings.ask_if_due(self.kernel.state, now)
        read = self._readings.take(self.kernel.state.observed)
        if read is not None:
            self.kernel.feed(now, read)
            self._first_reading.set()
        finished = self._readings.take_finished()
        if self._looks is not None:
            self._looks.hand_in(finished)
            self._looks.look_if_due(self.kernel.state.observed.gpus)

    def _let_out(self) -> int:
        """Let out what may leave, and return how many replies that were."""
        out = self.kernel.drain()
        for action in out.actions:
            self._engine.perform(action, self._call_done)
        for each in out.signals:
            self._send_signal(each)
        # Who was granted something goes on at once; who gave it back only hears that it is so.
        for reply in sorted(out.replies, key=lambda reply: not isinstance(reply, Granted)):
            asked = self._asked.pop(reply.request_id, None)
            if asked is not None and not asked.reply.done():
                asked.reply.set_result(reply)
        for deliver in out.reads:
            deliver()
        self._audit.tell_soon()
        return len(out.replies)

    def _see(self, now: Now, reply: Reply) -> None:
        asked = self._asked.get(reply.request_id)
        if asked is not None and asked.view is not None:
            try:
                asked.seen = asked.view(self.kernel.state, now, reply)
            except Exception as error:  # its asker's trouble, and nobody else's
                asked.failed = error

    def _call_done(self, done: ActionDone) -> None:
        self.post(done)

    # ---- Desk

    def next_request_id(self) -> int:
        self._last_request_id += 1
        return self._last_request_id

    def now(self) -> Now:
        return self._clock.now()

    async def ask(self, request: Request) -> Reply:
        """Hand in a request and wait for its reply. Cancelling the wait hangs up."""
        return await self._ask(request, _Asked(self._loop.create_future()))

    async def ask_and_see(self, request: Request, view: Callable[[State, Now, Reply], T]) -> tuple[Reply, T]:
        """Ask, and return what ``view`` made of the state when the reply was decided."""
        asked = _Asked(self._loop.create_future(), view)
        reply = await self._ask(request, asked)
        if asked.failed is not None:
            raise asked.failed
        return reply, asked.seen

    async def _ask(self, request: Request, asked: _Asked) -> Reply:
        self._asked[request.request_id] = asked
        to_others = False
        if isinstance(request, Renew) and self._runs and not self._inbox:
            self._crowd.asked(behind=False)
            self._brief_turn(lambda now: self.kernel.feed(now, request))  # it writes nothing
        else:
            self._inbox.append(request)
            first = self._gather() and self.kernel.rests
            self._crowd.asked(behind=not first)
            if first:
                self._take_turn()
                to_others = self._crowd.alone and not self.kernel.rests and self._stand_by()
        try:
            if to_others:  # who was granted something goes on before who gave it back
                await asyncio.sleep(0)
            return await asked.reply
        except asyncio.CancelledError:
            self._asked.pop(request.request_id, None)
            answered = asked.reply.result() if asked.reply.done() and not asked.reply.cancelled() else None
            self.hang_up(request.request_id, _handed(answered))
            raise

    def _stand_by(self) -> bool:
        """Wait here for what is being written: to fall asleep and be woken takes half as long as a quick disk does.

        Returns whether others may have been answered, too.
        """
        if self._writer.took_s > STAND_BY_S:
            return False
        self._standing_by = True
        self._writer.wait(STAND_BY_S)
        self._standing_by = False  # from now on a batch that is done rouses us; one that was is seen below
        self._crowd.held_up(self._loop)
        if self._inbox:
            self._take_turn()
            return True
        return self._brief_turn(self._take_synced) > 1

    def _brief_turn(self, act: Callable[[Now], None]) -> int:
        """Do one thing that nothing of a whole turn concerns but what it lets out, and when the next one is due.

        Returns how many were answered.
        """
        before_ms, now = self.kernel.wake_at_ms, self._clock.now()
        answered = 0
        try:
            act(now)
            answered = self._let_out()
            self._hand_over_batch()
        except BaseException as error:
            self._fail(error)
        after_ms = self.kernel.wake_at_ms
        if after_ms is not None and (before_ms is None or after_ms < before_ms):
            self._set_alarm(now)
        return answered

    def hang_up(self, request_id: int, lease_id: str | None = None) -> None:
        self._inbox.append(CallerGone(request_id, lease_id))
        self._gather()

    async def read(self, view: Callable[[State, Now], T]) -> T:
        """Compute a view of the state now; return it once everything it shows is on disk."""
        now = self._clock.now()
        value = view(self.kernel.state, now)
        if self.kernel.durable_seq >= self.kernel.state.durable.fact_seq:
            return value
        shown: asyncio.Future[None] = self._loop.create_future()
        self.kernel.when_durable(now, lambda: None if shown.done() else shown.set_result(None))
        await shown
        return value

    async def history(self, after: int, limit: int, target: str | None = None) -> list[tuple[int, AnyFact]]:
        return await self._audit.history(after, limit, target)

    async def next_fact(self, after: int, timeout_s: float) -> None:
        await self._audit.next_fact(after, timeout_s)

    async def shut_down(self, reason: str) -> None:
        """Answer everybody on the line with a retryable refusal, and grant nothing any more. Returns when on disk."""
        self._inbox.append(ShutDown(reason))
        self._take_turn()
        await self.read(lambda _state, _now: None)


def _handed(reply: Reply | None) -> str | None:
    """Return the lease or ticket whose token a reply tells."""
    match reply:
        case Granted():
            return reply.lease.id
        case Queued():
            return reply.ticket_id
        case _:
            return None
