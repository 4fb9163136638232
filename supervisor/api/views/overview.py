"""The whole of it: ``GET /v1/status``, and whether the supervisor can grant (``GET /readyz``)."""

from __future__ import annotations

import platform
from typing import cast

from supervisor.answers import EngineView, JournalView, QueueEntry, Readiness, StatusView, TargetBrief
from supervisor.api.views.gpus import gpu_views
from supervisor.api.views.kept import Kept
from supervisor.api.views.leases import lease_view
from supervisor.api.views.targets import stray
from supervisor.core import policy
from supervisor.core.model import Enforcing, Now
from supervisor.core.state import State
from supervisor.core.usage import closed


def overview(state: State, now: Now, version: str, kept: Kept) -> StatusView:
    """Return the whole of it, to be encoded: its long parts come encoded out of ``kept``."""
    return StatusView(
        host=platform.node(),
        version=version,
        mode=state.settings.mode,
        engine=engine_view(state, now),
        journal=journal_view(state),
        gpus=gpu_views(state),
        leases=tuple(lease_view(state, now, lease) for lease in state.durable.leases.values()),
        queue=cast(tuple[QueueEntry, ...], kept.queue(state, now)),
        targets=cast(tuple[TargetBrief, ...], kept.targets(state)),
        problems=stray(state),
        enforcing=state.observed.enforcing,
    )


def engine_view(state: State, now: Now) -> EngineView:
    observed = state.observed
    age_ms = now.at_ms - observed.contact_at_ms if observed.contact_at_ms is not None else None
    reason = "" if observed.synced else observed.engine_reason
    return EngineView(observed.synced, reason, round(age_ms / 1000, 3) if age_ms is not None else None)


def journal_view(state: State) -> JournalView:
    if state.observed.safe_mode:
        return JournalView("damaged", state.observed.safe_mode)
    if state.observed.storage_full:
        return JournalView("full", "the disk of the data directory is full")
    return JournalView("ok", "")


def readiness(state: State, now: Now) -> Readiness:
    """Say whether a request could be granted if nobody held the GPU, with one line each for what that takes."""
    open_ = any(not closed(state, gpu) for gpu in state.observed.gpus)
    ready = open_ and policy.standstill(state) is None and policy.not_now(state) is None
    journal = journal_view(state)
    return Readiness(
        ready=ready,
        engine=_engine_line(state, now),
        journal=f"{journal.state}: {journal.detail}" if journal.detail else journal.state,
        gpus=_gpus_line(state),
        enforcing=_enforcing_line(state.observed.enforcing),
    )


def _engine_line(state: State, now: Now) -> str:
    engine = engine_view(state, now)
    age = f", last contact {engine.contact_age_seconds:.1f} s ago" if engine.contact_age_seconds is not None else ""
    return f"in sync{age}" if engine.synced else f"not in sync: {engine.reason}{age}"


def _enforcing_line(enforcing: Enforcing) -> str:
    through = "the cgroup, and the engine" if enforcing.kills == "cgroup" else "the engine"
    parts = {
        f"kills through {through}": enforcing.kills_detail,
        f"tripwire {enforcing.tripwire}": enforcing.tripwire_detail,
    }
    return "; ".join(f"{what} ({why})" if why else what for what, why in parts.items())


def _gpus_line(state: State) -> str:
    gpus = state.observed.gpus
    shut = [f"{gpu.uuid} is closed: {why}" for gpu in gpus if (why := closed(state, gpu))]
    names = ", ".join(gpu.uuid for gpu in gpus)
    why = f": {state.observed.gpu_problem}" if state.observed.gpu_problem else ""
    return "; ".join([f"{len(gpus)} known: {names}" if gpus else f"none known{why}", *shut])
