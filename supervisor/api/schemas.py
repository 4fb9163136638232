"""What callers may send: one Struct per body and query, strict, with bounds.

Unknown fields, wrong types and numbers out of range are refused (``bodies``); TTLs within range are clamped by the
core, and the answer says to what. Units are in the names, or seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from supervisor.core.values import VRAM_MAX_MIB

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Rank = Annotated[int, Meta(ge=-1000, le=1000)]
Name = Annotated[str, Meta(max_length=256)]
Secret = Annotated[str, Meta(min_length=1, max_length=256)]

NOBODY = "anonymous"


class Body(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request's body (or query)."""


class AcquireBody(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``POST /acquire``. ``priority`` makes a busy call queue. ``wait_s`` bounds the wait for readiness."""

    target: Name
    owner: Name = NOBODY
    lease_token: Secret | None = None
    lease_ttl_s: Count | None = None
    wait_s: Count = 900
    wait_ready: bool = True
    priority: Rank | None = None


class ReleaseBody(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``POST /release``: one's own lease or ticket by its token, or (``force``) somebody else's lease."""

    lease_token: Secret | None = None
    force: bool = False
    target: Name | None = None


class LeaseBody(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``POST /v1/lease``. ``consumer`` is another name for ``target``; with neither it is a bare lease.

    ``gpus``, ``vram_mib`` (on each of them) and ``gpu_class`` are a bare lease's: a target's labels say it.
    ``pid``, too: the caller's process with which the lease ends, over the unix socket only; it has no TTL then.
    ``dry_run``: nothing is asked for; the answer says what would happen.
    """

    target: Name | None = None
    consumer: Name | None = None
    owner: Name = NOBODY
    priority: Rank | None = None
    ttl_seconds: Count = 300
    wait_seconds: Count = 0
    wait_ready: bool = True
    ready_timeout_seconds: Count = 900
    queue: bool = False
    dry_run: bool = False
    gpus: Annotated[int, Meta(ge=1, le=64)] = 1
    vram_mib: Annotated[int, Meta(ge=1, le=VRAM_MAX_MIB)] | None = None
    gpu_class: Name | None = None
    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class ClaimBody(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``POST /v1/lease/{token}/claim``. What is left out stays as it was asked for with the ticket."""

    ttl_seconds: Count | None = None
    wait_seconds: Count = 0
    wait_ready: bool | None = None
    ready_timeout_seconds: Count | None = None


class MoveBody(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``POST /v1/leases/{id}/move``. ``dry_run``: nothing is moved; the answer says where that would put it."""

    priority: Rank
    dry_run: bool = False


class EmptyBody(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Calls that say everything in their path: no body, or an empty object."""


class ForceEndQuery(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``DELETE /v1/leases/{id}``. ``only``: do nothing if it is something else by now."""

    only: Literal["lease", "ticket"] | None = None


class EventsQuery(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``GET /v1/events``. Without ``after``: the newest ``limit``."""

    after: Count | None = None
    target: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class HistoryQuery(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``GET /v1/history``."""

    span: Literal["hour", "day"] = "hour"


class LogsQuery(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``GET /v1/targets/{name}/logs``."""

    lines: Annotated[int, Meta(ge=1, le=200)] = 50


class EmptyQuery(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Calls that take no query."""
