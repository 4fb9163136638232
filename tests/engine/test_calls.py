"""What the engine's answers to start, stop and kill mean, and that one slow answer delays no other."""

from __future__ import annotations

import threading

import pytest

from supervisor.core.inputs import ActionDone, ContainerSeen, EngineSnapshot
from supervisor.core.replies import Action, KillContainer, StartContainer, StopContainer
from supervisor.engine import Engine
from supervisor.engine.calls import Calls
from tests.engine.fake import Answer, FakeEngine, container
from tests.engine.inbox import Inbox

BOX = container(1)
ID = BOX["Id"]


def told(message: str) -> bytes:
    return f'{{"message": "{message}"}}'.encode()


@pytest.mark.parametrize(
    ("action", "answer", "outcome"),
    [
        pytest.param(StartContainer(ID), (204, b""), "done", id="started"),
        pytest.param(StartContainer(ID), (304, b""), "done", id="it ran already"),
        pytest.param(StartContainer(ID), (404, told("No such container: x")), "gone", id="start of nothing"),
        pytest.param(StartContainer(ID), (404, told("network x not found")), "refused", id="its network is gone"),
        pytest.param(StartContainer(ID), (400, told("bad mount")), "refused", id="the engine cannot start it"),
        pytest.param(StartContainer(ID), (403, told("denied")), "refused", id="a plugin or proxy denies it"),
        pytest.param(StartContainer(ID), (409, told("marked for removal")), "refused", id="a start conflicts"),
        pytest.param(StopContainer(ID, 0), (304, b""), "done", id="it was stopped already"),
        pytest.param(StopContainer(ID, 0), (500, told("no exit event")), "refused", id="it will not die"),
        pytest.param(KillContainer(ID), (409, told("is not running")), "done", id="kill of a stopped one"),
        pytest.param(KillContainer(ID), (404, told("No such container: x")), "gone", id="kill of nothing"),
        pytest.param(KillContainer(ID), (404, b"page not found"), "refused", id="this is no engine"),
        pytest.param(KillContainer(ID), (500, told("no exit event")), "refused", id="kill without an end"),
    ],
)
def test_every_answer_has_one_meaning(watch, fake: FakeEngine, action: Action, answer: Answer, outcome: str):
    engine, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    fake.put(BOX)
    fake.answers[r"POST /containers/.*"] = lambda: answer

    engine.perform(action, inbox)

    done = inbox.answer(ID)
    assert (done.kind, done.outcome) == (action.kind, outcome)
    if outcome not in ("done",):
        assert done.message in answer[1].decode()
    # Whatever came of it, the container is looked at again.
    inbox.seen(ID, lambda seen: seen.status == "running", after=inbox.inputs.index(done))


def test_a_call_before_the_engine_was_reached_fails(watch, fake: FakeEngine):
    inbox = Inbox()
    Engine(fake.url).perform(KillContainer(ID), inbox)

    assert inbox.answer(ID) == ActionDone(ID, "kill", "failed", "the engine was not reached yet")


def test_a_call_to_an_engine_that_is_gone_fails(watch, fake: FakeEngine):
    engine, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    fake.close()

    engine.perform(KillContainer(ID), inbox)

    done = inbox.answer(ID)
    assert done.outcome == "failed"
    assert done.message.startswith("the engine cannot be reached: ")


def test_no_answer_in_time_may_still_happen(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("supervisor.engine.calls.KILL_LIMIT_S", 1)
    gate = threading.Event()
    fake.answers["POST /containers/.*/(kill|stop)"] = lambda: (204 if gate.wait(20) else 500, b"")
    inbox, calls = Inbox(), Calls(fake.url, after=lambda _: None)
    calls.connected("1.41")

    calls.perform(KillContainer(ID), inbox)

    assert inbox.answer(ID) == ActionDone(ID, "kill", "timeout", "the engine did not answer in time")
    gate.set()


def test_a_stop_listens_for_its_grace_and_a_limit_more(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("supervisor.engine.calls.KILL_LIMIT_S", 1)
    late = threading.Event()
    fake.answers["POST /containers/.*/stop"] = lambda: (500 if late.wait(1.5) else 204, b"")
    inbox, calls = Inbox(), Calls(fake.url, after=lambda _: None)
    calls.connected("1.41")

    calls.perform(StopContainer(ID, grace_s=5), inbox)

    assert inbox.answer(ID).outcome == "done"


def test_slow_stops_never_delay_a_kill(watch, fake: FakeEngine):
    engine, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    gate = threading.Event()
    fake.answers["POST /containers/.*/stop"] = lambda: (204 if gate.wait(20) else 500, b"")
    for number in range(40):
        engine.perform(StopContainer(f"{number:064x}", 60), inbox)

    engine.perform(KillContainer(ID), inbox)

    assert inbox.answer(ID, within_s=5).kind == "kill"
    gate.set()
    for number in range(40):
        inbox.answer(f"{number:064x}")


def test_calls_go_to_the_write_endpoint_and_nothing_else_does(watch, fake: FakeEngine, tmp_path_factory):
    from tests.engine.conftest import socket_path

    writer = FakeEngine(socket_path(tmp_path_factory))
    engine, inbox = watch(fake.url, writer.url)
    inbox.wait_for(EngineSnapshot)

    engine.perform(StopContainer(ID, 3), inbox)

    assert inbox.answer(ID).outcome == "done"
    assert writer.requests == [f"POST /containers/{ID}/stop"]
    assert not [request for request in fake.requests if request.startswith("POST")]
    writer.close()


def test_after_close_calls_are_answered_and_not_made(watch, fake: FakeEngine):
    engine, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    engine.close()

    engine.perform(KillContainer(ID), inbox)

    assert inbox.answer(ID).outcome == "failed"
    assert fake.asked("POST .*") == 0


def test_a_look_after_a_call_brings_the_truth_even_if_no_event_came(watch, fake: FakeEngine):
    engine, inbox = watch(fake.url)
    fake.put(BOX)
    inbox.wait_for(EngineSnapshot)

    def stop() -> Answer:
        fake.put(container(1, status="exited", ExitCode=137))
        return 204, b""

    fake.answers["POST /containers/.*/kill"] = stop
    engine.perform(KillContainer(ID), inbox)

    assert inbox.seen(ID, lambda seen: seen.status == "exited").exit_code == 137
    assert not any(isinstance(item, ContainerSeen) and item.container.runs for item in inbox.inputs[inbox.mark() - 1 :])
