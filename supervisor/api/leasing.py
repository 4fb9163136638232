"""``/v1/lease``: ask, look, claim, renew, give back."""

from __future__ import annotations

import asyncio
import re

import msgspec
from msgspec import UNSET

from supervisor.answers import LeaseAnswer, MovedAnswer, ReleasedAnswer, RenewAnswer, TicketAnswer, TicketView
from supervisor.api.bodies import printable, target_name
from supervisor.api.call import Call, answer
from supervisor.api.context import Context
from supervisor.api.problems import Answer, RequestRefused, refuse
from supervisor.api.schemas import ClaimBody, EmptyBody, ForceEndQuery, LeaseBody, MoveBody
from supervisor.api.times import rfc3339
from supervisor.api.tokens import digest, key_scope
from supervisor.api.views.forecast import forecast_view
from supervisor.api.views.leases import held, is_joined, ticket_view, visible_devices
from supervisor.core.errors import Refusal
from supervisor.core.inputs import Acquire, Claim, ForceEnd, Move, Release, ReleaseByKey, Renew
from supervisor.core.model import Now, Terms, Tie
from supervisor.core.replies import Granted, Moved, Queued, Refused, Released, Renewed, Reply
from supervisor.core.requests import unknown_lease
from supervisor.core.state import State
from supervisor.core.values import BadValue, parse_class
from supervisor.peers import INSTEAD, identify

KEY = re.compile(r"[\x21-\x7e]{1,255}")
ID_MAX = 100
DEFAULTS = LeaseBody()
#: What only a bare lease asks for, and the labels that say it for a target.
BARE_ONLY = {"gpus": "gpu.devices", "vram_mib": "gpu.vram", "gpu_class": "gpu.class"}


# ---- ask


async def lease(api: Context, call: Call) -> Answer:
    """Ask for a lease; a retry with the same Idempotency-Key gets the first answer, with the same token."""
    body = await call.body(LeaseBody)
    target = _target(body)
    call.caller.require_target(target)
    key = _idempotency_key(call)
    tie = await _tie(call, body, target) if body.pid is not None else None
    if body.dry_run:
        return await _dry_run(api, call, body, target)
    id_ = api.mint.new_id()
    fresh = api.mint.new_token() if key is None else None

    def token_of(of: str) -> str:
        return fresh if fresh is not None else api.mint.derived_token(call.caller.scope, key or "", of)

    request = Acquire(
        request_id=api.desk.next_request_id(),
        id=id_,
        token_hash=digest(token_of(id_)),
        terms=_terms(call, body, target, key, tie),
        priority_given=body.priority is not None,
        wait_ms=body.wait_seconds * 1000,
        on_busy="ticket" if body.queue else "refuse",
    )
    reply, seen = await call.hold_and_see(api.desk, request, _seen)
    match reply:
        case Granted() as granted:
            token = token_of(granted.lease.id)
            if token != fresh and digest(token) != granted.lease.token_hash:
                call.settled()
                raise _secret_changed()
            return answer(_lease_answer(api, granted, token, joined=seen is True), 201)
        case Queued() as queued:
            return _ticket_answer(call, token_of(queued.ticket_id), seen)
        case Refused() as refused:
            raise await api.refusal(refused)
        case other:
            raise AssertionError(f"no answer to an acquire: {other}")


def _seen(state: State, now: Now, reply: Reply) -> TicketView | bool | None:
    """Return what an answer says beside the reply: a ticket's view; whether a lease's target has other holders too."""
    match reply:
        case Queued():
            ticket = state.durable.tickets.get(reply.ticket_id)
            return ticket_view(state, now, ticket) if ticket is not None else None
        case Granted():
            return is_joined(state, reply.lease)
        case _:
            return None


async def _dry_run(api: Context, call: Call, body: LeaseBody, target: str | None) -> Answer:
    terms = _terms(call, body, target)
    given = body.priority is not None
    return answer(await api.desk.read(lambda state, now: forecast_view(state, now, terms, priority_given=given)))


def _terms(call: Call, body: LeaseBody, target: str | None, key: str | None = None, tie: Tie | None = None) -> Terms:
    return Terms(
        target=target,
        owner=printable("owner", body.owner),
        priority=body.priority or 0,
        ttl_ms=body.ttl_seconds * 1000,
        wait_ready=body.wait_ready,
        ready_timeout_ms=body.ready_timeout_seconds * 1000,
        gpus=body.gpus,
        vram_mib=body.vram_mib,
        gpu_class=_gpu_class(body),
        caller=call.caller.name,
        scope=key_scope(call.caller.scope, key) if key is not None else None,
        body=_fingerprint(body, target) if key is not None else None,
        tie=tie,
    )


def _gpu_class(body: LeaseBody) -> str | None:
    try:
        return parse_class(body.gpu_class) if body.gpu_class is not None else None
    except BadValue as error:
        raise refuse("bad_request", f"gpu_class: {error}; {error.hint}", field="gpu_class") from None


def _target(body: LeaseBody) -> str | None:
    if body.target is not None and body.consumer is not None and body.target != body.consumer:
        raise refuse("bad_request", "target and consumer are two names for one thing: give one", field="consumer")
    name = body.consumer if body.target is None else body.target
    if name is None:
        return None
    for field, label in BARE_ONLY.items():
        if getattr(body, field) != getattr(DEFAULTS, field):
            detail = f"{field} is for a bare lease: of a target its labels say it ({label})"
            raise refuse("bad_request", detail, field=field)
    return target_name("consumer" if body.target is None else "target", name)


async def _tie(call: Call, body: LeaseBody, target: str | None) -> Tie:
    """Return the process that the caller means, which must be its own."""
    assert body.pid is not None
    if target is not None:
        raise refuse("bad_request", "pid is for a bare lease: a target's lease ends with its containers", field="pid")
    if call.peer is None:
        detail = (
            "pid: over TCP nobody can tell whose process it is: connect to the unix socket (serve --socket), or "
            f"{INSTEAD}"
        )
        raise refuse("bad_request", detail, field="pid")
    found = await asyncio.to_thread(identify, call.peer, body.pid)  # reads of /proc may block
    if isinstance(found, Refusal):
        raise RequestRefused(found)
    return found


def _idempotency_key(call: Call) -> str | None:
    key = call.header(b"idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise refuse("bad_request", "an Idempotency-Key has 1 to 255 printable ASCII characters and no blanks")
    return key


def _fingerprint(body: LeaseBody, target: str | None) -> str:
    """Return a digest of what was asked for, however it was spelled: order, blanks and defaults don't count."""
    asked = msgspec.structs.replace(body, target=target, consumer=None)
    # Without what was left out, so that a field that a later version adds does not tell a retry from its first try.
    said = {name: value for name, value in msgspec.structs.asdict(asked).items() if value != getattr(DEFAULTS, name)}
    return digest(msgspec.json.encode(said).decode())


def _secret_changed() -> Exception:
    return refuse(
        "idempotency_conflict",
        "the secret that this lease's token was derived from is gone, so the token cannot be told again: "
        "wait until the lease expires, or end it by force",
    )


def _lease_answer(api: Context, granted: Granted, token: str, *, joined: bool) -> LeaseAnswer:
    lease = granted.lease
    expires_wall_ms = api.expires_wall_ms(granted)
    return LeaseAnswer(
        token=token,
        id=lease.id,
        fence=lease.fence,
        target=lease.target,
        consumer=lease.target,
        owner=lease.terms.owner,
        state=granted.state,
        reason=granted.reason or UNSET,
        granted_at=rfc3339(lease.granted_wall_ms),
        expires_at=_told(expires_wall_ms),
        ends_at=_told(api.outside(lease.ends_at_ms)),
        ttl_seconds=lease.terms.ttl_ms // 1000,
        gpus=lease.gpus,
        cuda_visible_devices=visible_devices(lease),
        vram_mib=lease.vram_mib,
        joined=joined,
        pid=lease.terms.tie.pid if lease.terms.tie is not None else None,
    )


def _told(wall_ms: int | None) -> str | None:
    return rfc3339(wall_ms) if wall_ms is not None else None


def _ticket_answer(call: Call, token: str, view: TicketView | bool | None) -> Answer:
    if not isinstance(view, TicketView):
        call.settled()  # it ended in the very step that queued it
        raise refuse("ticket_expired", "the ticket has ended already; ask for a new one")
    return answer(TicketAnswer(token=token, **msgspec.structs.asdict(view)), 202)


# ---- come back with a token


async def look(api: Context, call: Call) -> Answer:
    view = await _held(api, call.param("token"))
    if view is None:
        unknown = unknown_lease()
        raise refuse(unknown.code, unknown.detail)
    return answer(view)


async def _held(api: Context, token: str) -> object:
    token_hash = digest(token)
    return await api.desk.read(lambda state, now: held(state, now, token_hash))


async def claim(api: Context, call: Call) -> Answer:
    body = await call.body_or(ClaimBody())
    token = call.param("token")
    request = Claim(
        request_id=api.desk.next_request_id(),
        token_hash=digest(token),
        wait_ms=body.wait_seconds * 1000,
        ttl_ms=body.ttl_seconds * 1000 if body.ttl_seconds is not None else None,
        wait_ready=body.wait_ready,
        ready_timeout_ms=body.ready_timeout_seconds * 1000 if body.ready_timeout_seconds is not None else None,
    )
    reply, seen = await call.hold_and_see(api.desk, request, _seen)
    if isinstance(reply, Refused):
        raise await api.refusal(reply)
    assert isinstance(reply, Granted), f"no answer to a claim: {reply}"
    return answer(_lease_answer(api, reply, token, joined=seen is True))


async def renew(api: Context, call: Call) -> Answer:
    """Move the expiry. Its reply waits for no disk; nobody has to be on the line for it."""
    await call.body_or(EmptyBody())
    token = call.param("token")
    reply = await api.desk.ask(Renew(api.desk.next_request_id(), digest(token)))
    if isinstance(reply, Refused):
        raise await api.refusal(reply)
    assert isinstance(reply, Renewed), f"no answer to a renewal: {reply}"
    expires_at, ends_at = _told(api.outside(reply.expires_at_ms)), _told(api.outside(reply.ends_at_ms))
    return answer(RenewAnswer(token, expires_at, reply.ttl_ms // 1000, ends_at))


async def give_back(api: Context, call: Call) -> Answer:
    await call.body_or(EmptyBody())
    return await _released(api, Release(api.desk.next_request_id(), digest(call.param("token")), call.caller.name))


async def give_back_by_key(api: Context, call: Call) -> Answer:
    """Give back what was asked for with an Idempotency-Key, by a caller who was cut off before it heard of a token."""
    await call.body_or(EmptyBody())
    key = _idempotency_key(call)
    if key is None:
        detail = (
            "which lease is meant is said by the Idempotency-Key that it was asked for with, as a header; "
            "or by its token: DELETE /v1/lease/{token}"
        )
        raise refuse("bad_request", detail)
    scope = key_scope(call.caller.scope, key)
    return await _released(api, ReleaseByKey(api.desk.next_request_id(), scope, call.caller.name))


async def _released(api: Context, request: Release | ReleaseByKey) -> Answer:
    reply = await api.desk.ask(request)
    if isinstance(reply, Refused):
        raise await api.refusal(reply)
    assert isinstance(reply, Released), f"no answer to a release: {reply}"
    return answer(ReleasedAnswer(reply.released, reply.reason or UNSET))


async def force_end(api: Context, call: Call) -> Answer:
    """End somebody else's lease or cancel a ticket, by its public id: an operator does it without the token."""
    await call.body_or(EmptyBody())
    only = call.query(ForceEndQuery).only
    id_ = printable("id", call.param("id"))
    if len(id_) > ID_MAX:
        raise refuse("bad_request", "id: longer than any lease's", field="id")
    call.caller.require_all("ending a lease by its id")
    reply = await api.desk.ask(ForceEnd(api.desk.next_request_id(), id_, only, call.caller.name))
    if isinstance(reply, Refused):
        raise await api.refusal(reply)
    assert isinstance(reply, Released), f"no answer to a forced release: {reply}"
    return answer(ReleasedAnswer(reply.released, reply.reason or UNSET))


async def move(api: Context, call: Call) -> Answer:
    """Give a ticket another priority, by its public id: an operator changes its place in the queue."""
    body = await call.body(MoveBody)
    id_ = printable("id", call.param("id"))
    if len(id_) > ID_MAX:
        raise refuse("bad_request", "id: longer than any ticket's", field="id")
    call.caller.require_all("moving a ticket by its id")
    asked = Move(api.desk.next_request_id(), id_, body.priority, only_look=body.dry_run, caller=call.caller.name)
    reply = await api.desk.ask(asked)
    if isinstance(reply, Refused):
        raise await api.refusal(reply)
    assert isinstance(reply, Moved), f"no answer to a move: {reply}"
    return answer(MovedAnswer(reply.moved, reply.position, reply.reason or UNSET))
