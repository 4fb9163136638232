"""The one door: an input goes in, facts and replies come out. Pure; the same state, time and input give the same.

Every decision is taken behind it. ``plan`` then derives the calls that are due from the state it leaves.
"""

from __future__ import annotations

from typing import assert_never

from supervisor.core.endings import (
    caller_gone,
    evict,
    force_end,
    force_release,
    open_gpu,
    process_ended,
    release,
    wait_over,
)
from supervisor.core.enforce import prevented, tally_over
from supervisor.core.errors import Refusal
from supervisor.core.facts import GpuOpened, SupervisorStarted, SupervisorStopped, UseSeen
from supervisor.core.inputs import (
    Acquire,
    ActionDone,
    CallerGone,
    Claim,
    ContainerGone,
    ContainerRenamed,
    ContainerSeen,
    EnforcingChanged,
    EngineContact,
    EngineLost,
    EngineSnapshot,
    Evict,
    ForceEnd,
    ForceRelease,
    Input,
    Move,
    OpenGpu,
    ProcessEnded,
    ProcessesSeen,
    Release,
    ReleaseByKey,
    Renew,
    ShutDown,
    SignalSent,
    Started,
    StartHinted,
    StartPrevented,
    StorageFull,
    Tick,
    VramRead,
)
from supervisor.core.leases import (
    end_lease,
    end_residency,
    end_ticket,
    ended_refusal,
    promise,
    refuse_all,
    remember_told,
    start_ttl,
    start_window,
)
from supervisor.core.making_room import make_room, memory_overdue
from supervisor.core.model import Now
from supervisor.core.moving import move
from supervisor.core.policy import standstill
from supervisor.core.requests import acquire, claim, renew
from supervisor.core.settle import down_over, ready_over, settle, window_over
from supervisor.core.sightings import call_done, hinted, lost, renamed, reopen_windows, seen, snapshot
from supervisor.core.state import State
from supervisor.core.strangers import judge_all, processes_seen, signal_sent
from supervisor.core.targets import gpus_of, right_to_run
from supervisor.core.txn import Step, Txn
from supervisor.core.usage import has_room, use_of, who_is_where

__all__ = ["Step", "step"]

#: A target's peak is written down again when it has grown by this much, and by a fiftieth.
PEAK_STEP_MIB = 64


def step(state: State, now: Now, item: Input) -> Step:
    """Take in what happened. ``state`` is changed in place, each fact applied as it is emitted."""
    txn = Txn(state, now)
    match item:
        case Renew():
            renew(txn, item)
            return txn.out
        case EngineContact():
            state.observed.contact_at_ms = now.at_ms
            return txn.out
        case EnforcingChanged():
            state.observed.enforcing = item.enforcing
            return txn.out
        case Acquire():
            acquire(txn, item)
        case Claim():
            claim(txn, item)
        case Release() | ReleaseByKey():
            release(txn, item)
        case ForceRelease():
            force_release(txn, item)
        case ForceEnd():
            force_end(txn, item)
        case Evict():
            evict(txn, item)
        case Move():
            move(txn, item)
        case OpenGpu():
            open_gpu(txn, item)
        case CallerGone():
            caller_gone(txn, item)
        case EngineSnapshot():
            snapshot(txn, item)
        case ContainerSeen() | ContainerGone():
            seen(txn, item)
        case ContainerRenamed():
            renamed(txn, item)
        case StartHinted():
            hinted(txn, item)
        case EngineLost():
            lost(txn, item)
        case ActionDone():
            call_done(txn, item)
        case VramRead():
            _read_vram(txn, item)
        case ProcessesSeen():
            processes_seen(txn, item)
            if not state.queue or all(lease.target for lease in state.durable.leases.values()):
                return txn.out  # whose a process is counts for the room beside a bare lease alone
        case SignalSent():
            signal_sent(txn, item)
            return txn.out
        case ProcessEnded():
            process_ended(txn, item)
        case StorageFull():
            _watch_storage(txn, item)
        case StartPrevented():
            prevented(txn, item)
        case Started():
            _started(txn, item)
        case ShutDown():
            _shut_down(txn, item)
        case Tick():
            _tick(txn)
        case _:
            assert_never(item)
    settle(txn)
    return txn.out


def _started(txn: Txn, started: Started) -> None:
    """Take up what the journal left: nobody could renew meanwhile, so every lease gets one fresh TTL.

    Whoever was on the line is not any more: what it could not have known the token of ends, unless a key can
    fetch it again within a claim window.
    """
    state = txn.state
    state.observed.safe_mode = started.safe_mode
    if started.safe_mode:
        return
    txn.emit(SupervisorStarted, boot_id=started.boot_id, boot_ms=started.boot_ms, version=started.version)
    for ticket in list(state.durable.tickets.values()):
        if not ticket.token_known and ticket.terms.scope is None:
            end_ticket(txn, ticket, "caller_gone", ended_refusal("ticket", "caller_gone"))
    for lease in list(state.durable.leases.values()):
        if lease.answer_due:
            start_ttl(txn, lease)
            promise(txn, lease)
            remember_told(txn, lease)
        elif lease.token_known or lease.terms.scope is not None:
            start_window(txn, lease)
        else:
            end_lease(txn, lease, "caller_gone", ended_refusal("lease", "caller_gone"))


def _shut_down(txn: Txn, shut_down: ShutDown) -> None:
    """Answer everybody on the line; leases and containers stay."""
    state = txn.state
    if not state.observed.storage_full and not state.observed.safe_mode:
        txn.emit(SupervisorStopped, reason=shut_down.reason)
    state.observed.stopping = True
    refusal = standstill(state)
    assert refusal is not None
    for id_ in list(state.observed.holds_of):
        refuse_all(txn, id_, refusal)


def _watch_storage(txn: Txn, storage: StorageFull) -> None:
    observed = txn.state.observed
    was_full, observed.storage_full = observed.storage_full, storage.full
    if was_full and not storage.full and observed.synced:
        reopen_windows(txn)


def _read_vram(txn: Txn, read: VramRead) -> None:
    """Take over a reading. A dirty GPU opens when its memory is back, or when nobody can tell any more whether it is:
    something runs by right, and the next grant looks again when that is gone.
    """
    state = txn.state
    observed = state.observed
    seen_on = who_is_where(read.gpus)
    moved = [id_ for id_ in {*seen_on, *observed.seen_on} if seen_on.get(id_) != observed.seen_on.get(id_)]
    observed.gpus = read.gpus
    observed.gpu_problem = read.problem
    observed.seen_on = seen_on
    for id_ in sorted(moved):  # who loads waits while others run on its GPU
        if id_ in observed.containers:
            txn.touch(observed.containers[id_].target)
    _remember_peaks(txn)
    for wait in observed.room.values():
        wait.read = wait.read or read.began_ms is None or read.began_ms >= wait.since_ms
    for gpu in read.gpus:
        dirty = observed.dirty.get(gpu.uuid)
        if dirty is None:
            continue
        by_right = (c for c in observed.containers.values() if c.runs and right_to_run(state, c).may_run)
        clean = has_room(state, gpu, dirty.need_mib, ())
        if clean or any(gpu.uuid in gpus_of(state, c) for c in by_right):
            del observed.dirty[gpu.uuid]
            if not observed.storage_full and not observed.safe_mode:
                txn.emit(GpuOpened, uuid=gpu.uuid, reason="clean" if clean else "used")


def _remember_peaks(txn: Txn) -> None:
    """Remember the most that each target was seen to use, in steps that matter: a reading is no fact."""
    state = txn.state
    if state.observed.storage_full or state.observed.safe_mode:
        return
    used: dict[str, int] = {}
    for gpu in state.observed.gpus:
        for target, mib in use_of(state, gpu).items():
            if target is not None and target not in state.durable.leases:
                used[target] = used.get(target, 0) + mib
    for target, mib in used.items():
        known_mib = state.durable.peaks.get(target, 0)
        if mib > known_mib + max(PEAK_STEP_MIB, known_mib // 50):
            txn.emit(UseSeen, target=target, peak_mib=mib)


def _tick(txn: Txn) -> None:
    """Do what fell due. Each timer is taken once; its rule sets the next one if it needs one."""
    state = txn.state
    timers = state.observed.timers
    while (due := timers.pop_due(txn.now.at_ms)) is not None:
        what, id_ = due
        if what == "retry":
            container = state.observed.containers.get(id_) or state.observed.unlabelled.get(id_)
            for target in [container.target] if container and container.target else list(state.leases_by_target):
                txn.touch(target)
        elif what == "tally":
            tally_over(txn, id_)
        elif what == "hold":
            wait_over(txn, int(id_))
        elif what == "window":
            window_over(txn, id_)
        elif what == "idle":
            if id_ in state.durable.residents and state.observed.synced:
                end_residency(txn, id_, "stopped")
        elif what == "unused":
            if id_ in state.durable.residents and not state.observed.safe_mode:
                end_residency(txn, id_, "unused")
        elif what == "process":
            judge_all(txn)
        elif what == "rest":
            # Before its memory is overdue: whoever uses more than was reserved can be told from what comes back now.
            if not state.observed.safe_mode:
                make_room(txn)
        elif what in {"young", "held"}:
            continue  # the queue is looked at again
        else:
            _lease_due(txn, what, id_)


def _lease_due(txn: Txn, what: str, lease_id: str) -> None:
    lease = txn.state.durable.leases.get(lease_id)
    if lease is None:
        return
    if what == "lease":
        refusal = Refusal("lease_ended", "the lease has expired; ask for a new one", {"reason": "expired"})
        end_lease(txn, lease, "expired", refusal)
    elif what == "ready":
        ready_over(txn, lease)
    elif what == "vram":
        memory_overdue(txn, lease)
    elif what == "down" and txn.state.observed.synced:
        down_over(txn, lease)
