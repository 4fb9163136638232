"""What can go wrong for somebody who types a command, and the exit status that says so to a script.

SupervisorError
├── Usage          2  the command line or the settings are wrong
├── Refused        1  the server said no; 3 where the same request may succeed later
├── Unreachable    4  no server answers
└── LeaseLost      5  the lease ended while its owner still used it
"""

from __future__ import annotations

import shlex
from typing import Any

from supervisor.config import ConfigError
from supervisor.core.errors import SupervisorError

OK = 0
FAILED = 1
USAGE = 2
BUSY = 3
UNREACHABLE = 4
LOST = 5

#: Docker's words where a container asks for a GPU and nothing is installed that could hand it one.
#: Source: moby daemon/devices.go.
NO_TOOLKIT = 'could not select device driver "nvidia"'
#: For the help text and the README.
MEANINGS = {
    OK: "done",
    FAILED: "it failed, or was refused for good",
    USAGE: "the command line or the settings are wrong, or another supervisor uses the data directory",
    BUSY: "refused for now: the same command may succeed later",
    UNREACHABLE: "no supervisor answers",
    LOST: "the lease was lost while it was held",
}


class Usage(SupervisorError):
    """The command line cannot be meant like this."""

    code = "usage"


class Unreachable(SupervisorError):
    """No supervisor answers, or what answers is none. ``asked``: whether the request may have reached one."""

    code = "unreachable"

    def __init__(self, message: str, hint: str = "", *, asked: bool = True) -> None:
        super().__init__(message, hint)
        self.asked = asked


class Refused(SupervisorError):
    """A problem answer (RFC 9457) of the server. ``context`` holds its other fields."""

    def __init__(self, code: str, detail: str, *, status: int, retryable: bool, context: dict[str, Any]) -> None:
        culprit = shlex.quote(str(context.get("container") or "CONTAINER"))
        role = str(context.get("needed_role") or "lease")
        why = next((f"{code}: {field}" for field in ("needed_role", "target") if field in context), code)
        hint = HINTS.get(why) or HINTS.get(code, "")
        if NO_TOOLKIT in detail:
            hint = "install the NVIDIA Container Toolkit, or leave the GPU reservation out of the compose file"
        super().__init__(detail, hint.replace("CONTAINER", culprit).replace("ROLE", role))
        self.code = code
        self.status = status
        self.retryable = retryable
        self.context = context

    @property
    def until(self) -> str:
        """Until when the holder has what was refused, as far as it is known (RFC 3339), or ""."""
        return str(self.context.get("expires_at") or "") if self.code in ("gpu_busy", "scheduler_timeout") else ""

    @property
    def logs_tail(self) -> str:
        tail = self.context.get("logs_tail")
        return "\n".join(map(str, tail)) if isinstance(tail, list) else str(tail or "")


class LeaseLost(SupervisorError):
    """The lease ended while it was held: somebody else may use the GPU now. ``reason`` is the server's, if it said."""

    code = "lease_lost"

    def __init__(self, name: str, why: str, reason: str | None) -> None:
        super().__init__(f"the lease of {name} was lost: {why}", "see what happened with: gpu-supervisor audit")
        self.reason = reason


#: What to type next, where the server's sentence does not say it: it knows nothing of this command. Of one code there
#: may be several, by a field that the problem has.
HINTS = {
    "gpu_busy": "wait with --wait 10m, or see the queue with: gpu-supervisor queue",
    "scheduler_timeout": "wait longer with --wait 1h, or see the queue with: gpu-supervisor queue",
    "queue_full": "see the queue with: gpu-supervisor queue",
    "target_unknown": "see what there is with: gpu-supervisor targets",
    "target_invalid": "see every problem with: gpu-supervisor check",
    "target_failed": "see why with: docker logs CONTAINER",
    "target_unhealthy": "see why with: docker inspect CONTAINER",
    "target_leased": "its owner gives it back with gpu-supervisor release TOKEN; "
    "gpu-supervisor release --target TARGET --force takes it away",
    "engine_unavailable": "see whether Docker runs: docker ps",
    "gpu_dirty": "see what still uses it: gpu-supervisor status",
    "journal_damaged": "see what is left with: gpu-supervisor journal verify",
    "unauthorized": "put a key into GPU_SUPERVISOR_TOKEN; on the server's machine: "
    "gpu-supervisor token create NAME --role ROLE",
    "forbidden: needed_role": "put a key of that role into GPU_SUPERVISOR_TOKEN; on the server's machine: "
    "gpu-supervisor token create NAME --role ROLE",
    "forbidden: target": "see what each key is for, on the server's machine: gpu-supervisor token list",
    "forbidden": "see --allowed-hosts in the README",
    "caller_limit": "see what is held: gpu-supervisor queue",
}


def also_wrong(error: SupervisorError) -> tuple[ConfigError, ...]:
    return error.others if isinstance(error, ConfigError) else ()


def exit_status(error: SupervisorError) -> int:
    match error:
        case Usage() | ConfigError():
            return USAGE
        case Refused(retryable=True):
            return BUSY
        case Unreachable():
            return UNREACHABLE
        case LeaseLost():
            return LOST
        case _:
            # Errors from elsewhere may bring their own: a locked journal does.
            return int(getattr(error, "exit_status", FAILED))
