"""Processes that came and went between two looks: who can be told to be nobody's, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.core.facts import ProcessMissed
from supervisor.core.finished import FACTS_MAX
from supervisor.core.inputs import ContainerGone, EngineLost, ProcessesSeen, StorageFull
from supervisor.core.model import FinishedUse, Gpu
from supervisor.core.processes import SeenProcess, Use, parse_allowed
from tests.core.box import Box, container

FIRST = Gpu("SIM-0", total_mib=24_576, used_mib=0, processes=())
SECOND = Gpu("SIM-1", index=1, total_mib=24_576, used_mib=0, processes=())


def box(*containers: Any, **settings: Any) -> Box:
    made = Box(*containers, gpus=(FIRST, SECOND), **settings)
    made.advance(100)
    return made


def use(made: Box, pid: int = 4_000, *, ago_s: float = 10.0, ran_s: float = 1.0, **values: Any) -> FinishedUse:
    """A process that began so long ago, on the first GPU."""
    started_ms = made.now.wall_ms - round(ago_s * 1000)
    return FinishedUse(
        **{"gpu": "SIM-0", "pid": pid, "started_wall_ms": started_ms, "ran_ms": round(ran_s * 1000), **values}
    )


def tell(made: Box, *finished: FinishedUse, processes: tuple[SeenProcess, ...] = ()) -> list[ProcessMissed]:
    before = len(made.facts)
    made.feed(ProcessesSeen(processes, finished))
    return [fact for fact in made.facts[before:] if isinstance(fact, ProcessMissed)]


def last(made: Box) -> tuple[str, str | None, tuple[str, ...]]:
    one = made.state.observed.finished[-1]
    return (one.standing, one.target, one.meanwhile)


def test_one_that_used_a_gpu_which_nobody_had_is_reported_with_what_the_driver_says_of_it():
    made = box()
    one = use(made, peak_mib=612, gpu_percent=38, memory_percent=4)

    (fact,) = tell(made, one)

    assert (fact.pid, fact.gpu, fact.started_wall_ms, fact.ran_ms) == (4_000, "SIM-0", one.started_wall_ms, 1_000)
    assert (fact.peak_mib, fact.gpu_percent, fact.memory_percent) == (612, 38, 4)
    assert (fact.container, fact.policy, fact.more) == (None, "observe", 0)
    assert last(made) == ("unapproved", None, ())


def test_one_that_was_looked_at_while_it_ran_was_judged_then():
    made = box()
    made.feed(ProcessesSeen((process(4_000, started_wall_ms=made.now.wall_ms - 500),)))
    made.advance(5)

    assert tell(made, use(made, ago_s=5.4, ran_s=3)) == []
    assert not made.state.observed.finished


@pytest.mark.parametrize(
    ("ago_s", "ran_s"),
    [
        pytest.param(20, 5, id="a later process of its pid was looked at, long after its end"),
        pytest.param(2, 1, id="an earlier one was, before it began"),
    ],
)
def test_another_process_of_the_same_pid_is_another(ago_s: float, ran_s: float):
    made = box()
    made.feed(ProcessesSeen((process(4_000, started_wall_ms=made.now.wall_ms - 1_000),)))
    made.advance(5)

    assert len(tell(made, use(made, ago_s=ago_s, ran_s=ran_s))) == 1


def process(pid: int, **values: Any) -> SeenProcess:
    return SeenProcess(pid=pid, started=77, uses=(Use("SIM-0", 900),), **values)


# ---- whose it can have been


def test_one_that_was_seen_in_a_target_s_container_was_that_target_s():
    made = box(container("a"))
    made.lease("a")

    assert tell(made, use(made, container="a-main")) == []
    assert last(made) == ("target", "a", ())


def test_so_was_one_whose_container_is_gone_by_now():
    made = box(container("a"))
    made.lease("a")
    made.feed(ContainerGone("a-main"))

    assert tell(made, use(made, container="a-main")) == []
    assert last(made) == ("target", "a", ())


def test_while_a_target_runs_on_the_gpu_it_may_have_been_its():
    made = box(container("a"))
    made.lease("a")
    made.advance(60)

    assert tell(made, use(made)) == []
    assert last(made) == ("unknown", None, ("a",))
    assert len(tell(made, use(made, gpu="SIM-1"))) == 1, "and on another GPU it was not"


def test_so_it_is_for_what_ran_then_and_has_been_stopped():
    made = box(container("a"))
    made.lease("a")
    made.advance(60)
    made.feed(ContainerGone("a-main"))
    made.advance(60)

    assert tell(made, use(made, ago_s=65)) == []
    assert last(made) == ("unknown", None, ("a",))
    assert len(tell(made, use(made, ago_s=30))) == 1, "after its end nobody had the GPU"


def test_before_a_container_was_started_it_had_nothing():
    made = box(container("a"))
    began = use(made)
    made.advance(60)
    made.lease("a")

    assert len(tell(made, began)) == 1


def test_a_bare_lease_had_its_gpus_while_it_was_held():
    made = box()
    before = use(made, ago_s=30)
    lease = made.ask(None)
    made.advance(60)
    during = use(made)

    assert tell(made, during) == []
    assert last(made) == ("unknown", None, ("ann",))
    made.release(lease)
    made.advance(60)
    after = use(made)

    assert tell(made, during) == []
    assert [fact.started_wall_ms for fact in tell(made, before, after)] == [
        before.started_wall_ms,
        after.started_wall_ms,
    ]


def test_while_the_engine_is_away_nobody_can_say_what_ran():
    made = box()
    made.feed(EngineLost("it is away"))

    assert tell(made, use(made)) == []
    assert last(made) == ("unknown", None, ())


def test_a_container_on_the_list_of_the_allowed_is_allowed_and_no_other_entry_covers_who_is_gone():
    made = box(process_allow=parse_allowed("container=abab*, user=mallory, exe=*"))

    assert tell(made, use(made, container="ab" * 32)) == []
    assert last(made) == ("allowed", None, ())
    assert len(tell(made, use(made))) == 1


# ---- many, and no disk


def test_of_many_at_a_time_the_last_report_counts_the_rest():
    made = box()

    facts = tell(made, *(use(made, pid) for pid in range(1, FACTS_MAX + 31)))

    assert (len(facts), [fact.more for fact in facts if fact.more]) == (FACTS_MAX, [30])
    assert len(made.state.observed.finished) == FACTS_MAX + 30


def test_what_cannot_be_written_is_shown_all_the_same():
    made = box()
    made.feed(StorageFull(full=True))

    assert tell(made, use(made)) == []
    assert last(made) == ("unapproved", None, ())


def test_they_are_told_in_the_order_of_their_ends():
    made = box()

    facts = tell(made, use(made, 1, ago_s=5), use(made, 2, ago_s=20), use(made, 3, ago_s=10))

    assert [fact.pid for fact in facts] == [2, 3, 1]
