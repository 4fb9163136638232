"""Each test of the suite runs twice: on the simulated engine, and (mark ``engine``) on the real one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import pytest

from tests.conftest import IMAGE
from tests.contract.engines import Deep, Engine, Real, RealBelow, RealDaemon, Restartable, Simulated
from tests.simulation import daemon

R = TypeVar("R", bound=Real)


def _either(kind: type[R], request: pytest.FixtureRequest) -> Iterator[R | Simulated]:
    """Yield the simulated engine or, by the fixture's parameter, the shared one as a ``kind``."""
    if request.param == "simulated":
        yield Simulated()
        return
    with contextlib.closing(
        kind(request.getfixturevalue("engine_url"), request.getfixturevalue("unique"), IMAGE)
    ) as it:
        yield it


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.engine)])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    yield from _either(Real, request)


@pytest.fixture(
    params=["simulated", pytest.param("real", marks=[pytest.mark.engine, pytest.mark.root, pytest.mark.cgroup])]
)
def deep(request: pytest.FixtureRequest) -> Iterator[Deep]:
    """An engine on a machine whose cgroups are ours to kill in."""
    yield from _either(RealBelow, request)


@pytest.fixture(params=["terminated", "killed", "live-restore"])
def how(request: pytest.FixtureRequest) -> daemon.How:
    """In which way the daemon ends, and in which mode it runs."""
    found: daemon.How = request.param
    return found


@pytest.fixture
def simulated_daemon() -> Restartable:
    return Simulated()


@pytest.fixture
def real_daemon(request: pytest.FixtureRequest, how: daemon.How) -> Iterator[Restartable]:
    # The engine is asked for here and not by a parameter: only so the test is left out where there is no dockerd.
    real = RealDaemon(request.getfixturevalue("private_engine"), "one", IMAGE)
    real.prepare(how)
    yield real
    real.close()
