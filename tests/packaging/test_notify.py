"""What a service manager is told: over a real datagram socket, by the real process."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from supervisor.notify import ServiceManager
from tests.packaging.manager import Manager
from tests.packaging.serving import Serving

START_S = 20.0
PERIOD_S = 0.6

# ---- the protocol


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(str(tmp_path / "notify")) as made:
        yield made


@pytest.fixture(params=["a path", "an abstract name"])
def any_manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "a path" else f"@gs-{uuid.uuid4().hex[:10]}"
    with Manager(address) as made:
        yield made


def told_by(manager: Manager, **environment: str) -> ServiceManager:
    return ServiceManager.from_environment(manager.environment() | environment)


def lines(manager: Manager) -> list[tuple[str, ...]]:
    manager.drain()
    return [item.lines for item in manager.told]


def test_each_message_is_one_datagram(any_manager: Manager):
    service = told_by(any_manager)
    service.status("not in sync:\nthe engine is away")
    service.ready()
    service.stopping()
    assert lines(any_manager) == [("STATUS=not in sync: the engine is away",), ("READY=1",), ("STOPPING=1",)]


def test_beats_come_three_times_in_the_watchdogs_period_however_often_the_owner_turns(manager: Manager):
    service = told_by(manager, WATCHDOG_USEC="3000000")
    assert [service.beat(at) for at in (10.0, 10.5, 10.99, 11.2)] == pytest.approx([11.0, 11.0, 11.0, 12.2])
    assert lines(manager) == [("WATCHDOG=1",)] * 2


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="no watchdog is set"),
        pytest.param({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid() + 1)}, id="it is another process's"),
        pytest.param({"WATCHDOG_USEC": "0"}, id="no time at all"),
        pytest.param({"WATCHDOG_USEC": "soon"}, id="no number"),
        pytest.param({"WATCHDOG_USEC": "-1"}, id="negative"),
    ],
)
def test_without_a_watchdog_there_are_no_beats_and_none_is_ever_due(manager: Manager, environment: dict[str, str]):
    service = told_by(manager, **environment)
    assert service.beat(10.0) == math.inf
    assert lines(manager) == []


def test_a_watchdog_for_this_very_process_is_ours(manager: Manager):
    service = told_by(manager, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))
    assert service.beat(10.0) == pytest.approx(11.0)


@pytest.mark.parametrize("address", ["", "@", "vsock:2:9999", "run/notify"])
def test_without_a_unix_socket_nothing_is_sent_and_nothing_fails(address: str):
    service = ServiceManager.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"})
    service.ready()
    assert service.beat(10.0) == math.inf


def test_a_manager_that_is_gone_is_complained_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    service = ServiceManager(str(tmp_path / "gone"), 3.0)
    with caplog.at_level(logging.WARNING):
        service.ready()
        service.beat(10.0)
        service.stopping()
    assert [record.getMessage() for record in caplog.records] == [
        "the service manager cannot be told READY: [Errno 2] No such file or directory"
    ]


def test_a_manager_that_does_not_read_does_not_hold_the_owner_up(tmp_path: Path):
    with Manager(str(tmp_path / "full")) as full:
        service = ServiceManager(full.address, 3.0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"x", full.address)
        assert service.beat(10.0) == pytest.approx(11.0)


# ---- the process


def test_it_is_ready_once_it_listens_and_says_that_the_engine_is_away(
    any_manager: Manager, tmp_path: Path, make_serving: Callable[..., Serving]
):
    listens_at = tmp_path / "socket"
    make_serving(any_manager.environment(), "--socket", str(listens_at))
    any_manager.until("READY=1", START_S)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(listens_at)), base_url="http://localhost") as client:
        assert client.get("/healthz").status_code == 200
    any_manager.heard("STATUS=not in sync with the container engine: the engine cannot be reached", 10)


def test_it_says_when_it_is_in_sync_and_when_it_stops(
    manager: Manager, engine_url: str, label_prefix: str, make_serving: Callable[..., Serving]
):
    serving = make_serving(manager.environment(), "--label-prefix", label_prefix, engine=engine_url)
    manager.until("STATUS=in sync with the container engine", START_S)
    serving.until_ready()
    assert serving.end() == 0
    manager.drain()
    assert manager.told[-1].lines == ("STOPPING=1",)
    assert sum(item.lines == ("READY=1",) for item in manager.told) == 1


def test_beats_come_in_less_than_half_of_the_period(manager: Manager, make_serving: Callable[..., Serving]):
    make_serving(manager.environment(PERIOD_S))
    manager.until("READY=1", START_S)
    beats = [manager.until("WATCHDOG=1", PERIOD_S).at_s for _ in range(8)]
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(beats))
    assert gaps[len(gaps) // 2] < PERIOD_S / 2


#: From SIGUSR1 on the owner of the state has no turn any more, and everything else in the process lives on.
STUCK = """
import signal, sys
from supervisor.cli import main
from supervisor.pump import Pump
told_to = []
turn = Pump._take_turn
def stuck(self):
    if not told_to:
        turn(self)
    elif told_to == ["hang"]:
        told_to.append("hung")
        self._manager.status("hangs")
Pump._take_turn = stuck
signal.signal(signal.SIGUSR1, lambda *_: told_to.append("hang"))
sys.exit(main())
"""


def test_beats_end_when_the_owner_of_the_state_hangs_although_the_rest_lives_on(
    manager: Manager, make_serving: Callable[..., Serving]
):
    serving = make_serving(manager.environment(PERIOD_S), entry=STUCK)
    manager.until("WATCHDOG=1", START_S)
    serving.until_ready()
    serving.process.send_signal(signal.SIGUSR1)
    manager.until("STATUS=hangs", START_S)  # its last turn is over, and nothing that it sent lies in the socket
    assert manager.next(PERIOD_S * 2) is None
    assert serving.get("/healthz").status_code == 200


def test_beats_end_when_the_whole_process_stands_still(manager: Manager, make_serving: Callable[..., Serving]):
    serving = make_serving(manager.environment(PERIOD_S))
    manager.until("WATCHDOG=1", START_S)
    serving.process.send_signal(signal.SIGSTOP)
    manager.drain()
    assert manager.next(PERIOD_S * 2) is None
    serving.process.send_signal(signal.SIGCONT)
    manager.until("WATCHDOG=1", START_S)
