"""What a lease costs without a route, a disk and a log: its decision and its facts as bytes, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable

from supervisor.core.inputs import Acquire, EngineSnapshot, Input, Release, Started, VramRead
from supervisor.core.model import Gpu, Now, Terms
from supervisor.core.state import Settings, State
from supervisor.journal.frame import Chain, encode_record
from supervisor.journal.journal import ENCODER
from supervisor.kernel import Kernel
from tests.benchmarks.measure import percentile

#: A caller's way and a sync.
APART_S = 0.0003
GPUS = (Gpu("SIM-0", total_mib=24_576, used_mib=0),)
TERMS = Terms(target=None, owner="bench", priority=0, ttl_ms=300_000, ready_timeout_ms=900_000)


class Decider:
    """A kernel that is asked for its GPU. Its clock moves on by a millisecond with each request."""

    def __init__(self) -> None:
        self._kernel = Kernel(State(Settings(gpus=GPUS)))
        self._now = Now(1_000, 1_700_000_000_000)
        self._asked = 0
        for item in (Started("boot", 0, "bench", first=True), EngineSnapshot(()), VramRead(GPUS)):
            self._feed(item)
        self.write()

    def ask(self) -> str:
        """Let somebody ask for the GPU: he gets it, or a ticket. Returns the digest of his token."""
        self._now = Now(self._now.at_ms + 1, self._now.wall_ms + 1)
        self._asked += 1
        token = f"{self._asked:064x}"
        ask = Acquire(request_id=self._asked, id=token[-16:], token_hash=token, terms=TERMS, on_busy="ticket")
        self._feed(ask)
        return token

    def give_back(self, token: str) -> None:
        self._asked += 1
        self._feed(Release(self._asked, token))

    def record(self) -> bytes | None:
        """Return what is to be written next, as bytes; None while nothing is, or the last one is not ``durable``."""
        batch = self._kernel.take_batch()
        return None if batch is None else encode_record(ENCODER.encode(batch), len(batch), Chain())[0]

    def durable(self) -> None:
        self._kernel.batch_durable(self._now)
        self._kernel.drain()

    def write(self, sync: Callable[[bytes], None] = lambda _record: None) -> None:
        """Have everything written that was decided."""
        while (record := self.record()) is not None:
            sync(record)
            self.durable()

    def _feed(self, item: Input) -> None:
        self._kernel.feed(self._now, item)
        if self._kernel.state.observed.read_wanted:
            self._kernel.feed(self._now, VramRead(GPUS, self._now.at_ms))


def rate(callers: int, seconds: float) -> float:
    """Return how many requests of so many callers are decided in a second."""
    decider = Decider()
    begun_s, count = time.perf_counter(), 0
    while (took_s := time.perf_counter() - begun_s) < seconds:
        tokens = [decider.ask() for _ in range(callers)]
        decider.write()
        for token in tokens:
            decider.give_back(token)
        decider.write()
        count += 2 * callers
    return count / took_s


def alone(calls: int) -> tuple[float, float]:
    """Return how long it takes (ms, medians) to decide and to encode one grant, and one end.

    Before each the process sleeps for as long as a caller and a disk take: as in a server, what runs has just woken.
    """
    decider = Decider()
    took: tuple[list[float], list[float]] = ([], [])
    token = ""
    for turn in range(2 * calls):
        time.sleep(APART_S)
        begun = time.perf_counter()
        if turn % 2:
            decider.give_back(token)
        else:
            token = decider.ask()
        decider.write()
        took[turn % 2].append((time.perf_counter() - begun) * 1000)
    return percentile(took[0], 50), percentile(took[1], 50)
