"""Processes on the GPUs: what they stand by, who is reported, and who is asked to end, then killed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.api.views.processes import processes_view
from supervisor.core.facts import ProcessReported, ProcessSignalled, SignalFailed
from supervisor.core.inputs import EngineSnapshot, ProcessesSeen, Release, SignalSent, VramRead
from supervisor.core.model import Bystander, Gpu, Tie
from supervisor.core.processes import Allowed, Ancestor, SeenProcess, Use, parse_allowed
from supervisor.core.replies import SignalProcess
from supervisor.core.strangers import judge
from supervisor.core.values import BadValue
from tests.core.box import Box, container

FIRST = Gpu("SIM-0", total_mib=24_576, used_mib=0, processes=())
SECOND = Gpu("SIM-1", index=1, total_mib=24_576, used_mib=0, processes=())
ENDS = {"process_policy": "terminate", "process_settle_ms": 10_000, "process_grace_ms": 300_000}


def process(pid: int = 4_000, gpu: str = "SIM-0", **values: Any) -> SeenProcess:
    kind = values.pop("kind", "compute")
    given = {"started": 77, "user": "mallory", "uid": 1_001, "root": False, "name": "python3", **values}
    return SeenProcess(pid=pid, uses=(Use(gpu, 900, kind),), **given)


def see(box: Box, *processes: SeenProcess) -> None:
    box.feed(ProcessesSeen(processes))


def facts(box: Box, kind: type) -> list[Any]:
    return [fact for fact in box.facts if isinstance(fact, kind)]


# ---- standing


def test_a_process_stands_by_the_lease_or_the_residency_of_its_container():
    box = Box(container("a"), container("b"), gpus=(FIRST, SECOND))
    box.lease("a")
    box.release(box.lease("b"))

    ours = judge(box.state, process(containers=("a-main",)))
    theirs = judge(box.state, process(containers=("b-main",)))

    assert (ours.standing, ours.target, ours.container, ours.lease) == ("leased", "a", "a-main-1", "l1")
    assert (theirs.standing, theirs.target, theirs.lease) == ("resident", "b", None)


def test_a_container_without_the_right_to_run_is_for_enforcement_to_end():
    box = Box(container("a"), container("b"), process_policy="terminate", process_settle_ms=0)
    box.lease("a")
    box.start("b-main")

    see(box, process(containers=("b-main",)))

    assert judge(box.state, process(containers=("b-main",))).standing == "unleased"
    assert not facts(box, ProcessReported)


def test_of_nested_containers_the_outermost_that_the_engine_knows_counts():
    box = Box(container("a"))
    box.lease("a")

    assert judge(box.state, process(containers=("f" * 64, "a-main", "e" * 64))).target == "a"


def test_an_unlabelled_container_is_told_by_its_name_and_allowed_by_it():
    box = Box(gpus=(FIRST,), process_allow=parse_allowed("container=jupyter*"))
    names = {"ab" * 32: ("jupyter-1", "notebook"), "cd" * 32: ("miner", "")}
    box.feed(EngineSnapshot((), tuple(Bystander(id_, *name) for id_, name in names.items())))
    allowed, stranger = (process(pid, containers=(id_,)) for pid, id_ in enumerate(names, 4_000))

    see(box, allowed, stranger)

    known, other = judge(box.state, allowed), judge(box.state, stranger)
    assert (known.standing, known.container, known.service) == ("allowed", "jupyter-1", "notebook")
    assert (other.standing, other.container, other.service) == ("unapproved", "miner", None)
    assert [(fact.pid, fact.container) for fact in facts(box, ProcessReported)] == [(4_001, "miner")]
    assert [one.containers for one in processes_view(box.state, box.now).processes] == [("jupyter-1",), ("miner",)]
    box.feed(EngineSnapshot(()))
    assert judge(box.state, allowed).container == "ab" * 32, "it has gone"


@pytest.mark.parametrize(
    ("gpu", "standing"),
    [
        pytest.param("SIM-0", "bare_lease", id="a bare lease that names no process covers its GPU"),
        pytest.param("SIM-1", "unapproved", id="and no other"),
    ],
)
def test_a_bare_lease_covers_the_processes_on_its_gpu(gpu: str, standing: str):
    box = Box(gpus=(FIRST, SECOND))
    box.ask(None)
    box.obey()

    assert judge(box.state, process(gpu=gpu)).standing == standing


def test_a_bare_lease_of_one_gpu_does_not_cover_a_process_on_two():
    box = Box(gpus=(FIRST, SECOND))
    box.ask(None)
    box.obey()
    both = replace(process(), uses=(Use("SIM-0", 1), Use("SIM-1", 1)))
    assert judge(box.state, both).standing == "unapproved"

    box.ask(None)
    box.obey()

    assert judge(box.state, both).standing == "bare_lease"


@pytest.mark.parametrize(
    ("seen", "standing"),
    [
        pytest.param({"pid": 500, "started": 5}, "bare_lease", id="the process itself"),
        pytest.param({"ancestors": (Ancestor(600, 6, "sh"), Ancestor(500, 5, "job"))}, "bare_lease", id="a descendant"),
        pytest.param({"pid": 500, "started": 6}, "unapproved", id="a later process of the same pid"),
        pytest.param({"ancestors": (Ancestor(500, 9, "job"),)}, "unapproved", id="a descendant of a later one"),
    ],
)
def test_a_bare_lease_that_names_a_process_covers_its_tree(seen: dict[str, Any], standing: str):
    box = Box(gpus=(FIRST,))
    box.ask(None, tie=Tie(500, 5, "boot"))
    box.obey()

    assert judge(box.state, process(**seen)).standing == standing


@pytest.mark.parametrize(
    ("entry", "covers"),
    [
        pytest.param("user=mallory", True, id="user by name"),
        pytest.param("user=1001", True, id="user by number"),
        pytest.param("user=alice", False, id="another user"),
        pytest.param("exe=/usr/*/xorg", True, id="executable"),
        pytest.param("exe=xorg", False, id="a glob is for the whole path"),
        pytest.param("cgroup=/user.slice/*", True, id="cgroup"),
        pytest.param("container=note*", True, id="container by name"),
        pytest.param("container=abab*", True, id="container by id"),
        pytest.param("user=mallory+exe=/usr/*", True, id="both are true"),
        pytest.param("user=mallory+exe=/opt/*", False, id="one is not"),
        pytest.param("exe=/opt/*, user=mallory", True, id="one of two entries"),
    ],
)
def test_the_allowed(entry: str, covers: bool):
    seen = process(executable="/usr/lib/xorg", cgroup="/user.slice/u1", containers=("ab" * 32,))

    assert any(one.covers(seen, ("notebook",)) for one in parse_allowed(entry)) is covers


def test_what_may_not_be_read_allows_nobody():
    assert not any(
        one.covers(process(user=None, uid=None), ()) for one in parse_allowed("exe=*, cgroup=*, container=*, user=None")
    )


@pytest.mark.parametrize(
    "text", ["mallory", "user=", "=x", "pid=7", "user=a+user=b", "user=a+", ",".join(["user=a"] * 101)]
)
def test_a_bad_entry_is_refused_with_what_to_write(text: str):
    with pytest.raises(BadValue) as caught:
        parse_allowed(text)

    assert caught.value.hint


WORDS = st.text("abc/*?[]-.", min_size=1, max_size=8)


@given(
    st.lists(st.builds(Allowed, *[st.none() | WORDS] * 4).filter(lambda one: one != Allowed()), unique=True, max_size=5)
)
def test_the_allowed_read_back_as_they_are_spelled(entries: list[Allowed]):
    assert parse_allowed(", ".join(map(str, entries))) == tuple(entries)


# ---- reports and signals


def test_a_process_that_stands_by_nothing_is_reported_once():
    box = Box(gpus=(FIRST,))
    see(box, process(command=("python3", "mine.py"), ancestors=(Ancestor(3, 1, "bash"),)))
    see(box, process(), process(pid=4_001))
    see(box, process(started=78))

    reported = facts(box, ProcessReported)
    assert [(fact.pid, fact.started, fact.policy) for fact in reported] == [
        (4_000, 77, "observe"),
        (4_001, 77, "observe"),
        (4_000, 78, "observe"),
    ]
    assert (reported[0].user, reported[0].command, reported[0].ancestors) == (
        "mallory",
        "python3 mine.py",
        ("bash (3)",),
    )
    assert reported[0].holds == (("SIM-0", 900),)
    assert not box.signals


def test_it_is_asked_to_end_once_it_has_stayed_and_killed_after_the_grace():
    box = Box(container("a"), gpus=(FIRST,), **ENDS)
    see(box, process())
    assert not box.signals
    box.advance(10)
    assert box.signals == [SignalProcess(4_000, 77, 15)]

    box.advance(299)
    see(box, process())
    assert len(box.signals) == 1
    box.advance(2)
    box.advance(900)

    assert box.signals[1:] == [SignalProcess(4_000, 77, 9)]
    assert [fact.signal for fact in facts(box, ProcessSignalled)] == ["SIGTERM", "SIGKILL"]


def test_a_driver_that_falls_silent_begins_nothing_anew():
    box = Box(gpus=(FIRST,), **ENDS)
    see(box, process())
    box.advance(10)
    box.feed(VramRead((replace(FIRST, processes=None),)))
    see(box)
    box.feed(VramRead(()))
    see(box)
    box.advance(290)
    box.feed(VramRead((FIRST,)))
    see(box, process())
    box.advance(20)

    assert [signal.signal for signal in box.signals] == [15, 9]
    assert len(facts(box, ProcessReported)) == 1


def test_one_that_ends_when_it_is_asked_is_not_killed():
    box = Box(gpus=(FIRST,), **ENDS)
    see(box, process())
    box.advance(10)
    see(box)
    box.advance(900)

    assert [signal.signal for signal in box.signals] == [15]
    assert not box.state.observed.suspects


def test_whoever_got_a_lease_meanwhile_is_left_alone():
    box = Box(gpus=(FIRST,), **ENDS)
    see(box, process())
    box.advance(5)
    box.ask(None)
    box.obey()
    box.advance(900)

    assert not box.signals


@pytest.mark.parametrize(
    ("settings", "seen", "why"),
    [
        pytest.param({"process_policy": "observe"}, {}, "policy is observe", id="observe"),
        pytest.param({"process_policy": "warn"}, {}, "policy is warn", id="warn"),
        pytest.param({}, {"root": True}, "root's", id="root"),
        pytest.param({}, {"root": None}, "whether it is root's", id="perhaps root"),
        pytest.param({}, {"kind": "graphics"}, "screen", id="graphics"),
        pytest.param({}, {"started": 0}, "same pid", id="no start time"),
        pytest.param({}, {"kernel_thread": True}, "system's", id="kernel thread"),
        pytest.param({}, {"pid": 1}, "system's", id="init"),
        pytest.param({"process_allow": parse_allowed("user=mallory")}, {}, "", id="allowed"),
    ],
)
def test_who_is_left_alone(settings: dict[str, Any], seen: dict[str, Any], why: str):
    box = Box(gpus=(FIRST,), **{**ENDS, **settings})
    see(box, process(**seen))
    box.advance(1_000)
    see(box, process(**seen))

    assert not box.signals
    assert why in judge(box.state, process(**seen)).why_spared


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        pytest.param({"process_spare_root": False}, {"root": True}, id="root, when told so"),
        pytest.param({"process_spare_graphics": False}, {"kind": "graphics"}, id="graphics, when told so"),
        pytest.param({}, {"containers": ("store-main",)}, id="an unlabelled container"),
    ],
)
def test_who_is_not(settings: dict[str, Any], seen: dict[str, Any]):
    box = Box(container("store", target=None), gpus=(FIRST,), **{**ENDS, **settings})
    see(box, process(**seen))
    box.advance(10)

    assert [signal.signal for signal in box.signals] == [15]


def test_a_container_that_nobody_knows_may_be_ours_until_the_engine_was_listed_twice_and_it_was_seen_since():
    box = Box(container("a"), gpus=(FIRST,), **ENDS)
    unknown = process(containers=("f" * 64,))
    see(box, unknown)
    box.advance(60)
    box.snapshot()  # it may have been listed before the container was made
    see(box, unknown)
    see(box, unknown)
    assert not facts(box, ProcessReported)
    assert "what container" in judge(box.state, unknown).why_spared

    box.snapshot()
    see(box, unknown)  # it may have been looked at before the container had gone
    assert not facts(box, ProcessReported)
    see(box, unknown)

    assert [fact.pid for fact in facts(box, ProcessReported)] == [4_000]
    assert [signal.signal for signal in box.signals] == [15]


def test_while_the_engine_is_away_nobody_in_an_unknown_container_is_ended():
    box = Box(gpus=(FIRST,), synced=False, **ENDS)
    see(box, process(containers=("f" * 64,)), process(pid=4_001))
    box.advance(60)

    assert [signal.pid for signal in box.signals] == [4_001]


def test_the_grace_begins_when_it_was_sent_and_not_when_that_was_decided():
    box = Box(gpus=(FIRST,), **ENDS)
    box.sync = False
    see(box, process())
    box.advance(1_000)
    assert not box.signals
    box.sync_now()
    box.sync = True
    box.advance(299)
    assert [signal.signal for signal in box.signals] == [15]
    box.advance(2)

    assert [signal.signal for signal in box.signals] == [15, 9]


def test_a_signal_that_the_disk_held_back_is_withdrawn_where_a_lease_was_granted_meanwhile():
    box = Box(gpus=(FIRST,), **ENDS)
    see(box, process())
    box.sync = False
    box.advance(10)
    request = box.ask(None)
    box.sync_now()
    box.sync_now()
    assert box.code(request) == "Granted"
    assert not box.signals
    assert [fact.outcome for fact in box.journal if isinstance(fact, SignalFailed)] == ["withdrawn"]

    box.sync = True
    box.release(request)
    see(box, process())
    box.advance(11)

    assert [signal.signal for signal in box.signals] == [15]


def test_a_signal_that_the_disk_held_back_is_decided_anew_where_a_lease_came_and_went_meanwhile():
    box = Box(gpus=(FIRST,), **ENDS)
    see(box, process())
    box.sync = False
    box.advance(10)
    request = box.ask(None)
    see(box, process())
    box.feed(Release(900, f"t{request}"))
    box.sync_now()
    assert not box.signals

    box.sync = True
    see(box, process())
    box.advance(9)
    assert not box.signals
    box.advance(2)
    assert [signal.signal for signal in box.signals] == [15]


def test_a_signal_that_is_decided_twice_before_the_disk_has_the_first_is_sent_once():
    box = Box(gpus=(FIRST,), **{**ENDS, "process_settle_ms": 0})
    box.sync = False
    see(box, process())
    request = box.ask(None)
    see(box, process())
    box.feed(Release(900, f"t{request}"))
    see(box, process())
    box.sync_now()
    box.sync_now()

    assert [signal.signal for signal in box.signals] == [15]


def test_the_audit_says_who_gains():
    box = Box(container("a"), container("b", devices=("1",)), gpus=(FIRST, SECOND), **ENDS)
    box.lease("b")
    box.ask("b", owner="bob", on_busy="ticket")
    see(box, process(), process(pid=4_001, gpu="SIM-1"))
    box.advance(10)

    gained = [(fact.pid, fact.for_target, fact.for_owner) for fact in facts(box, ProcessSignalled)]
    assert gained == [(4_000, None, None), (4_001, "b", "ann")]


def test_a_signal_that_cannot_be_sent_is_said():
    box = Box(gpus=(FIRST,), **ENDS)
    for outcome in ("sent", "gone", "other_process", "forbidden", "unsupported"):
        box.feed(SignalSent(4_000, 77, 15, outcome))

    assert [fact.outcome for fact in facts(box, SignalFailed)] == ["other_process", "forbidden", "unsupported"]


def test_nothing_is_signalled_that_cannot_be_written():
    box = Box(gpus=(FIRST,), **ENDS)
    see(box, process())
    box.state.observed.storage_full = True
    box.advance(900)
    assert not box.signals
    box.state.observed.storage_full = False
    see(box, process())

    assert [signal.signal for signal in box.signals] == [15]


def test_a_signal_leaves_when_its_fact_is_on_disk():
    box = Box(gpus=(FIRST,), **ENDS)
    box.sync = False
    see(box, process())
    box.advance(10)
    assert not box.signals

    box.sync_now()

    assert [signal.signal for signal in box.signals] == [15]


def test_one_of_unknown_use_makes_the_sum_unknown():
    seen = process()
    assert seen.used_mib == 900
    assert replace(seen, uses=(*seen.uses, Use("SIM-1", None))).used_mib is None
