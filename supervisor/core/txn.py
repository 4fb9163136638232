"""One step's work in progress: the state, the instant, and what comes out. Shared by the modules behind ``step``."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec import Struct, field

from supervisor.core.apply import apply
from supervisor.core.errors import Refusal
from supervisor.core.facts import AnyFact, Fact
from supervisor.core.model import Now
from supervisor.core.replies import Refused, Reply, SignalProcess
from supervisor.core.state import State
from supervisor.core.timers import AT_REST

F = TypeVar("F", bound=Fact)


class Step(Struct):
    """What one input led to. ``touched``: targets whose plan may have changed."""

    facts: list[AnyFact] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    signals: list[SignalProcess] = field(default_factory=list)


class Txn:
    """Facts are applied as they are emitted, so every later question sees them."""

    def __init__(self, state: State, now: Now) -> None:
        self.state = state
        self.now = now
        self.out = Step()
        self.to_judge: dict[str, None] = {}
        self.queue_stood_at = -1
        """How many facts there were when it was found that nobody in the queue can be served."""

    def emit(self, kind: type[F], **values: Any) -> F:
        """Record a fact and apply it."""
        fact = kind(self.now.at_ms, self.now.wall_ms, **values)
        apply(self.state, fact)  # type: ignore[arg-type]  # every concrete Fact is in AnyFact; a test holds it
        self.out.facts.append(fact)  # type: ignore[arg-type]
        return fact

    def reply(self, reply: Reply) -> None:
        self.out.replies.append(reply)

    def refuse(self, request_id: int, refusal: Refusal, logs_of: str | None = None) -> None:
        self.reply(Refused(request_id, refusal, logs_of))

    def stir(self) -> None:
        """Say that something runs no more, or is to go: its memory may be on its way back until things are at rest."""
        self.state.observed.timers.set(AT_REST, self.now.at_ms + self.state.settings.vram_return_ms)

    def touch(self, target: str | None) -> None:
        """Say that what is known of a target changed: it is judged in this step, and planned after it."""
        if target is not None:
            self.to_judge[target] = None
            self.out.touched.add(target)
