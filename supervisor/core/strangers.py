"""What the processes on the GPUs mean for the leases: who stands how, who is reported, and who is told to end.

A process in a container of a target is that target's, and ending it is enforcement's business. Every other one stands
by a bare lease of its GPU, by the list of the allowed, or by nothing: then it is reported, once, and under the policy
``terminate`` it is sent SIGTERM and, after a grace, SIGKILL.
"""

from __future__ import annotations

import signal
from typing import assert_never

from msgspec import Struct

from supervisor.core import policy, wishes
from supervisor.core.facts import ProcessReported, ProcessSignalled, SignalFailed
from supervisor.core.finished import finished_processes
from supervisor.core.inputs import ProcessesSeen, SignalSent
from supervisor.core.model import Bystander, Container, Lease
from supervisor.core.processes import SeenProcess, Standing
from supervisor.core.replies import SignalProcess
from supervisor.core.state import State, Suspect
from supervisor.core.targets import known_container, right_to_run
from supervisor.core.txn import Txn


class Judged(Struct, frozen=True):
    """A process and what it stands by. ``container``: its container's name, or its id where no name is known.

    ``lease``: the id of the lease that it stands by; ``why_spared``: why it is not ended, although unapproved.
    """

    process: SeenProcess
    standing: Standing
    target: str | None = None
    container: str | None = None
    service: str | None = None
    lease: str | None = None
    why_spared: str = ""


def judged(state: State) -> list[Judged]:
    """Return how every process that was seen on a GPU stands now, as the GPUs list them."""
    return [judge(state, process) for process in state.observed.processes]


def judge(state: State, process: SeenProcess) -> Judged:
    container = _container_of(state, process)
    name = container.name if container is not None else next(iter(process.containers), None)
    service = (container.service or None) if container is not None else None
    if isinstance(container, Container) and container.target is not None:
        lease = state.lease_of(container.target)
        may_run = container.runs and right_to_run(state, container).may_run
        standing: Standing = "unleased" if not may_run else "leased" if lease is not None else "resident"
        held = lease.id if lease is not None and may_run else None
        return Judged(process, standing, container.target, name, service, held)
    bare = _bare_lease_of(state, process)
    if bare is not None:
        return Judged(process, "bare_lease", None, name, service, bare.id)
    names = (container.name,) if container is not None else ()
    if any(entry.covers(process, names) for entry in state.settings.process_allow):
        return Judged(process, "allowed", None, name, service)
    return Judged(process, "unapproved", None, name, service, why_spared=_why_spared(state, process))


def _container_of(state: State, process: SeenProcess) -> Container | Bystander | None:
    """Return the outermost container of a process that the engine knows: what runs nested in it is its business."""
    known = (known_container(state, id_) for id_ in process.containers)
    return next((container for container in known if container is not None), None)


def _bare_lease_of(state: State, process: SeenProcess) -> Lease | None:
    """Return the bare lease that a process stands by: that of its own tree, or those of all its GPUs that name no
    process.
    """
    gpus = {use.gpu for use in process.uses}
    bare = [lease for lease in state.durable.leases.values() if lease.target is None]
    for lease in bare:
        tie = lease.terms.tie
        if tie is not None and process.descends_from(tie.pid, tie.started):
            return lease
    untied = [lease for lease in bare if lease.terms.tie is None and not gpus.isdisjoint(lease.gpus)]
    return untied[0] if untied and gpus <= {uuid for lease in untied for uuid in lease.gpus} else None


def _may_be_ours(state: State, process: SeenProcess) -> bool:
    """Return whether a process is in a container that the engine may only not have told of yet, or that has gone.

    1. A list that began before the process was seen may lack its container; the one after that cannot. 2. Where that
    lacks it, it may have gone with its process after the look; and a look that began before the list was there tells
    of such a process, too. 3. Who is seen by the look after that was in no container that the list should have had.
    """
    if not process.containers or _container_of(state, process) is not None:
        return False
    suspect = state.observed.suspects.get(process.identity)
    return not state.observed.synced or suspect is None or suspect.looks < 2


def _why_spared(state: State, process: SeenProcess) -> str:
    """Return why an unapproved process is left alone, in a few words; "" if it is to be ended."""
    settings = state.settings
    suspect = state.observed.suspects.get(process.identity)
    if settings.process_policy != "terminate":
        return f"the policy is {settings.process_policy}"
    if _may_be_ours(state, process):
        return "nobody knows yet what container it is in"
    if not process.started:
        return "nobody can tell it from a later one of the same pid"
    if process.kernel_thread or process.pid == 1:
        return "it is the system's"
    if settings.process_spare_root and process.root is not False:
        return "it is root's" if process.root else "nobody can tell whether it is root's"
    if settings.process_spare_graphics and any(use.kind == "graphics" for use in process.uses):
        return "it draws a screen"
    if suspect is not None and suspect.forbidden:
        return "the supervisor may not signal it"
    return ""


# ---- reports and signals


def processes_seen(txn: Txn, seen: ProcessesSeen) -> None:
    """Take over who is on the GPUs, and judge them. Whoever was on one that nobody can look at now may be there still:
    what was begun with him goes on.
    """
    observed = txn.state.observed
    observed.process_limits = seen.limited
    here = {process.identity for process in seen.processes}
    looked_at = {gpu.uuid for gpu in observed.gpus if gpu.processes is not None}
    hidden = (process for process in observed.processes if not {use.gpu for use in process.uses} <= looked_at)
    observed.processes = (*seen.processes, *(process for process in hidden if process.identity not in here))
    here = {process.identity for process in observed.processes}
    for identity in [identity for identity in observed.suspects if identity not in here]:
        _forget(txn, identity)
    for identity in (process.identity for process in seen.processes):
        suspect = observed.suspects.get(identity)
        if suspect is not None and observed.listings >= suspect.listings + 2:
            suspect.looks += 1
    judge_all(txn)
    finished_processes(txn, seen)


def judge_all(txn: Txn) -> None:
    """Report who stands by nothing, and end them where that is the policy. Leases may have come and gone since."""
    state = txn.state
    for one in judged(state):
        identity = one.process.identity
        if one.standing != "unapproved":
            _forget(txn, identity)
            continue
        suspect = state.observed.suspects.setdefault(identity, Suspect(txn.now.at_ms, state.observed.listings))
        if not suspect.reported and not _may_be_ours(state, one.process) and state.observed.may_write:
            suspect.reported = True
            txn.emit(ProcessReported, policy=state.settings.process_policy, **_forensics(one))
        if not one.why_spared and state.observed.may_write:
            _end(txn, one, suspect)


def _end(txn: Txn, one: Judged, suspect: Suspect) -> None:
    """Send the signal that is due, each once; what is due later waits for its timer."""
    settings = txn.state.settings
    if not suspect.asked:
        due_ms, number = suspect.since_ms + settings.process_settle_ms, signal.SIGTERM
    elif suspect.asked_ms is not None and not suspect.killed:
        due_ms, number = suspect.asked_ms + settings.process_grace_ms, signal.SIGKILL
    else:
        return
    pid, started = one.process.identity
    if due_ms > txn.now.at_ms:
        txn.state.observed.timers.set(("process", f"{pid}/{started}"), due_ms)
        return
    txn.emit(ProcessSignalled, signal=number.name, **_forensics(one), **_who_gains(txn.state, one.process))
    txn.out.signals.append(SignalProcess(pid, started, int(number)))
    if number is signal.SIGTERM:
        suspect.asked = True
    else:
        suspect.killed = True


def is_due(state: State, due: SignalProcess) -> bool:
    """Return whether a signal that was decided some time ago is still right: a lease may have been granted since (and
    may have ended again: then the process has its time to settle anew), or the process has left the GPU.
    """
    suspect = state.observed.suspects.get((due.pid, due.started))
    if suspect is None or not (suspect.killed if due.signal == signal.SIGKILL else suspect.asked):
        return False
    seen = [process for process in state.observed.processes if process.identity == (due.pid, due.started)]
    now = [judge(state, process) for process in seen]
    return any(one.standing == "unapproved" and not one.why_spared for one in now)


def signal_sent(txn: Txn, sent: SignalSent) -> None:
    """What came of a signal: one that could not be sent is said out loud. The grace begins now: on a slow disk, and
    after the supervisor was stopped for a while, the decision is long ago.
    """
    state = txn.state
    suspect = state.observed.suspects.get((sent.pid, sent.started))
    if sent.outcome == "withdrawn":
        _forget(txn, (sent.pid, sent.started))
    elif suspect is not None and suspect.asked and sent.signal == signal.SIGTERM:
        suspect.asked_ms = txn.now.at_ms
        due_ms = txn.now.at_ms + state.settings.process_grace_ms
        state.observed.timers.set(("process", f"{sent.pid}/{sent.started}"), due_ms)
    match sent.outcome:
        case "sent" | "gone":
            return
        case "other_process" | "forbidden" | "unsupported" | "withdrawn":
            if state.observed.may_write:
                name = signal.Signals(sent.signal).name
                txn.emit(SignalFailed, pid=sent.pid, started=sent.started, signal=name, outcome=sent.outcome)
            suspect = txn.state.observed.suspects.get((sent.pid, sent.started))
            if suspect is not None and sent.outcome == "forbidden":
                suspect.forbidden, suspect.asked_ms, suspect.killed = True, None, False
                txn.state.observed.timers.drop(("process", f"{sent.pid}/{sent.started}"))
        case _:
            assert_never(sent.outcome)


def _forget(txn: Txn, identity: tuple[int, int]) -> None:
    if txn.state.observed.suspects.pop(identity, None) is not None:
        txn.state.observed.timers.drop(("process", f"{identity[0]}/{identity[1]}"))


def _forensics(one: Judged) -> dict[str, object]:
    """Return what the audit keeps of a process: who it is, where it came from, and what it holds."""
    process = one.process
    return {
        "pid": process.pid,
        "started": process.started,
        "started_wall_ms": process.started_wall_ms,
        "name": process.name,
        "user": process.user,
        "command": " ".join(process.command),
        "container": one.container,
        "holds": tuple((use.gpu, use.used_mib) for use in process.uses),
        "ancestors": tuple(f"{ancestor.name} ({ancestor.pid})" for ancestor in process.ancestors),
    }


def _who_gains(state: State, process: SeenProcess) -> dict[str, str | None]:
    """Return for whom a GPU is cleared: who holds it, else the first in the queue who could use it."""
    gpus = {use.gpu for use in process.uses}
    for lease in state.durable.leases.values():
        if not gpus.isdisjoint(lease.gpus):
            return {"for_target": lease.target, "for_owner": lease.terms.owner}
    for _, ticket in policy.in_turn(state):
        if not gpus.isdisjoint(wishes.reach(state, wishes.wish_of(state, ticket.terms))):
            return {"for_target": ticket.terms.target, "for_owner": ticket.terms.owner}
    return {"for_target": None, "for_owner": None}
