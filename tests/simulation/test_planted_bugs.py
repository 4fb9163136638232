"""Bugs planted on purpose: a simulation that does not notice them proves nothing.

Each is one line of the supervisor that somebody might really get wrong. It has to be noticed within a few hundred
seeds, and by a rule, not by a crash of the code that was planted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from sortedcontainers import SortedKeyList

from supervisor import kernel
from supervisor.core import apply as applying
from supervisor.core import (
    endings,
    enforce,
    leases,
    making_room,
    plan,
    policy,
    requests,
    room,
    settle,
    sightings,
    state,
    step,
    targets,
    tripwire,
)
from supervisor.core.facts import LeaseGranted, LeaseRetimed, TicketKept
from supervisor.core.inputs import ReleaseByKey
from supervisor.core.replies import Released
from tests.journal.memory_disk import MemoryDisk
from tests.simulation import incarnation
from tests.simulation.ledger import Violation
from tests.simulation.world import World

SEEDS = 400
Plant = Callable[[pytest.MonkeyPatch], object]
#: Whatever else is wrong, these are not rules of ours: a planted bug that only crashes has shown nothing.
CRASHES = (TypeError, NameError, AttributeError)


def grant_without_eviction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "in_the_way", lambda *_: [])


def two_holders(patch: pytest.MonkeyPatch) -> None:
    honest = room._fit

    def fit(state: Any, now_ms: int, gpu: Any, wish: Any, others: Any) -> Any:
        return honest(state, now_ms, gpu, wish, [other for other in others if other.kind == "resident"])

    patch.setattr(room, "_fit", fit)


def sharing_with_strangers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(room, "_agree", lambda *_: True)


def reservations_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(room, "takes", lambda *_: 0)


def two_load_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(making_room, "_another_loads", lambda *_: False)


def one_holder_too_many(patch: pytest.MonkeyPatch) -> None:
    honest = room._join

    def join(state: Any, lead: Any, *more: Any) -> Any:
        return (
            room.Placement(lead.gpus, lead.vram_mib, joins=lead.id) if not lead.adopted else honest(state, lead, *more)
        )

    patch.setattr(room, "_join", join)


def smaller_ones_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settle, "reach", lambda *_: set())
    patch.setattr(policy, "keep_off", lambda *_: set())


def foreign_use_overlooked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(making_room, "has_room", lambda *_: True)


def grant_while_not_in_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "not_now", lambda _: None)


def grant_on_a_full_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "standstill", lambda _: None)


def overtaking(patch: pytest.MonkeyPatch) -> None:
    honest = state.State.__init__

    def reversed_queue(self: state.State, *values: Any) -> None:
        honest(self, *values)
        self.queue = SortedKeyList(self.queue, key=lambda ticket: tuple(-part for part in self.rank(ticket)))

    patch.setattr(state.State, "__init__", reversed_queue)


def aging_upside_down(patch: pytest.MonkeyPatch) -> None:
    def rank(self: state.State, ticket: Any) -> tuple[float, int]:
        late = self.settings.aging_per_minute * ticket.queued_at_ms
        return (-late - 60_000 * ticket.terms.priority, ticket.order)

    patch.setattr(state.State, "rank", rank)


def window_ignored(patch: pytest.MonkeyPatch) -> None:
    honest = room.occupants
    patch.setattr(room, "occupants", lambda state: [one for one in honest(state) if one.kind != "window"])


def window_never_lapses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "window_over", lambda *_: None)


def fence_reused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases, "LeaseGranted", lambda *at, **values: LeaseGranted(*at, **{**values, "fence": 1}))


def expiry_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(requests, "start_ttl", leases.stop_ttl)


def renewal_moves_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(requests, "start_ttl", lambda *_: None)


def resident_not_ended(patch: pytest.MonkeyPatch) -> None:
    def forget(txn: Any, target: str, reason: str, lease: Any = None) -> None:
        txn.touch(target)

    patch.setattr(step, "end_residency", forget)


def room_never_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(making_room, "_others_are_gone", lambda *_: True)


def memory_never_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(making_room, "_memory_is_there", lambda *_: True)


def start_before_room(patch: pytest.MonkeyPatch) -> None:
    honest = plan._starts

    def starts(state: Any, now: Any, target: str) -> Any:
        lease = state.lease_of(target)
        if lease is None or lease.phase != "making_room":
            return honest(state, now, target)
        return [plan.StartContainer(one.id) for one in targets.members(state, target) if not one.runs][:1]

    patch.setattr(plan, "_starts", starts)


def one_off_runs_not_enforced(patch: pytest.MonkeyPatch) -> None:
    honest = targets.right_to_run

    def right_to_run(state: Any, container: Any) -> Any:
        return targets.MAY_RUN if container.one_off else honest(state, container)

    for module in (enforce, making_room, plan):
        patch.setattr(module, "right_to_run", right_to_run)


def paused_containers_not_enforced(patch: pytest.MonkeyPatch) -> None:
    honest = plan._is_time
    patch.setattr(plan, "_is_time", lambda state, now, one: one.status != "paused" and honest(state, now, one))


def unlabelled_stopped(patch: pytest.MonkeyPatch) -> None:
    honest = plan._stops

    def stops(state: Any, now: Any, target: str) -> Any:
        helpers = [one for one in state.observed.unlabelled.values() if one.runs and one.id not in state.observed.calls]
        return [*honest(state, now, target), *(plan.StopContainer(one.id, 1) for one in helpers)]

    patch.setattr(plan, "_stops", stops)


def reply_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    honest = kernel.Kernel.feed

    def feed(self: kernel.Kernel, now: Any, item: Any) -> None:
        honest(self, now, item)
        while self._replies:
            self.outbox.replies.append(self._replies.popleft()[1])

    patch.setattr(kernel.Kernel, "feed", feed)


def calls_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    honest = kernel.Kernel._dispatch

    def dispatch(self: kernel.Kernel, now: Any, target: str, *, kills_only: bool) -> None:
        honest(self, now, target, kills_only=False)

    patch.setattr(kernel.Kernel, "_dispatch", dispatch)


def replay_drops_a_kind_of_fact(patch: pytest.MonkeyPatch) -> None:
    honest = applying.apply_all

    def forgetful(state: Any, facts: Any) -> None:
        for fact in facts:
            honest(state, [fact])
            if isinstance(fact, LeaseRetimed):
                lease = state.durable.leases[fact.id]
                state.durable.leases[fact.id] = replace(lease, terms=replace(lease.terms, ttl_ms=1))

    patch.setattr(applying, "apply_all", forgetful)


def snapshot_drops_a_field(patch: pytest.MonkeyPatch) -> None:
    honest = applying.thaw

    def thaw(payload: bytes) -> state.Durable:
        durable = honest(payload)
        durable.ended_keys = OrderedDict()
        return durable

    patch.setattr(applying, "thaw", thaw)


def hang_up_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "caller_gone", lambda *_: None)


def lost_answer_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(endings, "_take_back", lambda *_: None)


def ticket_kept_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "wait_over", lambda *_: None)


def ticket_ended_twice(patch: pytest.MonkeyPatch) -> None:
    honest = endings.keep_ticket

    def keep(txn: Any, caller: Any, ticket: Any) -> None:
        honest(txn, caller, ticket)
        if len(txn.state.queue) > 2:
            txn.out.facts.append(txn.out.facts[-1] if txn.out.facts else TicketKept(0, 0, ticket.id))

    patch.setattr(endings, "keep_ticket", keep)


def half_started_becomes_resident(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases, "_stays", lambda txn, lease: lease.target is not None and lease.phase != "making_room")


def key_gets_a_second_lease(patch: pytest.MonkeyPatch) -> None:
    honest = requests.acquire

    def acquire(txn: Any, request: Any) -> None:
        honest(txn, replace(request, terms=replace(request.terms, scope=None)))

    patch.setattr(step, "acquire", acquire)


def key_gives_nothing_back(patch: pytest.MonkeyPatch) -> None:
    honest = endings.release

    def release(txn: Any, request: Any) -> None:
        if isinstance(request, ReleaseByKey) and request.scope in txn.state.ids_by_scope:
            txn.reply(Released(request.request_id, released=True))
        else:
            honest(txn, request)

    patch.setattr(step, "release", release)


def key_gives_somebody_elses_back(patch: pytest.MonkeyPatch) -> None:
    honest = endings.release

    def release(txn: Any, request: Any) -> None:
        scopes = list(txn.state.ids_by_scope)
        if isinstance(request, ReleaseByKey) and scopes:
            request = replace(request, scope=scopes[-1])
        honest(txn, request)

    patch.setattr(step, "release", release)


def back_off_for_ever(patch: pytest.MonkeyPatch) -> None:
    honest = sightings._retry_later

    def later(txn: Any, done: Any) -> int:
        failures = honest(txn, done)
        txn.state.observed.timers.drop(("retry", done.container_id))
        return failures

    patch.setattr(sightings, "_retry_later", later)


def token_in_a_sentence(patch: pytest.MonkeyPatch) -> None:
    honest = requests.with_queue

    def with_queue(state: Any, refusal: Any) -> Any:
        told, lease = honest(state, refusal), next(iter(state.durable.leases.values()), None)
        return replace(told, detail=f"{told.detail} with {lease.token_hash}") if lease is not None else told

    patch.setattr(requests, "with_queue", with_queue)


def shutdown_leaves_callers_waiting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "refuse_all", lambda *_: None)


def overdue_memory_unsaid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "memory_overdue", lambda *_: None)


def start_beside_an_intruder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plan, "nothing_intrudes", lambda *_: True)


def held_back_answer_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel.Kernel, "_recall", lambda self, gone: gone)


def tripwire_hits_who_may_run(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tripwire, "right_to_run", lambda *_: targets.Right(may_run=False))


def tripwire_hits_who_is_unknown(patch: pytest.MonkeyPatch) -> None:
    honest = incarnation.verdict
    patch.setattr(incarnation, "verdict", lambda *asked: honest(*asked).replace("unknown", "refuse"))


def tripwire_hits_starts_of_ours(patch: pytest.MonkeyPatch) -> None:
    def verdict(state: Any, container_id: str, *_: object) -> str:
        container = state.observed.containers.get(container_id)
        return "leave" if container is None or targets.right_to_run(state, container).may_run else "refuse"

    patch.setattr(incarnation, "verdict", verdict)


def tripwire_takes_an_end_for_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel.Kernel, "unwritten", lambda _: [])


def journal_forgets_to_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryDisk, "sync", lambda *_: None)


PLANTED: tuple[Plant, ...] = (
    grant_without_eviction,
    two_holders,
    grant_while_not_in_sync,
    grant_on_a_full_disk,
    overtaking,
    aging_upside_down,
    window_ignored,
    window_never_lapses,
    fence_reused,
    expiry_forgotten,
    renewal_moves_nothing,
    resident_not_ended,
    room_never_checked,
    memory_never_read,
    start_before_room,
    one_off_runs_not_enforced,
    paused_containers_not_enforced,
    unlabelled_stopped,
    reply_before_the_sync,
    calls_before_the_sync,
    replay_drops_a_kind_of_fact,
    snapshot_drops_a_field,
    hang_up_ignored,
    lost_answer_ignored,
    ticket_kept_for_ever,
    ticket_ended_twice,
    half_started_becomes_resident,
    key_gets_a_second_lease,
    key_gives_nothing_back,
    key_gives_somebody_elses_back,
    back_off_for_ever,
    token_in_a_sentence,
    shutdown_leaves_callers_waiting,
    overdue_memory_unsaid,
    start_beside_an_intruder,
    held_back_answer_lost,
    journal_forgets_to_sync,
    sharing_with_strangers,
    reservations_forgotten,
    two_load_at_once,
    one_holder_too_many,
    smaller_ones_first,
    foreign_use_overlooked,
    tripwire_hits_who_may_run,
    tripwire_hits_who_is_unknown,
    tripwire_hits_starts_of_ours,
    tripwire_takes_an_end_for_written,
)


#: Where hundreds of histories pass before one shows it, the search begins shortly before that one.
SEEN_NEAR: dict[Plant, int] = {
    grant_without_eviction: 240,
    start_beside_an_intruder: 190,
    paused_containers_not_enforced: 120,
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch)

    assert noticed_by(SEEN_NEAR.get(plant, 0)) is not None, f"{SEEDS} histories passed with it"


def noticed_by(first: int = 0, **world: Any) -> tuple[int, str] | None:
    """Return the first seed from ``first`` on that a rule or an assertion of the code stops, and what it said."""
    for seed in range(first, first + SEEDS):
        try:
            World(seed, **world).play()
        except Violation as violation:
            return seed, str(violation)
        except CRASHES:
            raise
        except AssertionError as broken:
            return seed, str(broken)
    return None
