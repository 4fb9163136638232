"""The rules about processes: a tied lease lives as long as its process, and a signal hits only who stands by nothing.

What a process stands by is worked out here from the books and from what the process truly is.
"""

from __future__ import annotations

import signal

from supervisor.core.facts import (
    AnyFact,
    LeaseEnded,
    LeaseGranted,
    ProcessReported,
    ProcessSignalled,
    TicketEnded,
    TicketQueued,
)
from supervisor.core.inputs import Input, ProcessesSeen, SignalSent
from supervisor.core.model import Now, Tie
from supervisor.core.processes import SeenProcess
from supervisor.core.replies import SignalProcess
from tests.simulation.incarnation import Box
from tests.simulation.ledger import Ledger, require
from tests.simulation.processes import SimProcess

#: What is tied to a process outlives it by no more than this, beside the time that the news takes.
LATE_MS = 100
Identity = tuple[int, int]


class ProcessRules:
    """One life of the supervisor's process begins with ``begins``."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.signals = 0
        self._tied: dict[str, Tie] = {}
        self._heard: set[str] = set()
        self._since_ms: dict[Tie, int] = {}
        self._on_disk: set[tuple[int, int, str]] = set()
        self._reported: set[Identity] = set()
        self._first_seen_ms: dict[Identity, int] = {}
        self._left: set[tuple[int, int, int]] = set()
        self._ever_asked: set[Identity] = set()
        self._asked_ms: dict[Identity, int] = {}

    def begins(self, books: Ledger) -> None:
        held = [*books.leases.values(), *books.tickets.values()]
        self._tied = {one.id: one.terms.tie for one in held if one.terms.tie is not None}
        self._since_ms.clear()
        self._on_disk.clear()
        self._reported.clear()
        self._first_seen_ms.clear()
        self._left.clear()
        self._ever_asked.clear()
        self._asked_ms.clear()

    # ---- what bare leases are tied to

    def hears(self, lease_id: str) -> None:
        """A caller was told that it has this lease."""
        if lease_id in self._tied:
            self._heard.add(lease_id)

    def decide(self, fact: AnyFact, books: Ledger) -> None:
        """Look at one fact, with what the facts before it and itself have led to in the books."""
        if isinstance(fact, LeaseGranted | TicketQueued) and fact.terms.tie is not None:
            self._tied[fact.id] = fact.terms.tie
        elif isinstance(fact, LeaseEnded | TicketEnded):
            self._end(fact)
        elif isinstance(fact, ProcessReported):
            self._report(fact, books)

    def _end(self, fact: LeaseEnded | TicketEnded) -> None:
        tie = self._tied.pop(fact.id, None)
        if fact.reason == "process_ended":
            ended = tie is not None and not self.box.processes.lives(tie)
            require(ended, "nothing ends with a process before that has ended")
        if tie is not None and fact.reason == "expired":
            # Only where nobody knows its token: its process would keep it for ever.
            require(fact.id not in self._heard, "a lease that is tied to a process has no TTL")

    def check_ties(self, *, excused: bool) -> None:
        """What was tied to a process that has ended is over some moments later."""
        if not self._tied:
            self._since_ms.clear()
            return
        at_ms, most_ms = self.box.timeline.at_ms, self.box.trouble.end_ms + LATE_MS
        dead = {tie for tie in self._tied.values() if not self.box.processes.lives(tie)}
        self._since_ms = {tie: at_ms if excused else self._since_ms.get(tie, at_ms) for tie in dead}
        late = [tie.pid for tie, since_ms in self._since_ms.items() if at_ms - since_ms > most_ms]
        require(not late, f"a lease ends when the process that it is tied to has ended: {late}")

    # ---- who is reported and signalled

    def saw(self, seen: ProcessesSeen, now: Now) -> None:
        for process in seen.processes:
            self._first_seen_ms.setdefault(process.identity, now.at_ms)

    def stepped(self, item: Input, books: Ledger) -> None:
        """Who stands by something, or is away, may be signalled anew some time."""
        for pid, started, number in list(self._left):
            process = self._known(pid, started)
            listed = not isinstance(item, ProcessesSeen) or (pid, started) in {one.identity for one in item.processes}
            if process is None or not listed or self._stands(process, books):
                self._left.remove((pid, started, number))

    def _report(self, fact: ProcessReported, books: Ledger) -> None:
        process = self._known(fact.pid, fact.started)
        if process is None:
            return
        require(not self._stands(process, books), f"who stands by something is not reported: {process.story}")
        self._reported.add((fact.pid, fact.started))

    def synced(self, facts: list[AnyFact]) -> None:
        self._on_disk |= {(f.pid, f.started, f.signal) for f in facts if isinstance(f, ProcessSignalled)}

    def signalling(self, now: Now, out: SignalProcess, books: Ledger) -> None:
        """A signal leaves."""
        self.signals += 1
        pid, started = identity = (out.pid, out.started)
        settings = self.box.settings
        name = signal.Signals(out.signal).name
        require(settings.process_policy == "terminate", "nobody is signalled under another policy")
        require((pid, started, name) in self._on_disk, "a signal leaves after its fact is on disk")
        process = self._known(pid, started)
        require(process is not None, "only a process that was there is signalled, and no other of its pid")
        assert process is not None
        require(not self._stands(process, books), f"who stands by something is never signalled: {process.story}")
        require(not self._is_spared(process), f"who is to be spared is never signalled: {process.story}")
        require((pid, started, out.signal) not in self._left, "a signal is sent once")
        self._left.add((pid, started, out.signal))
        self._ever_asked.add(identity)
        settled_ms = now.at_ms - self._first_seen_ms[identity]
        require(settled_ms >= settings.process_settle_ms, "who has only just come is not signalled")
        if out.signal == signal.SIGKILL:
            asked_ms = self._asked_ms.get(identity)
            require(asked_ms is not None, "nobody is killed who was not asked to end")
            assert asked_ms is not None
            require(now.at_ms - asked_ms >= settings.process_grace_ms, "nobody is killed before the grace is over")

    def signalled(self, sent: SignalSent, now: Now) -> None:
        """A signal was sent, or not."""
        if sent.signal == signal.SIGTERM:
            self._asked_ms[sent.pid, sent.started] = now.at_ms

    def _known(self, pid: int, started: int) -> SimProcess | None:
        """Return one that was ever there, or that of a container, which looks like one."""
        for process in reversed(self.box.processes.ever.values()):
            if process.story.identity == (pid, started):
                return process
        for share in self.box.gpu.ever:
            if share.container is not None and (share.pid, share.started) == (pid, started):
                app = SeenProcess(pid=pid, started=started, uses=(), root=False, containers=(share.container,))
                return SimProcess(app, self.box.timeline.boot_id, share.gpus)
        return None

    def _stands(self, process: SimProcess, books: Ledger) -> bool:
        """Return whether a process has a right to its GPUs, or is in a container that enforcement judges."""
        story, gpus = process.story, set(process.gpus)
        engine = self.box.engine
        if any(id_ in engine.ever and engine.ever[id_].target is not None for id_ in story.containers):
            return True
        if process.allowed:
            return True
        bare = [lease for lease in books.leases.values() if lease.target is None]
        ties = [lease.terms.tie for lease in bare if lease.terms.tie is not None]
        if not set(ties).isdisjoint(process.family):
            return True
        covered = {uuid for lease in bare if lease.terms.tie is None for uuid in lease.gpus}
        return bool(gpus) and gpus <= covered

    def _is_spared(self, process: SimProcess) -> bool:
        story, settings = process.story, self.box.settings
        root = settings.process_spare_root and story.root is not False
        draws = settings.process_spare_graphics and process.kind == "graphics"
        return root or draws or story.kernel_thread or not story.started

    # ---- the books at the end

    def settle(self, books: Ledger) -> None:
        """Everybody who stood by nothing is told of, and ended where that is the policy."""
        if not self.box.processes.enabled or self.box.gpu.silent:
            return
        settings = self.box.settings
        for process in self.box.processes.alive.values():
            first_ms = self._first_seen_ms.get(process.story.identity)
            if not process.gpus or self._stands(process, books):
                continue
            require(first_ms is not None, f"every process on a GPU is seen: {process.story}")
            require(process.story.identity in self._reported, f"who stands by nothing is told of: {process.story}")
            ends = settings.process_policy == "terminate" and not self._is_spared(process)
            if ends and process.forbidden:
                require(process.story.identity in self._ever_asked, f"a stranger is signalled: {process.story}")
            else:
                require(not ends, f"a stranger is ended in the end: {process.story}")
