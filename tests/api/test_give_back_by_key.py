"""``DELETE /v1/lease`` with an Idempotency-Key: what was asked for with it ends, whoever heard of its token or not."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.api.house import House, container, house, run, until
from tests.api.keyed import AFAR, asking, gate_of, some_keys


async def give_back(it: House, key: str | None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return await it.client.delete("/v1/lease", headers=headers)


def answered(response: httpx.Response) -> tuple[int, dict[str, Any]]:
    return response.status_code, response.json()


RELEASED = (200, {"released": True})
NOTHING = (200, {"released": False, "reason": "unknown_or_expired"})


def test_a_lease_and_a_place_in_the_queue_are_given_back_by_their_keys():
    async def story() -> None:
        async with house() as it:
            await it.lease("a", key="k1")
            ticket = (await it.lease("b", key="k2", queue=True)).json()
            assert answered(await give_back(it, "k2")) == RELEASED
            assert (await it.get(f"/v1/lease/{ticket['token']}")).json()["reason"] == "cancelled"
            assert answered(await give_back(it, "k1")) == RELEASED
            assert not it.state.durable.leases
            assert answered(await give_back(it, "k1")) == NOTHING
            assert answered(await give_back(it, "never-used")) == NOTHING

    run(story())


@pytest.mark.parametrize("body", [{"wait_seconds": 60}, {"wait_seconds": 60, "queue": True}])
def test_a_request_that_is_still_on_the_line_hears_of_it(body: dict[str, Any]):
    async def story() -> None:
        async with house() as it:
            await it.lease("a")
            held = asyncio.create_task(it.lease("b", key="k", **body))
            await until(lambda: it.state.durable.tickets)
            assert answered(await give_back(it, "k")) == RELEASED
            refused = await held
            assert (refused.status_code, refused.json()["code"]) == (409, "lease_ended")
            assert refused.json()["reason"] == "cancelled"
            assert not it.state.durable.tickets

    run(story())


def test_a_bare_lease_that_waits_for_its_room_hears_of_it():
    async def story() -> None:
        async with house(container("a")) as it:
            token = (await it.lease("a")).json()["token"]
            await it.client.delete(f"/v1/lease/{token}")
            it.box.engine.perform = lambda _action, _done: None  # type: ignore[method-assign] # what must go stays
            held = asyncio.create_task(it.lease(key="k"))
            await until(lambda: it.state.durable.leases)
            assert answered(await give_back(it, "k")) == RELEASED
            refused = await held
            assert (refused.status_code, refused.json()["reason"]) == (409, "released")
            assert not it.state.durable.leases

    run(story())


@pytest.mark.parametrize("key", [None, "", "two words", "x" * 256])
def test_without_a_key_nothing_ends_and_what_is_needed_is_said(key: str | None):
    async def story() -> None:
        async with house() as it:
            await it.lease("a", key="k")
            status, problem = answered(await give_back(it, key))
            assert (status, problem["code"]) == (400, "bad_request")
            assert "Idempotency-Key" in problem["detail"]
            assert len(it.state.durable.leases) == 1

    run(story())


def test_nobody_gives_back_what_another_caller_asked_for_with_the_same_key(tmp_path):
    made = some_keys(tmp_path)

    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it:
            key = {"Idempotency-Key": "k"}
            async with asking(it.app, AFAR, made["lease"]) as ann, asking(it.app, AFAR, made["admin"]) as ops:
                assert (await ann.post("/v1/lease", json={"target": "a"}, headers=key)).status_code == 201
                assert answered(await ops.delete("/v1/lease", headers=key)) == NOTHING
                assert len(it.state.durable.leases) == 1
                assert answered(await ann.delete("/v1/lease", headers=key)) == RELEASED

    run(story())
