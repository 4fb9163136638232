"""``GET /v1/history``: who held each GPU, and how much of it was in use, over the last hour or day."""

from __future__ import annotations

from supervisor.answers import GpuPast, HistoryView, Hold
from supervisor.api.call import Call, answer
from supervisor.api.context import Context
from supervisor.api.problems import Answer
from supervisor.api.samples import DAY_MS, HOUR_MS, STEP_MS, Samples
from supervisor.api.schemas import HistoryQuery
from supervisor.api.timeline import Held, holding
from supervisor.api.times import rfc3339
from supervisor.core.model import Gpu, Now


async def history(api: Context, call: Call) -> Answer:
    query = call.query(HistoryQuery)
    span_ms = HOUR_MS if query.span == "hour" else DAY_MS
    past = api.past
    now, gpus, open_now, newest = await api.desk.read(
        lambda state, now: (now, state.observed.gpus, holding(state), state.durable.fact_seq)
    )
    await past.catch_up(api.desk, newest)

    def told(at_ms: int | None) -> str | None:
        return rfc3339(now.wall_of(at_ms)) if at_ms is not None else None

    step_ms = STEP_MS[span_ms]
    last_ms = now.at_ms // step_ms * step_ms
    view = HistoryView(
        span=query.span,
        began_at=rfc3339(now.wall_of(now.at_ms - span_ms)),
        ended_at=rfc3339(now.wall_ms),
        step_seconds=step_ms // 1000,
        first_at=rfc3339(now.wall_of(last_ms - span_ms + step_ms)),
        sampled_since=told(past.samples.since_ms),
        known_since=told(past.timeline.known_since_ms),
        gpus=tuple(_gpu_past(past.samples, gpu, span_ms, now) for gpu in gpus),
        holds=tuple(_hold(held) for held in past.holds(now, open_now, span_ms)),
    )
    return answer(view)


def _gpu_past(samples: Samples, gpu: Gpu, span_ms: int, now: Now) -> GpuPast:
    points = samples.points(gpu.uuid, span_ms, now.at_ms)
    return GpuPast(
        uuid=gpu.uuid,
        index=gpu.index,
        name=gpu.name,
        total_mib=gpu.total_mib,
        used_mib=tuple(point.used_mib for point in points),
        utilization_percent=tuple(point.load_percent for point in points),
    )


def _hold(held: Held) -> Hold:
    return Hold(
        kind=held.kind,
        id=held.id,
        target=held.target,
        owner=held.owner,
        gpus=held.gpus,
        began_at=rfc3339(held.began_wall_ms),
        ended_at=rfc3339(held.ended_wall_ms) if held.ended_wall_ms is not None else None,
        reason=held.reason,
    )
