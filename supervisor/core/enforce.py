"""A labelled container that runs has the right to, or is refused (mode stop), spared (observe) or adopted (adopt)."""

from __future__ import annotations

from msgspec.structs import asdict

from supervisor.core import policy
from supervisor.core.facts import ContainerRefused, ContainerSpared
from supervisor.core.inputs import StartPrevented
from supervisor.core.leases import grant
from supervisor.core.model import Container, Terms
from supervisor.core.requests import find_place
from supervisor.core.room import Placement
from supervisor.core.sightings import begin_residency
from supervisor.core.state import Run, State, Tally
from supervisor.core.targets import MAY_RUN, Right, right_to_run, room_is_being_made, spec_of
from supervisor.core.txn import Txn
from supervisor.core.wishes import wish_of

#: Refusals of one container place that keeps coming back are one fact in this time, with a count.
TALLY_MS = 60_000
#: A start event that comes within this time of a kill through the tripwire is of the same start.
PREVENTED_MS = 2_000


def judge_runs(txn: Txn, target: str) -> None:
    """Judge every run of the target's containers that was not judged before."""
    state = txn.state
    if not state.durable.first_sync_done:
        return
    if state.settings.mode == "adopt":
        adopt_one(txn)
    for container in state.containers_of(target):
        run = state.observed.runs.get(container.id)
        if not container.runs or run is None:
            continue
        right = right_to_run(state, container)
        if right.may_run:
            _note_right(state, container, run)
        elif run.spared:
            run.spared = False
            _refuse(txn, container, run, right)
        elif not run.judged and not run.had_right:
            run.judged = True
            if txn.now.at_ms - state.observed.prevented.pop(container.id, txn.now.at_ms - PREVENTED_MS) < PREVENTED_MS:
                continue  # it came further than we thought, and its refusal is in the audit
            if state.settings.mode == "observe" and not room_is_being_made(state):
                _spare(txn, container, run, right)
            else:
                _refuse(txn, container, run, right)


def _note_right(state: State, container: Container, run: Run) -> None:
    run.had_right = True
    lease, resident = state.lease_of(container.target or ""), state.durable.residents.get(container.target or "")
    run.gpus = run.gpus or (lease.gpus if lease is not None else resident.gpus if resident is not None else ())
    if lease is not None and lease.phase != "making_room":
        # Whoever started it: it counts as launched, and is not started twice.
        state.observed.launched.setdefault(lease.id, {}).setdefault(container.id, "")


def _refuse(txn: Txn, container: Container, run: Run, right: Right) -> None:
    _tally(
        txn,
        container,
        ContainerRefused(
            at_ms=txn.now.at_ms,
            wall_ms=txn.now.wall_ms,
            container_id=container.id,
            container=container.name,
            target=container.target or "",
            service=container.service,
            reason=right.reason,
            action="kill" if run.fresh else "stop",
            holder=right.holder,
            detail=_invalid_because(txn.state, container) if right.reason == "target_invalid" else "",
        ),
    )


def prevented(txn: Txn, item: StartPrevented) -> None:
    """A start came to nothing: no event will ever tell of it, so its refusal is written down here."""
    container = txn.state.observed.containers.get(item.container_id)
    right = right_to_run(txn.state, container) if container is not None else MAY_RUN
    if container is None or right.may_run:
        return
    txn.state.observed.prevented[container.id] = txn.now.at_ms
    _refuse(txn, container, Run("", fresh=True), right)


def _invalid_because(state: State, container: Container) -> str:
    spec = spec_of(state, container.target or "")
    problems = spec.problems if spec is not None else ()
    return "; ".join(problem.message for problem in problems if problem.severity == "error")[:500]


def _spare(txn: Txn, container: Container, run: Run, right: Right) -> None:
    """Mode observe: the start itself is left alone. What can be is resident, so a grant evicts it as ever."""
    state = txn.state
    target = container.target or ""
    _tally(
        txn,
        container,
        ContainerSpared(
            at_ms=txn.now.at_ms,
            wall_ms=txn.now.wall_ms,
            container_id=container.id,
            container=container.name,
            target=target,
            service=container.service,
            reason=right.reason,
            holder=right.holder,
        ),
    )
    run.had_right = run.spared = True
    if state.lease_of(target) is None and target not in state.durable.residents and not state.observed.safe_mode:
        run.spared = False
        begin_residency(txn, container, "observed")
        txn.touch(target)


# ---- one fact a minute


def _tally(txn: Txn, container: Container, fact: ContainerRefused | ContainerSpared) -> None:
    observed = txn.state.observed
    place = "/".join(str(part) for part in (container.target, *container.place))
    tally = observed.tallies.get(place)
    if tally is None:
        observed.tallies[place] = Tally()
        observed.timers.set(("tally", place), txn.now.at_ms + TALLY_MS)
        txn.emit(type(fact), **_values(fact, 1))
    else:
        tally.count += 1
        tally.last = fact


def tally_over(txn: Txn, place: str) -> None:
    """A minute has passed since the last fact about this place: say what was held back, or forget it."""
    observed = txn.state.observed
    tally = observed.tallies.pop(place)
    if tally.count and isinstance(tally.last, ContainerRefused | ContainerSpared):
        txn.emit(type(tally.last), **_values(tally.last, tally.count))
        observed.tallies[place] = Tally()
        observed.timers.set(("tally", place), txn.now.at_ms + TALLY_MS)


def _values(fact: ContainerRefused | ContainerSpared, count: int) -> dict[str, object]:
    values = asdict(fact)
    del values["at_ms"], values["wall_ms"]
    return {**values, "count": count}


# ---- mode adopt


def adopt_one(txn: Txn) -> None:
    """Give what was started a lease without a TTL, if nobody has, may claim or waits for the GPU. One only."""
    state = txn.state
    if policy.standstill(state) or policy.not_now(state) or state.durable.leases or state.windows or state.queue:
        return
    candidates = sorted(
        (-spec.priority, container.started_wall_ms, target)
        for target, spec in state.observed.specs.items()
        for container in state.containers_of(target)
        if _may_be_adopted(state, container)
    )
    for _, _, target in candidates:
        terms = Terms(target=target, owner="adopted", priority=0, ttl_ms=0, wait_ready=False)
        found = find_place(state, txn.now.at_ms, wish_of(state, terms), terms.priority)
        if isinstance(found, Placement):
            id_ = f"adopted-{state.durable.fence + 1}"
            grant(txn, id_=id_, token_hash="", token_known=True, terms=terms, place=found, adopted=True)
            return


def _may_be_adopted(state: State, container: Container) -> bool:
    run = state.observed.runs.get(container.id)
    fresh_start = run is not None and not run.judged and not run.had_right
    return container.runs and fresh_start and not right_to_run(state, container).may_run
