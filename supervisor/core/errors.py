"""What can go wrong, for people and for programs: one table of codes, one exception base.

Every code is stable. A refusal carries its code, a sentence a person can act on, and context fields.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

CODES: dict[str, tuple[int, bool]] = {
    # code: (HTTP status, whether the same request may succeed later without a change)
    "bad_request": (400, False),
    "unauthorized": (401, False),
    "forbidden": (403, False),
    "lease_unknown": (404, False),
    "target_unknown": (404, False),
    "not_found": (404, False),
    "method_not_allowed": (405, False),
    "request_timeout": (408, True),
    "gpu_busy": (409, True),
    "lease_mismatch": (409, False),
    "lease_ended": (409, False),
    "target_absent": (409, False),
    "target_leased": (409, False),
    "target_mismatch": (409, False),
    "ticket_expired": (409, False),
    "idempotency_conflict": (409, False),
    "body_too_large": (413, False),
    "unsupported_media_type": (415, False),
    "target_invalid": (422, False),
    "caller_limit": (429, True),
    "too_many_requests": (429, True),
    "headers_too_large": (431, False),
    "internal_error": (500, True),
    "target_unhealthy": (502, False),
    "target_failed": (502, False),
    "engine_unavailable": (503, True),
    "gpu_dirty": (503, True),
    "gpu_unavailable": (503, False),
    "insufficient_vram": (503, False),
    "overloaded": (503, True),
    "queue_full": (503, True),
    "scheduler_timeout": (503, True),
    "shutting_down": (503, True),
    "storage_full": (503, True),
    "journal_damaged": (503, False),
    "target_timeout": (504, True),
}


class Refusal(Struct, frozen=True):
    """Why a request was not granted, as a value. ``context`` holds only JSON-ready values, never a token."""

    code: str
    detail: str
    context: dict[str, Any] = {}

    @property
    def status(self) -> int:
        return CODES[self.code][0]

    @property
    def retryable(self) -> bool:
        return CODES[self.code][1]


class SupervisorError(Exception):
    """Base of every error of ours: ``code`` for programs, the message for people, ``hint`` for what to do next."""

    code = "internal_error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
