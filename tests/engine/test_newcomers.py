"""Who is told of, and when: what depends on something unknown waits for the list that tells of it."""

from __future__ import annotations

from supervisor.core.model import Container
from supervisor.engine.newcomers import Newcomers


def created(name: str, *, project: str = "p", status: str = "created") -> Container:
    return Container(id=name, name=name, project=project, service=name, status=status)


def test_it_waits_for_a_list_that_began_after_it_turned_up_and_for_all_that_this_brought():
    newcomers = Newcomers()
    newcomers.begin()
    assert newcomers.expect(created("web"))
    assert newcomers.hold(created("web"))

    assert newcomers.listed({"old"}, {"old": "p"}) == [], "that list began before"
    newcomers.begin()
    assert newcomers.hold(created("other")), "while the list is out, too"
    assert newcomers.listed({"db", "stranger", "web"}, {"db": "p", "stranger": "q"}) == []
    assert newcomers.inspected("stranger") == []
    assert newcomers.inspected("db") == ["web", "other"]
    assert not newcomers.hold(created("web"))


def test_who_comes_with_a_list_needs_no_other_one():
    newcomers = Newcomers()
    newcomers.begin()
    assert newcomers.listed({"web", "db"}, {"web": "p", "db": "p"}) == []

    assert not newcomers.expect(created("web"))
    assert newcomers.hold(created("web"))
    assert newcomers.inspected("web") == []
    assert newcomers.inspected("db") == ["web"]


def test_a_list_that_has_it_will_do_whenever_that_began():
    newcomers = Newcomers()
    newcomers.begin()
    newcomers.expect(created("web"))
    newcomers.hold(created("web"))

    assert newcomers.listed({"web", "db"}, {"db": "p"}) == []
    assert newcomers.inspected("db") == ["web"]


def test_what_never_was_created_is_waited_for_until_the_list_says_so():
    newcomers = Newcomers()
    newcomers.expect(created("web"))
    newcomers.hold(created("web"))
    newcomers.begin()

    assert newcomers.listed({"web"}, {}) == ["web"]


def test_a_list_that_failed_is_followed_by_one_that_counts():
    newcomers = Newcomers()
    newcomers.expect(created("web"))
    newcomers.hold(created("web"))
    newcomers.begin()
    newcomers.begin()

    assert newcomers.listed({"web"}, {}) == ["web"]


def test_what_runs_is_never_held_and_no_other_project_either():
    newcomers = Newcomers()
    newcomers.expect(created("web"))

    assert newcomers.hold(created("web"))
    assert not newcomers.hold(created("web", status="running"))
    assert not newcomers.held
    assert not newcomers.hold(created("web", project="q"))
