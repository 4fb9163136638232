"""What one life of the supervisor's process has to do with other processes, as its edges do it, in fake time.

It watches those that leases are tied to (``supervisor/pid_watch.py``), looks at those on the GPUs
(``supervisor/looks.py``), and sends signals from threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.core.inputs import ProcessEnded, ProcessesSeen, SignalSent
from supervisor.core.model import Gpu, Tie
from supervisor.core.replies import SignalProcess

if TYPE_CHECKING:
    from tests.simulation.incarnation import Incarnation

#: How often is looked though the GPUs list the same processes.
LOOK_EVERY_MS = 15_000


class ProcessEdge:
    def __init__(self, life: Incarnation) -> None:
        self._life, self._box = life, life.box
        self._watched: set[Tie] = set()
        self._followed = -1
        self._looking = False
        self._looked_at_ms = -LOOK_EVERY_MS
        self._listed: frozenset[tuple[str, int, int]] = frozenset()

    # ---- what leases are tied to

    def follow(self) -> None:
        """Watch what is held by processes; the end of one that is gone is told at once."""
        state = self._life.kernel.state
        if state.ties_changed == self._followed:
            return
        self._followed = state.ties_changed
        new = state.ids_by_tie.keys() - self._watched
        self._watched = set(state.ids_by_tie)
        for tie in sorted(new, key=lambda tie: (tie.pid, tie.started)):
            if not self._box.processes.lives(tie):
                self.ended(tie)

    def ended(self, tie: Tie) -> None:
        """A process is over: told if it is watched, at the moment or at the next look at it."""
        if tie in self._watched:
            delay_ms = self._box.processes.rng.randint(0, self._box.trouble.end_ms)
            self._box.timeline.after(delay_ms, lambda: self._tell_end(tie))

    def _tell_end(self, tie: Tie) -> None:
        if tie in self._watched:
            self._watched.discard(tie)
            self._life.post(ProcessEnded(tie))

    # ---- who is on the GPUs

    def look_if_due(self, gpus: tuple[Gpu, ...]) -> None:
        """Look behind what the GPUs list. What is found is told some time later."""
        box = self._box
        if not box.processes.enabled or self._looking or self._life.ended:
            return
        at_ms = box.timeline.at_ms
        seen = box.processes.seen(gpus)
        listed = frozenset((use.gpu, one.pid, one.started) for one in seen for use in one.uses)
        if listed == self._listed and at_ms < self._looked_at_ms + LOOK_EVERY_MS:
            return
        self._looking, self._listed, self._looked_at_ms = True, listed, at_ms
        box.timeline.after(box.processes.rng.randint(0, box.trouble.look_ms), lambda: self._looked(ProcessesSeen(seen)))

    def _looked(self, seen: ProcessesSeen) -> None:
        self._looking = False
        self._life.post(seen)

    # ---- signals

    def send(self, signal: SignalProcess) -> None:
        """It leaves some time later, and not at all when the supervisor has ended by then."""
        self._box.timeline.after(self._box.processes.rng.randint(0, 20), lambda: self._send(signal))

    def _send(self, signal: SignalProcess) -> None:
        if self._life.ended:
            return
        if self._life.stopped:
            self._box.timeline.after(100, lambda: self._send(signal))
            return
        outcome = self._box.processes.send(signal.pid, signal.started, signal.signal)
        sent = SignalSent(signal.pid, signal.started, signal.signal, outcome)
        self._life.observer.signalled(sent)
        self._life.post(sent)
