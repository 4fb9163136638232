"""The watcher against a scripted engine: what is posted when the engine is slow, wrong, flooded or gone."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from supervisor.core.inputs import (
    ContainerGone,
    ContainerRenamed,
    ContainerSeen,
    EngineLost,
    EngineSnapshot,
    StartHinted,
)
from supervisor.engine import Engine, Pace
from tests.conftest import until
from tests.engine.conftest import QUICK
from tests.engine.fake import Answer, FakeEngine, container, ids

COMPOSE = "com.docker.compose."


def made_by_compose(
    number: int, service: str, *, target: str | None, needs: str = "", project: str = "p", status="running"
):
    labels = {f"{COMPOSE}project": project, f"{COMPOSE}service": service, f"{COMPOSE}depends_on": needs}
    return container(number, labels=labels | ({"gpu.target": target} if target else {}), status=status)


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


def test_the_stream_is_opened_with_an_overlap_and_filtered_by_the_engine(watch, fake: FakeEngine):
    began_s = time.time()
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)

    query = fake.queries["GET /events"]
    assert query.keys() == {"since", "filters"}
    assert 0 <= float(query["since"]) - (began_s - 5) < 5
    assert len(query["since"].partition(".")[2]) == 9
    assert json.loads(query["filters"])["type"] == ["container"]
    assert not any(action.startswith("exec") for action in json.loads(query["filters"])["event"])
    assert fake.queries["GET /containers/json"] == {"all": "1"}


def test_an_event_is_one_inspect_and_state_comes_from_that(watch, fake: FakeEngine):
    box = container(1, status="exited", ExitCode=7)
    fake.put(box)
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    after = inbox.mark()

    fake.event("start", box["Id"], **{"gpu.target": "lies", "exitCode": "0"})

    seen = inbox.wait_for(ContainerSeen, after=after).container
    assert (seen.status, seen.exit_code, seen.target) == ("exited", 7, "box")


def held(fake: FakeEngine, box: dict[str, Any]) -> threading.Event:
    """Let inspects of a container wait, as while it is being started; they show it running then."""
    gate = threading.Event()

    def slowly() -> Answer:
        gate.wait(5)
        return 200, json.dumps(container(1)).encode()

    fake.answers[f"GET /containers/{box['Id']}/json"] = slowly
    return gate


def test_a_start_of_a_known_container_is_posted_before_it_is_inspected(watch, fake: FakeEngine):
    box = container(1, status="exited")
    fake.put(box)
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    gate = held(fake, box)
    at_ns = time.time_ns()
    fake.event("start", box["Id"], at_ns, **{"gpu.target": "box"})

    hint = inbox.wait_for(StartHinted, within_s=2)
    assert hint == StartHinted(box["Id"], run=f"event {at_ns}", wall_ms=at_ns // 10**6)
    gate.set()
    assert inbox.seen(box["Id"], lambda seen: seen.runs, after=inbox.inputs.index(hint)).run != hint.run


def test_a_new_name_is_posted_before_the_inspect_that_its_start_holds_up(watch, fake: FakeEngine):
    """Compose renames what it created anew and starts it in the same moment; an inspect waits for the start."""
    box = container(1, status="created")
    fake.put(box)
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    gate = held(fake, box)
    at_ns = time.time_ns()
    fake.event(
        "rename", box["Id"], at_ns, **{"gpu.target": "box", "name": "/llm-model-1", "oldName": "/12ab_llm-model-1"}
    )
    fake.event("start", box["Id"], at_ns + 1, **{"gpu.target": "box", "name": "llm-model-1"})

    hint = inbox.wait_for(StartHinted, within_s=2)
    assert inbox.inputs[inbox.inputs.index(hint) - 1] == ContainerRenamed(box["Id"], "llm-model-1")
    gate.set()


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


def test_what_depends_on_something_unknown_is_told_of_after_it(watch, fake: FakeEngine):
    fake.put(made_by_compose(2, "db", target=None))
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    looked_at, go_on = threading.Event(), threading.Event()

    def slowly() -> tuple[int, bytes]:
        looked_at.set()
        assert go_on.wait(10)
        return 200, json.dumps(fake.containers[f"{2:064x}"]).encode()

    fake.answers[f"GET /containers/{2:064x}/json"] = slowly
    fake.put(made_by_compose(1, "web", target="t", needs="db", status="created"))
    fake.put(made_by_compose(3, "runs", target="t", needs="db"))
    for number in (1, 3):
        fake.event("create", f"{number:064x}", **{"gpu.target": "t", f"{COMPOSE}project": "p"})
    assert looked_at.wait(10)
    inbox.wait_for(ContainerSeen, lambda item: item.container.service == "runs")
    early = [item.container.service for item in inbox.inputs if isinstance(item, ContainerSeen)]
    go_on.set()

    inbox.wait_for(ContainerSeen, lambda item: item.container.service == "web")
    told = [item.container.service for item in inbox.inputs if isinstance(item, ContainerSeen)]
    assert "web" not in early, "only what runs is judged at once"
    assert told.index("db") < told.index("web")


def test_the_first_snapshot_is_whole_where_events_were_quicker_than_the_list(watch, fake: FakeEngine):
    fake.put(made_by_compose(1, "web", target="t", needs="db", status="created"))
    fake.put(made_by_compose(2, "db", target=None, status="created"))
    engines: list[Engine] = []

    def list_late() -> Answer:
        fake.event("create", f"{1:064x}", **{"gpu.target": "t", f"{COMPOSE}project": "p"})
        until(lambda: engines and f"{1:064x}" in engines[0]._watcher._roster.known, what="an inspect of it")
        rows = [{"Id": id_, "Labels": made["Config"]["Labels"]} for id_, made in fake.containers.items()]
        return 200, json.dumps(rows).encode()

    fake.answers["GET /containers/json"] = list_late

    engine, inbox = watch(fake.url)
    engines.append(engine)

    assert ids(inbox.wait_for(EngineSnapshot)) == {1, 2}


def test_what_depends_on_something_that_was_never_created_is_told_of_once_that_is_certain(watch, fake: FakeEngine):
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    fake.put(made_by_compose(1, "web", target="t", needs="db", status="created"))

    fake.event("create", f"{1:064x}", **{"gpu.target": "t", f"{COMPOSE}project": "p"})

    inbox.wait_for(ContainerSeen, lambda item: item.container.service == "web")
    assert fake.asked("GET /containers/json") == 2


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


def test_an_inspect_that_began_before_the_list_does_not_count_for_its_snapshot(watch, fake: FakeEngine):
    fake.put(container(1))
    _, inbox = watch(fake.url)
    inbox.wait_for(EngineSnapshot)
    after = inbox.mark()
    bodies = [json.dumps(container(1, status=status)).encode() for status in ("exited", "paused")]
    gate, asked = threading.Event(), threading.Event()

    def first_slowly() -> Answer:
        body = bodies.pop()
        if bodies:
            asked.set()
            gate.wait(5)
        return 200, body

    fake.answers[f"GET /containers/{1:064x}/json"] = first_slowly
    fake.event("pause", f"{1:064x}", **{"gpu.target": "box"})
    assert asked.wait(5)
    fake.put(container(2))
    fake.line(b"not understood\n")
    inbox.seen(f"{2:064x}", lambda _: True)  # No event told of it: the list has been answered.

    gate.set()

    snapshot = inbox.wait_for(EngineSnapshot, after=after)
    assert {int(found.id, 16): found.status for found in snapshot.containers} == {1: "exited", 2: "running"}


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
