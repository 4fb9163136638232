"""Every problem code for people: what to do about it, and an example. ``core.errors.CODES`` says status and retryable.

Nothing in here decides: an operation says in ``describe`` which of these it can answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from supervisor.core.errors import CODES
from supervisor.core.model import Problem
from supervisor.keys import Role


class ForeignProcess(Struct, frozen=True, kw_only=True):
    """A process on a GPU that the supervisor may not stop."""

    pid: int
    used_mib: int | None
    name: str | None
    user: str | None
    container: str | None


class ProblemDetails(Struct, frozen=True, kw_only=True):
    """Why a request was not answered as it wished: RFC 9457, as ``application/problem+json``.

    ``code`` and ``retryable`` are for programs, ``detail`` is for people. Which of the fields after them are there
    depends on the code.
    """

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Meta(extra_json_schema={"enum": list(CODES)})]
    retryable: bool
    field: str | UnsetType = UNSET
    target: str | UnsetType | None = UNSET
    targets: tuple[str, ...] | UnsetType = UNSET
    holder: str | UnsetType | None = UNSET
    owner: str | UnsetType = UNSET
    expires_at: str | int | UnsetType | None = UNSET
    queue_length: int | UnsetType = UNSET
    queue_index: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    problems: tuple[Problem, ...] | UnsetType = UNSET
    needed_mib: int | UnsetType = UNSET
    largest_gpu_mib: int | UnsetType = UNSET
    foreign_mib: int | UnsetType = UNSET
    gpu: str | UnsetType = UNSET
    processes: tuple[ForeignProcess, ...] | UnsetType = UNSET
    gpus: tuple[str, ...] | UnsetType = UNSET
    gpus_asked: int | UnsetType = UNSET
    gpus_known: int | UnsetType = UNSET
    gpu_class: str | UnsetType = UNSET
    devices: tuple[str, ...] | UnsetType = UNSET
    evictable_at: str | int | UnsetType = UNSET
    needed_role: Role | UnsetType = UNSET
    held: int | UnsetType = UNSET
    limit: int | UnsetType = UNSET
    container: str | UnsetType | None = UNSET
    logs_tail: str | UnsetType = UNSET


class ProblemText(Struct, frozen=True):
    """``advice``: what to do, for people. ``detail`` and ``context``: an example of its sentence and its fields."""

    advice: str
    detail: str
    context: dict[str, Any] = {}


#: Codes that are answered beside the described operations: another path, and another method.
BESIDE_OPERATIONS: dict[str, Literal["no path", "no method"]] = {
    "not_found": "no path",
    "method_not_allowed": "no method",
}

_BUSY = {"holder": "comfyui", "owner": "bob", "queue_length": 1, "expires_at": "2026-11-21T10:05:00.000Z"}

PROBLEMS: dict[str, ProblemText] = {
    "bad_request": ProblemText(
        "Mend what `detail` says; `field` is the place in the body or query. The same request is refused again.",
        "ttl_seconds: Expected `int` >= 0",
        {"field": "ttl_seconds"},
    ),
    "unauthorized": ProblemText(
        "Send a key that is known and has not expired, as `Authorization: Bearer` or `X-API-Key`; `needed_role` says "
        "what it must be good for. On the supervisor's machine `gpu-supervisor token create` makes one.",
        "a key is needed here: send one of the role lease as Authorization: Bearer or X-API-Key; gpu-supervisor token "
        "create makes one",
        {"needed_role": "lease"},
    ),
    "forbidden": ProblemText(
        "Use a key of the role that `needed_role` names, and for this target. Without either: ask under a name of this "
        "server (`--allowed-hosts` adds names), and not from a web page of another site.",
        "this needs the role admin, and key ci has the role lease",
        {"needed_role": "admin"},
    ),
    "lease_unknown": ProblemText(
        "Ask for a new lease: this token stands for nothing any more. `reason` says how it ended, where that is "
        "remembered.",
        "no lease or ticket has this token: it has ended, or never was",
        {"reason": "expired"},
    ),
    "target_unknown": ProblemText(
        "Check the name, or create its containers first: `docker compose create`.",
        "no container is labelled gpu.target=comfy; did you mean comfyui?",
        {"target": "comfy"},
    ),
    "not_found": ProblemText(
        "Check the path, or the GPU that it names. A token or a name in it must not hold a slash.",
        "there is nothing at this path",
    ),
    "method_not_allowed": ProblemText("Use a method of the header `Allow`.", "this path takes GET, HEAD"),
    "request_timeout": ProblemText(
        "Send the whole request at once: its headers within 10 s, its body within 30 s.",
        "the headers of the request took too long",
    ),
    "gpu_busy": ProblemText(
        "Wait in the queue: `wait_seconds` stays on the line, `queue` (or a `priority` on `/acquire`) gives a ticket. "
        "Or try again after `Retry-After`.",
        "comfyui holds the GPU (owner bob)",
        _BUSY,
    ),
    "lease_mismatch": ProblemText(
        "The token is no lease and no ticket of this server: ask without one.",
        "no lease or ticket has this token",
    ),
    "lease_ended": ProblemText(
        "Ask for a new lease, with a new Idempotency-Key. `reason` says how this one ended.",
        "this lease has ended (released); ask for a new one",
        {"reason": "released"},
    ),
    "target_absent": ProblemText(
        "Create its containers again: `detail` has the command.",
        "comfyui has no containers; create them with: docker compose -p comfyui create",
    ),
    "target_leased": ProblemText(
        "Release its lease first: what is leased is not evicted.", "comfyui is leased: release its lease first"
    ),
    "target_mismatch": ProblemText(
        "A token belongs to one target: ask for the other one without it.",
        "this token belongs to comfyui, not to ollama",
    ),
    "ticket_expired": ProblemText(
        "Ask for a new ticket, and claim it while its window is open, or stay on the line with `wait_seconds`.",
        "its turn came and was not claimed in time; ask for a new ticket",
    ),
    "idempotency_conflict": ProblemText(
        "Use a new Idempotency-Key for another request.",
        "this Idempotency-Key was used with another request; use a new key",
    ),
    "body_too_large": ProblemText("Send less: no request needs more.", "a body has at most 65536 bytes"),
    "unsupported_media_type": ProblemText(
        "Send the body as JSON, uncompressed, with `Content-Type: application/json`.",
        "a body needs the header Content-Type: application/json",
    ),
    "target_invalid": ProblemText(
        "Mend its labels (`problems`), and create its containers anew. `gpu-supervisor check` shows them too.",
        "the labels of comfyui must be mended: no container of comfyui is the master",
        {
            "problems": [
                {
                    "code": "no_master",
                    "message": "no container of comfyui is the master",
                    "hint": 'put gpu.healthcheck-master: "true" on one of them',
                    "severity": "error",
                    "target": "comfyui",
                    "container": None,
                    "service": None,
                    "label": "gpu.healthcheck-master",
                    "value": None,
                }
            ]
        },
    ),
    "caller_limit": ProblemText(
        "Give a lease back or cancel a ticket first: one caller may have `limit` of them, and has `held` (settings "
        "`caller_leases`, `caller_tickets`).",
        "key ci has 4 leases and tickets, and may have 4: give one back first",
        {"held": 4, "limit": 4},
    ),
    "too_many_requests": ProblemText(
        "Wait as long as `Retry-After` says: too many wrong keys came from this address, or this caller sends more "
        "requests than it may (setting `caller_requests`).",
        "key ci sends more requests than it may: try again in 1 s",
    ),
    "headers_too_large": ProblemText("Send fewer or shorter headers.", "a request's headers have at most 32768 bytes"),
    "internal_error": ProblemText(
        "The supervisor failed: its log says why. Try again, and report it.",
        "the supervisor failed to answer this; its log says why",
    ),
    "target_unhealthy": ProblemText(
        "Read `logs_tail` and the log of `container`; the lease is given back and the target stopped.",
        "comfyui did not start: comfyui-web-1 is unhealthy",
        {"target": "comfyui", "container": "comfyui-web-1", "logs_tail": "CUDA error: out of memory"},
    ),
    "target_failed": ProblemText(
        "Read `logs_tail` and the log of `container`; the lease is given back and the target stopped.",
        "comfyui did not start: comfyui-web-1 exited with 1",
        {"target": "comfyui", "container": "comfyui-web-1", "logs_tail": "no such file: model.safetensors"},
    ),
    "engine_unavailable": ProblemText(
        "Try again after `Retry-After`: the container engine is away or restarts. `/readyz` says since when.",
        "not in sync with the container engine (connection refused): nothing is granted",
    ),
    "gpu_dirty": ProblemText(
        "Find what still uses the GPU (`nvidia-smi`) and end it; the GPU opens by itself when its memory is back, or "
        "when an operator says that it is clean (`POST /v1/gpus/{uuid}/open`).",
        "the memory of GPU GPU-4f1c did not come back 30 s after everything on it was stopped; "
        "it opens by itself when it does",
    ),
    "gpu_unavailable": ProblemText(
        "Look at the driver (`nvidia-smi`), at what the target is pinned to (`gpu.devices`), and at the classes that "
        "the configuration gives; or try without a GPU: `serve --gpus sim:1x24576`.",
        "no GPU is of the class medium; classes are high, low (setting gpu_classes)",
        {"gpu_class": "medium"},
    ),
    "insufficient_vram": ProblemText(
        "Waiting does not help. Lower `gpu.vram-mib` if it is too high (`largest_gpu_mib`), ask for fewer GPUs "
        "(`gpus_known`), or end what the supervisor may not stop (`processes`).",
        "9000 of 24576 MiB on GPU GPU-4f1c are in use by what the supervisor may not stop : pid 4711 (python3 of "
        "eve, 9000 MiB); comfyui needs 20480 MiB; end that first",
        {
            "needed_mib": 20_480,
            "foreign_mib": 9_000,
            "gpu": "GPU-4f1c",
            "processes": [{"pid": 4_711, "used_mib": 9_000, "name": "python3", "user": "eve", "container": None}],
        },
    ),
    "overloaded": ProblemText("Close connections, and try again.", "too many connections are open"),
    "queue_full": ProblemText(
        "Try again later; the setting `queue_max` bounds the queue.",
        "20000 tickets wait already, which is the configured limit",
    ),
    "scheduler_timeout": ProblemText(
        "Ask again, with a longer `wait_seconds`, or with `queue` for a ticket that outlives the wait.",
        "the wait ran out: comfyui holds the GPU (owner bob); place 1 in the queue",
        {**_BUSY, "queue_index": 0},
    ),
    "shutting_down": ProblemText(
        "Try again when it is back: leases and places in the queue survive.",
        "the supervisor is shutting down; try again when it is back",
    ),
    "storage_full": ProblemText(
        "Free some space on the disk of the data directory; it recovers by itself. Releases and renewals go on.",
        "the disk of the data directory is full: free some space, grants resume by then",
    ),
    "journal_damaged": ProblemText(
        "See the damage with `gpu-supervisor journal verify`, and mend it with `gpu-supervisor journal salvage`.",
        "the journal is damaged, so nothing is granted: segment 3, byte 8192; "
        "see it with: gpu-supervisor journal verify",
    ),
    "target_timeout": ProblemText(
        "Read `logs_tail`, or wait longer (`ready_timeout_seconds`, `wait_s`); the lease is given back.",
        "comfyui was not ready in 900 s",
        {"target": "comfyui", "logs_tail": "loading weights: 40 %"},
    ),
}
assert PROBLEMS.keys() == CODES.keys(), f"codes described and not: {PROBLEMS.keys() ^ CODES.keys()}"
