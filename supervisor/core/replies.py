"""What requests are answered, and what the engine is asked to do: the two ways out of the core."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from supervisor.core.errors import Refusal
from supervisor.core.model import Lease


class Granted(Struct, frozen=True):
    """The caller holds ``lease``. ``expires_at_ms`` None: it has no TTL (adopted).

    ``state``: starting, ready, down (a refreshed lease), or ended with ``reason`` (a job that was already done).
    """

    request_id: int
    lease: Lease
    expires_at_ms: int | None
    state: str
    reason: str = ""


class Queued(Struct, frozen=True):
    """The caller has a polled ticket. ``position`` counts from 0 (the head)."""

    request_id: int
    ticket_id: str
    position: int


class Renewed(Struct, frozen=True):
    """``ends_at_ms``: others wait, and the lease ends then however often it is renewed, if they still do."""

    request_id: int
    expires_at_ms: int | None
    ttl_ms: int
    ends_at_ms: int | None = None


class Released(Struct, frozen=True):
    """``released`` False: nothing was known under that token (``reason``)."""

    request_id: int
    released: bool
    reason: str = ""


class Moved(Struct, frozen=True):
    """``position`` counts from 0 (the head). ``moved`` False: nothing has changed (``reason``)."""

    request_id: int
    moved: bool
    position: int | None = None
    reason: str = ""


class Refused(Struct, frozen=True):
    """``logs_of``: the container whose last log lines belong into the answer."""

    request_id: int
    refusal: Refusal
    logs_of: str | None = None


Reply = Granted | Queued | Renewed | Released | Moved | Refused


class StartContainer(Struct, frozen=True):
    id: str
    kind: Literal["start"] = "start"


class StopContainer(Struct, frozen=True):
    """Ask it to stop and kill it after ``grace_s``."""

    id: str
    grace_s: int
    kind: Literal["stop"] = "stop"


class KillContainer(Struct, frozen=True):
    """SIGKILL a fresh container that has no right to run. It promises nobody anything: its fact may follow."""

    id: str
    kind: Literal["kill"] = "kill"


Action = StartContainer | StopContainer | KillContainer


class SignalProcess(Struct, frozen=True):
    """Send ``signal`` to the process ``pid`` that was started at ``started`` (clock ticks), and to no later one."""

    pid: int
    started: int
    signal: int
