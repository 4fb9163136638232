"""What waits to be inspected, which containers matter, and the threads that do the work."""

from __future__ import annotations

import threading

import pytest

from supervisor.core.model import Container
from supervisor.engine.pending import LIST, Pending
from supervisor.engine.pool import Pool
from supervisor.engine.roster import Known, Member, Roster, needed_places

# ---- pending


def test_hints_go_before_a_list_and_a_list_before_the_bulk():
    pending = Pending(limit=10)
    pending.add_bulk(["b1"])
    pending.list_all()
    pending.hint("h1")

    assert [pending.take() for _ in range(3)] == [("h1", True), (LIST, False), ("b1", False)]


def test_many_hints_about_one_container_are_one_look_at_it():
    pending = Pending(limit=10)
    for _ in range(5):
        pending.hint("c1")
    pending.hint("c2")

    assert [pending.take(), pending.take()] == [("c1", True), ("c2", True)]


def test_what_is_out_is_not_handed_out_again_before_it_is_done():
    pending = Pending(limit=10)
    pending.hint("c1")
    assert pending.take() == ("c1", True)
    pending.hint("c1")
    pending.hint("c2")

    assert pending.take() == ("c2", True)
    pending.done("c1")
    assert pending.take() == ("c1", True)


def test_overflow_becomes_one_list_and_is_said_out_loud(caplog: pytest.LogCaptureFixture):
    pending = Pending(limit=3)
    for number in range(4):
        pending.hint(f"c{number}")

    assert pending.take() == (LIST, False)
    assert caplog.messages == ["more than 3 containers have news: listing them all instead"]


def test_a_closed_pending_wakes_everybody():
    pending = Pending(limit=3)
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(pending.take())) for _ in range(3)]
    for thread in threads:
        thread.start()
    pending.close()
    for thread in threads:
        thread.join(5)

    assert answers == [None, None, None]


# ---- roster


def member(service: str, *needs: str, labelled: bool = False, project: str = "p") -> Member:
    return Member(labelled, (project, service), needs)


@pytest.mark.parametrize(
    ("members", "needed"),
    [
        pytest.param([member("web", "db")], set(), id="nothing labelled needs it"),
        pytest.param([member("web", "db", labelled=True)], {"db"}, id="needed by a labelled one"),
        pytest.param(
            [member("web", "db", labelled=True), member("db", "disk")], {"db", "disk"}, id="through an unlabelled one"
        ),
        pytest.param([member("a", "b", labelled=True), member("b", "a")], {"a", "b"}, id="a cycle ends"),
        pytest.param(
            [member("web", "db", labelled=True), member("db", "disk", project="q")], {"db"}, id="not across projects"
        ),
        pytest.param([member("", "db", labelled=True, project="")], set(), id="without Compose nothing is needed"),
    ],
)
def test_needed_are_the_services_that_labelled_ones_depend_on(members: list[Member], needed: set[str]):
    assert {service for _, service in needed_places(members)} == needed


def known(id_: str, what: Member) -> Known:
    return Known(Container(id=id_, name=id_), what, answered_ns=0)


def test_the_first_sight_of_an_unknown_dependency_asks_for_a_list_and_only_that():
    roster = Roster()
    web = known("c1", member("web", "db", labelled=True))

    assert roster.put(web) is True
    assert roster.put(web) is False
    assert roster.matters(member("db")) is True
    assert roster.put(known("c2", member("db"))) is False
    assert roster.projects == {"p"}


def test_what_was_only_needed_by_something_gone_is_forgotten():
    roster = Roster()
    roster.put(known("c1", member("web", "db", labelled=True)))
    roster.put(known("c2", member("db")))

    assert roster.drop("c1") is True
    assert roster.drop("c1") is False
    roster.prune()

    assert roster.known == {}
    assert roster.projects == frozenset()


# ---- pool


def test_a_pool_runs_as_many_tasks_at_a_time_as_it_has_threads_and_no_more():
    pool, gate = Pool("test", 3), threading.Event()
    running = threading.Semaphore(0)
    most, now, lock = 0, 0, threading.Lock()

    def task() -> None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        running.release()
        gate.wait(5)
        with lock:
            now -= 1

    for _ in range(6):
        assert pool.submit(task)
    for _ in range(3):
        assert running.acquire(timeout=5)
    assert not running.acquire(timeout=0.05)
    gate.set()
    for _ in range(3):
        assert running.acquire(timeout=5)
    pool.close()

    assert most == 3


def test_a_task_never_waits_behind_another_while_a_thread_could_be_had():
    pool = Pool("test", 2)
    for _ in range(300):
        gate, over = threading.Event(), threading.Event()

        def wait_for_the_next(gate: threading.Event = gate, over: threading.Event = over) -> None:
            assert gate.wait(5)
            over.set()

        pool.submit(wait_for_the_next)
        pool.submit(gate.set)
        assert over.wait(5)
    pool.close()


def test_a_task_that_raises_does_not_cost_the_pool_a_thread(caplog: pytest.LogCaptureFixture):
    pool, ran = Pool("test", 1), threading.Event()
    pool.submit(lambda: 1 / 0)
    pool.submit(ran.set)

    assert ran.wait(5)
    assert "a task of test failed" in caplog.text
    pool.close()


def test_a_closed_pool_refuses_and_its_threads_end(until):
    pool, ran = Pool("closing", 2), threading.Event()
    pool.submit(ran.set)
    assert ran.wait(5)
    pool.close()

    assert pool.submit(ran.clear) is False
    until(lambda: not any(thread.name.startswith("closing") for thread in threading.enumerate()), 5)
