"""The client and a real ``serve`` on a real engine: killed and started again in the middle of everything."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.client import Client, GpuBusy, LeaseLost, Unreachable
from tests.conftest import Stack
from tests.documents.conftest import folder
from tests.e2e.conftest import Server

__all__ = ["folder"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]
Until = Callable[..., Any]


class Restarted(Server):
    """Found at the same socket after each start."""

    @property
    def address(self) -> str:
        return f"unix://{self.data_dir.parent}/api.sock"

    def up(self) -> None:
        self.start("--ttl-min", "1s", "--socket", f"{self.data_dir.parent}/api.sock")

    def killed(self) -> None:
        self.stop(signal.SIGKILL)


@pytest.fixture
def server(folder: Path, engine_url: str, label_prefix: str) -> Iterator[Restarted]:
    made = Restarted(folder / "data", engine_url, label_prefix)
    made.up()
    yield made
    made.close()


@pytest.fixture
def client(server: Restarted) -> Iterator[Client]:
    with Client(server.address, retry_for=60) as made:
        yield made


def test_a_killed_supervisor_costs_a_lease_nothing(server: Restarted, client: Client, until: Until) -> None:
    lost: list[LeaseLost] = []
    with client.lease(owner="ann", ttl=10, on_lost=lost.append) as lease:
        expires_at = lease.expires_at
        server.killed()
        server.up()
        assert client.status().leases[0].id == lease.id
        until(lambda: lease.expires_at != expires_at, 15, "a renewal")
        lease.check()
    assert lost == []
    assert client.status().leases == ()


def test_who_waits_keeps_the_place_and_who_is_killed_in_the_middle_of_an_answer_gets_one_lease(
    server: Restarted, client: Client, until: Until
) -> None:
    fences: list[int] = []

    def work(owner: str) -> None:
        with client.lease(owner=owner, wait=100) as lease:
            fences.append(lease.fence)

    with client.lease(owner="ann", ttl=30):
        waiters = []
        for place, owner in enumerate(["bob", "cid", "dan"], 1):
            waiters.append(threading.Thread(target=work, args=(owner,)))
            waiters[-1].start()
            until(lambda place=place: len(client.status().queue) == place, what=f"{owner} in the queue")
        server.killed()
        server.up()
        assert [waits.owner for waits in client.status().queue] == ["bob", "cid", "dan"]
    for waiter in waiters:
        waiter.join(30)

    assert sorted(fences) == fences
    assert len(set(fences)) == 3
    assert (client.status().leases, client.status().queue) == ((), ())


def test_requests_that_fall_into_a_restart_are_answered(server: Restarted, client: Client) -> None:
    answers = [len(client.status().leases)]

    def ask_on() -> None:
        while len(answers) < 60 and not over.is_set():
            answers.append(len(client.status().leases))

    over = threading.Event()
    asking = threading.Thread(target=ask_on)
    asking.start()
    server.killed()
    server.up()
    asking.join(30)
    over.set()

    assert answers == [0] * 60


def test_events_are_followed_over_a_restart(server: Restarted, client: Client, until: Until) -> None:
    seen: list[tuple[int, str]] = []

    def follow() -> None:
        for event in client.events(after=0):
            seen.append((event.seq, event.type))
            if event.type == "LeaseEnded":
                return

    following = threading.Thread(target=follow)
    following.start()
    until(lambda: seen, what="the first event")
    server.killed()
    server.up()
    with client.lease():
        pass
    following.join(20)

    assert [seq for seq, _ in seen] == list(range(1, len(seen) + 1))
    assert [kind for _, kind in seen].count("SupervisorStarted") == 2


def test_a_supervisor_that_does_not_come_back_is_a_loss_at_the_end_of_the_ttl(
    server: Restarted, client: Client, until: Until
) -> None:
    impatient = Client(server.address, retry_for=0.2)
    lease = impatient.lease(ttl=2).acquire()
    server.killed()
    began = time.monotonic()
    with pytest.raises(Unreachable):
        impatient.status()
    lease.check()
    lost = until(lambda: lease.lost, 5, "the end of the TTL")

    assert 1 < time.monotonic() - began < 4
    assert lost.reason is None


def test_a_target_is_started_waited_for_and_left_resident(
    server: Restarted, client: Client, make_stack: Callable[..., Stack], until: Until
) -> None:
    stack = make_stack("single")
    until(lambda: server.target_state(stack.target) == "stopped", what="the created target")

    with client.lease(stack.target, owner="ann") as lease:
        assert (lease.state, client.target(stack.target).state) == ("ready", "ready")
        with pytest.raises(GpuBusy, match=f"{stack.target} holds the GPU"):
            client.lease(wait=0).acquire()
    assert client.target(stack.target).state == "resident"
    assert client.evict(stack.target).evicted
