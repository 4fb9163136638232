"""Containers that nobody is told of before it is known what they depend on: without it they would be started too early.

A list that has them, or began after they turned up, says what there is of their project (what a container depends on is
created before it), and they are told of when all of that was inspected. What runs is judged at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from supervisor.core.model import Container


class Newcomers:
    """Bookkeeping without a lock of its own: the watcher's is held around every call.

    ``held``: ids that are known and not told of yet, with their projects.
    """

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        # Who waits for a list, by project.
        self._unlisted: dict[str, set[str]] = {}
        # What the newest list brought up for the first time and is not inspected yet (id -> project).
        self._fresh: dict[str, str] = {}
        self._covered: frozenset[str] = frozenset()
        # Projects of which a list is out (None), or what of them is still to be inspected.
        self._awaited: dict[str, set[str] | None] = {}

    def begin(self) -> None:
        """A list begins: it will tell what there is of all projects that are waited for."""
        self._awaited = dict.fromkeys((*self._awaited, *self._unlisted))
        self._unlisted.clear()

    def listed(self, ids: Collection[str], fresh: Mapping[str, str]) -> list[str]:
        """The list is there. ``fresh``: what was not known before (id -> project). Returns who can be told of now."""
        self._fresh, self._covered = dict(fresh), frozenset(ids)
        for project in [project for project, waiting in self._unlisted.items() if waiting <= self._covered]:
            del self._unlisted[project]
            self._awaited[project] = None
        for project in self._awaited:
            self._awaited[project] = self._of(project)
        return self._ready()

    def expect(self, container: Container) -> bool:
        """A newcomer depends on something unknown. Returns whether that takes another list."""
        if container.id in self._covered:
            self._awaited.setdefault(container.project, self._of(container.project))
            return False
        self._unlisted.setdefault(container.project, set()).add(container.id)
        return True

    def hold(self, container: Container) -> bool:
        """Return whether it is too early to tell of a container that nobody was told of yet."""
        waits = container.project in self._unlisted or container.project in self._awaited
        if waits and not container.runs:
            self.held[container.id] = container.project
            return True
        self.held.pop(container.id, None)
        return False

    def inspected(self, container_id: str) -> list[str]:
        """One container is known, or gone. Returns who can be told of now."""
        self._fresh.pop(container_id, None)
        for awaited in self._awaited.values():
            if awaited is not None:
                awaited.discard(container_id)
        return self._ready()

    def _of(self, project: str) -> set[str]:
        return {id_ for id_, its in self._fresh.items() if its == project}

    def _ready(self) -> list[str]:
        over = {project for project, awaited in self._awaited.items() if awaited is not None and not awaited}
        for project in over:
            del self._awaited[project]
        ready = [id_ for id_, project in self.held.items() if project in over and project not in self._unlisted]
        for id_ in ready:
            del self.held[id_]
        return ready
