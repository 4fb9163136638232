"""What a lease costs without a route, a disk and a log: its decision and its facts as bytes, in one process."""

from __future__ import annotations

import time

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
    """A kernel whose disk takes everything at once. Its clock moves on by a millisecond with each round."""

    def __init__(self) -> None:
        self._kernel = Kernel(State(Settings(gpus=GPUS)))
        self._now = Now(1_000, 1_700_000_000_000)
        self._asked = 0
        for item in (Started("boot", 0, "bench", first=True), EngineSnapshot(()), VramRead(GPUS)):
            self._feed(item)
        self._write()

    def round(self, callers: int) -> int:
        """Let so many callers ask for the GPU, or queue, and give back what they got. Returns how much that was."""
        self._now = Now(self._now.at_ms + 1, self._now.wall_ms + 1)
        tokens = []
        for _ in range(callers):
            self._asked += 1
            tokens.append(f"{self._asked:064x}")
            id_ = f"{self._asked:016x}"
            self._feed(Acquire(request_id=self._asked, id=id_, token_hash=tokens[-1], terms=TERMS, on_busy="ticket"))
        self._write()
        for token in tokens:
            self._asked += 1
            self._feed(Release(self._asked, token))
        self._write()
        return 2 * callers

    def ask(self) -> str:
        """Let one caller ask for the GPU and get it. Returns the digest of its token."""
        self._now = Now(self._now.at_ms + 1, self._now.wall_ms + 1)
        self._asked += 1
        token = f"{self._asked:064x}"
        self._feed(Acquire(request_id=self._asked, id=token[-16:], token_hash=token, terms=TERMS))
        self._write()
        return token

    def give_back(self, token: str) -> None:
        self._asked += 1
        self._feed(Release(self._asked, token))
        self._write()

    def _feed(self, item: Input) -> None:
        self._kernel.feed(self._now, item)
        if self._kernel.state.observed.read_wanted:
            self._kernel.feed(self._now, VramRead(GPUS, self._now.at_ms))

    def _write(self) -> None:
        while (batch := self._kernel.take_batch()) is not None:
            encode_record(ENCODER.encode(batch), len(batch), Chain())
            self._kernel.batch_durable(self._now)
        self._kernel.drain()


def rate(callers: int, seconds: float) -> float:
    """Return how many requests of so many callers are decided in a second."""
    decider = Decider()
    begun_s, count = time.perf_counter(), 0
    while (took_s := time.perf_counter() - begun_s) < seconds:
        count += decider.round(callers)
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
        took[turn % 2].append((time.perf_counter() - begun) * 1000)
    return percentile(took[0], 50), percentile(took[1], 50)
