"""What there is, and what was decided: typed answers, and events that are followed over cut lines."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.answers import EndedView, LeaseView, TicketView
from supervisor.client import Client, NotFound, TargetLeased, TargetUnknown, Unreachable
from tests.client.conftest import Home
from tests.client.conftest import home as living
from tests.client.wire import Wire
from tests.documents.conftest import folder

__all__ = ["folder"]  # a fixture

Until = Callable[..., Any]


@pytest.fixture
def client(home: Home) -> Iterator[Client]:
    with Client(home.url) as made:
        yield made


def test_everything_is_read(home: Home, client: Client) -> None:
    with client.lease("a", owner="ann") as lease:
        status = client.status()
        assert [(held.id, held.owner) for held in status.leases] == [(lease.id, "ann")]
        assert status.gpus[0].leases == (lease.id,)
        assert isinstance(client.look(lease.token), LeaseView)
        forecast = client.forecast("b")
        assert (forecast.would, forecast.ahead[0].target) == ("wait", "a")
        assert client.forecast("b", wait=0).code == "gpu_busy"
        assert isinstance(client.look(client.ticket("b").token), TicketView)
        with pytest.raises(TargetLeased):
            client.evict("a")
    assert isinstance(client.look(lease.token), EndedView)
    assert [target.name for target in client.targets().targets] == ["a", "b"]
    assert client.target("b").state == "stopped"
    assert client.why("a").target == "a"
    assert client.processes().policy == "observe"
    assert client.open_gpu("SIM-0").opened is False
    with pytest.raises(NotFound):
        client.target("c/../a")
    with pytest.raises(TargetUnknown):
        client.target("c")


def test_an_eviction_stops_a_resident(home: Home, client: Client) -> None:
    with client.lease("a"):
        pass
    assert client.evict("a").evicted
    assert not client.evict("a").evicted


def test_the_audit_is_read_in_pages(home: Home, client: Client) -> None:
    with client.lease("a"):
        pass
    whole = client.audit(after=0, limit=1000)
    first = client.audit(after=0, limit=2)
    rest = client.audit(after=first.after, limit=1000)

    assert [*first.events, *rest.events] == list(whole.events)
    assert {event.target for event in client.audit(target="b").events} == {"b"}
    assert client.audit(limit=1).events == whole.events[-1:]


def test_events_are_followed_from_now_on_or_from_a_number(home: Home, client: Client, until: Until) -> None:
    seen: list[str] = []

    def follow() -> None:
        for event in client.events(target="a"):
            seen.append(event.type)
            if event.type == "LeaseEnded":
                return

    with client.lease("b"):
        pass
    newest = client.audit(limit=1).after
    following = threading.Thread(target=follow)
    following.start()
    until(lambda: _take_and_give_back(client) and seen, what="an event")
    following.join(10)

    assert "LeaseEnded" in seen
    later = client.events(after=newest, target="a")
    assert next(later).seq > newest
    later.close()


def _take_and_give_back(client: Client) -> bool:
    with client.lease("a"):
        return True


def test_a_line_that_is_cut_loses_no_event_and_doubles_none(folder: Path, until: Until) -> None:
    with (
        living(socket=folder / "api.sock") as home,
        Client(home.url) as direct,
        Wire(folder / "p.sock", folder / "api.sock") as wire,
    ):
        seen: list[int] = []
        done = threading.Event()

        def follow() -> None:
            with Client(wire.url) as client:
                for event in client.events(after=0):
                    seen.append(event.seq)
                    if done.is_set() and event.seq >= last[0]:
                        return

        last = [0]
        following = threading.Thread(target=follow)
        following.start()
        for _ in range(5):
            before = len(seen)
            with direct.lease("a"):
                wire.cut()
            until(lambda before=before: len(seen) > before, what="more events")
        done.set()
        last[0] = direct.audit(limit=1).after + 1
        with direct.lease("b"):
            pass
        following.join(10)

        assert not following.is_alive()
        assert seen == list(range(1, seen[-1] + 1))
        assert wire.connections >= 2


def test_a_supervisor_that_stays_away_ends_the_stream_when_the_time_is_over() -> None:
    with living() as gone:
        events = Client(gone.url).events(after=0, reconnect_for=0.3)
        assert next(events).seq == 1
    with pytest.raises(Unreachable):
        for _ in events:
            pass


def test_it_is_reached_over_a_unix_socket(folder: Path) -> None:
    with living(socket=folder / "api.sock"), Client(f"unix://{folder}/api.sock") as client, client.lease("a") as lease:
        assert lease.state == "ready"


def test_a_request_goes_through_a_line_that_was_cut(folder: Path) -> None:
    with (
        living(socket=folder / "api.sock"),
        Wire(folder / "p.sock", folder / "api.sock") as wire,
        Client(wire.url) as client,
        client.lease("a", ttl=1) as lease,
    ):
        for _ in range(5):
            wire.cut()
            assert client.status().leases[0].id == lease.id
        lease.check()


def test_threads_share_a_client(home: Home, client: Client) -> None:
    fences: list[int] = []

    def work() -> None:
        with client.lease("a", wait=20) as lease:
            fences.append(lease.fence)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)

    assert sorted(fences) == list(range(1, 9)), "one after the other"


def test_a_free_port_is_nobody(until: Until) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match="connection refused"):
        Client(f"http://127.0.0.1:{port}").status()
