"""One exception class for each problem code of the server; a test compares them with its table.

``hint`` says what to do in the words of this client; the server's own sentence is the message.
"""

from __future__ import annotations

from supervisor.asking import Problem
from supervisor.client.errors import Refused


class BadRequest(Refused):
    """The request cannot be meant like this."""

    code = "bad_request"
    advice = "mend what the message says; `context['field']` is the place"


class Unauthorized(Refused):
    """The server wants an API token, and this one is none of its own."""

    code = "unauthorized"
    advice = "give one with Client(token=...), or in GPU_SUPERVISOR_TOKEN"


class Forbidden(Refused):
    """The token's role, or the name that the server was asked under, does not allow it."""

    code = "forbidden"
    advice = "use a token of a higher role, or ask under a name of the server (--allowed-hosts adds names)"


class LeaseUnknown(Refused):
    """The token stands for nothing any more."""

    code = "lease_unknown"
    advice = "ask for a new lease; `context['reason']` says how it ended, where that is remembered"


class TargetUnknown(Refused):
    """No container carries this ``gpu.target``."""

    code = "target_unknown"
    advice = "check the name (client.targets() has all), or create its containers: docker compose create"


class NotFound(Refused):
    """There is nothing of this name."""

    code = "not_found"
    advice = "check the name, and whether the server is as new as this client"


class MethodNotAllowed(Refused):
    """The server does not know this call."""

    code = "method_not_allowed"
    advice = "see whether the server is as new as this client"


class RequestTimeout(Refused):
    """The request did not arrive in time."""

    code = "request_timeout"
    advice = "try again; see whether this machine hangs"


class GpuBusy(Refused):
    """Somebody else has the GPU."""

    code = "gpu_busy"
    advice = "wait for it: lease(..., wait=600), or take a place in the queue with ticket()"


class LeaseMismatch(Refused):
    """The token is no lease and no ticket of this server."""

    code = "lease_mismatch"
    advice = "ask for a new lease"


class LeaseEnded(Refused):
    """The lease has ended."""

    code = "lease_ended"
    advice = "ask for a new lease; `context['reason']` says how this one ended"


class TargetAbsent(Refused):
    """The target's containers are gone."""

    code = "target_absent"
    advice = "create them again: the message has the command"


class TargetLeased(Refused):
    """The target has a lease, so it is not evicted."""

    code = "target_leased"
    advice = "release its lease first"


class TargetMismatch(Refused):
    """The token belongs to another target."""

    code = "target_mismatch"
    advice = "ask for this one with a lease of its own"


class TicketExpired(Refused):
    """The ticket's turn came, and it was not claimed in time."""

    code = "ticket_expired"
    advice = "take a new ticket, and claim it with a wait: ticket.claim(wait=600)"


class IdempotencyConflict(Refused):
    """The idempotency key was used for another request."""

    code = "idempotency_conflict"
    advice = "ask again; the client makes a new key for each lease"


class BodyTooLarge(Refused):
    """The request is larger than any needs to be."""

    code = "body_too_large"
    advice = "send less"


class UnsupportedMediaType(Refused):
    """What lies between changes the requests: their bodies do not arrive as JSON."""

    code = "unsupported_media_type"
    advice = "see what proxy lies between this client and the server"


class TargetInvalid(Refused):
    """The target's labels must be mended."""

    code = "target_invalid"
    advice = "see `context['problems']`, or run: gpu-supervisor check"


class HeadersTooLarge(Refused):
    """The request's headers are too large."""

    code = "headers_too_large"
    advice = "see what proxy lies between this client and the server"


class InternalError(Refused):
    """The supervisor failed."""

    code = "internal_error"
    advice = "see its log, and report it"


class TargetUnhealthy(Refused):
    """The target was started, and its master is unhealthy; the lease is given back."""

    code = "target_unhealthy"
    advice = "read `context['logs_tail']`, and: docker logs CONTAINER"


class TargetFailed(Refused):
    """The target could not be started; the lease is given back."""

    code = "target_failed"
    advice = "read `context['logs_tail']`, and: docker logs CONTAINER"


class EngineUnavailable(Refused):
    """The container engine is away, so nothing is granted."""

    code = "engine_unavailable"
    advice = "see whether Docker runs: docker ps"


class GpuDirty(Refused):
    """The GPU's memory did not come back from who had it before."""

    code = "gpu_dirty"
    advice = "end what still uses it (client.processes()); or say that it is clean: client.open_gpu(uuid)"


class GpuUnavailable(Refused):
    """No GPU that would do can be used."""

    code = "gpu_unavailable"
    advice = "look at the driver: nvidia-smi; without a GPU: gpu-supervisor serve --gpus sim:1x24576"


class InsufficientVram(Refused):
    """It does not fit, and nothing that may be stopped would make room."""

    code = "insufficient_vram"
    advice = "ask for less, or end what is in the way: `context['processes']`"


class Overloaded(Refused):
    """Too many connections are open."""

    code = "overloaded"
    advice = "close clients that are not used, and try again"


class QueueFull(Refused):
    """The queue is full."""

    code = "queue_full"
    advice = "try again later; the setting queue_max bounds it"


class SchedulerTimeout(Refused):
    """The wait ran out before the turn came."""

    code = "scheduler_timeout"
    advice = "wait longer: lease(..., wait=3600)"


class ShuttingDown(Refused):
    """The supervisor is being stopped or restarted."""

    code = "shutting_down"
    advice = "try again when it is back: leases and places in the queue survive"


class StorageFull(Refused):
    """The disk of the supervisor's journal is full, so nothing is granted."""

    code = "storage_full"
    advice = "free some space there; leases that are held go on"


class JournalDamaged(Refused):
    """The supervisor's journal is damaged, so nothing is granted."""

    code = "journal_damaged"
    advice = "see it with: gpu-supervisor journal verify"


class TargetTimeout(Refused):
    """The target was not ready in time; the lease is given back."""

    code = "target_timeout"
    advice = "wait longer: lease(..., ready_timeout=1800); `context['logs_tail']` says how far it came"


class CallerLimit(Refused):
    """This caller has as many leases and tickets as one may have."""

    code = "caller_limit"
    advice = "release one first; `context['limit']` says how many one caller may have"


class TooManyRequests(Refused):
    """This caller sends more requests than it may, or too many wrong tokens came from its address."""

    code = "too_many_requests"
    advice = "send fewer requests, and none with a token that was refused"


REFUSALS: dict[str, type[Refused]] = {kind.code: kind for kind in Refused.__subclasses__()}
"""The class of each code."""


def refusal(problem: Problem) -> Refused:
    """Return what to raise for a problem answer: the class of its code, or ``Refused`` for an unknown one."""
    kind = REFUSALS.get(problem.code, Refused)
    standard = {"type", "title", "status", "detail", "code", "retryable"}
    context = {name: value for name, value in problem.context.items() if name not in standard}
    return kind(problem.code, problem.detail, status=problem.status, retryable=problem.retryable, context=context)
