"""The plain endpoints: health, readiness, status, acquire and release."""

from __future__ import annotations

import time

import pytest

from supervisor.core.inputs import EngineLost
from supervisor.core.model import Endpoint
from tests.api.house import container, house, run, until


def test_it_is_alive_and_ready_and_says_why_it_is_not():
    async def story() -> None:
        async with house() as it:
            assert (await it.get("/healthz")).json() == {"status": "ok"}
            ready = await it.get("/readyz")
            assert ready.status_code == 200
            assert ready.json()["ready"] is True
            assert ready.json()["gpus"] == "1 known: SIM-0"

            it.pump.post(EngineLost("ping timed out"))
            await until(lambda: not it.state.observed.synced)
            lost = await it.get("/readyz")
            assert lost.status_code == 503
            assert lost.json()["engine"].startswith("not in sync: ping timed out")
            assert (await it.get("/healthz")).status_code == 200

    run(story())


def test_an_idle_status_has_no_lease_no_service_and_every_target():
    async def story() -> None:
        async with house() as it:
            status = (await it.get("/status")).json()
            assert status["state"].keys() == {"mode", "target", "at", "queue"}
            assert (status["state"]["mode"], status["state"]["target"]) == ("service", None)
            assert status["service"] == {}
            assert status["services"] == {
                "a": {"state": "stopped", "problems": []},
                "b": {"state": "stopped", "problems": []},
            }

    run(story())


def test_acquire_starts_the_target_waits_until_it_is_healthy_and_answers_with_all_of_it():
    async def story() -> None:
        published = container("a", endpoint=Endpoint("127.0.0.1", 8188))
        async with house(published) as it:
            answer = await it.post("/acquire", {"target": "a", "owner": "ann", "lease_ttl_s": 60})
            body = answer.json()
            assert answer.status_code == 200
            assert len(body["lease_token"]) == 43
            assert (body["fence"], body["lease_state"], body["lease_ttl_s"]) == (1, "ready", 60)
            assert abs(body["lease_expires_at"] - time.time() - 60) < 5
            assert body["endpoint"] == {"host": "127.0.0.1", "port": 8188}
            assert body["state"]["lease"] == {"owner": "ann", "expires_at": body["lease_expires_at"]}
            assert body["service"] == {
                "Status": "healthy",
                "healthy_container_count": 1,
                "unhealthy_container_count": 0,
                "no_healthcheck_container_count": 0,
                "container_count": 1,
                "logs_tail": "a-main: cannot load the weights",
            }
            assert body["services"]["a"]["state"] == "ready"
            assert "lease_token" not in (await it.get("/status")).text

    run(story())


def test_a_lease_is_refreshed_with_its_token_for_its_target_only():
    async def story() -> None:
        async with house() as it:
            first = (await it.post("/acquire", {"target": "a"})).json()
            token = first["lease_token"]
            again = await it.post("/acquire", {"target": "a", "lease_token": token, "lease_ttl_s": 100})
            assert (again.status_code, again.json()["lease_token"]) == (200, token)
            assert (again.json()["fence"], again.json()["lease_ttl_s"]) == (first["fence"], 100)

            other = await it.post("/acquire", {"target": "b", "lease_token": token})
            assert (other.status_code, other.json()["code"]) == (409, "target_mismatch")
            unknown = await it.post("/acquire", {"target": "a", "lease_token": "no such token"})
            assert (unknown.status_code, unknown.json()["code"]) == (409, "lease_mismatch")

    run(story())


def test_a_busy_acquire_is_refused_without_a_priority_and_queued_with_one():
    async def story() -> None:
        async with house() as it:
            holder = (await it.post("/acquire", {"target": "a", "owner": "ann"})).json()
            busy = await it.post("/acquire", {"target": "b"})
            assert (busy.status_code, busy.json()["code"], busy.json()["retryable"]) == (409, "gpu_busy", True)
            assert busy.json()["owner"] == "ann"
            assert busy.json()["expires_at"] == holder["lease_expires_at"]
            assert busy.headers["retry-after"] == "5"

            queued = await it.post("/acquire", {"target": "b", "owner": "bob", "priority": 5})
            assert (queued.status_code, queued.json()["queued"], queued.json()["queue_index"]) == (200, True, 0)
            expected = {"owner": "bob", "priority": 5, "target": "b", "claim_expires_at": None}
            assert queued.json()["state"]["queue"] == [expected]
            ticket = queued.json()["lease_token"]
            early = await it.post("/acquire", {"target": "b", "lease_token": ticket})
            assert (early.status_code, early.json()["code"], early.json()["queue_index"]) == (409, "gpu_busy", 0)

    run(story())


def test_the_head_of_the_queue_may_claim_within_its_window_and_nobody_else():
    async def story() -> None:
        async with house() as it:
            holder = (await it.post("/acquire", {"target": "a"})).json()["lease_token"]
            ticket = (await it.post("/acquire", {"target": "b", "priority": 0})).json()["lease_token"]
            released = await it.post("/release", {"lease_token": holder})
            assert released.status_code == 200
            assert released.json()["services"]["a"]["state"] == "resident"
            window = released.json()["state"]["queue"][0]["claim_expires_at"]
            assert abs(window - time.time() - 10) < 5

            fresh = await it.post("/acquire", {"target": "a"})
            assert (fresh.status_code, fresh.json()["code"]) == (409, "gpu_busy")
            assert "queued claimant pending" in fresh.json()["detail"]
            claimed = await it.post("/acquire", {"target": "b", "lease_token": ticket})
            assert (claimed.status_code, claimed.json()["lease_token"]) == (200, ticket)
            assert claimed.json()["services"]["a"]["state"] == "stopped"

    run(story())


def test_release_cancels_a_ticket_and_refuses_a_wrong_token():
    async def story() -> None:
        async with house() as it:
            await it.post("/acquire", {"target": "a"})
            ticket = (await it.post("/acquire", {"target": "b", "priority": 0})).json()["lease_token"]
            cancelled = await it.post("/release", {"lease_token": ticket})
            assert (cancelled.status_code, cancelled.json()["state"]["queue"]) == (200, [])
            wrong = await it.post("/release", {"lease_token": ticket})
            assert (wrong.status_code, wrong.json()["code"]) == (409, "lease_mismatch")

    run(story())


def test_a_forced_release_needs_no_token_and_says_whether_there_was_anything_to_release():
    async def story() -> None:
        async with house() as it:
            await it.post("/acquire", {"target": "a"})
            other = await it.post("/release", {"force": True, "target": "b"})
            assert (other.status_code, other.json()["released"]) == (200, False)
            forced = await it.post("/release", {"force": True})
            assert (forced.status_code, forced.json()["released"]) == (200, True)
            assert "lease" not in forced.json()["state"]

    run(story())


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="neither a token nor force"),
        pytest.param({"force": False}, id="force that is none"),
        pytest.param({"lease_token": "x", "force": True}, id="a token and force"),
        pytest.param({"force": True, "target": "../etc"}, id="a target that is no name"),
    ],
)
def test_a_release_that_says_nothing_clear_is_refused(body):
    async def story() -> None:
        async with house() as it:
            assert (await it.post("/release", body)).status_code == 400

    run(story())


def test_a_hung_engine_costs_a_status_a_quarter_of_a_second_and_one_read():
    async def story() -> None:
        async with house() as it:
            it.logs.hang = True
            answer = await it.post("/acquire", {"target": "a"})
            assert answer.json()["service"]["logs_tail"] == ""
            began = time.monotonic()
            assert (await it.get("/status")).json()["service"]["logs_tail"] == ""
            assert time.monotonic() - began < 2
            assert it.logs.asked == 1

            it.pump.post(EngineLost("no answer"))
            await until(lambda: not it.state.observed.synced)
            asked = it.logs.asked
            assert (await it.get("/status")).status_code == 200
            assert it.logs.asked == asked

    run(story())


def test_trouble_with_log_lines_is_nobody_elses():
    async def story() -> None:
        async with house() as it:
            it.logs.broken = True
            answer = await it.post("/acquire", {"target": "a"})
            assert (answer.status_code, answer.json()["service"]["logs_tail"]) == (200, "")

    run(story())
