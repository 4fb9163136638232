"""What callers see of a state: each word for a target, each reason for waiting, and that it is cheap to ask."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from supervisor.api.views.kept import Kept
from supervisor.api.views.leases import held
from supervisor.api.views.overview import overview, readiness
from supervisor.api.views.plain import plain_view
from supervisor.api.views.targets import all_targets, target_state, target_view
from supervisor.core.inputs import EngineLost, EngineSnapshot, Evict, StorageFull
from supervisor.core.model import Container
from tests.api.looking import status_of
from tests.core.box import Box, container


def word(box: Box, target: str = "a") -> str:
    return target_state(box.state, target)


def test_a_target_that_nobody_leased_is_stopped_invalid_stopping_or_absent():
    box = Box(container("a"), container("bad", master=False))
    assert (word(box), word(box, "bad"), word(box, "nobody")) == ("stopped", "invalid", "absent")
    box.start("a-main")
    assert word(box) == "stopping"
    box.obey()
    assert word(box) == "stopped"
    box.start("bad-main")
    assert word(box, "bad") == "stopping"


def test_a_leased_target_is_starting_ready_unhealthy_down_and_then_resident():
    box = Box(container("a"))
    request = box.ask("a")
    assert word(box) == "starting"
    box.obey()
    assert word(box) == "ready"
    box.show("a-main", health="unhealthy")
    assert word(box) == "unhealthy"
    box.show("a-main", health="healthy")
    box.exit("a-main", 1)
    assert word(box) == "down"
    box.start("a-main")
    box.release(request)
    assert word(box) == "resident"
    box.requests += 1
    box.feed(Evict(box.requests, "a"))
    assert word(box) == "stopping"
    box.obey()
    assert word(box) == "stopped"


def test_mode_observe_shows_what_it_spares_as_resident():
    box = Box(container("a"), mode="observe")
    box.start("a-main")
    assert word(box) == "resident"


def test_an_absent_target_is_remembered_with_what_to_type():
    box = Box(container("a", working_dir="/srv/a", config_files="/srv/a/compose.yml"))
    box.engine.clear()
    box.feed(EngineSnapshot(()))
    view = target_view(box.state, "a")
    assert (view.state, view.project) == ("absent", "a")
    assert view.create == "docker compose -p a -f /srv/a/compose.yml create"
    assert plain_view(box.state, box.now).status.services["a"].state == "absent"


def test_a_problem_is_shown_under_its_target_and_a_stray_one_beside_all_of_them():
    from supervisor.core.labels import parse

    parsed = parse({"gpu.target": "Bad Name"}, container="x", service="s")
    stray = Container(id="x", name="x", problems=parsed.problems)
    box = Box(container("bad", master=False), stray)
    targets = all_targets(box.state, box.now)
    assert [problem.code for problem in targets.targets[0].problems] == ["no_master"]
    assert [problem.code for problem in targets.problems] == ["bad_target_name"]
    status = status_of(box)
    assert [problem.code for problem in status.problems] == ["bad_target_name"]


# ---- leases and tickets


def of(box: Box, request: int) -> Any:
    return held(box.state, box.now, f"t{request}")


def test_a_lease_says_what_it_waits_for_while_it_starts():
    box = Box(container("a"), container("b"))
    box.release(box.lease("a"))
    request = box.ask("b")
    view = of(box, request)
    assert (view.state, view.expires_at) == ("starting", None)
    assert view.why == "room is being made: a-main-1 must stop first"
    assert view.until is not None
    for action in box.take():
        box.exit(action.id, 137)
        box.done(action)
    assert of(box, request).why == "the containers of b are starting"
    box.feed(EngineLost("no answer"))
    assert of(box, request).why == "not in sync with the container engine (no answer)"


def test_a_lease_that_is_ready_says_nothing_and_one_that_is_down_says_so():
    box = Box(container("a"))
    request = box.lease("a")
    assert (of(box, request).state, of(box, request).why) == ("ready", "")
    box.exit("a-main", 1)
    assert (of(box, request).state, of(box, request).why) == (
        "down",
        "container a-main-1 exited with code 1",
    )


def test_a_ticket_says_its_place_who_is_ahead_and_why():
    box = Box(container("a"), container("b"))
    holder = box.lease("a", owner="ann")
    first = box.ask("b", owner="bob", on_busy="ticket")
    second = box.ask("a", owner="eve", on_busy="ticket")
    view = of(box, second)
    assert (view.state, view.position) == ("queued", 1)
    assert [(one.owner, one.state) for one in view.ahead] == [("ann", "ready"), ("bob", "queued")]
    assert view.why == "a holds the GPU (owner ann); 1 ahead of it in the queue"
    assert view.until == of(box, holder).expires_at

    box.release(holder)
    assert (of(box, first).state, of(box, first).why) == ("claimable", "it is its turn: claim it")
    waiting = of(box, second).why
    assert waiting == "queued claimant pending: b of bob may claim now; 1 ahead of it in the queue"
    box.advance(12)
    assert (of(box, first).state, of(box, first).reason) == ("ended", "ticket_expired")
    assert of(box, second).state == "claimable"


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (EngineLost("no answer"), "not in sync with the container engine (no answer): nothing is granted"),
        (StorageFull(True), "the disk of the data directory is full: free some space, grants resume by then"),
    ],
)
def test_a_ticket_says_what_keeps_the_gpu_closed(trouble, why):
    box = Box(container("a"))
    holder = box.lease("a")
    ticket = box.ask(None, on_busy="ticket")
    box.feed(trouble)
    box.release(holder)
    assert of(box, ticket).why == why
    assert status_of(box).queue[0].why == why


def test_nothing_is_known_of_a_token_that_never_was_or_that_ended_long_ago():
    box = Box(container("a"))
    request = box.lease("a")
    box.release(request)
    assert of(box, request).reason == "released"
    box.advance(700)
    box.lease("a")
    assert of(box, request) is None
    assert of(box, 99) is None


# ---- the whole


def test_the_status_shows_engine_journal_gpus_leases_and_queue():
    box = Box(container("a"), container("b"))
    request = box.lease("a")
    box.ask("b", on_busy="ticket", priority=3)
    status = status_of(box)
    assert (status.version, status.mode, status.engine.synced) == ("1", "stop", True)
    assert status.journal.state == "ok"
    assert [(gpu.uuid, gpu.lease) for gpu in status.gpus] == [("SIM-0", f"l{request}")]
    assert [(lease.id, lease.state) for lease in status.leases] == [(f"l{request}", "ready")]
    assert [(entry.target, entry.priority, entry.position) for entry in status.queue] == [("b", 3, 0)]
    assert [(target.name, target.state) for target in status.targets] == [("a", "ready"), ("b", "stopped")]
    assert b'"t1"' not in msgspec.json.encode(status)


def test_readiness_names_each_thing_that_is_missing():
    box = Box(container("a"))
    assert readiness(box.state, box.now).ready
    box.feed(StorageFull(True))
    full = readiness(box.state, box.now)
    assert (full.ready, full.journal) == (False, "full: the disk of the data directory is full")
    box.feed(StorageFull(False))
    box.feed(EngineLost("connection refused"))
    lost = readiness(box.state, box.now)
    assert not lost.ready
    assert lost.engine.startswith("not in sync: connection refused")
    assert not readiness(Box(container("a"), gpus=()).state, box.now).ready


def test_a_lease_is_ready_for_more_while_somebody_holds_the_gpu():
    box = Box(container("a"))
    box.lease("a")
    assert readiness(box.state, box.now).ready


def test_a_status_with_300_containers_and_1000_waiters_is_cheap():
    box = Box(*(container(f"t{number}") for number in range(300)))
    box.lease("t0")
    for number in range(1_000):
        box.ask(f"t{number % 300}", on_busy="ticket")
    took = []
    for view in (lambda: overview(box.state, box.now, "1", Kept()), lambda: plain_view(box.state, box.now)):
        began = time.perf_counter()
        msgspec.json.encode(view())
        took.append(time.perf_counter() - began)
    # Some milliseconds; the bound is there to notice what grows with containers times waiters.
    assert max(took) < 1, took
