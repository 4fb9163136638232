"""The watcher against a scripted engine: what is posted when the engine is slow, wrong, flooded or gone."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise

import pytest

from supervisor.core.inputs import (
    ContainerGone,
    ContainerSeen,
    EngineContact,
    EngineLost,
    EngineSnapshot,
    StartHinted,
)
from supervisor.engine import Pace
from tests.engine.conftest import QUICK
from tests.engine.fake import Answer, FakeEngine, container

COMPOSE = "com.docker.compose."


def made_by_compose(number: int, service: str, *, target: str | None, needs: str = "", project: str = "p"):
    labels = {f"{COMPOSE}project": project, f"{COMPOSE}service": service, f"{COMPOSE}depends_on": needs}
    return container(number, labels=labels | ({"gpu.target": target} if target else {}))


def ids(snapshot: EngineSnapshot) -> set[int]:
    return {int(found.id, 16) for found in snapshot.containers}


def test_the_first_thing_posted_is_a_snapshot_of_what_matters(watch, fake: FakeEngine):
    fake.put(
        made_by_compose(1, "web", target="t", needs="db:service_started:false"),
        made_by_compose(2, "db", target=None, needs="disk"),
        made_by_compose(3, "disk", target=None),
        made_by_compose(4, "cache", target=None),
        made_by_compose(5, "db", target=None, project="other"),
        container(6, labels={}),
        container(7, labels={"gpu.vram-mib": "12"}),
    )

    _, inbox = watch(fake.url)

    assert ids(inbox.wait_for(EngineSnapshot)) == {1, 2, 3, 7}
    assert isinstance(inbox.inputs[0], EngineSnapshot)
    assert fake.asked(f"GET /containers/{6:064x}/json") == 0


def test_an_event_is_one_inspect_and_state_comes_from_that(watch, fake: FakeEngine):
    box = container(1, status="exited", ExitCode=7)
    fake.put(box)
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    after = inbox.mark()

    fake.event("start", box["Id"], **{"gpu.target": "lies", "exitCode": "0"})

    seen = inbox.wait_for(ContainerSeen, after=after).container
    assert (seen.status, seen.exit_code, seen.target) == ("exited", 7, "box")


def test_a_start_of_a_known_container_is_posted_before_it_is_inspected(watch, fake: FakeEngine):
    box = container(1, status="exited")
    fake.put(box)
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    gate = threading.Event()

    def slowly() -> Answer:
        gate.wait(5)
        return 200, json.dumps(container(1)).encode()

    fake.answers[f"GET /containers/{box['Id']}/json"] = slowly
    at_ns = time.time_ns()
    fake.event("start", box["Id"], at_ns, **{"gpu.target": "box"})

    hint = inbox.wait_for(StartHinted, within_s=2)
    assert hint == StartHinted(box["Id"], run=f"event {at_ns}", wall_ms=at_ns // 10**6)
    gate.set()
    assert inbox.seen(box["Id"], lambda seen: seen.runs, after=inbox.inputs.index(hint)).run != hint.run


def test_a_start_that_an_inspect_may_have_shown_already_is_no_news(watch, fake: FakeEngine):
    box = container(1)
    fake.put(box)
    before_ns = time.time_ns()
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    after = inbox.mark()

    fake.event("start", box["Id"], before_ns, **{"gpu.target": "box"})

    inbox.wait_for(ContainerSeen, after=after)
    assert not any(isinstance(item, StartHinted) for item in inbox.inputs)


def test_an_unknown_container_is_inspected_first(watch, fake: FakeEngine):
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    fake.put(container(1))

    fake.event("start", f"{1:064x}", time.time_ns(), **{"gpu.target": "box"})

    assert inbox.wait_for(ContainerSeen).container.status == "running"
    assert not any(isinstance(item, StartHinted) for item in inbox.inputs)


def test_events_of_strangers_cost_nothing(watch, fake: FakeEngine):
    fake.put(made_by_compose(1, "web", target="t"))
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    fake.put(container(2, labels={}), made_by_compose(3, "x", target=None, project="other"))

    after = inbox.mark()
    fake.event("start", f"{2:064x}", name="stranger")
    fake.event("start", f"{3:064x}", **{f"{COMPOSE}project": "other"})
    fake.event("die", f"{1:064x}", **{"gpu.target": "t"})

    inbox.wait_for(ContainerSeen, after=after)
    assert [fake.asked(f"GET /containers/{number:064x}/json") for number in (1, 2, 3)] == [2, 0, 0]


def test_a_dependency_that_was_passed_over_is_found_when_something_needs_it(watch, fake: FakeEngine):
    fake.put(made_by_compose(2, "db", target=None))
    _, inbox = watch(fake.url)
    assert ids(inbox.wait_for(EngineSnapshot)) == set()
    after = inbox.mark()

    fake.put(made_by_compose(1, "web", target="t", needs="db"))
    fake.event("create", f"{1:064x}", **{"gpu.target": "t", f"{COMPOSE}project": "p"})

    assert ids(inbox.wait_for(EngineSnapshot, after=after)) == {1, 2}


def test_a_dependency_created_later_is_seen_as_it_comes(watch, fake: FakeEngine):
    fake.put(made_by_compose(1, "web", target="t", needs="db"))
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)

    fake.put(made_by_compose(2, "db", target=None))
    fake.event("create", f"{2:064x}", **{f"{COMPOSE}project": "p"})

    inbox.wait_for(ContainerSeen, lambda item: item.container.service == "db")


def test_a_container_that_is_gone_is_posted_once(watch, fake: FakeEngine):
    box = container(1)
    fake.put(box)
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    del fake.containers[box["Id"]]

    fake.event("destroy", box["Id"], **{"gpu.target": "box"})
    inbox.wait_for(ContainerGone)
    after = inbox.mark()
    fake.event("destroy", box["Id"], **{"gpu.target": "box"})
    fake.put(container(2))
    fake.event("create", f"{2:064x}", **{"gpu.target": "box"})

    inbox.wait_for(ContainerSeen, after=after)
    assert inbox.inputs.count(ContainerGone(box["Id"])) == 1


def test_what_happened_without_an_event_is_found_by_the_next_list(watch, fake: FakeEngine):
    fake.put(container(1), container(2))
    _, inbox = watch(fake.url, pace=QUICK)
    assert ids(inbox.wait_for(EngineSnapshot)) == {1, 2}
    after = inbox.mark()

    del fake.containers[f"{1:064x}"]
    fake.put(container(2, status="exited"), container(3))

    assert ids(inbox.wait_for(EngineSnapshot, lambda snapshot: 3 in ids(snapshot), after=after)) == {2, 3}
    inbox.wait_for(ContainerGone, after=after)
    inbox.seen(f"{2:064x}", lambda seen: seen.status == "exited", after=after)


def test_a_list_that_changes_nothing_feeds_nothing_but_itself(watch, fake: FakeEngine):
    fake.put(container(1))
    _, inbox = watch(fake.url, pace=QUICK)
    inbox.wait_for(EngineSnapshot)
    after = inbox.mark()

    inbox.wait_for(EngineSnapshot, after=after)

    assert not any(isinstance(item, ContainerSeen) for item in inbox.inputs[after:])


def test_a_flood_becomes_one_list_and_the_model_is_right_after_it(watch, fake: FakeEngine):
    fake.put(container(0))
    _, inbox = watch(fake.url, pace=Pace(pending_max=16))
    inbox.wait_for(EngineSnapshot)
    after = inbox.mark()
    gate = threading.Event()
    fake.answers[f"GET /containers/{0:064x}/json"] = lambda: (
        200 if gate.wait(5) else 500,
        json.dumps(container(0)).encode(),
    )

    fake.put(*(container(number) for number in range(1, 400)))
    for number in range(400):
        fake.event("create", f"{number:064x}", **{"gpu.target": "box"})
    gate.set()

    inbox.wait_for(EngineSnapshot, lambda snapshot: len(snapshot.containers) == 400, after=after)
    assert 2 <= fake.asked("GET /containers/json") < 20


def test_a_line_that_is_not_understood_makes_us_look_at_everything(watch, fake: FakeEngine):
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    after = inbox.mark()
    fake.put(container(1))

    fake.line(b'{"Action": ["start"]}\n')

    assert ids(inbox.wait_for(EngineSnapshot, after=after)) == {1}
    assert not any(isinstance(item, EngineLost) for item in inbox.inputs)


def test_lines_cut_anywhere_are_put_together(watch, fake: FakeEngine):
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    fake.put(container(1))
    line = json.dumps({"Action": "create", "Actor": {"ID": f"{1:064x}", "Attributes": {"gpu.target": "ä"}}}).encode()

    for byte in line + b"\n":
        fake.line(bytes([byte]))

    inbox.wait_for(ContainerSeen)


@pytest.mark.parametrize(
    ("request_", "answer", "reason"),
    [
        pytest.param("GET /events", (403, b"forbidden by the proxy"), "forbidden by the proxy", id="events forbidden"),
        pytest.param("GET /version", (500, b'{"message": "no"}'), "no", id="no version"),
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
    from tests.engine.conftest import socket_path

    path = socket_path(tmp_path_factory)
    engine, inbox = watch(f"unix://{path}")
    lost = inbox.wait_for(EngineLost)
    assert lost.reason == "the engine cannot be reached: [Errno 2] No such file or directory"
    assert engine.describe() == f"engine at unix://{path} (not reached yet)"

    late = FakeEngine(path)
    inbox.wait_for(EngineSnapshot)

    assert engine.describe() == f"Docker Engine fake (API 1.41) at unix://{path}"
    late.close()


def test_reconnecting_backs_off_to_two_seconds_and_no_further(watch, tmp_path):
    _, inbox = watch(f"unix://{tmp_path}/nobody")

    def losses() -> list[float]:
        return [at for at, item in zip(inbox.times_s, inbox.inputs, strict=True) if isinstance(item, EngineLost)]

    times = inbox.until(lambda: losses() if len(losses()) >= 8 else None, within_s=20)
    gaps = [later - earlier for earlier, later in pairwise(times)]

    assert gaps[0] < 0.5
    assert sorted(gaps[:5]) == gaps[:5]
    assert all(gap < 3 for gap in gaps)
    assert gaps[-1] > 1.5


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
