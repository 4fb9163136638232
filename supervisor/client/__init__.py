"""Leases for the GPU from Python: in scripts, notebooks, threads (``Client``), on asyncio and trio (``AsyncClient``).

>>> from supervisor.client import Client, GpuBusy
>>> with Client() as client:
...     with client.lease("comfyui", owner="ann"):
...         try:
...             client.lease(gpus=1, owner="bob", wait=0).acquire()
...         except GpuBusy as busy:
...             print(busy)
...             print(busy.hint)
comfyui holds the GPU (owner ann)
wait for it: lease(..., wait=600), or take a place in the queue with ticket()

The server is found at GPU_SUPERVISOR_URL. What is answered are the Structs of ``supervisor.answers``; what goes wrong
is a ``SupervisorError`` with ``code`` and ``hint``, as drawn at the head of ``errors``.
"""

from supervisor.client.errors import BadValue, LeaseLost, NotHeld, Refused, SupervisorError, Unreachable
from supervisor.client.functions import current_lease, gpu
from supervisor.client.leases import AsyncLease, Lease
from supervisor.client.loops import AsyncClient
from supervisor.client.refusals import (
    REFUSALS,
    BadRequest,
    BodyTooLarge,
    CallerLimit,
    EngineUnavailable,
    Forbidden,
    GpuBusy,
    GpuDirty,
    GpuUnavailable,
    HeadersTooLarge,
    IdempotencyConflict,
    InsufficientVram,
    InternalError,
    JournalDamaged,
    LeaseEnded,
    LeaseMismatch,
    LeaseUnknown,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    QueueFull,
    RequestTimeout,
    SchedulerTimeout,
    ShuttingDown,
    StorageFull,
    TargetAbsent,
    TargetFailed,
    TargetInvalid,
    TargetLeased,
    TargetMismatch,
    TargetTimeout,
    TargetUnhealthy,
    TargetUnknown,
    TicketExpired,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
)
from supervisor.client.threads import Client
from supervisor.client.tickets import AsyncTicket, Ticket
from supervisor.client.wishes import LeaseOptions

__all__ = [
    "Client",
    "Lease",
    "Ticket",
    "AsyncClient",
    "AsyncLease",
    "AsyncTicket",
    "LeaseOptions",
    "gpu",
    "current_lease",
    "SupervisorError",
    "BadValue",
    "Unreachable",
    "NotHeld",
    "LeaseLost",
    "Refused",
    "REFUSALS",
    "BadRequest",
    "Unauthorized",
    "Forbidden",
    "LeaseUnknown",
    "TargetUnknown",
    "NotFound",
    "MethodNotAllowed",
    "RequestTimeout",
    "GpuBusy",
    "LeaseMismatch",
    "LeaseEnded",
    "TargetAbsent",
    "TargetLeased",
    "TargetMismatch",
    "TicketExpired",
    "IdempotencyConflict",
    "BodyTooLarge",
    "UnsupportedMediaType",
    "TargetInvalid",
    "CallerLimit",
    "TooManyRequests",
    "HeadersTooLarge",
    "InternalError",
    "TargetUnhealthy",
    "TargetFailed",
    "EngineUnavailable",
    "GpuDirty",
    "GpuUnavailable",
    "InsufficientVram",
    "Overloaded",
    "QueueFull",
    "SchedulerTimeout",
    "ShuttingDown",
    "StorageFull",
    "JournalDamaged",
    "TargetTimeout",
]


def __dir__() -> list[str]:
    return sorted(__all__)
