"""What is told: facts that are on disk, to the log and to whoever follows the audit; and what changed beside them.

Belongs to the loop of the task that owns the state, and decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import msgspec

from supervisor.core.facts import AnyFact, TargetRemembered
from supervisor.core.state import Observed
from supervisor.kernel import Kernel
from supervisor.notify import ServiceManager
from supervisor.ports import JournalPort

log = logging.getLogger(__name__)

#: Facts are told to the log, and to who follows the audit, so long after they are on disk, and so many in one go.
TELL_S = 0.005
TELL_MAX = 64
#: Of a target's history so many facts are looked through at once.
CHUNK = 1_000


class Audit:
    """Tells facts that are on disk, in their order, each once to ``on_facts``, and again to whoever asks for them."""

    def __init__(
        self, kernel: Kernel, disk: JournalPort, on_facts: Callable[[list[tuple[int, AnyFact]]], None]
    ) -> None:
        self._kernel, self._disk, self._on_facts = kernel, disk, on_facts
        self._loop = asyncio.get_running_loop()
        self._told_seq = kernel.durable_seq
        self._telling = False
        self._new_fact = asyncio.Event()

    def tell_soon(self) -> None:
        """Have what is new told, later: a line of the log costs as much as an answer, and nobody waits for it."""
        if self._kernel.durable_seq > self._told_seq and not self._telling:
            self._telling = True
            self._loop.call_later(TELL_S, self._tell)

    def tell_the_rest(self) -> None:
        """Tell at once what is not told yet: this is the end."""
        while self._told_seq < self._kernel.durable_seq:
            self._tell()

    def _tell(self) -> None:
        """Tell a few, and the rest in the next round of the loop."""
        facts = self._recent(self._told_seq, TELL_MAX)
        if facts:
            self._on_facts(facts)
            self._told_seq = facts[-1][0]
        self._telling = self._told_seq < self._kernel.durable_seq
        if self._telling:
            self._loop.call_soon(self._tell)
        self._new_fact.set()
        self._new_fact = asyncio.Event()

    def _recent(self, after: int, limit: int) -> list[tuple[int, AnyFact]]:
        """Return facts after ``after`` that are on disk, from memory."""
        recent = self._kernel.recent
        if not recent:
            return []
        first = recent[0][0]
        begin = max(0, after + 1 - first)
        end = min(begin + limit, self._kernel.durable_seq + 1 - first)
        # By index, from the end that is nearer: passing over twenty thousand facts cost more than a sync.
        return [recent[index] for index in range(begin, end)]

    async def history(self, after: int, limit: int, target: str | None) -> list[tuple[int, AnyFact]]:
        """Return facts after ``after`` that are on disk, oldest first; those of one target where it is given."""
        found: list[tuple[int, AnyFact]] = []
        while len(found) < limit and after < self._kernel.durable_seq:
            chunk = await self._chunk(after, CHUNK if target is not None else limit - len(found))
            if not chunk:
                break
            after = chunk[-1][0]
            found += [item for item in chunk if target is None or names(item[1], target)]
        return found[:limit]

    async def _chunk(self, after: int, limit: int) -> list[tuple[int, AnyFact]]:
        recent = self._kernel.recent
        if recent and recent[0][0] <= after + 1:
            return self._recent(after, limit)
        durable = self._kernel.durable_seq
        chunk = await asyncio.to_thread(self._disk.history, after, limit)
        return [(seq, fact) for seq, fact in chunk if seq <= durable]

    async def next_fact(self, after: int, timeout_s: float) -> None:
        """Wait until a fact above ``after`` is on disk, or the time is over."""
        if self._kernel.durable_seq > after:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._new_fact.wait()


def names(fact: AnyFact, target: str) -> bool:
    """Return whether a fact is about a target, or about a container of that name or id."""
    values = msgspec.structs.asdict(fact)
    terms = values.get("terms")
    keys = ("target", "container", "container_id", "for_target")
    # A process has a name too, and gives itself whichever it likes.
    mentioned = {values.get(key) for key in (*keys, *(["name"] if isinstance(fact, TargetRemembered) else []))}
    return target in mentioned or (terms is not None and terms.target == target)


class Changes:
    """Says what changed that is no decision: in sync or not and why, what is wrong with GPUs, one that is closed."""

    def __init__(self, observed: Observed, manager: ServiceManager) -> None:
        self._manager = manager
        self._reason = observed.engine_reason
        self._problem = ""
        self._dirty: dict[str, str] = {}

    def tell(self, observed: Observed) -> None:
        if observed.engine_reason != self._reason:
            self._reason = observed.engine_reason
            if self._reason:
                log.warning("not in sync with the container engine: %s", self._reason)
                self._manager.status(f"not in sync with the container engine: {self._reason}; grants nothing new")
            else:
                log.info("in sync with the container engine")
                self._manager.status("in sync with the container engine")
        if observed.gpu_problem != self._problem:
            self._problem = observed.gpu_problem
            log.warning("GPUs: %s", self._problem or "all is well again")
        dirty = {uuid: dirty.detail for uuid, dirty in observed.dirty.items()}
        if dirty != self._dirty:
            for uuid in self._dirty.keys() - dirty.keys():
                log.warning("GPU %s is open again", uuid)
            for uuid in dirty.keys() - self._dirty.keys():
                log.warning("%s", dirty[uuid])
            self._dirty = dirty
