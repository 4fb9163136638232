"""What can go wrong for somebody who asks from Python. All of it is a ``SupervisorError`` with ``code`` and ``hint``.

SupervisorError
├── BadValue       a size, a duration or an address that cannot be read (also a ValueError)
├── Unreachable    no supervisor answers, or what answers is none
├── NotHeld        this lease is not held (any more, or yet)
├── LeaseLost      the lease ended while it was held
└── Refused        the supervisor said no: one subclass for each of its problem codes, in ``refusals``
"""

from __future__ import annotations

from typing import Any, ClassVar

from supervisor.core.errors import SupervisorError
from supervisor.core.values import BadValue

__all__ = ["BadValue", "LeaseLost", "NotHeld", "Refused", "SupervisorError", "Unreachable"]


class Unreachable(SupervisorError):
    """No supervisor answers, or what answers is none. ``asked``: whether the request may have reached one.

    ``retryable``: always true, because it may be started.
    """

    code = "unreachable"
    retryable = True

    def __init__(self, message: str, hint: str = "", *, asked: bool = True) -> None:
        super().__init__(message, hint)
        self.asked = asked


class NotHeld(SupervisorError):
    """What was asked of a lease needs it to be held, and it is not."""

    code = "not_held"


class LeaseLost(SupervisorError):
    """The lease ended while it was held: somebody else may use the GPU now.

    ``reason`` is the server's word for it (``expired``, ``released``, ``target_down`` ...). ``target_completed`` is no
    misfortune: the target's job is done. None: no supervisor answered until the TTL was over.
    """

    code = "lease_lost"

    def __init__(self, name: str, why: str, reason: str | None) -> None:
        super().__init__(f"the lease of {name} was lost: {why}", "see what happened with: gpu-supervisor audit")
        self.reason = reason

    @property
    def completed(self) -> bool:
        """Whether it ended because the target's job is done."""
        return self.reason == "target_completed"


class Refused(SupervisorError):
    """The supervisor said no (RFC 9457). Each problem code has a subclass; a code from a newer server comes as this.

    Attributes:
        code: The stable name of what is wrong, for programs.
        detail: One sentence for people, which is also ``str(error)``.
        hint: What to do about it.
        retryable: Whether the same request may succeed later without a change.
        status: The HTTP status.
        context: Every other field of the answer: ``holder``, ``expires_at``, ``queue_index``, ``logs_tail`` ...
    """

    advice: ClassVar[str] = "the server is newer than this client and says what is wrong in its own words"

    def __init__(self, code: str, detail: str, *, status: int, retryable: bool, context: dict[str, Any]) -> None:
        super().__init__(detail, self.advice)
        self.code = code
        self.detail = detail
        self.status = status
        self.retryable = retryable
        self.context = context

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes (multiprocessing, joblib, Celery)."""
        return _again, (type(self), self.code, self.detail, self.status, self.retryable, self.context)


def _again(kind: type[Refused], code: str, detail: str, status: int, retryable: bool, context: Any) -> Refused:
    return kind(code, detail, status=status, retryable=retryable, context=context)
