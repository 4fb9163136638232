"""Every error as RFC 9457 ``application/problem+json``: the table of codes in ``core.errors`` made into answers."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from supervisor.core.errors import Refusal, SupervisorError

JSON = b"application/json"
PROBLEM_JSON = b"application/problem+json"
Headers = tuple[tuple[bytes, bytes], ...]

#: Seconds after which the same request is worth another try at the earliest, where that is known at all.
RETRY_AFTER_S = {
    "gpu_busy": 5,
    "engine_unavailable": 2,
    "gpu_dirty": 2,
    "queue_full": 10,
    "scheduler_timeout": 1,
    "shutting_down": 2,
    "storage_full": 5,
    "overloaded": 2,
    "caller_limit": 5,
    "too_many_requests": 1,
}
#: Longer sentences are cut: what is said of a 64 KiB body must not be as long as it.
DETAIL_MAX = 1_000


class Answer(Struct, frozen=True):
    """A whole HTTP answer."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = ()


class RequestRefused(SupervisorError):
    """A request is answered with a problem. ``headers`` go with it."""

    def __init__(self, refusal: Refusal, headers: Headers = ()) -> None:
        super().__init__(refusal.detail)
        self.code = refusal.code
        self.refusal = refusal
        self.headers = headers


def refuse(code: str, detail: str, *, headers: Headers = (), **context: Any) -> RequestRefused:
    return RequestRefused(Refusal(code, detail, context), headers)


def problem(refusal: Refusal, headers: Headers = ()) -> Answer:
    """Return the answer for a refusal. Its context fields stand beside the standard ones and never replace one."""
    fields = {
        "type": f"urn:gpu-supervisor:problem:{refusal.code}",
        "title": refusal.code.replace("_", " "),
        "status": refusal.status,
        "detail": refusal.detail[:DETAIL_MAX],
        "code": refusal.code,
        "retryable": refusal.retryable,
    }
    retry_after_s = RETRY_AFTER_S.get(refusal.code)
    if retry_after_s is not None and not any(name == b"retry-after" for name, _ in headers):
        headers = (*headers, (b"retry-after", str(retry_after_s).encode()))
    beside = {name: value for name, value in refusal.context.items() if name not in fields}
    if beside.get("needed_mib", 0) is None:
        # The whole GPU is no number of MiB, and callers were promised one.
        del beside["needed_mib"]
    return Answer(refusal.status, msgspec.json.encode({**fields, **beside}), PROBLEM_JSON, headers)


def internal_error() -> Answer:
    """Return the answer when we failed: it says nothing of our inside, the log does."""
    return problem(Refusal("internal_error", "the supervisor failed to answer this; its log says why"))
