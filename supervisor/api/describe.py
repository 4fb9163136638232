"""What every operation takes and answers, as one table: ``openapi`` makes the document of it, and decides nothing.

A row stands for a method and a path of ``ROUTES``; neither may be without the other. A problem code stands at exactly
those operations that can answer it: what everybody may be answered is in ``EVERYWHERE``, and said once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from supervisor.answers import (
    AcquireAnswer,
    EndedView,
    Events,
    EvictAnswer,
    ForecastAnswer,
    HistoryView,
    LeaseAnswer,
    LeaseView,
    LogsView,
    MovedAnswer,
    OpenedAnswer,
    PlainStatus,
    ProcessesView,
    QueuedAnswer,
    Readiness,
    ReleaseAnswer,
    ReleasedAnswer,
    RenewAnswer,
    StatusView,
    TargetsView,
    TargetView,
    TicketAnswer,
    TicketView,
    Why,
)
from supervisor.api import describe_examples as example
from supervisor.api.describe_fields import TARGET_PATTERN
from supervisor.api.schemas import (
    AcquireBody,
    ClaimBody,
    EmptyBody,
    EventsQuery,
    ForceEndQuery,
    HistoryQuery,
    LeaseBody,
    LogsQuery,
    MoveBody,
    ReleaseBody,
)

Method = Literal["GET", "POST", "DELETE"]
Key = tuple[str, str]
"""A method and a path, as in ``ROUTES``."""


class Alive(Struct, frozen=True):
    status: Literal["ok"]


class Param(Struct, frozen=True, kw_only=True):
    """A part of the path, or a header, which may be left out unless it is ``needed``. ``schema`` is JSON Schema."""

    name: str
    meaning: str
    schema: Mapping[str, Any]
    example: str
    needed: bool = False


class Shown(Struct, frozen=True, kw_only=True):
    """One answer that is no problem. ``shapes``: the Structs of a JSON body, any of them; none where it has no Struct.

    ``examples`` by a short name: Structs of ``shapes``, or what else is answered.
    """

    what: str
    shapes: tuple[type[Struct], ...] = ()
    examples: Mapping[str, Struct | Mapping[str, str] | str]
    media: str = "application/json"


class Operation(Struct, frozen=True, kw_only=True):
    """One row. ``codes``: the problems that it can answer beyond ``EVERYWHERE``. ``requests``: examples of its body."""

    id: str
    tag: str
    summary: str
    description: str = ""
    path: tuple[Param, ...] = ()
    headers: tuple[Param, ...] = ()
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    body_needed: bool = False
    requests: Mapping[str, Mapping[str, Any]] = {}
    answers: Mapping[int, tuple[Shown, ...]]
    codes: frozenset[str] = frozenset()


TAGS = {
    "leases": "Ask for the GPU, wait for it, keep it, give it back.",
    "plain": "The same for scripts: two calls and a status. Times are epoch seconds.",
    "state": "Who has what, who waits, and what every target does.",
    "audit": "Every decision, in order, in one sentence each.",
    "service": "Whether it is alive, whether it can grant, and what it takes.",
}

# ---- codes

#: From the connection, the guard in front of all routes, and our own failures.
EVERYWHERE = frozenset(
    {
        "bad_request",
        "forbidden",
        "request_timeout",
        "body_too_large",
        "unsupported_media_type",
        "headers_too_large",
        "internal_error",
        "overloaded",
    }
)
#: Wherever a role is needed.
KEYED = frozenset({"unauthorized", "too_many_requests"})
_OVER = frozenset({"shutting_down", "journal_damaged"})
_STANDSTILL = _OVER | {"storage_full", "gpu_unavailable"}
_NOT_NOW = frozenset({"engine_unavailable", "gpu_dirty"})
_NOT_LEASABLE = frozenset(
    {"engine_unavailable", "target_unknown", "target_absent", "target_invalid", "insufficient_vram"}
)
#: How a wait for readiness can end.
_NOT_READY = frozenset({"target_failed", "target_unhealthy", "target_timeout", "lease_ended"})
_ASKING = _STANDSTILL | _NOT_NOW | _NOT_LEASABLE | _NOT_READY | {"gpu_busy", "ticket_expired"}

# ---- parameters

_TOKEN = Param(
    name="token",
    meaning="The token of a lease or a ticket.",
    schema={"type": "string", "minLength": 1, "pattern": "^[^/]+$"},
    example=example.TOKEN,
)
_TARGET = Param(
    name="name",
    meaning="The target's name: the value of its label `gpu.target`.",
    schema={"type": "string", "pattern": TARGET_PATTERN},
    example="comfyui",
)
_LEASE_ID = Param(
    name="id",
    meaning="A lease or a ticket by its public id, as the status and the audit name it. It is no token.",
    schema={"type": "string", "pattern": "^[ -.0-~]{1,100}$"},
    example="l_8f3kQ2mXw1aZ",
)
_MOVED_ID = Param(
    name="id",
    meaning="A ticket by its public id, as the status and the audit name it. It is no token.",
    schema={"type": "string", "pattern": "^[ -.0-~]{1,100}$"},
    example="l_8f3kQ2mXw1aZ",
)
_GPU = Param(
    name="uuid",
    meaning="The GPU, by its UUID.",
    schema={"type": "string", "pattern": "^[ -.0-~]{1,100}$"},
    example="GPU-4f1c2b7e",
)
_ANY_NAME = Param(
    name="name",
    meaning="A target, or a container by its name or by 12 or more digits of its id.",
    schema={"type": "string", "pattern": "^[ -.0-~]{1,300}$"},
    example="ollama",
)
_KEY = Param(
    name="Idempotency-Key",
    meaning="A name for this request, of your own choice. A retry with it gets the first answer, with the same token, "
    "after a restart too; with another body it is refused (`idempotency_conflict`).",
    schema={"type": "string", "pattern": "^[!-~]{1,255}$"},
    example="job-42",
)
_KEY_ASKED_WITH = Param(
    name="Idempotency-Key",
    meaning="The key that the lease or the ticket was asked for with, by the same caller.",
    schema=_KEY.schema,
    example="job-42",
    needed=True,
)
_LAST_EVENT = Param(
    name="Last-Event-ID",
    meaning="Only with `Accept: text/event-stream`: the last `id` that was seen. The stream goes on behind it. "
    "Browsers send it by themselves when they reconnect.",
    schema={"type": "string", "pattern": "^[0-9]{1,18}$"},
    example="41",
)

_WEB_FILE = Param(
    name="file",
    meaning="The file's name.",
    schema={"type": "string", "pattern": "^[a-z]{1,20}\\.(css|js|svg)$"},
    example="style.css",
)
_IF_NONE_MATCH = Param(
    name="If-None-Match",
    meaning="The `ETag` of what the client has already. Browsers send it by themselves.",
    schema={"type": "string", "pattern": '^"[0-9a-f]{32}"$'},
    example='"0f1e2d3c4b5a69788796a5b4c3d2e1f0"',
)
_WEB_KINDS = (
    ("A style sheet,", "text/css", ":root{"),
    ("a script,", "text/javascript", "import"),
    ("or the icon.", "image/svg+xml", "<svg"),
)

_STREAM = (
    "retry: 1000\n\n"
    "id: 42\nevent: ContainerRefused\n"
    'data: {"seq":42,"time":"2026-11-21T10:00:00.000Z","type":"ContainerRefused",'
    '"sentence":"killed ollama-ollama-1 of ollama: comfyui holds the GPU","target":"ollama",'
    '"container":"ollama-ollama-1","fields":{"reason":"gpu_held","holder":"comfyui"}}\n\n'
    ": still here\n\n"
)

_NO_BODY = "No body is needed; an empty object is taken."

# ---- the table

OPERATIONS: dict[Key, Operation] = {
    ("POST", "/v1/lease"): Operation(
        id="askForLease",
        tag="leases",
        summary="Ask for a lease",
        description="For a target, or with neither `target` nor `consumer` for any process (a *bare* lease), which may "
        "ask for several GPUs, a size and a class. It makes room, starts the target and answers when it is ready. When "
        "the GPU is busy it is refused at once, or waits on the line (`wait_seconds`), or is given a ticket (`queue`). "
        "Whoever hangs up meanwhile is granted nothing.",
        headers=(_KEY,),
        body=LeaseBody,
        body_needed=True,
        requests={
            "a target, ten minutes on the line": {"target": "comfyui", "owner": "ann", "wait_seconds": 600},
            "a bare lease": {"owner": "ann", "ttl_seconds": 300},
            "two GPUs, 8 GiB on each": {"owner": "ann", "gpus": 2, "vram_mib": 8192, "gpu_class": "high"},
            "a ticket where it is busy": {"target": "ollama", "owner": "bob", "queue": True},
            "what would happen": {"target": "ollama", "owner": "bob", "dry_run": True},
        },
        answers={
            200: (
                Shown(
                    what="A dry run: what would happen now. Nothing was asked for.",
                    shapes=(ForecastAnswer,),
                    examples={"it would wait": example.FORECAST},
                ),
            ),
            201: (
                Shown(
                    what="The lease is yours.",
                    shapes=(LeaseAnswer,),
                    examples={"a target": example.LEASED, "a bare lease": example.LEASED_BARE},
                ),
            ),
            202: (
                Shown(
                    what="A ticket: a place in the queue. Look at it, and claim it when it is its turn.",
                    shapes=(TicketAnswer,),
                    examples={"a ticket": example.TICKETED},
                ),
            ),
        },
        codes=_ASKING | {"queue_full", "caller_limit", "scheduler_timeout", "idempotency_conflict"},
    ),
    ("GET", "/v1/lease/{token}"): Operation(
        id="lookAtLease",
        tag="leases",
        summary="Look at a lease or a ticket",
        description="What it is, what it waits for, who is ahead, and until when. An ended one is remembered for ten "
        "minutes.",
        path=(_TOKEN,),
        answers={
            200: (
                Shown(
                    what="A lease, a ticket, or one that has ended: `state` says which.",
                    shapes=(LeaseView, TicketView, EndedView),
                    examples={"a lease": example.LEASE, "a ticket": example.TICKET, "ended": example.ENDED},
                ),
            )
        },
        codes=frozenset({"lease_unknown"}),
    ),
    ("POST", "/v1/lease/{token}/claim"): Operation(
        id="claimLease",
        tag="leases",
        summary="Turn a ticket into its lease",
        description="While its claim window is open, or with `wait_seconds` from the line. A client that was cut off "
        "takes up its place again with it. Without a body everything stays as it was asked for with the ticket.",
        path=(_TOKEN,),
        body=ClaimBody,
        requests={"ten minutes on the line": {"wait_seconds": 600}},
        answers={
            200: (Shown(what="The lease is yours.", shapes=(LeaseAnswer,), examples={"a lease": example.LEASED}),)
        },
        codes=_ASKING | {"lease_unknown", "scheduler_timeout"},
    ),
    ("POST", "/v1/lease/{token}/renew"): Operation(
        id="renewLease",
        tag="leases",
        summary="Renew a lease",
        description="Its TTL begins afresh. A holder that has had it for as long as the target's `gpu.max-hold` says "
        f"cannot keep it by that while others wait: `ends_at` tells. {_NO_BODY}",
        path=(_TOKEN,),
        body=EmptyBody,
        requests={"nothing": {}},
        answers={
            200: (
                Shown(
                    what="It lives on.",
                    shapes=(RenewAnswer,),
                    examples={"renewed": example.RENEWED, "others wait": example.RENEWED_TOLD},
                ),
            )
        },
        codes=frozenset({"lease_unknown"}),
    ),
    ("DELETE", "/v1/lease/{token}"): Operation(
        id="giveLeaseBack",
        tag="leases",
        summary="Give a lease back, or cancel a ticket",
        description=f"The next in the queue is granted at once. Again does no harm. {_NO_BODY}",
        path=(_TOKEN,),
        body=EmptyBody,
        requests={"nothing": {}},
        answers={
            200: (
                Shown(
                    what="It has ended, now or before.",
                    shapes=(ReleasedAnswer,),
                    examples={"released": example.RELEASED, "nothing to release": example.NOT_RELEASED},
                ),
            )
        },
        codes=_OVER,
    ),
    ("DELETE", "/v1/lease"): Operation(
        id="giveLeaseBackByKey",
        tag="leases",
        summary="Give back what was asked for with an Idempotency-Key",
        description="For whoever was cut off, or changed its mind, before the answer with the token came. It ends the "
        "lease or cancels the ticket that the same caller asked for with this key; a request with it that is still on "
        f"the line is refused (`lease_ended`). It asks for nothing by itself, and again does no harm. {_NO_BODY}",
        headers=(_KEY_ASKED_WITH,),
        body=EmptyBody,
        requests={"nothing": {}},
        answers={
            200: (
                Shown(
                    what="It has ended, now or before; or nothing was asked for with this key.",
                    shapes=(ReleasedAnswer,),
                    examples={"released": example.RELEASED, "nothing to release": example.NOT_RELEASED},
                ),
            )
        },
        codes=_OVER,
    ),
    ("DELETE", "/v1/leases/{id}"): Operation(
        id="endLeaseByForce",
        tag="leases",
        summary="End somebody else's lease, or cancel a ticket, by its public id",
        description="For operators, without the token. Exactly this one: whoever else holds the same target keeps it, "
        "and the target stays resident until something needs the room. A granted ticket keeps its id: `only=ticket` "
        f"spares the lease that it may have become meanwhile. Again does no harm. {_NO_BODY}",
        path=(_LEASE_ID,),
        query=ForceEndQuery,
        body=EmptyBody,
        requests={"nothing": {}},
        answers={
            200: (
                Shown(
                    what="It has ended, now or before; `reason` says why nothing was done.",
                    shapes=(ReleasedAnswer,),
                    examples={"ended": example.RELEASED, "nothing to end": example.NOT_ENDED},
                ),
            )
        },
        codes=_OVER,
    ),
    ("POST", "/acquire"): Operation(
        id="acquire",
        tag="plain",
        summary="Lease a target, refresh its lease, or claim a ticket",
        description="Without `lease_token` it asks for a new lease; with a lease's it renews it, and starts the target "
        "again where it is down; with a ticket's it claims its turn. It waits for readiness, and never in the queue: "
        "with a `priority` a busy call is given a ticket, without one it is refused.",
        body=AcquireBody,
        body_needed=True,
        requests={
            "a target": {"target": "comfyui", "owner": "ann", "lease_ttl_s": 300},
            "queue when busy": {"target": "ollama", "owner": "bob", "priority": 0},
            "refresh or claim": {"target": "comfyui", "lease_token": example.TOKEN},
        },
        answers={
            200: (
                Shown(
                    what="The lease is yours, or (`queued`) a place in the queue.",
                    shapes=(AcquireAnswer, QueuedAnswer),
                    examples={"leased": example.ACQUIRED, "queued": example.ACQUIRE_QUEUED},
                ),
            )
        },
        codes=_ASKING | {"queue_full", "caller_limit", "lease_mismatch", "target_mismatch"},
    ),
    ("POST", "/release"): Operation(
        id="release",
        tag="plain",
        summary="Give a lease back, cancel a ticket, or take a lease away",
        description="With `lease_token` one's own; with `force` somebody else's lease, of `target` where there are "
        "several, which needs the role `admin`. The target stays resident until something needs the room.",
        body=ReleaseBody,
        body_needed=True,
        requests={
            "one's own": {"lease_token": example.TOKEN},
            "somebody else's": {"force": True, "target": "comfyui"},
        },
        answers={
            200: (
                Shown(
                    what="The new status. `released` false: a forced release found no lease.",
                    shapes=(ReleaseAnswer,),
                    examples={"released": example.RELEASED_PLAIN},
                ),
            )
        },
        codes=_OVER | {"lease_mismatch"},
    ),
    ("GET", "/status"): Operation(
        id="plainStatus",
        tag="plain",
        summary="The current target, its lease, the queue, every target in a word",
        answers={
            200: (
                Shown(
                    what="The status; never a token.",
                    shapes=(PlainStatus,),
                    examples={"leased": example.PLAIN_STATUS, "idle": example.PLAIN_IDLE},
                ),
            )
        },
    ),
    ("GET", "/v1/status"): Operation(
        id="status",
        tag="state",
        summary="Engine, journal, GPUs, leases, queue, targets",
        answers={
            200: (Shown(what="All of it; never a token.", shapes=(StatusView,), examples={"leased": example.STATUS}),)
        },
    ),
    ("GET", "/v1/processes"): Operation(
        id="processes",
        tag="state",
        summary="Every process on the GPUs, and what it stands by",
        answers={
            200: (
                Shown(
                    what="The processes, the memory that none of them explains, and who came and went unseen.",
                    shapes=(ProcessesView,),
                    examples={"a stranger": example.PROCESSES},
                ),
            )
        },
    ),
    ("GET", "/v1/targets"): Operation(
        id="targets",
        tag="state",
        summary="Every target with its containers and problems",
        answers={
            200: (
                Shown(
                    what="The targets, and the problems that belong to none.",
                    shapes=(TargetsView,),
                    examples={"one": example.TARGETS},
                ),
            )
        },
    ),
    ("GET", "/v1/targets/{name}"): Operation(
        id="target",
        tag="state",
        summary="One target",
        path=(_TARGET,),
        answers={
            200: (Shown(what="The target.", shapes=(TargetView,), examples={"leased": example.TARGET}),),
        },
        codes=frozenset({"target_unknown", "engine_unavailable"}),
    ),
    ("GET", "/v1/targets/{name}/logs"): Operation(
        id="targetLogs",
        tag="state",
        summary="What a target's containers last wrote",
        description="Of four containers at most, the master first; a container whose lines cannot be had in time has "
        "none. What they wrote is passed on as it is: terminals should not be shown its control characters.",
        path=(_TARGET,),
        query=LogsQuery,
        answers={
            200: (Shown(what="The lines, oldest first.", shapes=(LogsView,), examples={"two lines": example.LOGS}),)
        },
        codes=frozenset({"target_unknown", "engine_unavailable"}),
    ),
    ("POST", "/v1/leases/{id}/move"): Operation(
        id="moveTicket",
        tag="leases",
        summary="Change a ticket's place in the queue, by its public id",
        description="For operators: it gets another priority, and what it has aged stays. Others on the same GPUs are "
        "overtaken or let past; a ticket whose turn has come is served as it is. With `dry_run` nothing is moved.",
        path=(_MOVED_ID,),
        body=MoveBody,
        body_needed=True,
        requests={"to the front": {"priority": 100}, "where would it be?": {"priority": 5, "dry_run": True}},
        answers={
            200: (
                Shown(
                    what="It has this priority, now or before; `reason` says why nothing was done.",
                    shapes=(MovedAnswer,),
                    examples={
                        "moved": example.MOVED,
                        "a dry run": example.WOULD_MOVE,
                        "it waits no more": example.NOT_MOVED,
                    },
                ),
            )
        },
        codes=_OVER | {"storage_full"},
    ),
    ("POST", "/v1/targets/{name}/evict"): Operation(
        id="evict",
        tag="state",
        summary="Stop a resident target now",
        description=f"What is leased is not evicted: release its lease first. {_NO_BODY}",
        path=(_TARGET,),
        body=EmptyBody,
        requests={"nothing": {}},
        answers={
            200: (
                Shown(
                    what="It is being stopped, or there was nothing to stop.",
                    shapes=(EvictAnswer,),
                    examples={"evicted": example.EVICTED, "nothing to evict": example.NOT_EVICTED},
                ),
            )
        },
        codes=_OVER | {"target_leased", "target_unknown"},
    ),
    ("POST", "/v1/gpus/{uuid}/open"): Operation(
        id="openGpu",
        tag="state",
        summary="Say that a GPU is clean whose memory did not come back",
        description="It is closed (`dirty`) until its memory is back, or an operator says so. What is really free "
        f"still decides over each grant. {_NO_BODY}",
        path=(_GPU,),
        body=EmptyBody,
        requests={"nothing": {}},
        answers={
            200: (
                Shown(
                    what="It is open, now or before.",
                    shapes=(OpenedAnswer,),
                    examples={"opened": example.OPENED, "it was open": example.NOT_OPENED},
                ),
            )
        },
        codes=frozenset({"not_found"}),
    ),
    ("GET", "/v1/history"): Operation(
        id="history",
        tag="audit",
        summary="Who held each GPU, and how much of it was in use, over the last hour or day",
        description="Who held is taken from the audit, so that a restart forgets none of it; memory is remembered "
        "since the last start only. At most 2000 holds that have ended are kept.",
        query=HistoryQuery,
        answers={
            200: (Shown(what="The last hour or day.", shapes=(HistoryView,), examples={"an hour": example.HISTORY}),)
        },
    ),
    ("GET", "/v1/events"): Operation(
        id="events",
        tag="audit",
        summary="The audit: facts after a number, or live",
        description="With `Accept: text/event-stream` it follows live: each fact is an event with its number as `id`, "
        "and a comment every 15 s says that the line is alive. It goes on behind `Last-Event-ID`, else behind `after`, "
        "else with what comes next. No fact is left out or sent twice.",
        headers=(_LAST_EVENT,),
        query=EventsQuery,
        answers={
            200: (
                Shown(what="Facts, oldest first.", shapes=(Events,), examples={"one": example.EVENTS}),
                Shown(
                    what="Server-sent events; `data` is an `Event` as JSON on one line.",
                    media="text/event-stream",
                    examples={"one": _STREAM},
                ),
            )
        },
    ),
    ("GET", "/v1/why/{name}"): Operation(
        id="why",
        tag="audit",
        summary="What last stopped a target or a container, and what to type to get the GPU",
        path=(_ANY_NAME,),
        answers={
            200: (Shown(what="The decision, in one sentence.", shapes=(Why,), examples={"refused": example.WHY}),)
        },
        codes=frozenset({"target_unknown"}),
    ),
    ("GET", "/healthz"): Operation(
        id="healthz",
        tag="service",
        summary="Whether the process is alive",
        answers={200: (Shown(what="It is.", shapes=(Alive,), examples={"alive": Alive("ok")}),)},
    ),
    ("GET", "/readyz"): Operation(
        id="readyz",
        tag="service",
        summary="Whether it can grant, with one line each for engine, journal and GPUs",
        answers={
            200: (Shown(what="It can.", shapes=(Readiness,), examples={"ready": example.READY}),),
            503: (Shown(what="It cannot.", shapes=(Readiness,), examples={"no engine": example.NOT_READY}),),
        },
    ),
    ("GET", "/metrics"): Operation(
        id="metrics",
        tag="service",
        summary="All metrics, for Prometheus",
        description="Every name stays, as do its labels; the README has the table.",
        answers={
            200: (
                Shown(
                    what="Prometheus's text format.",
                    media="text/plain",
                    examples={"its beginning": "# HELP gpu_supervisor_facts_total decisions that took effect\n"},
                ),
            )
        },
    ),
    ("GET", "/"): Operation(
        id="webView",
        tag="service",
        summary="The web view",
        description="One page that needs nothing from outside.",
        headers=(_IF_NONE_MATCH,),
        answers={
            200: (Shown(what="HTML.", media="text/html", examples={"its beginning": "<!doctype html>"}),),
            304: (Shown(what="It is still the same.", media="text/html", examples={"nothing": ""}),),
        },
    ),
    ("GET", "/web/{file}"): Operation(
        id="webFile",
        tag="service",
        summary="A file of the web view",
        path=(_WEB_FILE,),
        headers=(_IF_NONE_MATCH,),
        answers={
            200: tuple(
                Shown(what=what, media=media, examples={"its beginning": beginning})
                for what, media, beginning in _WEB_KINDS
            ),
            304: tuple(
                Shown(what="It is still the same." * (not i), media=media, examples={"nothing": ""})
                for i, (_, media, _) in enumerate(_WEB_KINDS)
            ),
        },
        codes=frozenset({"not_found"}),
    ),
    ("GET", "/openapi.json"): Operation(
        id="openapi",
        tag="service",
        summary="This document",
        answers={200: (Shown(what="OpenAPI 3.1.", examples={"its beginning": {"openapi": "3.1.0"}}),)},
    ),
    ("GET", "/docs"): Operation(
        id="docs",
        tag="service",
        summary="This document as a page",
        description="One page that needs nothing from outside, and no scripts.",
        answers={200: (Shown(what="HTML.", media="text/html", examples={"its beginning": "<!doctype html>"}),)},
    ),
}
