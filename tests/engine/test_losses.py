"""A scripted engine that refuses, breaks off, hangs or comes late: loss is told at once, and made good for ever."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise

import pytest

from supervisor.core.inputs import EngineContact, EngineLost, EngineSnapshot
from supervisor.engine import Pace, watcher
from supervisor.engine.connection import Connection
from tests.engine.conftest import QUICK, socket_path
from tests.engine.fake import Answer, FakeEngine, container, ids


@pytest.mark.parametrize(
    ("request_", "answer", "reason"),
    [
        pytest.param("GET /events", (403, b"forbidden by the proxy"), "forbidden by the proxy", id="events forbidden"),
        pytest.param("GET /version", (500, b'{"message": "no"}'), "no", id="no version"),
        pytest.param("GET /version", (200, b"{}"), "the engine's answer is not understood", id="no API version"),
        pytest.param("GET /version", (200, b"<html>"), "the engine's answer is not understood", id="not an engine"),
        pytest.param("GET /containers/json", (403, b"no list"), "containers cannot be listed: no list", id="no list"),
        pytest.param("GET /containers/json", (200, b"{}"), "containers cannot be listed: the engine's", id="odd list"),
        pytest.param("GET /_ping", (502, b"bad gateway"), "a ping failed: bad gateway", id="no ping"),
    ],
)
def test_an_engine_that_refuses_a_part_is_lost_with_its_words_until_it_stops(
    watch, fake: FakeEngine, request_: str, answer: Answer, reason: str
):
    fake.answers[request_] = lambda: answer
    _, inbox = watch(fake.url, pace=QUICK)

    lost = inbox.wait_for(EngineLost)
    assert lost.reason.startswith(reason)

    after = inbox.mark()
    del fake.answers[request_]
    inbox.wait_for(EngineSnapshot, after=after)


def test_a_broken_stream_is_lost_at_once_and_synced_again_after_a_new_list(watch, fake: FakeEngine):
    fake.put(container(1))
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    after = inbox.mark()

    fake.cut_streams()

    lost = inbox.wait_for(EngineLost, after=after)
    assert "event stream" in lost.reason
    again = inbox.wait_for(EngineSnapshot, after=inbox.inputs.index(lost))
    assert ids(again) == {1}
    assert inbox.time_of(again) - inbox.time_of(lost) < 1.0
    assert fake.streams == 2


def test_a_proxy_that_says_close_only_costs_a_new_stream_now_and_then(
    watch, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
):
    """The socket is out of our sight then, and with it the means to lift the stream's time limit."""
    monkeypatch.setitem(Connection.stream.__kwdefaults__, "headers_s", 0.3)
    fake.says_close = True
    _, inbox = watch(fake.url)
    first = inbox.wait_for(EngineSnapshot)

    fake.put(container(1))
    fake.event("create", f"{1:064x}", **{"gpu.target": "box"})

    inbox.seen(f"{1:064x}", lambda _: True, within_s=0.3)
    lost = inbox.wait_for(EngineLost)
    assert lost.reason == "the event stream was quiet, and is opened again"
    inbox.wait_for(EngineSnapshot, after=inbox.inputs.index(first) + 1)


def test_a_quiet_stream_is_not_a_broken_one(watch, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(Connection.stream.__kwdefaults__, "headers_s", 0.3)
    _, inbox = watch(fake.url, pace=QUICK)
    inbox.wait_for(EngineSnapshot)

    for _ in range(4):
        inbox.wait_for(EngineContact, after=inbox.mark())

    assert not any(isinstance(item, EngineLost) for item in inbox.inputs)
    assert fake.streams == 1


def test_between_loss_and_sync_no_list_of_the_old_stream_counts(watch, fake: FakeEngine):
    gate, asked = threading.Event(), threading.Event()

    def slow_list() -> Answer:
        asked.set()
        gate.wait(10)
        return 200, b"[]"

    fake.answers["GET /containers/json"] = slow_list
    _, inbox = watch(fake.url)
    assert asked.wait(5)
    fake.answers["GET /events"] = lambda: (500, b"down")
    fake.cut_streams()
    lost = inbox.wait_for(EngineLost, lambda item: item.reason == "down")

    gate.set()

    inbox.wait_for(EngineLost, after=inbox.inputs.index(lost) + 1)
    assert not any(isinstance(item, EngineSnapshot) for item in inbox.inputs)


def test_an_engine_that_comes_late_is_found(watch, tmp_path_factory):
    path = socket_path(tmp_path_factory)
    engine, inbox = watch(f"unix://{path}")
    lost = inbox.wait_for(EngineLost)
    assert lost.reason == f"the engine cannot be reached: No such file or directory (unix://{path})"
    assert engine.describe() == f"engine at unix://{path} (not reached yet)"

    late = FakeEngine(path)
    inbox.wait_for(EngineSnapshot)

    assert engine.describe() == f"Docker Engine fake (API 1.41) at unix://{path}"
    late.close()


def test_reconnecting_backs_off_to_a_limit_and_no_further(watch, tmp_path, monkeypatch: pytest.MonkeyPatch):
    assert (watcher.BACKOFF_FIRST_S, watcher.BACKOFF_MAX_S) == (0.1, 2.0)
    monkeypatch.setattr(watcher, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(watcher, "BACKOFF_MAX_S", 0.4)
    _, inbox = watch(f"unix://{tmp_path}/nobody")

    def losses() -> list[float]:
        return [at for at, item in zip(inbox.times_s, inbox.inputs, strict=True) if isinstance(item, EngineLost)]

    times = inbox.until(lambda: losses() if len(losses()) >= 9 else None)
    gaps = [later - earlier for earlier, later in pairwise(times)]

    assert gaps[0] < 0.2
    assert sorted(gaps[:4]) == gaps[:4]
    assert gaps[-1] > 0.35
    assert all(gap < 2 for gap in gaps)


def test_pings_are_contact(watch, fake: FakeEngine):
    _, inbox = watch(fake.url, pace=QUICK)
    inbox.wait_for(EngineContact)
    inbox.wait_for(EngineContact, after=inbox.mark())


def test_one_container_whose_inspect_hangs_delays_no_other(watch, fake: FakeEngine, monkeypatch):
    """An inspect waits for the container's lock, for as long as a start of it takes."""
    stuck, box = f"{1:064x}", f"{2:064x}"
    fake.put(container(1), container(2))
    _, inbox = watch(fake.url, pace=QUICK)
    inbox.wait_for(EngineSnapshot)
    gate, asked = threading.Event(), threading.Event()

    def hang() -> Answer:
        asked.set()
        gate.wait(20)
        return 200, json.dumps(container(1, status="exited")).encode()

    fake.answers[f"GET /containers/{stuck}/json"] = hang
    fake.event("start", stuck, **{"gpu.target": "box"})
    assert asked.wait(5)
    fake.put(container(2, status="paused"))
    fake.event("pause", box, **{"gpu.target": "box"})

    assert inbox.seen(box, lambda seen: seen.status == "paused", within_s=2)
    gate.set()
    inbox.seen(stuck, lambda seen: seen.status == "exited")


def test_a_container_that_cannot_be_inspected_keeps_its_place_and_is_tried_again(watch, fake: FakeEngine):
    fake.put(container(1), container(2))
    _, inbox = watch(fake.url, pace=QUICK)
    inbox.wait_for(EngineSnapshot)
    after = inbox.mark()
    fake.answers[f"GET /containers/{1:064x}/json"] = lambda: (500, b'{"message": "layer busy"}')
    fake.put(container(1, status="exited"))

    assert ids(inbox.wait_for(EngineSnapshot, after=after)) == {1, 2}
    assert inbox.model[f"{1:064x}"].status == "running"

    fake.answers.clear()
    inbox.seen(f"{1:064x}", lambda seen: seen.status == "exited", after=after)


def test_an_inspect_that_failed_is_repeated_without_waiting_for_a_list(watch, fake: FakeEngine):
    _, inbox = watch(fake.url, pace=Pace(ping_every_s=0.2, list_every_s=3600))
    inbox.wait_for(EngineSnapshot)
    fake.put(container(1))
    answers = [(200, json.dumps(container(1)).encode()), (500, b'{"message": "layer busy"}')]
    fake.answers[f"GET /containers/{1:064x}/json"] = lambda: answers.pop() if len(answers) > 1 else answers[0]

    fake.event("start", f"{1:064x}", **{"gpu.target": "box"})

    inbox.seen(f"{1:064x}", lambda seen: seen.runs, within_s=3)
    assert fake.asked("GET /containers/json") == 1


def test_close_ends_all_threads_promptly(watch, fake: FakeEngine, until):
    engine, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    ours = {thread for thread in threading.enumerate() if thread.name.startswith("engine_")}
    assert len(ours) == 10

    began_s = time.monotonic()
    engine.close()

    assert time.monotonic() - began_s < 1.0
    until(lambda: not any(thread.is_alive() for thread in ours), 2)
    assert not isinstance(inbox.inputs[-1], EngineLost)


def test_log_lines_are_the_last_and_bounded(watch, fake: FakeEngine):
    frames = b"".join(
        b"\1\0\0\0" + len(text).to_bytes(4, "big") + text for text in (b"one\n", b"t\xffwo\r\n", b"three\n")
    )
    fake.put(container(1))
    fake.answers["GET /containers/.*/logs"] = lambda: (200, frames)
    engine, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)

    assert engine.logs(f"{1:064x}", 2, 2.0) == "t\ufffdwo\nthree"

    fake.answers["GET /containers/.*/logs"] = lambda: (200, b"\1\0\0\0" + (10**6).to_bytes(4, "big") + b"x" * 10**6)
    assert engine.logs(f"{1:064x}", 2, 5.0) == "x" * (64 << 10)


def test_log_lines_that_cannot_be_had_in_time_are_none(watch, fake: FakeEngine):
    engine, inbox = watch(fake.url)
    assert engine.logs("nobody", 5, 0.2) == ""
    inbox.wait_for(EngineSnapshot)
    gate = threading.Event()
    fake.put(container(1))
    fake.answers["GET /containers/.*/logs"] = lambda: (200 if gate.wait(20) else 500, b"late")

    began_s = time.monotonic()
    assert engine.logs(f"{1:064x}", 5, 0.3) == ""

    assert time.monotonic() - began_s < 2
    assert engine.logs(f"{7:064x}", 5, 2.0) == ""
    gate.set()
