"""gpu.* labels: the one table, and what a target's containers say together. (Skeleton of the contract.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from supervisor.core.model import Container, Problem


class Parsed(Struct, frozen=True, kw_only=True):
    """What one container's labels say. ``target`` None: unlabelled, or ``gpu.target`` is malformed (see problems)."""

    target: str | None = None
    master: bool = False
    vram_mib: int | None = None
    priority: int | None = None
    problems: tuple[Problem, ...] = ()


class TargetSpec(Struct, frozen=True, kw_only=True):
    """What a target's containers say together.

    ``vram_mib`` None: nobody declared a size, it needs the whole GPU. ``project`` is the Compose project ("" for
    none, or where several are named: then it is invalid). ``master`` is the id of the one master container.
    """

    name: str
    project: str = ""
    master: str | None = None
    vram_mib: int | None = None
    priority: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def valid(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)


def parse(labels: Mapping[str, str], *, container: str, service: str, prefix: str = "gpu.") -> Parsed:
    """Read one container's labels; every problem at once."""
    raise NotImplementedError


def merge(name: str, containers: Sequence[Container]) -> TargetSpec:
    """Combine a target's containers (one-offs and replaced ones among them are told apart here)."""
    raise NotImplementedError
