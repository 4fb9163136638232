"""Which containers matter, and what inspect last said of them. Pure bookkeeping: no I/O, no threads of its own.

A container matters that carries a label of ours, or whose service is needed by one that does: directly or through
others, in the same Compose project. Labels are fixed for a container's life, so only new and gone ones change that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from supervisor.core.model import Bystander, Container
from supervisor.engine import compose
from supervisor.engine.inspect import Listed, labelled

Place = tuple[str, str]
"""(project, service)."""


class Member(Struct, frozen=True):
    """What decides whether a container matters."""

    labelled: bool
    place: Place
    needs: tuple[str, ...]


class Known(Struct, frozen=True):
    """``answered_ns``: our wall clock when inspect had answered, so what came later is certainly not in it."""

    container: Container
    member: Member
    answered_ns: int


def member_of(labels: Mapping[str, str] | None, prefix: str) -> Member:
    made = compose.read(labels or {})
    needs = tuple(dependency.service for dependency in made.depends_on)
    return Member(labelled(labels, prefix), (made.project, made.service), needs)


def needed_places(members: Iterable[Member]) -> frozenset[Place]:
    """The services that labelled containers depend on, and what those depend on in turn (a cycle ends it too)."""
    needs: dict[Place, set[Place]] = {}
    todo: list[Place] = []
    for member in members:
        project = member.place[0]
        if project:
            needs.setdefault(member.place, set()).update((project, service) for service in member.needs)
            if member.labelled:
                todo.append(member.place)
    found: set[Place] = set()
    while todo:
        fresh = needs.get(todo.pop(), set()) - found
        found |= fresh
        todo.extend(fresh)
    return frozenset(found)


def worth_inspecting(rows: Iterable[Listed], prefix: str) -> frozenset[str]:
    """The ids in a list of all containers that matter."""
    members = {row.id: member_of(row.labels, prefix) for row in rows}
    needed = needed_places(members.values())
    return frozenset(id_ for id_, member in members.items() if member.labelled or member.place in needed)


def bystanders(rows: Iterable[Listed], matters: frozenset[str]) -> tuple[Bystander, ...]:
    """All others in a list, by name; a name with another slash in it is that of a link to it."""
    found = []
    for row in rows:
        if row.id not in matters:
            names = [name.removeprefix("/") for name in row.names or ()]
            name = next((name for name in names if "/" not in name), row.id)
            found.append(Bystander(row.id, name, compose.read(row.labels or {}).service))
    return tuple(found)


class Roster:
    """``known`` and ``projects`` may be read from any thread (single look-ups); the writer has a lock of its own."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.projects: frozenset[str] = frozenset()
        self._needed: frozenset[Place] = frozenset()

    def matters(self, member: Member) -> bool:
        return member.labelled or member.place in self._needed

    def put(self, seen: Known) -> bool:
        """Remember what inspect said. Returns whether it depends on a service of which no container is known yet."""
        is_new = seen.container.id not in self.known
        self.known[seen.container.id] = seen
        if not is_new:
            return False
        self._recount()
        places = {known.member.place for known in self.known.values()}
        return any((seen.member.place[0], service) not in places for service in seen.member.needs)

    def drop(self, container_id: str) -> bool:
        """Forget a container. Returns whether it was known."""
        if self.known.pop(container_id, None) is None:
            return False
        self._recount()
        return True

    def prune(self) -> None:
        """Forget what is only known because something depended on it that is gone."""
        for container_id in [id_ for id_, known in self.known.items() if not self.matters(known.member)]:
            self.drop(container_id)

    def _recount(self) -> None:
        members = [known.member for known in self.known.values()]
        self._needed = needed_places(members)
        self.projects = frozenset(member.place[0] for member in members) - {""}
