"""``/v1`` but for leases: the status, the targets, eviction, the audit and ``why``."""

from __future__ import annotations

from msgspec import UNSET

from supervisor.api.audit import event, subject, why
from supervisor.api.bodies import printable, target_name
from supervisor.api.call import Call, answer
from supervisor.api.context import Context
from supervisor.api.problems import Answer, refuse
from supervisor.api.schemas import EmptyBody, EmptyQuery, EventsQuery
from supervisor.api.shapes import Events, EvictAnswer, OpenedAnswer
from supervisor.api.views.overview import overview
from supervisor.api.views.processes import processes_view
from supervisor.api.views.targets import all_targets, known_targets, target_view
from supervisor.core.inputs import Evict, OpenGpu
from supervisor.core.replies import Refused, Released
from supervisor.core.requests import wrong_with

#: How far back the audit is searched where no place to begin is given.
LOOK_BACK = 20_000
UUID_MAX = 100


async def status(api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    return answer(await api.desk.read(lambda state, now: overview(state, now, api.version, api.kept)))


async def processes(api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    return answer(await api.desk.read(processes_view))


async def targets(api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    return answer(await api.desk.read(all_targets))


async def target(api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    name = target_name("target", call.param("name"))
    view = await api.desk.read(lambda state, _now: target_view(state, name) if name in known_targets(state) else None)
    if view is None:
        raise await _unknown(api, name)
    return answer(view)


async def _unknown(api: Context, name: str) -> Exception:
    refusal = await api.desk.read(lambda state, _now: wrong_with(state, name))
    if refusal is None or refusal.code not in {"target_unknown", "engine_unavailable"}:  # created between the two looks
        return refuse("target_unknown", f"{name} was not known a moment ago; look again", target=name)
    return refuse(refusal.code, refusal.detail, **refusal.context)


async def evict(api: Context, call: Call) -> Answer:
    """Stop a resident target now."""
    await call.body_or(EmptyBody())
    name = target_name("target", call.param("name"))
    reply = await api.desk.ask(Evict(api.desk.next_request_id(), name))
    if isinstance(reply, Refused):
        raise await api.refusal(reply)
    assert isinstance(reply, Released), f"no answer to an eviction: {reply}"
    return answer(EvictAnswer(reply.released, reply.reason or UNSET))


async def open_gpu(api: Context, call: Call) -> Answer:
    """Open a GPU that was closed because memory did not come back: an operator says that it is clean."""
    await call.body_or(EmptyBody())
    uuid = printable("uuid", call.param("uuid"))
    if len(uuid) > UUID_MAX:
        raise refuse("bad_request", "uuid: longer than any GPU's", field="uuid")
    reply = await api.desk.ask(OpenGpu(api.desk.next_request_id(), uuid))
    if isinstance(reply, Refused):
        raise await api.refusal(reply)
    assert isinstance(reply, Released), f"no answer to the opening of a GPU: {reply}"
    return answer(OpenedAnswer(reply.released, reply.reason or UNSET))


# ---- the audit


async def events(api: Context, call: Call) -> Answer:
    """Answer facts after ``after``, oldest first; without it, the newest ones."""
    query = call.query(EventsQuery)
    about = printable("target", query.target) if query.target else None
    if query.after is not None:
        found = await api.desk.history(query.after, query.limit, about)
        after = found[-1][0] if found else query.after
    else:
        after = await newest_seq(api)
        span = LOOK_BACK if about is not None else query.limit
        found = (await api.desk.history(max(0, after - span), span, about))[-query.limit :]
        after = max(after, found[-1][0] if found else 0)
    return answer(Events(tuple(event(seq, fact) for seq, fact in found), after))


async def newest_seq(api: Context) -> int:
    return await api.desk.read(lambda state, _now: state.durable.fact_seq)


async def why_stopped(api: Context, call: Call) -> Answer:
    """Say what last stopped a target or a container, in whose favour, and what to type to get the GPU."""
    call.query(EmptyQuery)
    name = printable("name", call.param("name"))
    if len(name) > 300:
        raise refuse("bad_request", "name: longer than any container's", field="name")
    about, newest = await api.desk.read(lambda state, _now: (subject(state, name), state.durable.fact_seq))
    history = await api.desk.history(max(0, newest - LOOK_BACK), LOOK_BACK, about.target or name)
    found = await api.desk.read(lambda state, _now: why(state, name, about, history))
    if found is None:
        raise refuse("target_unknown", "no target and no container is known by this name; see: gpu-supervisor status")
    return answer(found)
