"""Contracts: what the code believes about Docker, tried on the engine under test.

Facts about restart policies and daemon restarts are in test_daemon_restarts.py, those about Compose in
test_real_engine.py.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import docker
import pytest
import requests

from supervisor.engine.connection import Connection
from supervisor.engine.errors import EngineError
from supervisor.engine.events import ACTIONS, EventStream
from supervisor.engine.inspect import to_wall_ms
from tests.conftest import IMAGE, PrivateEngine

pytestmark = pytest.mark.engine

Box = Callable[..., str]


@pytest.fixture
def box(api: docker.APIClient, unique: str) -> Box:
    numbers = itertools.count()

    def create(command: tuple[str, ...] = ("sleep", "3600"), *, policy: str = "no", **settings: Any) -> str:
        host = api.create_host_config(network_mode="none", restart_policy={"Name": policy})
        name = f"{unique}-{next(numbers)}"
        return api.create_container(IMAGE, list(command), name=name, host_config=host, **settings)["Id"]

    return create


class Events:
    """The events of one container from a moment on, as the watcher's own stream brings them."""

    def __init__(self, url: str, container_id: str, since_ns: int) -> None:
        self._connection = Connection(url)
        self._stream = EventStream(self._connection, since_ns=since_ns)
        self._id = container_id
        self._lines: Iterator[bytes] = self._stream.lines()

    def up_to(self, action: str, within_s: float = 10) -> list[dict[str, Any]]:
        """Every event of the container up to the first one of an action, that one included."""
        timer = threading.Timer(within_s, self._stream.shut, args=(f"no {action} within {within_s} s",))
        timer.start()
        found = []
        try:
            for line in self._lines:
                event = json.loads(line)
                if event["Actor"]["ID"] == self._id:
                    found.append(event)
                    if event["Action"] == action:
                        return found
        finally:
            timer.cancel()
        raise AssertionError("unreachable: the stream raises at its end")

    def close(self) -> None:
        self._stream.close()
        self._connection.close()


@pytest.fixture
def events(engine_url: str) -> Iterator[Callable[..., Events]]:
    opened: list[Events] = []

    def open_(container_id: str, since_ns: int | None = None) -> Events:
        opened.append(Events(engine_url, container_id, time.time_ns() - 10**9 if since_ns is None else since_ns))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


def actions(found: list[dict[str, Any]]) -> list[str]:
    return [event["Action"] for event in found]


def state(api: docker.APIClient, container_id: str) -> dict[str, Any]:
    return api.inspect_container(container_id)["State"]


# ---- the stream


def test_since_brings_back_what_happened_before_the_subscription(api, box, events):
    one = box()
    api.start(one)

    assert actions(events(one).up_to("start")) == ["create", "start"]


def test_since_includes_its_own_nanosecond_and_the_next_one_excludes_it(api, box, events):
    one = box()
    api.start(one)
    started = events(one).up_to("start")[-1]
    api.kill(one)

    assert actions(events(one, started["timeNano"]).up_to("die")) == ["start", "die"]
    assert actions(events(one, started["timeNano"] + 1).up_to("die")) == ["die"]


def test_our_filters_keep_a_healthchecks_noise_on_the_engines_side(api, box, events):
    """One fuzzy action among them (``health_status``) makes all match by prefix."""
    one = box(healthcheck={"test": ["CMD", "true"], "interval": 100_000_000})
    api.start(one)
    found = events(one).up_to("health_status: healthy")
    api.kill(one)
    found += events(one, found[-1]["timeNano"] + 1).up_to("die")

    assert actions(found) == ["create", "start", "health_status: healthy", "die"]
    assert {action.partition(":")[0] for action in actions(found)} <= set(ACTIONS)


def test_labels_overwrite_what_an_event_says(api, box, events):
    """So from an event only the action and the id are taken."""
    one = box(("sh", "-c", "exit 7"), labels={"exitCode": "0"})
    api.start(one)

    assert events(one).up_to("die")[-1]["Actor"]["Attributes"]["exitCode"] == "0"
    assert state(api, one)["ExitCode"] == 7


def test_an_inspect_after_the_start_event_shows_the_run(api, box, events):
    one = box()
    seen = events(one)
    threading.Thread(target=api.start, args=(one,)).start()

    started = seen.up_to("start")[-1]
    now = state(api, one)
    assert now["Status"] == "running"
    assert to_wall_ms(now["StartedAt"]) <= started["timeNano"] // 10**6


def test_the_sdks_own_stream_hides_errors(api, engine_url):
    """The reason why the stream is read by ourselves, and its status checked."""
    assert list(api.events(since="abc", decode=True)) == []
    with closing(Connection(engine_url)) as connection, pytest.raises(EngineError, match="abc"):
        connection.stream("/events", {"since": "abc"})


def test_a_failed_start_emits_nothing_and_leaves_its_words(api, box, events):
    one = box(("/no/such/program",))
    with pytest.raises(docker.errors.APIError, match="no such file or directory"):
        api.start(one)
    api.remove_container(one)

    assert actions(events(one).up_to("destroy")) == ["create", "destroy"]


# ---- start, stop, kill


def test_starting_and_stopping_twice_is_no_error(api, box):
    one = box()
    for _ in range(2):
        api.start(one)
    for _ in range(2):
        api.stop(one, timeout=0)

    assert state(api, one)["Status"] == "exited"


def test_a_kill_of_a_stopped_container_is_a_conflict_and_of_none_not_found(api, box):
    with pytest.raises(docker.errors.APIError, match="is not running") as caught:
        api.kill(box())
    assert caught.value.status_code == 409
    with pytest.raises(docker.errors.NotFound):
        api.kill("0" * 64)


def test_a_start_may_be_not_found_although_the_container_is_there(api, box, unique):
    """Then 404 is about its network, and only the words tell."""
    network = api.create_network(unique, driver="bridge", internal=True)["Id"]
    host = api.create_host_config(network_mode=network)
    one = api.create_container(IMAGE, ["sleep", "9"], name=f"{unique}-networked", host_config=host)["Id"]
    api.remove_network(network)

    with pytest.raises(docker.errors.NotFound, match=r"network .* not found"):
        api.start(one)
    assert state(api, one)["Status"] == "created"
    with pytest.raises(docker.errors.NotFound, match="No such container"):
        api.inspect_container("0" * 64)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_crash_loop_ends_for_good_by_a_kill_or_a_stop(api, box, until, end: str):
    one = box(("sh", "-c", "exit 3"), policy="always")
    api.start(one)
    until(lambda: state(api, one)["Status"] == "restarting" and api.inspect_container(one)["RestartCount"] > 2)

    api.stop(one, timeout=0) if end == "stop" else api.kill(one)

    assert state(api, one)["Status"] == "exited"
    count = api.inspect_container(one)["RestartCount"]
    # Its back-off is 0.8 s at this count: a start that is still to come would show.
    assert not threading.Event().wait(1.0)
    assert (state(api, one)["Status"], api.inspect_container(one)["RestartCount"]) == ("exited", count)


def test_a_stop_in_restarting_emits_a_stop_and_nothing_else(api, box, events, until):
    one = box(("sh", "-c", "exit 3"), policy="always")
    api.start(one)
    until(lambda: state(api, one)["Status"] == "restarting" and api.inspect_container(one)["RestartCount"] > 2)
    seen = events(one, time.time_ns())

    api.stop(one, timeout=0)

    assert actions(seen.up_to("stop")) == ["stop"]


def test_kill_and_stop_work_on_a_paused_container(api, box):
    for end in (api.kill, lambda container_id: api.stop(container_id, timeout=0)):
        one = box()
        api.start(one)
        api.pause(one)
        end(one)
        assert state(api, one)["Status"] == "exited"


def test_a_kill_outlasts_restart_always(api, box):
    one = box(policy="always")
    api.start(one)
    api.kill(one)

    assert not threading.Event().wait(0.5)
    assert state(api, one)["Status"] == "exited"


def test_a_stop_goes_on_after_its_caller_has_gone(api, box, until):
    one = box()
    api.start(one)
    with pytest.raises(requests.exceptions.ReadTimeout):
        api.post(f"{api.base_url}/v{api.api_version}/containers/{one}/stop", params={"t": 1}, timeout=0.2)

    until(lambda: state(api, one)["Status"] == "exited")


# ---- inspect and list


def test_a_run_is_named_by_its_start_and_a_start_resets_the_health_silently(api, box, until):
    # Only the very first probe has an answer: a later one could make it healthy again before we look.
    one = box(healthcheck={"test": ["CMD-SHELL", "test -e /ran && sleep 60; touch /ran"], "interval": 300_000_000})
    assert state(api, one)["StartedAt"] == "0001-01-01T00:00:00Z"
    api.start(one)
    until(lambda: state(api, one)["Health"]["Status"] == "healthy")
    first = state(api, one)["StartedAt"]
    api.kill(one)
    api.start(one)

    assert state(api, one)["StartedAt"] > first
    assert state(api, one)["Health"]["Status"] == "starting"


def test_the_list_of_all_shows_every_state_and_full_ids_and_labels(api, box, until):
    created, running, paused, exited = box(labels={"a": "b"}), box(), box(), box(("true",))
    looping = box(("sh", "-c", "exit 3"), policy="always")
    for one in (running, paused, exited, looping):
        api.start(one)
    api.pause(paused)

    def states() -> dict[str, str]:
        return {row["Id"]: row["State"] for row in api.containers(all=True)}

    expected = {created: "created", running: "running", paused: "paused", exited: "exited", looping: "restarting"}
    until(lambda: expected.items() <= states().items())
    assert next(row["Labels"] for row in api.containers(all=True) if row["Id"] == created) == {"a": "b"}


def test_an_inspect_waits_for_a_start_and_the_list_does_not(private_engine: PrivateEngine):
    """The reason for several inspectors with a time limit: a GPU's hooks take seconds."""
    with private_engine.api() as api, private_engine.api() as other, private_engine.api(timeout=0.5) as hasty:
        host = api.create_host_config(network_mode="none", runtime="slow")
        one = api.create_container(IMAGE, ["sleep", "3600"], host_config=host)["Id"]
        starting = threading.Thread(target=other.start, args=(one,))
        starting.start()
        assert not threading.Event().wait(0.3)

        with pytest.raises(requests.exceptions.ReadTimeout):
            hasty.inspect_container(one)
        assert [row["Id"] for row in hasty.containers(all=True)] == [one]
        starting.join(10)
        assert state(api, one)["Status"] == "running"


@pytest.mark.parametrize("tty", [False, True], ids=["framed", "with a terminal not"])
def test_the_form_of_logs_depends_on_the_terminal(api, box, until, tty: bool):
    one = box(("echo", "hello"), tty=tty)
    api.start(one)
    until(lambda: state(api, one)["Status"] == "exited")

    address = f"{api.base_url}/v{api.api_version}/containers/{one}/logs"
    raw = api.get(address, params={"stdout": 1, "stderr": 1, "tail": 5}, timeout=5).content

    assert raw == (b"hello\r\n" if tty else b"\1\0\0\0\0\0\0\6hello\n")
