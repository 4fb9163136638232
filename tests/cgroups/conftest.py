"""Both ways to kill through a cgroup where the machine has them, and cgroups of our own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cgroups.trees import Tree
from tests.conftest import usable_trees


@pytest.fixture(
    params=[pytest.param(1, marks=pytest.mark.cgroup(1)), pytest.param(2, marks=pytest.mark.cgroup(2))],
    ids=["v1", "v2"],
)
def tree(request: pytest.FixtureRequest) -> Tree:
    """A real hierarchy."""
    return usable_trees()[request.param]


@pytest.fixture
def cgroup(tree: Tree) -> Iterator[Path]:
    """A cgroup of our own, named like a container's, in a folder of our own."""
    parent = tree.root / f"gpu-supervisor-test-{secrets.token_hex(6)}"
    made = parent / secrets.token_hex(32)
    made.mkdir(parents=True)
    yield made
    for folder in sorted(parent.glob("**/"), reverse=True):
        folder.rmdir()
