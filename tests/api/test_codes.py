"""Every code of the table reaches a caller as it is there, with its status, whether to retry, and its context."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.api import build_app
from supervisor.api.problems import RETRY_AFTER_S
from supervisor.api.tokens import TokenMint
from supervisor.core.errors import CODES, Refusal
from supervisor.core.inputs import Acquire, Request
from supervisor.core.model import Lease, Terms, Ticket
from supervisor.core.replies import Granted, Queued, Refused, Released, Reply
from tests.api.house import SECRET, Logs, ScriptedDesk, container, house, open_gate, run


def refusing(code: str, logs_of: str | None = None, **context: object) -> ScriptedDesk:
    def reply(request: Request) -> Reply:
        return Refused(request.request_id, Refusal(code, "because", dict(context)), logs_of)

    return ScriptedDesk(reply)


@pytest.mark.parametrize("code", CODES)
def test_a_refusal_is_answered_as_the_table_says(code):
    async def story() -> None:
        async with refusing(code, queue_index=3).client() as client:
            for method, path, body in (
                ("POST", "/acquire", {"target": "a"}),
                ("POST", "/acquire", {"target": "a", "lease_token": "x"}),
                ("POST", "/release", {"lease_token": "x"}),
                ("POST", "/v1/lease", {}),
                ("POST", "/v1/lease/x/claim", None),
                ("POST", "/v1/lease/x/renew", None),
                ("DELETE", "/v1/lease/x", None),
                ("DELETE", "/v1/leases/l_1", None),
                ("POST", "/v1/targets/a/evict", None),
                ("POST", "/v1/leases/x/move", {"priority": 1}),
            ):
                answer = await client.request(method, path, json=body)
                status, retryable = CODES[code]
                assert answer.status_code == status
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json() == {
                    "type": f"urn:gpu-supervisor:problem:{code}",
                    "title": code.replace("_", " "),
                    "status": status,
                    "detail": "because",
                    "code": code,
                    "retryable": retryable,
                    "queue_index": 3,
                }
                assert ("retry-after" in answer.headers) == (code in RETRY_AFTER_S)

    run(story())


def test_only_what_may_succeed_later_says_when_to_come_back():
    assert all(CODES[code][1] for code in RETRY_AFTER_S)


def test_a_context_never_replaces_a_standard_field():
    async def story() -> None:
        desk = refusing("gpu_busy", status=200, title="fine", owner="ann")
        async with desk.client() as client:
            body = (await client.post("/v1/lease", json={})).json()
            assert (body["status"], body["title"], body["owner"]) == (409, "gpu busy", "ann")

    run(story())


def test_times_in_a_context_are_readable_outside():
    async def story() -> None:
        # The desk's instant is 1 s of supervisor time, and 1 790 000 001 s of wall time.
        async with refusing("gpu_busy", expires_at_ms=61_000).client() as client:
            v1 = (await client.post("/v1/lease", json={})).json()
            plain = (await client.post("/acquire", json={"target": "a"})).json()
            assert v1["expires_at"] == "2026-09-21T14:14:21.000Z"
            assert plain["expires_at"] == 1_790_000_061
            assert "expires_at_ms" not in v1
        async with refusing("gpu_busy", expires_at_ms=None).client() as client:
            assert (await client.post("/v1/lease", json={})).json()["expires_at"] is None

    run(story())


def test_the_last_words_of_what_failed_are_in_the_answer():
    async def story() -> None:
        async with house(container("a")) as it:
            it.box.engine.start = lambda id_: type(it.box.engine).start(  # type: ignore[method-assign]
                it.box.engine, id_, health="unhealthy"
            )
            answer = await it.post("/acquire", {"target": "a"})
            assert (answer.status_code, answer.json()["code"]) == (502, "target_unhealthy")
            assert answer.json()["logs_tail"] == "a-main: cannot load the weights"

    run(story())


def test_last_words_that_cannot_be_had_do_not_hold_the_answer_up():
    async def story() -> None:
        async def hanging(_container_id: str, _lines: int) -> str:
            await asyncio.Event().wait()
            return ""

        async with refusing("target_unhealthy", logs_of="c").client(logs=hanging) as client:
            async with asyncio.timeout(5):
                answer = await client.post("/v1/lease", json={})
            assert (answer.status_code, answer.json()["logs_tail"]) == (502, "")

    run(story())


@pytest.mark.parametrize("path", ["/acquire", "/v1/lease"])
def test_an_answer_that_cannot_be_sent_is_taken_back(path):
    async def story() -> None:
        def queued(request: Request) -> Reply:
            assert isinstance(request, Acquire)
            ticket = Ticket(
                id="l_1",
                order=1,
                token_hash=request.token_hash,
                token_known=True,
                terms=request.terms,
                queued_at_ms=1,
                queued_wall_ms=1,
            )
            desk.state.durable.tickets["l_1"] = ticket
            desk.state.index_ticket(ticket)
            return Queued(request.request_id, "l_1", 0)

        desk = ScriptedDesk(queued)
        app = build_app(desk, mint=TokenMint(SECRET), meter=desk.meter, logs=Logs(), gate=open_gate(), version="1")
        bodies = iter([{"type": "http.request", "body": b'{"target":"a"}', "more_body": False}])

        async def receive() -> dict[str, object]:
            message = next(bodies, None)
            if message is None:
                await asyncio.Event().wait()
                raise AssertionError("the caller never hangs up")
            return message

        async def send(_message: object) -> None:
            raise OSError("broken pipe")

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"14")]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        with pytest.raises(OSError, match="broken pipe"):
            await app({**scope, "server": ("127.0.0.1", 8080), "root_path": ""}, receive, send)
        assert [(gone.request_id, gone.lease_id) for gone in desk.gone] == [(1, "l_1")]

    run(story())


def test_our_own_failure_is_a_problem_without_our_inside_and_gives_back_what_was_granted(caplog):
    async def story() -> None:
        def granted(request: Request) -> Reply:
            assert isinstance(request, Acquire)
            lease = Lease(
                id="l",
                fence=1,
                token_hash=request.token_hash,
                token_known=False,
                terms=Terms(target="a", owner="o", priority=0, ttl_ms=1),
                project="",
                gpus=(),
                vram_mib=None,
                phase="ready",
                granted_at_ms=1,
                granted_wall_ms="a bug",  # type: ignore[arg-type]
                phase_at_ms=1,
            )
            return Granted(request.request_id, lease, 1, "ready")

        desk = ScriptedDesk(granted)
        async with desk.client() as client:
            answer = await client.post("/v1/lease", json={})
            assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
            assert "bug" not in answer.text
            assert [gone.lease_id for gone in desk.gone] == ["l"]

    run(story())
    assert "POST /v1/lease failed" in caplog.text


def test_a_failure_is_logged_without_the_path_that_holds_the_token(caplog):
    async def story() -> None:
        desk = ScriptedDesk(lambda request: Released(request.request_id, True))
        async with desk.client() as client:
            answer = await client.post("/v1/lease/very-secret-token/renew")
            assert answer.status_code == 500

    run(story())
    assert "POST /v1/lease/{token}/renew failed" in caplog.text
    assert "very-secret-token" not in caplog.text


def test_a_token_whose_secret_was_lost_is_said_to_be_lost_and_the_lease_stays():
    async def story() -> None:
        def granted(request: Request) -> Reply:
            assert isinstance(request, Acquire)
            lease = Lease(
                id="l_older",
                fence=1,
                token_hash="of another secret",
                token_known=True,
                terms=request.terms,
                project="",
                gpus=(),
                vram_mib=None,
                phase="ready",
                granted_at_ms=1,
                granted_wall_ms=1,
                phase_at_ms=1,
            )
            return Granted(request.request_id, lease, 1, "ready")

        desk = ScriptedDesk(granted)
        async with desk.client() as client:
            answer = await client.post("/v1/lease", json={}, headers={"Idempotency-Key": "k"})
            assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
            assert desk.gone == []

    run(story())
