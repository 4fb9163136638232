"""The audit: listed, filtered, followed live and resumed; and why something was stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from supervisor.api import stream
from supervisor.core.inputs import ContainerGone
from supervisor.core.labels import parse, with_labels
from tests.api.house import House, container, house, run, until


class Followed:
    """One server-sent event stream, read frame by frame."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def frame(self) -> dict[str, str]:
        """Return the next frame's fields; a comment is under ""."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
            async for line in self._lines:
                if not line:
                    return fields
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        raise EOFError

    async def event(self) -> dict[str, Any]:
        while "data" not in (frame := await self.frame()):
            pass
        event: dict[str, Any] = json.loads(frame["data"])
        assert (frame["id"], frame["event"]) == (str(event["seq"]), event["type"])
        return event


@contextlib.asynccontextmanager
async def follow(it: House, path: str = "/v1/events", **headers: str) -> AsyncIterator[Followed]:
    wanted = {"Accept": "text/event-stream", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with it.client.stream("GET", path, headers=wanted) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        followed = Followed(answer.aiter_lines())
        assert await followed.frame() == {"retry": "1000"}
        yield followed


async def release(it: House, answer: httpx.Response) -> None:
    await it.client.delete(f"/v1/lease/{answer.json()['token']}")


def test_the_audit_lists_facts_in_order_from_a_place_on():
    async def story() -> None:
        async with house() as it:
            await it.lease("a")
            everything = (await it.get("/v1/events?after=0&limit=1000")).json()
            seqs = [event["seq"] for event in everything["events"]]
            assert seqs == list(range(1, len(seqs) + 1))
            assert everything["after"] == seqs[-1]
            granted = next(event for event in everything["events"] if event["type"] == "LeaseGranted")
            assert granted["sentence"].startswith("a is leased to ann (lease l_")
            assert (granted["target"], granted["fields"]["owner"], granted["fields"]["fence"]) == ("a", "ann", 1)

            page = (await it.get("/v1/events?after=1&limit=2")).json()
            assert ([event["seq"] for event in page["events"]], page["after"]) == ([2, 3], 3)
            newest = (await it.get("/v1/events?limit=2")).json()
            assert [event["seq"] for event in newest["events"]] == seqs[-2:]
            beyond = (await it.get(f"/v1/events?after={seqs[-1]}")).json()
            assert beyond == {"events": [], "after": seqs[-1]}

    run(story())


def test_the_audit_of_one_target_has_nothing_of_the_others():
    async def story() -> None:
        async with house() as it:
            await release(it, await it.lease("a"))
            await it.lease("b")
            of_b = (await it.get("/v1/events?target=b")).json()["events"]
            assert {event["target"] for event in of_b} == {"a", "b"}  # a was evicted for it
            evicted = next(event for event in of_b if event["target"] == "a")
            assert evicted["sentence"] == "a was evicted to make room for b of ann"
            assert [event["seq"] for event in (await it.get("/v1/events?target=b&limit=1")).json()["events"]] == [
                of_b[-1]["seq"]
            ]
            assert (await it.get("/v1/events?after=0&target=nobody")).json()["events"] == []

    run(story())


def test_a_stream_begins_now_and_goes_on_live():
    async def story() -> None:
        async with house() as it:
            token = (await it.lease("a")).json()["token"]
            async with follow(it) as live:
                await it.client.delete(f"/v1/lease/{token}")
                event = await live.event()
                assert (event["type"], event["fields"]["reason"]) == ("LeaseEnded", "released")
                assert event["sentence"] == "the lease of ann on a was released; a stays resident"

    run(story())


def test_a_stream_resumes_after_the_last_event_that_was_seen():
    async def story() -> None:
        async with house() as it:
            await release(it, await it.lease("a"))
            known = (await it.get("/v1/events?after=0&limit=1000")).json()["events"]
            async with follow(it, Last_Event_ID="2") as resumed:
                assert [await resumed.event() for _ in known[2:]] == known[2:]
            async with follow(it, "/v1/events?after=0") as from_the_start:
                assert [await from_the_start.event() for _ in known] == known
            async with follow(it, Last_Event_ID="999999") as of_another_journal:
                await it.lease("a")
                assert (await of_another_journal.event())["seq"] == known[-1]["seq"] + 1

    run(story())


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "٣"])
def test_a_last_event_id_that_was_never_sent_is_refused(last):
    async def story() -> None:
        async with house() as it:
            headers = {b"Accept": b"text/event-stream", b"Last-Event-ID": last.encode()}
            answer = await it.client.get("/v1/events", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")

    run(story())


def test_a_filtered_stream_sends_what_is_about_its_target_and_beats_meanwhile(monkeypatch):
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)

    async def story() -> None:
        async with house() as it, follow(it, "/v1/events?target=b") as live:
            await release(it, await it.lease("a"))
            assert await live.frame() == {"": "still here"}
            await it.lease("b")
            assert (await live.event())["type"] == "LeaseGranted"

    run(story())


def test_a_long_history_is_streamed_in_pieces_without_a_gap(monkeypatch):
    monkeypatch.setattr(stream, "CHUNK", 3)

    async def story() -> None:
        async with house() as it:
            for _ in range(4):
                await release(it, await it.lease("a"))
            newest = it.state.durable.fact_seq
            async with follow(it, "/v1/events?after=0") as live:
                assert [(await live.event())["seq"] for _ in range(newest)] == list(range(1, newest + 1))

    run(story())


def test_a_stream_ends_when_the_supervisor_stops_with_the_fact_that_says_so():
    async def story() -> None:
        async with house() as it, follow(it) as live:
            await it.pump.shut_down("SIGTERM")
            assert (await live.event())["type"] == "SupervisorStopped"
            with pytest.raises(EOFError):
                await live.frame()

    run(story())


def test_a_stream_whose_client_goes_away_leaves_nothing_behind():
    async def story() -> None:
        async with house() as it:
            before = len(asyncio.all_tasks())
            async with follow(it):
                assert len(asyncio.all_tasks()) > before
            await it.client.aclose()
            await until(lambda: len(asyncio.all_tasks()) <= before)

    run(story())


# ---- why


def test_why_names_who_stopped_a_container_for_whom_and_what_to_type():
    async def story() -> None:
        async with house() as it:
            await it.lease("a")
            it.box.engine.start("b-main")
            await until(lambda: any(type(fact).__name__ == "ContainerRefused" for fact in it.box.disk.facts))
            for name in ("b", "b-main-1", "b-main"):
                why = (await it.get(f"/v1/why/{name}")).json()
                assert (why["name"], why["target"], why["state"]) == (name, "b", "stopped")
                assert (why["by"], why["for_target"], why["for_owner"]) == ("enforcement", "a", "ann")
                assert why["command"] == "gpu-supervisor acquire b"
                sentence = "container b-main-1 of b was killed: a holds the GPU (gpu_held)"
                assert why["stopped"]["sentence"] == sentence
                assert why["sentence"] == f"{sentence}; b is stopped now"

    run(story())


def test_why_names_the_lease_that_evicted_a_target():
    async def story() -> None:
        async with house() as it:
            await release(it, await it.lease("a"))
            await it.lease("b", owner="bob")
            why = (await it.get("/v1/why/a")).json()
            assert (why["by"], why["for_target"], why["for_owner"]) == ("eviction", "b", "bob")
            assert why["sentence"].startswith("a was evicted to make room for b of bob")

    run(story())


def test_why_finds_a_container_by_the_id_that_docker_shows_and_one_that_is_gone_by_its_name():
    async def story() -> None:
        known = container("b", id="0123456789abcdef" * 4)
        async with house(container("a"), known) as it:
            await it.lease("a")
            it.box.engine.start(known.id)
            await until(lambda: any(type(fact).__name__ == "ContainerRefused" for fact in it.box.disk.facts))
            assert (await it.get("/v1/why/0123456789ab")).json()["stopped"]["container"] == "b-main-1"
            assert (await it.get("/v1/why/0")).status_code == 404
            it.pump.post(ContainerGone(known.id))
            await until(lambda: known.id not in it.state.observed.containers)
            why = (await it.get("/v1/why/b-main-1")).json()
            assert (why["target"], why["state"], why["stopped"]["container"]) == ("b", "absent", "b-main-1")
            assert why["command"] == "docker compose -p b create && gpu-supervisor acquire b"

    run(story())


def test_why_of_one_container_is_not_about_its_neighbour():
    async def story() -> None:
        side = container("b", "side", master=False)
        async with house(container("a"), container("b"), side) as it:
            await it.lease("a")
            it.box.engine.start("b-main")
            await until(lambda: any(type(fact).__name__ == "ContainerRefused" for fact in it.box.disk.facts))
            assert (await it.get("/v1/why/b-side-1")).json()["stopped"] is None
            assert (await it.get("/v1/why/b-main-1")).json()["stopped"] is not None

    run(story())


def test_why_of_something_that_was_never_stopped_says_so():
    async def story() -> None:
        async with house(container("a"), container("bad", master=False)) as it:
            why = (await it.get("/v1/why/a")).json()
            assert (why["stopped"], why["by"]) == (None, None)
            assert why["sentence"] == "nothing stopped a, as far as is remembered; a is stopped now"
            assert (await it.get("/v1/why/bad")).json()["command"] == "gpu-supervisor check"

    run(story())


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        pytest.param(
            {"gpu.target": "My Stack", "gpu.healthcheck-master": "true"},
            ("x-main-1", "0123456789ab", "My Stack"),
            'container x-main-1 (service main) has a bad gpu.target: "My Stack" is not a target name; '
            "it belongs to no target, and none of its labels counts",
            id="a malformed gpu.target",
        ),
        pytest.param(
            {"gpu.vram": "8GiB"},
            ("x-main-1",),
            "container x-main-1 (service main) has gpu.vram but no gpu.target: none of its labels counts "
            "(add gpu.target=NAME to it)",
            id="no gpu.target",
        ),
    ],
)
def test_why_of_a_container_without_a_target_says_what_is_wrong_with_its_labels(
    labels: dict[str, str], names: tuple[str, ...], says: str
):
    bare = container("x", id="0123456789abcdef" * 4, target=None, master=False)
    stray = with_labels(bare, parse(labels, container=bare.name, service=bare.service))

    async def story() -> None:
        async with house(container("a"), stray) as it:
            for name in names:
                why = (await it.get(f"/v1/why/{name}")).json()
                assert why["sentence"].startswith(says)
                assert (why["name"], why["target"], why["state"], why["stopped"]) == (name, None, "invalid", None)
                assert why["command"] == "gpu-supervisor check"

    run(story())


def test_why_of_a_leased_target_that_went_down_is_not_an_older_refusal():
    async def story() -> None:
        async with house() as it:
            it.box.engine.start("a-main")
            await until(lambda: any(type(fact).__name__ == "ContainerRefused" for fact in it.box.disk.facts))
            await it.lease("a")
            it.box.engine.start("a-main", status="exited", health="none", exit_code=3)
            await until(lambda: any(type(fact).__name__ == "TargetDown" for fact in it.box.disk.facts))
            why = (await it.get("/v1/why/a")).json()
            assert (why["state"], why["by"]) == ("down", None)
            assert why["sentence"].startswith("a went down: container a-main-1 exited with code 3")

    run(story())


def test_why_of_an_invalid_target_says_once_what_makes_it_invalid():
    bad = container("bad", healthcheck=False)

    async def story() -> None:
        async with house(container("a"), bad) as it:
            problem = it.state.observed.specs["bad"].problems[0]
            assert problem.code == "master_without_healthcheck"
            said = f"{problem.message} ({problem.hint})"
            why = (await it.get("/v1/why/bad")).json()
            assert why["sentence"] == f"nothing stopped bad, as far as is remembered; bad is invalid now: {said}"
            it.box.engine.start(bad.id)
            await until(lambda: any(type(fact).__name__ == "ContainerRefused" for fact in it.box.disk.facts))
            await until(lambda: not it.state.observed.containers[bad.id].runs)
            again = (await it.get("/v1/why/bad")).json()["sentence"]
            assert again.count(problem.message) == 1
            assert again.endswith("; bad is invalid now")

    run(story())
