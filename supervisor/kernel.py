"""State, facts and the order in which things may be seen: decided, then on disk, then told. Synchronous.

Inputs are stepped at once, also while a batch of facts is being synced: a slow disk must not slow enforcement.
Each step's facts gather in ``pending``; whoever owns the disk takes them as one batch, writes and syncs it, and says
so. Replies, and the calls that a plan asks for, leave only when every fact that they could rest on is on disk.
Two exceptions: a renewal has no facts, and killing a container that has no right to run promises nobody anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import Struct, field

from supervisor.core.apply import freeze
from supervisor.core.facts import AnyFact
from supervisor.core.inputs import CallerGone, Input, SignalSent
from supervisor.core.model import Now
from supervisor.core.plan import plan_target
from supervisor.core.replies import Action, Granted, Queued, Renewed, Reply, SignalProcess
from supervisor.core.sightings import dispatched
from supervisor.core.state import State
from supervisor.core.step import step
from supervisor.core.strangers import is_due

#: How many facts are kept in memory for the audit; older ones are read from the journal.
RECENT_MAX = 20_000
#: Facts in one batch at most: a batch is one record, and has to fit into a segment of the journal.
BATCH_MAX = 4_096


class Outbox(Struct):
    """What may leave now."""

    replies: list[Reply] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    reads: list[Callable[[], None]] = field(default_factory=list)
    signals: list[SignalProcess] = field(default_factory=list)


class Kernel:
    """The state and its order. One owner calls it, never two at a time."""

    def __init__(self, state: State) -> None:
        self.state = state
        #: Called with each reply when it is decided; what it sees of the state is on disk when the reply leaves.
        self.on_reply: Callable[[Now, Reply], None] = lambda _now, _reply: None
        self.durable_seq = state.durable.fact_seq
        self.pending: list[AnyFact] = []
        self.recent: deque[tuple[int, AnyFact]] = deque(maxlen=RECENT_MAX)
        self.outbox = Outbox()
        self._taken_seq: int | None = None
        self._replies: deque[tuple[int, Reply]] = deque()
        self._reads: deque[tuple[int, Callable[[], None]]] = deque()
        self._signals: deque[tuple[int, SignalProcess]] = deque()
        self._touched: dict[str, int] = {}

    @property
    def wake_at_ms(self) -> int | None:
        """When a ``Tick`` is due, in supervisor time; None while nothing waits."""
        return self.state.observed.timers.next_at_ms

    @property
    def rests(self) -> bool:
        """Whether no fact is on its way to the disk."""
        return self._taken_seq is None and not self.pending

    def feed(self, now: Now, item: Input) -> None:
        """Step one input, and release what may leave."""
        assert now.at_ms >= self.state.durable.time_ms, "supervisor time only grows"
        if isinstance(item, CallerGone):
            item = self._recall(item)
        seq = self.state.durable.fact_seq
        out = step(self.state, now, item)
        for fact in out.facts:
            seq += 1
            self.recent.append((seq, fact))
        if self.state.observed.safe_mode:
            self.durable_seq = seq  # nothing is written behind damage; what is decided now is only enforcement
        else:
            self.pending += out.facts
        for reply in out.replies:
            self.on_reply(now, reply)
            if isinstance(reply, Renewed):
                self.outbox.replies.append(reply)
            else:
                self._replies.append((seq, reply))
        for each in out.signals:  # decided anew, where a lease came and went before it had left
            self._signals = deque(one for one in self._signals if one[1] != each)
            self._signals.append((seq, each))
        for target in sorted(out.touched):
            self._touched[target] = seq
            self._dispatch(now, target, kills_only=True)
        self._release(now)

    def _recall(self, gone: CallerGone) -> CallerGone:
        """Hold back an answer that has not left yet: it would reach nobody, so what it grants is taken back.

        1. A grant is decided, and its batch is being synced; 2. the caller hangs up; 3. the batch is on disk. By then
        the core has let go of the caller, and nobody would ever learn the token of the lease.
        """
        for index, (_, reply) in enumerate(self._replies):
            if reply.request_id == gone.request_id:
                del self._replies[index]
                granted = reply.lease.id if isinstance(reply, Granted) else None
                return CallerGone(gone.request_id, reply.ticket_id if isinstance(reply, Queued) else granted)
        return gone

    def when_durable(self, now: Now, deliver: Callable[[], None]) -> None:
        """Let ``deliver`` leave when all facts so far are on disk: it hands over a view that was computed just now."""
        self._reads.append((self.state.durable.fact_seq, deliver))
        self._release(now)

    def take_batch(self) -> list[AnyFact] | None:
        """Hand out the gathered facts as one batch to be written and synced; None while one is under way."""
        if self._taken_seq is not None or not self.pending:
            return None
        batch, self.pending = self.pending[:BATCH_MAX], self.pending[BATCH_MAX:]
        self._taken_seq = self.state.durable.fact_seq - len(self.pending)
        return batch

    def unwritten(self) -> list[AnyFact]:
        """Return the facts that are not on disk yet."""
        count = min(self.state.durable.fact_seq - self.durable_seq, len(self.recent))
        return [self.recent[-1 - index][1] for index in range(count)]

    def freeze(self) -> tuple[bytes, int]:
        """Return a snapshot and its last fact. Only right after ``take_batch``, to be saved once that is on disk."""
        assert not self.pending, "a snapshot must not run ahead of the journal"
        return freeze(self.state.durable), self.state.durable.fact_seq

    def batch_durable(self, now: Now) -> None:
        """Say that the batch that was taken is on disk."""
        assert self._taken_seq is not None
        self.durable_seq, self._taken_seq = self._taken_seq, None
        self._release(now)

    def drain(self) -> Outbox:
        """Return what may leave now, once."""
        out, self.outbox = self.outbox, Outbox()
        return out

    def _release(self, now: Now) -> None:
        while self._replies and self._replies[0][0] <= self.durable_seq:
            self.outbox.replies.append(self._replies.popleft()[1])
        while self._reads and self._reads[0][0] <= self.durable_seq:
            self.outbox.reads.append(self._reads.popleft()[1])
        while self._signals and self._signals[0][0] <= self.durable_seq:
            self._send(now, self._signals.popleft()[1])
        for target in [target for target, seq in self._touched.items() if seq <= self.durable_seq]:
            del self._touched[target]
            self._dispatch(now, target, kills_only=False)

    def _send(self, now: Now, due: SignalProcess) -> None:
        """Let a signal leave, if it is right by what is known now: a disk may have held it back for seconds."""
        if is_due(self.state, due):
            self.outbox.signals.append(due)
        else:
            self.feed(now, SignalSent(due.pid, due.started, due.signal, "withdrawn"))

    def _dispatch(self, now: Now, target: str, *, kills_only: bool) -> None:
        # Planned from the state as it is now, not as it was when the target was touched: nothing stands between
        # the check and the act.
        for action in plan_target(self.state, now, target):
            if action.kind == "kill" or not kills_only:
                dispatched(self.state, target, action)
                self.outbox.actions.append(action)
