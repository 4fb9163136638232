"""What the engine shows us becomes observed state: containers seen and gone, calls that came back, loss and sync.

Nothing is decided here about leases; ``settle`` does that for every target that was touched.
"""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core.facts import FirstSync, ResidencyBegan, StopFailed, TargetRemembered
from supervisor.core.inputs import (
    ActionDone,
    ContainerGone,
    ContainerRenamed,
    ContainerSeen,
    EngineLost,
    EngineSnapshot,
    Outcome,
    StartHinted,
)
from supervisor.core.labels import merge, services_of
from supervisor.core.leases import end_target, failure, open_window, time_hold, time_window
from supervisor.core.model import Container, Lease, Terms
from supervisor.core.policy import standstill
from supervisor.core.replies import Action
from supervisor.core.room import Placement
from supervisor.core.state import Ran, Retry, Run, Stale, State
from supervisor.core.targets import Standing, gpus_of, helpers, pinned_to, team_of
from supervisor.core.txn import Txn
from supervisor.core.usage import seen_on
from supervisor.core.wishes import wish_of

RETRY_FIRST_MS = 1_000
RETRY_MAX_MS = 10_000
#: A stop that came back this often without effect is an alarm, whatever the engine said.
STOPS_BEFORE_ALARM = 3
#: What an engine that gave no words of its own left us with.
UNSAID: dict[Outcome, str] = {
    "done": "the engine says that it was stopped, and it still runs",
    "gone": "the engine does not know it, and it still runs",
    "refused": "the engine refused",
    "failed": "the engine could not be reached",
    "timeout": "the engine did not answer in time",
}


# ---- containers


def see(txn: Txn, container: Container) -> None:
    """Take over what an inspect showed."""
    observed = txn.state.observed
    known = observed.containers.get(container.id) or observed.unlabelled.get(container.id)
    run = observed.runs.get(container.id)
    if run is not None and run.hinted_after is not None and run.hinted_after == container.run:
        return  # inspected before the start that an event already told us: the truth is on its way
    if container.target is None:
        observed.unlabelled[container.id] = container
        _touch_project(txn, container.project)
        return
    observed.containers[container.id] = container
    if known is None:
        observed.by_target.setdefault(container.target, {})[container.id] = None
    if known is None or known.name != container.name:
        _labels_changed(txn, container)
    _follow_run(txn, container, run, known)
    if not container.runs:
        _forget_retry(txn.state, container.id)
    txn.touch(container.target)
    _remember(txn, container)


def _follow_run(txn: Txn, container: Container, run: Run | None, known: Container | None) -> None:
    runs = txn.state.observed.runs
    # An event is sent after the start that it tells of: what started later is another run, of which no event told us.
    later = known is not None and container.started_wall_ms > known.started_wall_ms
    if not container.runs:
        _run_over(txn, known or container)
    elif run is not None and run.hinted_after is not None and not later:
        run.name, run.hinted_after = container.run, None
    elif run is None or run.name != container.run:
        runs[container.id] = Run(container.run, fresh=container.age_ms < txn.state.settings.fresh_ms)
        # What was waited for is over: the call had its effect, and somebody started it anew.
        _forget_retry(txn.state, container.id)


def _run_over(txn: Txn, container: Container) -> None:
    """A container runs no more: its memory may still be on its way back."""
    observed = txn.state.observed
    if container.id not in observed.runs:
        return
    had = gpus_of(txn.state, container)
    since_ms, until_ms = container.started_wall_ms, txn.now.wall_ms
    observed.ran.append(Ran(container.target or "", had, since_ms, until_ms, container.id))
    del observed.runs[container.id]
    txn.stir()


def renamed(txn: Txn, told: ContainerRenamed) -> None:
    """Whoever looks for what was stopped knows its name of now."""
    container = txn.state.observed.containers.get(told.id)
    if container is None or container.name == told.name:
        return
    txn.state.observed.containers[told.id] = replace(container, name=told.name)
    _labels_changed(txn, container)
    txn.touch(container.target)


def hinted(txn: Txn, hint: StartHinted) -> None:
    """An event says that a known container started: judge it now, and let the inspect bring the details."""
    observed = txn.state.observed
    container = observed.containers.get(hint.id)
    if container is None or container.status == "running":
        return
    observed.runs[hint.id] = Run(hint.run, fresh=True, hinted_after=container.run)
    _forget_retry(txn.state, hint.id)
    observed.containers[hint.id] = replace(
        container,
        status="running",
        health="starting" if container.healthcheck else "none",
        run=hint.run,
        started_wall_ms=hint.wall_ms,
        age_ms=0,
    )
    txn.touch(container.target)


def gone(txn: Txn, container_id: str) -> None:
    """A container does not exist any more."""
    observed = txn.state.observed
    unlabelled = observed.unlabelled.pop(container_id, None)
    if unlabelled is not None:
        _touch_project(txn, unlabelled.project)
    container = observed.containers.pop(container_id, None)
    if container is None or container.target is None:
        return
    siblings = observed.by_target[container.target]
    del siblings[container_id]
    if not siblings:
        del observed.by_target[container.target]
    observed.prevented.pop(container_id, None)
    _run_over(txn, container)
    _forget_retry(txn.state, container_id)
    _labels_changed(txn, container)
    txn.touch(container.target)


def _labels_changed(txn: Txn, container: Container) -> None:
    """What carries which labels has changed, so a target must be merged anew: its own, and others of its project."""
    stale = txn.state.observed.stale
    stale.targets[container.target or ""] = None
    if container.project:
        stale.projects[container.project] = None


def merge_stale(state: State) -> None:
    """Combine the labels of targets anew whose containers came or went; labels never change in a container's life."""
    observed = state.observed
    if not observed.stale.targets:
        return
    stale, observed.stale = observed.stale, Stale()
    near = [container for container in observed.containers.values() if container.project in stale.projects]
    services = services_of(near)
    for target in dict.fromkeys([*stale.targets, *(container.target or "" for container in near)]):
        containers = state.containers_of(target)
        if containers:
            observed.specs[target] = merge(target, containers, services, prefix=state.settings.label_prefix)
        else:
            observed.specs.pop(target, None)


def _touch_project(txn: Txn, project: str) -> None:
    for target in list(txn.state.observed.by_target):
        if any(container.project == project for container in txn.state.containers_of(target)):
            txn.touch(target)


def _remember(txn: Txn, container: Container) -> None:
    """Keep what a target's containers say of where they come from, for the time after they are gone."""
    observed = txn.state.observed
    if container.one_off or observed.storage_full or observed.safe_mode:
        return
    target = container.target or ""
    known = txn.state.durable.remembered.get(target)
    origin = (container.project, container.working_dir, container.config_files)
    if known is not None and (known.project, known.working_dir, known.config_files) == origin:
        return
    if known is not None and known.project != container.project and len(observed.by_target[target]) > 1:
        return  # two projects carry the name: the problem is reported, and the memory does not flap
    project, working_dir, config_files = origin
    txn.emit(TargetRemembered, name=target, project=project, working_dir=working_dir, config_files=config_files)


# ---- in sync, and not


def snapshot(txn: Txn, seen: EngineSnapshot) -> None:
    """The whole truth at once: whatever is not in it is gone."""
    state = txn.state
    observed = state.observed
    present = {container.id for container in seen.containers}
    for container_id in [*observed.containers, *observed.unlabelled]:
        if container_id not in present:
            gone(txn, container_id)
    for container in seen.containers:
        run = observed.runs.get(container.id)
        if run is not None and run.hinted_after == container.run:
            run.hinted_after = None  # no start came after that event: the whole truth overrules it
        see(txn, container)
    was_synced, first = observed.synced, not observed.ever_synced
    observed.synced = observed.ever_synced = True
    observed.listings += 1
    observed.others = {other.id: other for other in seen.others}
    observed.engine_reason = ""
    observed.contact_at_ms = txn.now.at_ms
    if first:
        for lease in state.durable.leases.values():
            _take_up(txn, lease)
    if not state.durable.first_sync_done and not observed.safe_mode:
        _settle_in(txn)
    if not was_synced:
        reopen_windows(txn)
        for lease in state.durable.leases.values():
            time_hold(txn, lease)
    known = [*observed.by_target, *state.durable.residents, *state.leases_by_target]
    for target in dict.fromkeys(known):
        txn.touch(target)


def _take_up(txn: Txn, lease: Lease) -> None:
    """After a restart: what the journal holds as leased runs on, and what it ran already counts as launched."""
    observed = txn.state.observed
    if lease.target is None or not txn.state.leads(lease):
        return
    launched = observed.launched.setdefault(lease.id, {})
    phase_wall_ms = lease.granted_wall_ms + lease.phase_at_ms - lease.granted_at_ms
    team = team_of(txn.state, lease)
    for container in [*team, *helpers(txn.state, team)]:
        run = observed.runs.get(container.id)
        if run is not None and not lease.needs_cold_start and (lease.warm or lease.phase != "making_room"):
            run.had_right = True
        since_phase = container.started_wall_ms >= phase_wall_ms
        if lease.phase != "making_room" and (container.runs or since_phase or lease.phase == "ready"):
            launched[container.id] = ""


def _settle_in(txn: Txn) -> None:
    """The very first look at this engine: what runs already becomes resident instead of being stopped."""
    state = txn.state
    merge_stale(state)
    running = {c.target: c for c in state.observed.containers.values() if c.runs and c.target is not None}
    for target, container in running.items():
        if state.lease_of(target) is None:
            begin_residency(txn, container, "first_start")
    txn.emit(FirstSync, residents=tuple(running))


def begin_residency(txn: Txn, container: Container, reason: str) -> None:
    """Let what runs without a lease stay until its room is needed: where it is pinned, or seen, or first.

    Another project of the same name may be pinned elsewhere: that says nothing about where this one runs.
    """
    state, target, project = txn.state, container.target or "", container.project
    wish = wish_of(state, Terms(target=target, owner="", priority=0, ttl_ms=0))
    own = [other for other in state.containers_of(target) if other.project == project]
    gpus = pinned_to(state, own) or seen_on(state, target) or tuple(gpu.uuid for gpu in state.observed.gpus[:1])
    txn.emit(ResidencyBegan, target=target, project=project, reason=reason, gpus=gpus, vram_mib=wish.need_mib)


def reopen_windows(txn: Txn) -> None:
    """A window that was open while nobody could claim (no engine, a full disk, we were down) starts afresh."""
    state = txn.state
    for ticket_id in list(state.windows):
        if standstill(state) is None:
            ticket = state.durable.tickets[ticket_id]
            open_window(txn, ticket, Placement(ticket.window_gpus, ticket.window_mib, ()))
        else:
            time_window(txn, ticket_id)


def lost(txn: Txn, loss: EngineLost) -> None:
    """Not in sync any more: what waits for something to stay away starts its wait anew when we see again."""
    observed = txn.state.observed
    observed.synced = False
    observed.engine_reason = loss.reason
    for resident in txn.state.durable.residents:
        observed.timers.drop(("idle", resident))
    for lease_id in observed.down_since:
        observed.timers.drop(("down", lease_id))


# ---- calls


def dispatched(state: State, target: str, action: Action) -> None:
    """Note that a planned call is under way."""
    observed = state.observed
    if action.id in observed.calls:
        observed.repeated[action.id] = observed.repeated.get(action.id, 0) + 1
    observed.calls[action.id] = action.kind
    if action.kind == "kill" and action.id in observed.runs:
        observed.runs[action.id].killed = True
    lease = state.lease_of(target)
    if action.kind == "start" and lease is not None:
        container = observed.containers.get(action.id) or observed.unlabelled[action.id]
        observed.launched.setdefault(lease.id, {})[action.id] = container.run


def call_done(txn: Txn, done: ActionDone) -> None:
    observed = txn.state.observed
    if observed.repeated.get(done.container_id):
        observed.repeated[done.container_id] -= 1
        _kill_again(txn, done)
        return
    observed.repeated.pop(done.container_id, None)
    observed.calls.pop(done.container_id, None)
    container = observed.containers.get(done.container_id) or observed.unlabelled.get(done.container_id)
    if container is None:
        # It went while the call was under way. Somebody may have waited for the call itself.
        for lease in txn.state.durable.leases.values():
            txn.touch(lease.target)
        return
    if container.target is None:
        _touch_project(txn, container.project)
    txn.touch(container.target)
    if done.outcome == "gone":
        gone(txn, done.container_id)
    elif done.kind == "start":
        _start_done(txn, done, container)
    elif container.runs:
        _back_off(txn, done, container)


def _kill_again(txn: Txn, done: ActionDone) -> None:
    """One of several kills came back, and the last answer counts: but where this one says that it killed nobody, it may
    be that of the present run, while the engine holds on to an earlier one for seconds.
    """
    observed = txn.state.observed
    container, run = observed.containers.get(done.container_id), observed.runs.get(done.container_id)
    if done.outcome not in {"done", "gone"} and container is not None and container.runs and run is not None:
        run.killed = False
        _retry_later(txn, done)
        txn.touch(container.target)


def _start_done(txn: Txn, done: ActionDone, container: Container) -> None:
    observed = txn.state.observed
    lease = next(
        (x for x in txn.state.durable.leases.values() if done.container_id in observed.launched.get(x.id, ())), None
    )
    if done.outcome == "done" or lease is None:
        return
    if done.outcome == "refused":
        standing = Standing("failed", f"the engine refused to start {container.name}: {done.message}", container.id)
        reason, refusal = failure(txn, lease, standing)
        end_target(txn, lease, reason, refusal, logs_of=container.id)
        return
    # Unknown: it may still start. Ask again after a while, unless it is seen running by then.
    del observed.launched[lease.id][done.container_id]
    _retry_later(txn, done)


def _back_off(txn: Txn, done: ActionDone, container: Container) -> None:
    """A stop came back and the container still runs, as far as we saw: look again before repeating it."""
    failures = _retry_later(txn, done)
    first_refusal = done.outcome != "done" and failures == 1
    if first_refusal or (done.outcome == "done" and failures == STOPS_BEFORE_ALARM):
        txn.emit(
            StopFailed,
            container_id=container.id,
            container=container.name,
            target=container.target or "",
            error=done.message or UNSAID[done.outcome],
        )


def _retry_later(txn: Txn, done: ActionDone) -> int:
    observed = txn.state.observed
    before = observed.retries.get(done.container_id)
    failures = 1 if before is None else before.failures + 1
    at_ms = txn.now.at_ms + min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** min(failures - 1, 10))
    observed.retries[done.container_id] = Retry(failures, at_ms, done.message or done.outcome)
    observed.timers.set(("retry", done.container_id), at_ms)
    return failures


def _forget_retry(state: State, container_id: str) -> None:
    if state.observed.retries.pop(container_id, None) is not None:
        state.observed.timers.drop(("retry", container_id))


def seen(txn: Txn, item: ContainerSeen | ContainerGone) -> None:
    if isinstance(item, ContainerSeen):
        see(txn, item.container)
    else:
        gone(txn, item.id)
