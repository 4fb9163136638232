"""``/v1/history``: who held each GPU, and what was in use of it, over the last hour and day."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.api import past, timeline
from supervisor.api.past import Past
from supervisor.api.samples import DAY_MS, HOUR_MS, Samples
from supervisor.api.timeline import Timeline
from supervisor.clock import read_boot_ms
from supervisor.core.facts import AnyFact, LeaseEnded, LeaseGranted, ResidencyBegan, ResidencyEnded, SupervisorStarted
from supervisor.core.model import Gpu, Terms
from tests.api.house import house, run

GPU = Gpu("SIM-0", total_mib=24_576, used_mib=1_000, utilization_percent=50)


def granted(at_ms: int, id_: str = "l_1", target: str | None = "a") -> LeaseGranted:
    terms = Terms(target=target, owner="ann", priority=0, ttl_ms=1)
    return LeaseGranted(
        at_ms, at_ms, id=id_, fence=1, token_hash="", token_known=True, terms=terms, project="", gpus=("SIM-0",),
        vram_mib=1,
    )  # fmt: skip


def ended(at_ms: int, id_: str = "l_1", *, resident: bool = False) -> LeaseEnded:
    return LeaseEnded(at_ms, at_ms, id=id_, reason="released", resident=resident, owner="ann", target="a")


def told(*facts: AnyFact, first: int = 1) -> Timeline:
    line = Timeline()
    for seq, fact in enumerate(facts, first):
        line.take(seq, fact)
    return line


# ---- who held


def test_a_lease_then_a_residency_then_a_lease_again_are_three_holds():
    line = told(
        granted(10), ended(20, resident=True), granted(30, "l_2"), ended(40, "l_2"),
    )  # fmt: skip

    assert [(held.kind, held.id, held.began_ms, held.ended_ms, held.reason) for held in line.ended] == [
        ("lease", "l_1", 10, 20, "released"),
        ("resident", None, 20, 30, "leased"),
        ("lease", "l_2", 30, 40, "released"),
    ]
    assert (line.open, line.known_since_ms) == ({}, None)


def test_a_residency_that_was_evicted_keeps_the_gpus_of_its_lease():
    line = told(granted(10), ended(20, resident=True), ResidencyEnded(50, 50, target="a", reason="evicted"))

    assert (line.ended[-1].gpus, line.ended[-1].reason, line.ended[-1].ended_ms) == (("SIM-0",), "evicted", 50)


def test_a_residency_that_was_there_first_ends_as_well():
    line = told(
        ResidencyBegan(5, 5, target="a", project="", reason="first_start"),
        ResidencyEnded(9, 9, target="a", reason="stopped"),
    )

    assert [(held.began_ms, held.ended_ms, held.gpus) for held in line.ended] == [(5, 9, ())]


def test_a_fact_that_was_taken_before_is_passed_over():
    line = told(granted(10), ended(20))
    line.take(1, granted(10))
    line.take(2, ended(20))

    assert len(line.ended) == 1


def test_where_facts_are_missing_it_says_since_when_it_knows():
    line = told(granted(10), first=1)
    line.take(7, ended(20))  # retention deleted what is between: whose lease this was is not known any more
    line.take(8, granted(30, "l_2"))
    line.take(9, ended(40, "l_2"))

    assert (line.known_since_ms, [held.id for held in line.ended]) == (20, ["l_2"])


def test_of_too_many_holds_the_oldest_are_forgotten_and_it_says_so(monkeypatch):
    monkeypatch.setattr(timeline, "HOLDS_MAX", 2)
    line = told(*(fact for i in range(4) for fact in (granted(10 * i + 1, f"l_{i}"), ended(10 * i + 5, f"l_{i}"))))

    assert ([held.id for held in line.ended], line.known_since_ms) == (["l_2", "l_3"], 15)


def test_what_ended_longer_ago_than_a_day_is_forgotten():
    line = told(granted(10), ended(20), granted(30, "l_2"), ended(40, "l_2"))
    line.forget(40)

    assert [held.id for held in line.ended] == ["l_2"]


# ---- memory


def used(mib: int | None) -> Gpu:
    return Gpu("SIM-0", total_mib=24_576, used_mib=mib)


def test_a_point_is_the_most_that_was_in_use_in_its_step():
    samples = Samples()
    for at_ms, mib in ((10_000, 500), (12_000, 9_000), (14_000, 700), (20_000, None), (31_000, 800)):
        samples.take(at_ms, (used(mib),))

    hour = samples.points("SIM-0", HOUR_MS, 31_000)
    assert (len(hour), samples.since_ms) == (360, 10_000)
    assert [point.used_mib for point in hour[-4:]] == [None, 9_000, None, 800]
    day = samples.points("SIM-0", DAY_MS, 31_000)
    assert (len(day), day[-1].used_mib, day[-2].used_mib) == (720, 9_000, None)


def test_load_is_a_mean_and_unknown_where_nobody_can_read_it():
    samples = Samples()
    for percent in (10, 50):
        samples.take(10_000, (Gpu("SIM-0", utilization_percent=percent),))
    samples.take(20_000, (Gpu("SIM-0"),))

    assert [point.load_percent for point in samples.points("SIM-0", HOUR_MS, 20_000)[-2:]] == [30, None]


def test_memory_is_bounded_and_a_gpu_that_is_gone_is_forgotten_after_a_day():
    samples = Samples()
    for at_ms in range(0, 2 * DAY_MS, 60_000):
        samples.take(at_ms, (used(1), Gpu("SIM-1", used_mib=1)) if at_ms < DAY_MS // 2 else (used(1),))

    kept = {span: {uuid: len(points) for uuid, points in of.items()} for span, of in samples._points.items()}
    assert kept == {HOUR_MS: {"SIM-0": 60}, DAY_MS: {"SIM-0": 720}}


# ---- the route


def test_the_history_tells_who_held_and_what_was_in_use():
    async def story() -> None:
        remembered = Past()
        async with house(past=remembered) as it:
            following = asyncio.create_task(remembered.follow(it.pump))
            token = (await it.lease("a")).json()["token"]
            await it.client.delete(f"/v1/lease/{token}")
            held = (await it.lease(owner="bob")).json()
            answer = (await it.get("/v1/history")).json()
            told = [(one["kind"], one["target"], one["owner"], one["reason"]) for one in answer["holds"]]
            assert told == [
                ("lease", "a", "ann", "released"),
                ("resident", "a", None, "evicted"),
                ("lease", None, "bob", ""),
            ]
            last = answer["holds"][-1]
            assert (last["id"], last["gpus"], last["ended_at"]) == (held["id"], ["SIM-0"], None)
            assert last["began_at"] == held["granted_at"]
            (gpu,) = answer["gpus"]
            assert (len(gpu["used_mib"]), len(gpu["utilization_percent"]), answer["step_seconds"]) == (360, 360, 10)
            assert gpu["used_mib"][-1] is not None
            assert answer["known_since"] is None
            assert answer["began_at"] < answer["first_at"] < answer["sampled_since"] <= answer["ended_at"]
            day = (await it.get("/v1/history", params={"span": "day"})).json()
            assert (day["span"], day["step_seconds"], len(day["holds"])) == ("day", 120, 3)
            assert (await it.get("/v1/history", params={"span": "week"})).json()["code"] == "bad_request"
            following.cancel()

    run(story())


def test_after_a_restart_the_holds_are_told_from_the_audit_and_memory_begins_anew():
    async def story() -> None:
        at_ms = read_boot_ms() - 60_000
        started = SupervisorStarted(at_ms, at_ms, boot_id="boot", boot_ms=at_ms, version="v")
        facts = [started, granted(at_ms + 1), ended(at_ms + 2, resident=True)]
        async with house(facts=facts) as it:
            answer = (await it.get("/v1/history")).json()
            told = [(one["kind"], one["target"], one["reason"]) for one in answer["holds"]]
            assert told == [("lease", "a", "released"), ("resident", "a", "")]
            assert (answer["sampled_since"], answer["known_since"]) == (None, None)
            assert set(answer["gpus"][0]["used_mib"]) == {None}

    run(story())


@pytest.mark.parametrize("most", [3, 20_000], ids=["the newest facts of a long audit", "all of a short one"])
def test_a_first_look_goes_back_so_many_facts_and_says_since_when_it_knows(monkeypatch, most):
    monkeypatch.setattr(past, "FACTS_MAX", most)

    async def story() -> None:
        async with house() as it:
            for _ in range(2):
                token = (await it.lease(owner="ann")).json()["token"]
                await it.client.delete(f"/v1/lease/{token}")
            answer = (await it.get("/v1/history")).json()
            assert (len(answer["holds"]), answer["known_since"] is None) == ((1, False) if most == 3 else (2, True))
            # Two at once, behind more facts: each is told once.
            token = (await it.lease(owner="ann")).json()["token"]
            await it.client.delete(f"/v1/lease/{token}")
            one, two = await asyncio.gather(it.get("/v1/history"), it.get("/v1/history"))
            ids = [hold["id"] for hold in one.json()["holds"]]
            assert ids == [hold["id"] for hold in two.json()["holds"]]
            assert len(set(ids)) == len(ids)

    run(story())
