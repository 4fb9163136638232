"""The driver's accounts of processes that used a GPU, as the child reads them: who came and went between two looks.

Off unless an administrator turns it on (``nvidia-smi -am 1``); nothing here ever does. The accounts are a ring: the
oldest is overwritten, and of a pid that was used again only the latest is kept. Nothing is documented of their order.

Sources: https://docs.nvidia.com/deploy/nvml-api/api/group__nvmlAccountingStats.html; NVIDIA/open-gpu-kernel-modules,
src/nvidia/src/kernel/diagnostics/gpu_acct.c (up to 4,000 accounts; the start is the wall clock's).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

from msgspec import Struct, field

from supervisor.core.model import Accounting
from supervisor.gpu.nvml_codes import FUNCTION_NOT_FOUND, NO_PERMISSION, NOT_FOUND, NOT_IN_PYNVML, NOT_SUPPORTED
from supervisor.gpu.wire import Account, Accounts, Failed, Request

#: Accounts that were read before are read again, so many in each look: their pid may have been used again.
AGAIN = 100
#: One look takes no longer than this, beside its last call; what is left is for the next one.
LOOK_S = 1.0

_REFUSED: dict[int, Accounting] = {
    NOT_SUPPORTED: "unsupported",
    FUNCTION_NOT_FOUND: "unsupported",
    NOT_IN_PYNVML: "unsupported",
    NO_PERMISSION: "denied",
}


class Book(Struct):
    """What is known of one GPU's accounts. ``ended``: pid -> start, the longest unread first."""

    looked_at_s: float = -math.inf
    refused: Accounting | None = None
    refused_until_s: float = 0.0
    ended: dict[int, int] = field(default_factory=dict)


class Accountant:
    """Asks for the accounts of each GPU now and then. ``call``: ``Nvml``'s."""

    def __init__(self, call: Callable[..., Any], clock: Callable[[], float]) -> None:
        self._call, self._clock = call, clock
        self._books: dict[int, Book] = {}

    def forget(self) -> None:
        """The library is set up anew: its GPUs may be others."""
        self._books.clear()

    def look(self, index: int, handle: Any, request: Request) -> Accounts:
        """Return whether there are accounts, and those of processes that have ended and were not read before.

        Raises:
            Failed: with another code than those that say that there are none for us.
        """
        book = self._books.setdefault(index, Book())
        now_s = self._clock()
        if book.refused is not None and now_s < book.refused_until_s:
            return Accounts(state=book.refused)
        book.refused = None
        try:
            if not self._call("nvmlDeviceGetAccountingMode", index, handle):
                return Accounts(state="off")
            if now_s - book.looked_at_s < request.accounts_s:
                return Accounts(state="on")
            ended, whole = self._read(index, handle, book)
        except Failed as failed:
            book.refused = _REFUSED.get(failed.trouble.code)
            if book.refused is None:
                raise
            book.refused_until_s = now_s + request.off_s
            return Accounts(state=book.refused)
        book.looked_at_s = now_s
        return Accounts(state="on", ended=tuple(ended), whole=whole)

    def _read(self, index: int, handle: Any, book: Book) -> tuple[list[Account], bool]:
        ends_s = self._clock() + LOOK_S
        listed = Counter(self._call("nvmlDeviceGetAccountingPids", index, handle))
        ended = {pid: started for pid, started in book.ended.items() if pid in listed}
        # Twice: one of that pid has ended and another runs, whose end will replace the account that was read.
        news = [pid for pid, times in listed.items() if pid not in ended or times > 1]
        found: list[Account] = []
        whole = True
        for pid in dict.fromkeys((*news, *list(islice(ended, AGAIN)))):
            account = self._account(index, handle, pid)
            if account is not None and ended.pop(pid, None) != account.started_us:
                found.append(account)
            if account is not None:
                ended[pid] = account.started_us
            if self._clock() > ends_s:
                whole = False
                break
        book.ended = ended  # not before: a look that fails is made again
        return found, whole

    def _account(self, index: int, handle: Any, pid: int) -> Account | None:
        """Return the account of a process that has ended; None while it runs, and where another took its place."""
        try:
            stats = self._call("nvmlDeviceGetAccountingStats", index, handle, pid)
        except Failed as failed:
            if failed.trouble.code == NOT_FOUND:
                return None
            raise
        if stats.isRunning:
            return None
        # The largest number of its type stands for what is not available (nvml.h, NVML_VALUE_NOT_AVAILABLE).
        return Account(
            pid=pid,
            started_us=stats.startTime,
            ran_ms=stats.time,
            peak_b=None if stats.maxMemoryUsage == 2**64 - 1 else stats.maxMemoryUsage,
            gpu_percent=None if stats.gpuUtilization == 2**32 - 1 else stats.gpuUtilization,
            memory_percent=None if stats.memoryUtilization == 2**32 - 1 else stats.memoryUtilization,
        )
