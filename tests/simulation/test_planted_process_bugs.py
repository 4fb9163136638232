"""Bugs about processes, planted on purpose as the others are, in histories that all have processes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from supervisor import kernel
from supervisor.core import endings, leases, state, step, strangers
from supervisor.core.inputs import ProcessEnded
from supervisor.core.processes import Allowed, SeenProcess
from tests.simulation import faults
from tests.simulation.clients import Callers
from tests.simulation.test_planted_bugs import SEEDS, Plant, noticed_by
from tests.simulation.world import World


def a_dead_job_keeps_its_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "process_ended", lambda *_: None)


def a_job_that_ended_while_we_were_away_is_missed(patch: pytest.MonkeyPatch) -> None:
    honest = state.State.__init__

    def forgetful(self: state.State, *values: Any) -> None:
        honest(self, *values)
        self.ids_by_tie.clear()

    patch.setattr(state.State, "__init__", forgetful)


def a_tie_by_the_pid_alone(patch: pytest.MonkeyPatch) -> None:
    honest = endings.process_ended

    def process_ended(txn: Any, ended: Any) -> None:
        for tie in [tie for tie in txn.state.ids_by_tie if tie.pid == ended.tie.pid]:
            honest(txn, ProcessEnded(tie))

    patch.setattr(step, "process_ended", process_ended)


def a_tied_lease_with_a_ttl(patch: pytest.MonkeyPatch) -> None:
    def start_ttl(txn: Any, lease: Any) -> None:
        leases._expire_at(txn, lease, txn.now.at_ms + lease.terms.ttl_ms)

    patch.setattr(leases, "start_ttl", start_ttl)


def a_lost_answer_takes_a_tied_lease_from_who_heard_another(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases, "promise", lambda *_: None)


def strangers_are_never_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(strangers, "_end", lambda *_: None)


def strangers_are_never_told_of(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(strangers, "judge_all", lambda _: None)


def strangers_are_asked_and_never_killed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "signal_sent", lambda *_: None)


def killed_before_the_grace(patch: pytest.MonkeyPatch) -> None:
    honest = strangers.signal_sent

    def signal_sent(txn: Any, sent: Any) -> None:
        honest(txn, sent)
        for suspect in txn.state.observed.suspects.values():
            suspect.asked_ms = None if suspect.asked_ms is None else 0

    patch.setattr(step, "signal_sent", signal_sent)


def the_grace_begins_with_the_decision(patch: pytest.MonkeyPatch) -> None:
    honest = strangers._end

    def end(txn: Any, one: Any, suspect: Any) -> None:
        honest(txn, one, suspect)
        if suspect.asked and suspect.asked_ms is None:
            suspect.asked_ms = txn.now.at_ms

    patch.setattr(strangers, "_end", end)
    patch.setattr(step, "signal_sent", lambda *_: None)


def asked_the_moment_they_come(patch: pytest.MonkeyPatch) -> None:
    honest = strangers._end

    def end(txn: Any, one: Any, suspect: Any) -> None:
        suspect.since_ms = 0
        honest(txn, one, suspect)

    patch.setattr(strangers, "_end", end)


def signals_under_every_policy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(strangers, "_why_spared", lambda *_: "")


def nobody_is_spared(patch: pytest.MonkeyPatch) -> None:
    honest = strangers._why_spared
    kept = ("the policy is", "nobody knows", "nobody can tell it", "it is the system's")

    def why_spared(state: Any, process: Any) -> str:
        why = honest(state, process)
        return why if why.startswith(kept) else ""

    patch.setattr(strangers, "_why_spared", why_spared)


def drawing_is_no_excuse(patch: pytest.MonkeyPatch) -> None:
    honest = strangers._why_spared
    patch.setattr(strangers, "_why_spared", lambda *asked: "" if "screen" in (why := honest(*asked)) else why)


def the_allowed_are_strangers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Allowed, "covers", lambda *_: False)


def bare_leases_cover_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(strangers, "_bare_lease_of", lambda *_: None)


def children_of_a_job_are_strangers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SeenProcess, "descends_from", lambda self, pid, started: self.identity == (pid, started))


def containers_are_strangers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(strangers, "_container_of", lambda *_: None)
    patch.setattr(strangers, "_may_be_ours", lambda *_: False)


def an_unknown_container_is_nobodys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(strangers, "_may_be_ours", lambda *_: False)


def a_pid_is_an_identity(patch: pytest.MonkeyPatch) -> None:
    first: dict[int, int] = {}
    patch.setattr(SeenProcess, "identity", property(lambda self: (self.pid, first.setdefault(self.pid, self.started))))


def signals_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    honest = kernel.Kernel.feed

    def feed(self: Any, *values: Any) -> None:
        honest(self, *values)
        self.outbox.signals += [due for _, due in self._signals]
        self._signals.clear()

    patch.setattr(kernel.Kernel, "feed", feed)


def _while_leases_come_and_go_on_slow_disks(patch: pytest.MonkeyPatch) -> None:
    """A lease that covers a stranger just while the disk holds back his signal is seldom met otherwise."""
    honest, target = faults.enable, Callers._target

    def enable(world: World) -> None:
        honest(world)
        world.box.trouble.sync_ms = 5_000

    patch.setattr(faults, "enable", enable)
    patch.setattr(Callers, "_target", lambda self: None if self._rng.random() < 0.5 else target(self))


def a_signal_that_was_held_back_leaves_unasked(patch: pytest.MonkeyPatch) -> None:
    _while_leases_come_and_go_on_slow_disks(patch)
    patch.setattr(kernel, "is_due", lambda *_: True)


def a_withdrawn_signal_counts_as_sent(patch: pytest.MonkeyPatch) -> None:
    _while_leases_come_and_go_on_slow_disks(patch)
    honest = strangers.signal_sent

    def signal_sent(txn: Any, sent: Any) -> None:
        honest(txn, replace(sent, outcome="sent") if sent.outcome == "withdrawn" else sent)

    patch.setattr(step, "signal_sent", signal_sent)


OF_PROCESSES: tuple[Plant, ...] = (
    a_dead_job_keeps_its_lease,
    a_job_that_ended_while_we_were_away_is_missed,
    a_tie_by_the_pid_alone,
    a_tied_lease_with_a_ttl,
    a_lost_answer_takes_a_tied_lease_from_who_heard_another,
    strangers_are_never_ended,
    strangers_are_never_told_of,
    strangers_are_asked_and_never_killed,
    killed_before_the_grace,
    the_grace_begins_with_the_decision,
    asked_the_moment_they_come,
    signals_under_every_policy,
    nobody_is_spared,
    drawing_is_no_excuse,
    the_allowed_are_strangers,
    bare_leases_cover_nobody,
    children_of_a_job_are_strangers,
    containers_are_strangers,
    an_unknown_container_is_nobodys,
    a_pid_is_an_identity,
    signals_before_the_sync,
    a_signal_that_was_held_back_leaves_unasked,
    a_withdrawn_signal_counts_as_sent,
)


@pytest.mark.parametrize("plant", OF_PROCESSES, ids=lambda plant: plant.__name__)
def test_a_planted_bug_about_processes_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch)

    assert noticed_by(with_processes=1.0) is not None, f"{SEEDS} histories passed with it"
