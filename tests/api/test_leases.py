"""``/v1/lease``: asking, queueing, claiming, renewing, giving back, keys, and callers that hang up."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime

import pytest

from supervisor.core.facts import LeaseEnded, LeaseGranted, LeaseTold
from supervisor.core.model import Gpu
from supervisor.core.state import Settings
from tests.api.house import House, container, house, run, until

RFC3339_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def seconds_from_now(text: str) -> float:
    assert RFC3339_MS.fullmatch(text)
    return (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()


def test_a_lease_is_answered_with_everything_its_holder_needs():
    async def story() -> None:
        async with house(container("a", vram_mib=8_192)) as it:
            answer = await it.lease("a", ttl_seconds=60)
            body = answer.json()
            assert answer.status_code == 201
            assert answer.headers["cache-control"] == "no-store"
            assert body.keys() == {
                *("token", "id", "fence", "target", "consumer", "owner", "state"),
                *("granted_at", "expires_at", "ends_at", "ttl_seconds", "gpus", "cuda_visible_devices", "vram_mib"),
                *("joined", "pid"),
            }
            assert (body["target"], body["consumer"], body["owner"], body["state"]) == ("a", "a", "ann", "ready")
            assert (body["fence"], body["gpus"], body["vram_mib"]) == (1, ["SIM-0"], 8_192)
            assert (body["cuda_visible_devices"], body["ends_at"], body["joined"]) == ("SIM-0", None, False)
            assert re.fullmatch(r"l_[\w-]{12}", body["id"])
            assert 55 < seconds_from_now(body["expires_at"]) < 61
            assert RFC3339_MS.fullmatch(body["granted_at"])

            seen = (await it.get(f"/v1/lease/{body['token']}")).json()
            assert (seen["id"], seen["state"], seen["why"]) == (body["id"], "ready", "")
            assert "token" not in seen

    run(story())


def test_a_bare_lease_and_a_consumer_are_leases_too():
    async def story() -> None:
        async with house() as it:
            bare = (await it.lease()).json()
            assert (bare["target"], bare["state"]) == (None, "ready")
            await it.client.delete(f"/v1/lease/{bare['token']}")
            named = await it.post("/v1/lease", {"consumer": "a"})
            assert (named.status_code, named.json()["target"]) == (201, "a")

    run(story())


TWO = Settings(
    gpus=(Gpu("SIM-0", 0, total_mib=24_576, used_mib=0), Gpu("SIM-1", 1, total_mib=8_192, used_mib=0)),
)


def test_a_bare_lease_asks_for_gpus_a_size_and_a_class_and_gets_what_cuda_is_told():
    async def story() -> None:
        async with house(core=TWO) as it:
            small = (await it.lease(vram_mib=4_096, gpu_class="low")).json()
            assert (small["gpus"], small["vram_mib"], small["cuda_visible_devices"]) == (["SIM-1"], 4_096, "SIM-1")
            both = (await it.lease(gpus=2, vram_mib=2_048)).json()
            assert both["gpus"] == ["SIM-0", "SIM-1"]
            assert both["cuda_visible_devices"] == "SIM-0,SIM-1"
            seen = (await it.get(f"/v1/lease/{both['token']}")).json()
            assert (seen["cuda_visible_devices"], seen["vram_mib"], seen["joined"]) == ("SIM-0,SIM-1", 2_048, False)
            more = await it.lease(gpus=3)
            assert (more.status_code, more.json()["code"]) == (503, "insufficient_vram")
            unknown = await it.lease(gpu_class="medium")
            assert (unknown.status_code, unknown.json()["code"]) == (503, "gpu_unavailable")

    run(story())


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        pytest.param({"target": "a", "gpus": 2}, "gpus", "gpu.devices", id="gpus of a target"),
        pytest.param({"consumer": "a", "vram_mib": 1}, "vram_mib", "gpu.vram", id="the size of a target"),
        pytest.param({"target": "a", "gpu_class": "low"}, "gpu_class", "gpu.class", id="the class of a target"),
        pytest.param({"gpus": 0}, "gpus", "1", id="no gpu"),
        pytest.param({"gpus": 65}, "gpus", "64", id="more gpus than a machine has"),
        pytest.param({"vram_mib": 0}, "vram_mib", "1", id="no memory"),
        pytest.param({"vram_mib": "8GiB"}, "vram_mib", "int", id="a size in words"),
        pytest.param({"gpu_class": "Low"}, "gpu_class", "did you mean low?", id="a class that is no name"),
    ],
)
def test_what_a_bare_lease_cannot_ask_for_is_refused_by_its_field(body, field, said):
    async def story() -> None:
        async with house(core=TWO) as it:
            refused = await it.post("/v1/lease", body)
            assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (400, "bad_request", field)
            assert said in refused.json()["detail"]
            assert not it.state.durable.leases

    run(story())


def test_a_key_tells_requests_for_other_gpus_apart():
    async def story() -> None:
        async with house(core=TWO) as it:
            first = await it.lease(key="k", gpus=1, vram_mib=1_024)
            again = await it.lease(key="k", vram_mib=1_024)
            assert (again.status_code, again.json()["token"]) == (201, first.json()["token"])
            for other in ({"gpus": 2, "vram_mib": 1_024}, {"vram_mib": 2_048}, {"vram_mib": 1_024, "gpu_class": "low"}):
                refused = await it.lease(key="k", **other)
                assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_conflict")

    run(story())


def test_who_joins_a_target_is_told_that_others_have_it_too():
    async def story() -> None:
        async with house(container("a", max_holders=2)) as it:
            first = (await it.lease("a")).json()
            second = (await it.lease("a")).json()
            assert (first["joined"], second["joined"]) == (False, True)
            assert (await it.get(f"/v1/lease/{first['token']}")).json()["joined"] is True
            await it.client.delete(f"/v1/lease/{second['token']}")
            assert (await it.get(f"/v1/lease/{first['token']}")).json()["joined"] is False

    run(story())


def test_a_holder_is_told_when_its_lease_ends_because_others_wait():
    async def story() -> None:
        async with house(facts=[]) as it:
            token = (await it.lease()).json()["token"]
            assert (await it.post(f"/v1/lease/{token}/renew")).json()["ends_at"] is None
            facts = list(it.box.disk.facts)
        last = facts[-1]
        (id_,) = (fact.id for fact in facts if isinstance(fact, LeaseGranted))
        told = LeaseTold(last.at_ms, last.wall_ms, id=id_, ends_at_ms=last.at_ms + 900_000, owner="ann", target=None)
        async with house(facts=[*facts, told]) as it:
            renewed = (await it.post(f"/v1/lease/{token}/renew")).json()
            assert 880 < seconds_from_now(renewed["ends_at"]) < 901
            looked_up = (await it.get(f"/v1/lease/{token}")).json()["ends_at"]
            assert abs(seconds_from_now(looked_up) - seconds_from_now(renewed["ends_at"])) < 0.1, "one moment"

    run(story())


def test_a_dry_run_says_what_would_happen_and_changes_nothing():
    async def story() -> None:
        async with house(container("a", vram_mib=8_192), container("b")) as it:
            free = await it.post("/v1/lease", {"target": "a", "owner": "ann", "dry_run": True})
            assert free.status_code == 200
            body = free.json()
            assert (body["would"], body["why"], body["code"]) == ("grant", "the GPU is free; a would be started", None)
            assert (body["start"], body["vram_mib"], body["gpus"], body["evicts"]) == ("cold", 8_192, ["SIM-0"], [])
            assert (body["position"], body["ahead"], body["until"]) == (None, [], None)
            assert not any(isinstance(fact, LeaseGranted) for fact in it.box.disk.facts)

            held = (await it.lease("b", owner="bob")).json()
            busy = (await it.post("/v1/lease", {"target": "a", "dry_run": True, "wait_seconds": 600})).json()
            assert (busy["would"], busy["code"], busy["retryable"], busy["position"]) == ("wait", "gpu_busy", True, 0)
            assert [(ahead["id"], ahead["owner"]) for ahead in busy["ahead"]] == [(held["id"], "bob")]
            assert "place 1 in the queue" in busy["why"]
            assert seconds_from_now(busy["until"]) > 200
            assert (await it.get("/v1/status")).json()["queue"] == []

            await it.client.delete(f"/v1/lease/{held['token']}")
            swap = (await it.post("/v1/lease", {"target": "a", "dry_run": True})).json()
            assert (swap["would"], swap["evicts"]) == ("grant", ["b"])
            assert swap["why"] == "the GPU is free; a would be started, and b stopped for it"

            never = (await it.post("/v1/lease", {"target": "c", "dry_run": True})).json()
            assert (never["would"], never["code"], never["retryable"]) == ("refuse", "target_unknown", False)

    run(story())


def test_a_dry_run_uses_up_no_key():
    async def story() -> None:
        async with house() as it:
            key = {"Idempotency-Key": "job-1"}
            dry = await it.client.post("/v1/lease", json={"target": "a", "dry_run": True}, headers=key)
            real = await it.client.post("/v1/lease", json={"target": "a", "ttl_seconds": 60}, headers=key)
            assert (dry.status_code, real.status_code) == (200, 201)

    run(story())


@pytest.mark.parametrize(("asked", "given"), [(0, 10), (1, 10), (300, 300), (2**31 - 1, 3_600)])
def test_a_ttl_is_clamped_and_the_answer_says_to_what(asked, given):
    async def story() -> None:
        async with house() as it:
            body = (await it.lease("a", ttl_seconds=asked)).json()
            assert body["ttl_seconds"] == given
            assert given - 5 < seconds_from_now(body["expires_at"]) < given + 1
            renewed = (await it.post(f"/v1/lease/{body['token']}/renew")).json()
            assert renewed["ttl_seconds"] == given

    run(story())


def test_a_renewal_moves_the_expiry_and_waits_for_no_disk():
    async def story() -> None:
        async with house() as it:
            token = (await it.lease("a", ttl_seconds=600)).json()["token"]
            it.box.disk.open.clear()
            released = asyncio.ensure_future(it.client.delete("/v1/lease/of-nobody"))
            queued = asyncio.ensure_future(it.lease("b", queue=True))
            await until(lambda: it.state.durable.tickets)
            renewed = await it.post(f"/v1/lease/{token}/renew")
            assert renewed.status_code == 200
            assert (renewed.json()["token"], renewed.json()["ttl_seconds"]) == (token, 600)
            assert 595 < seconds_from_now(renewed.json()["expires_at"]) < 601
            assert not queued.done()
            it.box.disk.open.set()
            assert (await queued).status_code == 202
            await released

    run(story())


def test_a_busy_gpu_is_refused_at_once_queued_or_waited_for_as_asked():
    async def story() -> None:
        async with house() as it:
            token = (await it.lease("a")).json()["token"]
            refused = await it.lease("b")
            assert (refused.status_code, refused.json()["code"]) == (409, "gpu_busy")
            assert RFC3339_MS.fullmatch(refused.json()["expires_at"])

            ticket = await it.lease("b", queue=True, priority=3, ttl_seconds=1)
            body = ticket.json()
            assert (ticket.status_code, body["state"], body["position"], body["priority"]) == (202, "queued", 0, 3)
            assert body["ttl_seconds"] == 10
            assert [one["target"] for one in body["ahead"]] == ["a"]
            assert body["why"] == "a holds the GPU (owner ann)"
            assert seconds_from_now(body["until"]) > 0

            waiting = asyncio.ensure_future(it.lease("a", wait_seconds=60, owner="eve"))
            await until(lambda: len(it.state.queue) == 2)
            last = (await it.get("/v1/status")).json()["queue"][1]
            assert (last["owner"], last["position"]) == ("eve", 1)
            assert last["why"] == "a holds the GPU (owner ann); 1 ahead of it in the queue"

            await it.client.delete(f"/v1/lease/{body['token']}")
            assert (await it.client.delete(f"/v1/lease/{token}")).json() == {"released": True}
            answer = await waiting
            assert (answer.status_code, answer.json()["owner"], answer.json()["state"]) == (201, "eve", "ready")

    run(story())


def test_a_wait_that_runs_out_ends_in_a_refusal_or_in_a_ticket():
    async def story() -> None:
        async with house() as it:
            await it.lease("a")
            refused, queued = await asyncio.gather(
                it.lease("b", wait_seconds=1), it.lease("b", wait_seconds=1, queue=True)
            )
            assert (refused.status_code, refused.json()["code"]) == (503, "scheduler_timeout")
            assert refused.json()["retryable"] is True
            assert (queued.status_code, queued.json()["state"]) == (202, "queued")

    run(story())


def test_a_ticket_is_claimed_in_its_window_or_waited_for_on_the_line():
    async def story() -> None:
        async with house() as it:
            holder = (await it.lease("a")).json()["token"]
            ticket = (await it.lease("b", queue=True)).json()["token"]
            early = await it.post(f"/v1/lease/{ticket}/claim")
            assert (early.status_code, early.json()["code"]) == (409, "gpu_busy")

            claiming = asyncio.ensure_future(it.post(f"/v1/lease/{ticket}/claim", {"wait_seconds": 60}))
            await until(lambda: it.state.observed.holds)
            await it.client.delete(f"/v1/lease/{holder}")
            claimed = await claiming
            assert (claimed.status_code, claimed.json()["token"]) == (200, ticket)

            polled = (await it.lease("a", queue=True)).json()["token"]
            await it.client.delete(f"/v1/lease/{ticket}")
            view = (await it.get(f"/v1/lease/{polled}")).json()
            assert (view["state"], view["why"]) == ("claimable", "it is its turn: claim it")
            assert 0 < seconds_from_now(view["until"]) <= 10
            assert (await it.post(f"/v1/lease/{polled}/claim", {"ttl_seconds": 77})).json()["ttl_seconds"] == 77

    run(story())


def test_a_release_is_idempotent_and_the_token_tells_what_became_of_it():
    async def story() -> None:
        async with house() as it:
            token = (await it.lease("a")).json()["token"]
            assert (await it.client.delete(f"/v1/lease/{token}")).json() == {"released": True}
            again = (await it.client.delete(f"/v1/lease/{token}")).json()
            assert again == {"released": False, "reason": "unknown_or_expired"}
            seen = (await it.get(f"/v1/lease/{token}")).json()
            assert (seen["state"], seen["reason"], seen["what"]) == ("ended", "released", "lease")
            renewed = await it.post(f"/v1/lease/{token}/renew")
            assert (renewed.status_code, renewed.json()["code"]) == (404, "lease_unknown")
            claimed = await it.post(f"/v1/lease/{token}/claim")
            assert (claimed.status_code, claimed.json()["code"]) == (409, "lease_ended")

    run(story())


def test_nobody_is_told_anything_about_a_token_that_never_was():
    async def story() -> None:
        async with house() as it:
            id_ = (await it.lease("a")).json()["id"]
            for guess in ("x", "l_000000000000", id_):
                for answer in (
                    await it.get(f"/v1/lease/{guess}"),
                    await it.post(f"/v1/lease/{guess}/renew"),
                    await it.post(f"/v1/lease/{guess}/claim"),
                ):
                    assert (answer.status_code, answer.json()["code"]) == (404, "lease_unknown")
                assert (await it.client.delete(f"/v1/lease/{guess}")).json()["released"] is False

    run(story())


# ---- idempotency keys


def test_a_retry_with_a_key_gets_the_first_answer_with_the_same_token_and_no_second_lease():
    async def story() -> None:
        async with house() as it:
            first = (await it.lease("a", key="k1")).json()
            again = await it.lease("a", key="k1")
            assert again.status_code == 201
            assert (again.json()["token"], again.json()["id"]) == (first["token"], first["id"])
            assert sum(isinstance(fact, LeaseGranted) for fact in it.box.disk.facts) == 1
            # Spelled differently, it is the same request.
            raw = b'{ "consumer":"a","ttl_seconds":300, "owner":"ann" }'
            headers = {"Idempotency-Key": "k1", "Content-Type": "application/json"}
            spelled = await it.client.post("/v1/lease", content=raw, headers=headers)
            assert spelled.json()["token"] == first["token"]

            other = await it.lease("b", key="k1")
            assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
            await it.client.delete(f"/v1/lease/{first['token']}")
            ended = await it.lease("a", key="k1")
            assert (ended.status_code, ended.json()["code"]) == (409, "lease_ended")

    run(story())


def test_a_retry_of_a_queued_request_gets_its_ticket_again():
    async def story() -> None:
        async with house() as it:
            await it.lease("a")
            first = (await it.lease("b", key="k1", queue=True)).json()
            again = await it.lease("b", key="k1", queue=True)
            assert (again.status_code, again.json()["token"]) == (202, first["token"])
            assert len(it.state.durable.tickets) == 1

    run(story())


def test_a_retry_gets_the_same_token_from_another_process_with_the_same_journal_and_secret():
    async def story() -> None:
        async with house() as it:
            first = (await it.lease("a", key="k1")).json()
            waiting = (await it.lease("b", key="k2", queue=True)).json()
            facts, containers = list(it.box.disk.facts), list(it.box.engine.containers.values())
        async with house(*containers, facts=facts) as it:
            again = await it.lease("a", key="k1")
            assert (again.status_code, again.json()["token"], again.json()["id"]) == (201, first["token"], first["id"])
            assert (await it.lease("b", key="k2", queue=True)).json()["token"] == waiting["token"]
            assert (await it.post(f"/v1/lease/{first['token']}/renew")).status_code == 200
            facts = list(it.box.disk.facts)
        async with house(*containers, facts=facts, secret=b"another secret, of the same length!!") as it:
            lost = await it.lease("a", key="k1")
            assert (lost.status_code, lost.json()["code"]) == (409, "idempotency_conflict")
            assert it.state.durable.leases

    run(story())


def test_a_refusal_is_not_remembered_under_its_key():
    async def story() -> None:
        async with house() as it:
            token = (await it.lease("a")).json()["token"]
            assert (await it.lease("b", key="k1")).status_code == 409
            await it.client.delete(f"/v1/lease/{token}")
            assert (await it.lease("b", key="k1")).status_code == 201

    run(story())


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "k\u00e9y"])
def test_a_key_that_is_none_is_refused(key):
    async def story() -> None:
        async with house() as it:
            headers = {"Idempotency-Key": key.encode("latin-1")}
            answer = await it.client.post("/v1/lease", json={"target": "a"}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
            assert not it.state.durable.leases

    run(story())


def test_two_keys_in_one_request_are_refused():
    async def story() -> None:
        async with house() as it:
            headers = [("Idempotency-Key", "k1"), ("Idempotency-Key", "k2")]
            answer = await it.client.post("/v1/lease", json={"target": "a"}, headers=headers)
            assert answer.status_code == 400

    run(story())


# ---- hanging up


async def half_ask(it: House, path: str, body: dict[str, object], headers: str = "") -> asyncio.StreamWriter:
    """Send a whole request and leave the answer unread."""
    _, writer = await it.connect()
    raw = json.dumps(body)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{it.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\n{headers}\r\n{raw}".encode()
    )
    await writer.drain()
    return writer


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
def test_a_caller_that_hangs_up_leaves_the_queue_within_a_second(abort):
    async def story() -> None:
        async with house() as it:
            await it.lease("a")
            writer = await half_ask(it, "/v1/lease", {"target": "b", "wait_seconds": 600})
            await until(lambda: it.state.durable.tickets)
            if abort:
                writer.transport.abort()
            else:
                writer.close()
            async with asyncio.timeout(1):
                await until(lambda: not it.state.durable.tickets)

    run(story())


def test_a_caller_that_hangs_up_while_its_target_starts_gives_the_gpu_back():
    async def story() -> None:
        async with house() as it:
            it.box.engine.start = lambda *_args, **_values: None  # type: ignore[method-assign]  # it never comes up
            writer = await half_ask(it, "/acquire", {"target": "a"})
            await until(lambda: it.state.durable.leases)
            writer.close()
            await until(lambda: any(isinstance(fact, LeaseEnded) for fact in it.box.disk.facts))
            ends = [fact for fact in it.box.disk.facts if isinstance(fact, LeaseEnded)]
            assert [fact.reason for fact in ends] == ["caller_gone"]

    run(story())


def test_a_hang_up_is_noticed_behind_a_request_that_was_pipelined():
    async def story() -> None:
        async with house() as it:
            await it.lease("a")
            writer = await half_ask(it, "/v1/lease", {"target": "b", "wait_seconds": 600})
            await until(lambda: it.state.durable.tickets)
            writer.write(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{it.port}\r\n\r\n".encode())
            await writer.drain()
            writer.close()
            async with asyncio.timeout(1):
                await until(lambda: not it.state.durable.tickets)

    run(story())


def test_a_grant_that_meets_an_empty_chair_is_taken_back():
    async def story() -> None:
        async with house() as it:
            it.box.disk.open.clear()
            writer = await half_ask(it, "/v1/lease", {"wait_ready": False})
            await until(lambda: it.state.durable.leases)
            writer.close()
            await until(lambda: it.gone)
            it.box.disk.open.set()
            await until(lambda: not it.state.durable.leases)

    run(story())


def test_with_a_key_a_lost_answer_can_be_fetched_again():
    async def story() -> None:
        async with house() as it:
            it.box.disk.open.clear()
            body = {"target": "a", "owner": "ann"}
            writer = await half_ask(it, "/v1/lease", body, "Idempotency-Key: k1\r\n")
            await until(lambda: it.state.durable.leases)
            writer.close()
            await until(lambda: it.gone)
            it.box.disk.open.set()
            answer = await it.lease("a", key="k1")
            assert answer.status_code == 201
            assert sum(isinstance(fact, LeaseGranted) for fact in it.box.disk.facts) == 1

    run(story())


def test_a_thousand_callers_on_the_line_slow_nobody_and_leave_nothing_behind():
    async def story() -> None:
        async with house() as it:
            holder = (await it.lease("a")).json()["token"]
            writers = [await half_ask(it, "/v1/lease", {"target": "b", "wait_seconds": 600}) for _ in range(1_000)]
            await until(lambda: len(it.state.queue) == 1_000)
            status = await it.get("/v1/status")
            assert len(status.json()["queue"]) == 1_000
            assert (await it.post(f"/v1/lease/{holder}/renew")).status_code == 200
            for writer in writers:
                writer.close()
            await until(lambda: not it.state.queue)
            assert not it.state.observed.holds

    run(story())


def test_an_operator_ends_a_lease_and_cancels_a_ticket_by_their_public_ids():
    async def story() -> None:
        async with house() as it:
            held = (await it.lease("a")).json()
            ticket = (await it.lease("b", queue=True)).json()
            spared = await it.client.delete(f"/v1/leases/{held['id']}", params={"only": "ticket"})
            assert spared.json() == {"released": False, "reason": "granted"}
            assert (await it.client.delete(f"/v1/leases/{ticket['id']}")).json() == {"released": True}
            assert (await it.get(f"/v1/lease/{ticket['token']}")).json()["reason"] == "forced"
            assert (await it.client.delete(f"/v1/leases/{held['id']}")).json() == {"released": True}
            again = await it.client.delete(f"/v1/leases/{held['id']}")
            assert again.json() == {"released": False, "reason": "unknown_or_ended"}
            assert (await it.client.delete(f"/v1/leases/{held['token']}")).json()["released"] is False
            told = [event["sentence"] for event in (await it.get("/v1/events")).json()["events"]]
            assert "the ticket of ann for b was cancelled by an operator" in told
            assert "the lease of ann on a was taken away by an operator; a stays resident" in told
            status = (await it.get("/v1/status")).json()
            assert (status["leases"], status["queue"]) == ([], [])

    run(story())


def test_an_operator_changes_the_order_of_the_queue_by_public_ids():
    async def story() -> None:
        async with house() as it:
            held = (await it.lease("a")).json()
            first = (await it.lease("b", queue=True)).json()
            second = (await it.lease("b", owner="bob", queue=True)).json()
            path = f"/v1/leases/{second['id']}/move"
            looked = await it.post(path, {"priority": 7, "dry_run": True})
            assert looked.json() == {"moved": False, "position": 0, "reason": "dry_run"}
            assert (await it.post(path, {"priority": 7})).json() == {"moved": True, "position": 0}
            queue = (await it.get("/v1/status")).json()["queue"]
            assert [(one["id"], one["priority"]) for one in queue] == [(second["id"], 7), (first["id"], 0)]
            newest = (await it.get("/v1/events", params={"limit": 1})).json()["events"]
            told = f"the ticket of bob for b was moved by an operator: priority 7 instead of 0 ({second['id']})"
            assert newest[0]["sentence"] == told
            for id_, reason in ((held["id"], "granted"), ("nobody", "unknown_or_ended")):
                answer = await it.post(f"/v1/leases/{id_}/move", {"priority": 1})
                assert answer.json() == {"moved": False, "position": None, "reason": reason}
            assert (await it.post(path, {"priority": 1_001})).json()["field"] == "priority"
            assert (await it.post(f"/v1/leases/{'x' * 101}/move", {"priority": 1})).json()["field"] == "id"

    run(story())
