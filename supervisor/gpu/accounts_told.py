"""Which of the driver's accounts were told already: a child that is replaced reads all of them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from msgspec import Struct, field

from supervisor.core.model import FinishedUse
from supervisor.gpu.wire import Account, Seen

MIB = 2**20
#: Of one GPU. The driver keeps 4,000 at most, and those are the newest: what is forgotten is not read again.
REMEMBERED_MAX = 16_384
#: In the year 2109. What a driver says may be anything, and no calendar takes the largest numbers.
WALL_MAX_MS = 2**42


class Told(Struct):
    """``begun``: all that had ended before the first look was read. That is told to nobody: nobody looked then."""

    known: OrderedDict[tuple[int, int], None] = field(default_factory=OrderedDict)
    begun: bool = False


class AccountsTold:
    """Remembers for each GPU. For one thread."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}

    def news(self, seen: Seen) -> Iterator[FinishedUse]:
        """Yield the processes that have ended on a GPU since it was looked at first, each once."""
        if seen.uuid is None or seen.accounts is None or seen.accounts.ended is None:
            return
        told = self._told.setdefault(seen.uuid, Told())
        for account in seen.accounts.ended:
            identity = (account.pid, account.started_us)
            if identity not in told.known:
                told.known[identity] = None
                if told.begun:
                    yield _finished(seen.uuid, account)
        while len(told.known) > REMEMBERED_MAX:
            told.known.popitem(last=False)
        told.begun = told.begun or seen.accounts.whole


def _finished(gpu: str, account: Account) -> FinishedUse:
    return FinishedUse(
        gpu=gpu,
        pid=account.pid,
        started_wall_ms=min(account.started_us // 1000, WALL_MAX_MS),
        ran_ms=min(account.ran_ms, WALL_MAX_MS),
        peak_mib=None if account.peak_b is None else -(-account.peak_b // MIB),
        gpu_percent=account.gpu_percent,
        memory_percent=account.memory_percent,
    )
