"""``/v1/status`` and ``/v1/targets``: what there is, and evicting what is resident."""

from __future__ import annotations

import asyncio

from supervisor.api.logs import READS_MAX, LogTails
from supervisor.core.state import Dirty
from tests.api.house import container, house, run, until


def test_targets_are_listed_with_containers_and_problems_and_shown_one_by_one():
    async def story() -> None:
        side = container("a", "side", master=False, vram_mib=1_024)
        async with house(container("a", priority=3), side, container("bad", master=False)) as it:
            everything = (await it.get("/v1/targets")).json()
            a, bad = everything["targets"]
            assert (a["name"], a["state"], a["master"], a["vram_mib"], a["priority"]) == (
                *("a", "stopped", "a-main-1", 1_024, 3),
            )
            assert [(one["service"], one["status"]) for one in a["containers"]] == [
                *(("main", "created"), ("side", "created")),
            ]
            assert (bad["state"], [problem["code"] for problem in bad["problems"]]) == ("invalid", ["no_master"])
            assert everything["problems"] == []
            assert (await it.get("/v1/targets/bad")).json() == bad

            refused = await it.lease("bad")
            assert (refused.status_code, refused.json()["code"]) == (422, "target_invalid")
            assert [problem["code"] for problem in refused.json()["problems"]] == ["no_master"]

    run(story())


def test_a_resident_target_is_evicted_a_leased_one_is_not_and_a_stopped_one_need_not_be():
    async def story() -> None:
        async with house() as it:
            token = (await it.lease("a")).json()["token"]
            leased = await it.post("/v1/targets/a/evict")
            assert (leased.status_code, leased.json()["code"]) == (409, "target_leased")
            await it.client.delete(f"/v1/lease/{token}")
            assert (await it.post("/v1/targets/a/evict")).json() == {"evicted": True}
            await until(lambda: it.box.engine.containers["a-main"].status == "exited")
            assert (await it.post("/v1/targets/a/evict")).json() == {"evicted": False, "reason": "not_resident"}
            assert (await it.get("/v1/targets/a")).json()["state"] == "stopped"

    run(story())


def test_what_a_targets_containers_wrote_is_told_the_masters_first_and_of_four_at_most():
    async def story() -> None:
        more = [container("a", f"side{number}", master=False) for number in range(4)]
        async with house(*more, container("a")) as it:
            it.logs.words = "one\ntwo \x1b[31m"
            told = (await it.get("/v1/targets/a/logs", params={"lines": 2})).json()
            assert (told["target"], told["left_out"], it.logs.lines, it.logs.asked) == ("a", 1, 2, 4)
            assert [one["service"] for one in told["containers"]] == ["main", "side0", "side1", "side2"]
            assert told["containers"][0]["lines"] == ["a-main: one", "two \x1b[31m"]
            it.logs.broken = True
            assert [one["lines"] for one in (await it.get("/v1/targets/a/logs")).json()["containers"]] == [[]] * 4
            it.state.observed.synced = False
            assert (await it.get("/v1/targets/a/logs")).json()["containers"] == []

    run(story())


def test_an_operator_opens_a_gpu_whose_memory_did_not_come_back():
    async def story() -> None:
        async with house() as it:
            assert (await it.post("/v1/gpus/SIM-0/open")).json() == {"opened": False, "reason": "not_closed"}
            it.state.observed.dirty["SIM-0"] = Dirty(None, "512 MiB did not come back")
            (gpu,) = (await it.get("/v1/status")).json()["gpus"]
            assert (gpu["state"], gpu["problem"]) == ("dirty", "512 MiB did not come back")
            assert (await it.post("/v1/gpus/SIM-0/open")).json() == {"opened": True}
            (gpu,) = (await it.get("/v1/status")).json()["gpus"]
            assert (gpu["state"], gpu["problem"]) == ("ok", "")
            newest = (await it.get("/v1/events", params={"limit": 1})).json()["events"]
            assert [fact["type"] for fact in newest] == ["GpuOpened"]

            unknown = await it.post("/v1/gpus/SIM-7/open")
            assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
            assert "SIM-0" in unknown.json()["detail"]
            long = await it.post(f"/v1/gpus/{'x' * 101}/open")
            assert (long.status_code, long.json()["field"]) == (400, "uuid")

    run(story())


def test_the_status_has_host_version_engine_gpus_leases_queue_targets_and_problems():
    async def story() -> None:
        async with house() as it:
            lease = (await it.lease("a")).json()
            ticket = (await it.lease("b", queue=True)).json()
            status = (await it.get("/v1/status")).json()
            assert status.keys() == {
                *("host", "version", "mode", "engine", "journal", "gpus", "leases", "queue", "targets", "problems"),
                "enforcing",
            }
            assert (status["version"], status["engine"]["synced"]) == ("1.2.3", True)
            assert [one["id"] for one in status["leases"]] == [lease["id"]]
            assert [one["id"] for one in status["queue"]] == [ticket["id"]]

    run(story())


def test_log_lines_are_read_once_for_all_who_ask_and_not_of_too_many_containers_at_a_time():
    async def story() -> None:
        asked: list[str] = []
        answer = asyncio.Event()

        async def read(container_id: str, _lines: int) -> str:
            asked.append(container_id)
            await answer.wait()
            return "x" * 100_000

        tails = LogTails(read)
        same = [asyncio.ensure_future(tails.tail("c0", 10)) for _ in range(5)]
        others = [asyncio.ensure_future(tails.tail(f"c{number}", 10)) for number in range(1, READS_MAX + 3)]
        await until(lambda: sum(one.done() for one in others) == 3)
        assert [one.result() for one in others if one.done()] == ["", "", ""]
        answer.set()
        assert {len(tail) for tail in await asyncio.gather(*same)} == {16_000}
        assert asked == [f"c{number}" for number in range(READS_MAX)]
        assert len(await tails.tail("c9", 10)) == 16_000

    run(story())
