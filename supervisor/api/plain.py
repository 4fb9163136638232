"""The plain endpoints: ``/healthz``, ``/readyz``, ``/metrics``, ``/status``, ``/acquire``, ``/release``."""

from __future__ import annotations

from msgspec import UNSET

from supervisor.answers import AcquireAnswer, PlainStatus, QueuedAnswer, ReleaseAnswer
from supervisor.api.bodies import printable, target_name
from supervisor.api.call import Call, answer
from supervisor.api.context import Context
from supervisor.api.logs import STATUS_S
from supervisor.api.problems import Answer, refuse
from supervisor.api.schemas import AcquireBody, EmptyQuery, ReleaseBody
from supervisor.api.times import epoch_s
from supervisor.api.tokens import digest
from supervisor.api.views.overview import readiness
from supervisor.api.views.plain import plain_view
from supervisor.api.views.targets import master_of
from supervisor.core.inputs import Acquire, Claim, ForceRelease, Release
from supervisor.core.model import Endpoint, Terms
from supervisor.core.replies import Granted, Queued, Refused, Released

DEFAULT_TTL_S = 1_800
ALIVE = answer({"status": "ok"})
#: Prometheus's text format; every scraper reads it.
METRICS = b"text/plain; version=0.0.4; charset=utf-8"


async def healthz(_call: Call) -> Answer:
    return ALIVE


async def readyz(api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    ready = await api.desk.read(readiness)
    return answer(ready, 200 if ready.ready else 503)


async def metrics(api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    return Answer(200, api.meter.page(), METRICS)


async def status(api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    return answer(await read_status(api))


async def read_status(api: Context) -> PlainStatus:
    view = await api.desk.read(plain_view)
    return view.with_logs(await api.tails.tail(view.logs_of, STATUS_S) if view.logs_of else "")


# ---- acquire


async def acquire(api: Context, call: Call) -> Answer:
    """Lease a target, or with a token: refresh its lease, or claim its ticket's turn."""
    body = await call.body(AcquireBody)
    target = target_name("target", body.target)
    token = body.lease_token
    request: Acquire | Claim
    if token is None:
        call.caller.require_target(target)
        token = api.mint.new_token()
        request = _fresh(api, call, body, target, token)
    else:
        request = Claim(
            request_id=api.desk.next_request_id(),
            token_hash=digest(token),
            refresh=True,
            target=target,
            ttl_ms=body.lease_ttl_s * 1000 if body.lease_ttl_s is not None else None,
            wait_ready=body.wait_ready,
            ready_timeout_ms=body.wait_s * 1000,
        )
    match await call.hold(api.desk, request):
        case Granted() as granted:
            return answer(await _granted(api, granted, token))
        case Queued() as queued:
            now = await read_status(api)
            return answer(
                QueuedAnswer(
                    lease_token=token,
                    queue_index=queued.position,
                    state=now.state,
                    service=now.service,
                    services=now.services,
                )
            )
        case Refused() as refused:
            raise await api.refusal(refused, plain=True)
        case other:
            raise AssertionError(f"no answer to an acquire: {other}")


def _fresh(api: Context, call: Call, body: AcquireBody, target: str, token: str) -> Acquire:
    ttl_s = body.lease_ttl_s if body.lease_ttl_s is not None else DEFAULT_TTL_S
    return Acquire(
        request_id=api.desk.next_request_id(),
        id=api.mint.new_id(),
        token_hash=digest(token),
        terms=Terms(
            target=target,
            owner=printable("owner", body.owner),
            priority=body.priority or 0,
            ttl_ms=ttl_s * 1000,
            wait_ready=body.wait_ready,
            ready_timeout_ms=body.wait_s * 1000,
            caller=call.caller.name,
        ),
        priority_given=body.priority is not None,
        on_busy="ticket" if body.priority is not None else "refuse",
    )


async def _granted(api: Context, granted: Granted, token: str) -> AcquireAnswer:
    lease = granted.lease
    expires_wall_ms = api.expires_wall_ms(granted)
    now = await read_status(api)
    return AcquireAnswer(
        lease_token=token,
        lease_expires_at=epoch_s(expires_wall_ms) if expires_wall_ms is not None else None,
        lease_ttl_s=lease.terms.ttl_ms // 1000,
        lease_state=granted.state,
        reason=granted.reason or UNSET,
        fence=lease.fence,
        endpoint=await _endpoint(api, lease.target),
        state=now.state,
        service=now.service,
        services=now.services,
    )


async def _endpoint(api: Context, target: str | None) -> Endpoint | None:
    master = await api.desk.read(lambda state, _now: master_of(state, target or ""))
    return master.endpoint if master is not None else None


# ---- release


async def release(api: Context, call: Call) -> Answer:
    """Give one's own lease back (or cancel a ticket), or end somebody else's by force."""
    body = await call.body(ReleaseBody)
    if body.force == (body.lease_token is not None):
        raise refuse("bad_request", "give lease_token, or force with a target", field="lease_token")
    request_id = api.desk.next_request_id()
    request: Release | ForceRelease
    if body.lease_token is not None:
        request = Release(request_id, digest(body.lease_token), call.caller.name)
    else:
        target = target_name("target", body.target) if body.target is not None else None
        call.caller.require("admin")
        if target is not None:
            call.caller.require_target(target)
        else:
            call.caller.require_all("a forced release that names no target")
        request = ForceRelease(request_id, target, call.caller.name)
    reply = await api.desk.ask(request)
    if isinstance(reply, Refused):
        raise await api.refusal(reply, plain=True)
    assert isinstance(reply, Released)
    if not reply.released and not body.force:
        raise refuse("lease_mismatch", "no lease or ticket has this token: it has ended, or never was")
    now = await read_status(api)
    return answer(ReleaseAnswer(released=reply.released, state=now.state, service=now.service, services=now.services))
