"""Processes that came and went between two looks, as the driver's accounts have them: whose they can have been.

Such a process is gone: no user, no program and no cgroup can be read, and its pid is anybody's. What is left is when it
used which GPU, and who had that one then.
"""

from __future__ import annotations

from supervisor.core.facts import ProcessMissed
from supervisor.core.inputs import ProcessesSeen
from supervisor.core.model import Container, FinishedUse
from supervisor.core.processes import Finished, SeenProcess
from supervisor.core.state import State
from supervisor.core.targets import gpus_of, known_container
from supervisor.core.txn import Txn

#: The driver, the engine and we read the wall clock at moments of our own, and it may be set in between.
SLACK_MS = 1_000
DESCRIBED_MAX = 4_096
#: More of them in one look are only counted.
FACTS_MAX = 20


def finished_processes(txn: Txn, seen: ProcessesSeen) -> None:
    """Note who was looked at, and report who never was and can have been nobody's, each once."""
    state = txn.state
    described = state.observed.described
    for process in seen.processes:
        described[process.identity] = (process.started_wall_ms, txn.now.wall_ms)
        described.move_to_end(process.identity)
    while len(described) > DESCRIBED_MAX:
        described.popitem(last=False)
    finished = sorted(seen.finished, key=lambda use: use.ended_wall_ms)
    missed = [judge_finished(state, use) for use in finished if not _was_described(state, use)]
    state.observed.finished += missed
    strangers = [one for one in missed if one.standing == "unapproved"]
    if not state.observed.may_write:
        return
    for place, one in enumerate(strangers[:FACTS_MAX], 1):
        more = len(strangers) - FACTS_MAX if place == FACTS_MAX else 0
        _report(txn, one, more)


def _report(txn: Txn, one: Finished, more: int) -> None:
    txn.emit(
        ProcessMissed,
        pid=one.use.pid,
        gpu=one.use.gpu,
        started_wall_ms=one.use.started_wall_ms,
        ran_ms=one.use.ran_ms,
        peak_mib=one.use.peak_mib,
        gpu_percent=one.use.gpu_percent,
        memory_percent=one.use.memory_percent,
        container=one.container,
        policy=txn.state.settings.process_policy,
        more=more,
    )


def _was_described(state: State, use: FinishedUse) -> bool:
    """Return whether a process was looked at while it used the GPU: then it was judged as what it was.

    Another one of the same pid was last seen before it began, or was started after it had ended.
    """
    return any(
        pid == use.pid and last_ms >= use.started_wall_ms and started_ms <= use.ended_wall_ms + SLACK_MS
        for (pid, _), (started_ms, last_ms) in state.observed.described.items()
    )


def judge_finished(state: State, use: FinishedUse) -> Finished:
    """Return what can still be said of a process that nobody looked at."""
    id_ = use.container
    container = known_container(state, id_) if id_ is not None else None
    name = container.name if container is not None else id_
    target = container.target if isinstance(container, Container) else _target_of_run(state, id_)
    if target is not None:
        return Finished(use=use, standing="target", target=target, container=name)
    names = (container.name,) if container is not None else ()
    left = SeenProcess(pid=use.pid, started=0, uses=(), containers=(id_,) if id_ is not None else ())
    if any(entry.covers(left, names) for entry in state.settings.process_allow):
        return Finished(use=use, standing="allowed", container=name)
    meanwhile = _who_had(state, use)
    known = state.observed.synced and not meanwhile
    return Finished(use=use, standing="unapproved" if known else "unknown", container=name, meanwhile=meanwhile)


def _target_of_run(state: State, container_id: str | None) -> str | None:
    """Return the target of a container that was removed meanwhile."""
    if container_id is None:
        return None
    return next((ran.name for ran in state.observed.ran if ran.container == container_id), None)


def _who_had(state: State, use: FinishedUse) -> tuple[str, ...]:
    """Return the targets and the owners of bare leases that had the GPU while the process used it."""
    from_ms, to_ms = use.started_wall_ms - SLACK_MS, use.ended_wall_ms + SLACK_MS
    running = (
        container.target or ""
        for container in state.observed.containers.values()
        if container.runs and container.started_wall_ms <= to_ms and use.gpu in gpus_of(state, container)
    )
    bare = (
        lease.terms.owner
        for lease in state.durable.leases.values()
        if lease.target is None and use.gpu in lease.gpus and lease.granted_wall_ms <= to_ms
    )
    over = (
        ran.name
        for ran in state.observed.ran
        if use.gpu in ran.gpus and ran.since_wall_ms <= to_ms and ran.until_wall_ms >= from_ms
    )
    return tuple(dict.fromkeys((*running, *bare, *over)))
