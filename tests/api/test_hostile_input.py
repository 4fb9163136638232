"""Input that nobody means well with: bodies, queries, paths and raw bytes. Every one is a problem, and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.api.bodies import decode_body, decode_query
from supervisor.api.problems import RequestRefused
from supervisor.api.schemas import AcquireBody, Body, ClaimBody, EventsQuery, LeaseBody, ReleaseBody
from supervisor.core.errors import Refusal
from supervisor.core.inputs import Request
from supervisor.core.replies import Refused, Reply
from tests.api.house import ScriptedDesk, house, run

JSON = {"Content-Type": "application/json"}


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code)
    assert body["detail"]
    assert body["title"]
    assert body["type"].endswith(code)
    assert isinstance(body["retryable"], bool)


def _refuse_to_answer(request: object) -> Reply:
    raise AssertionError(f"this must not get through: {request}")


def unasked() -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """Return a client of a desk that must never be asked anything."""
    return ScriptedDesk(_refuse_to_answer).client()


def known() -> ScriptedDesk:
    """Return a desk that has seen an engine without any target."""

    def unknown(request: Request) -> Reply:
        return Refused(request.request_id, Refusal("target_unknown", "no such target"))

    desk = ScriptedDesk(unknown)
    desk.state.observed.ever_synced = True
    return desk


BODIES = [
    pytest.param(b"", "", id="no body"),
    pytest.param(b" ", "", id="a blank"),
    pytest.param(b"null", "", id="null"),
    pytest.param(b"[]", "", id="an array"),
    pytest.param(b'"a"', "", id="a text"),
    pytest.param(b"{", "", id="cut off"),
    pytest.param(b"{} {}", "", id="two bodies"),
    pytest.param(b"\xef\xbb\xbf{}", "", id="a byte order mark"),
    pytest.param(b'{"target":"\xff\xfe"}', "", id="not UTF-8"),
    pytest.param(b'{"target":"\\ud800"}', "", id="half a surrogate pair"),
    pytest.param(b"[" * 50_000, "", id="fifty thousand arrays"),
    pytest.param(b'{"target":' + b"[" * 50_000, "target", id="fifty thousand arrays in a field"),
    pytest.param(b'{"x":' * 10_000, "", id="ten thousand objects"),
    pytest.param(b'{"target":"a","target":"b"}', "", id="a name twice"),
    pytest.param(b'{"target":"a","nonsense":1}', "", id="an unknown field"),
    pytest.param(b'{"target":5}', "target", id="a number for a text"),
    pytest.param(b'{"target":"a","wait_ready":1}', "wait_ready", id="a number for a boolean"),
    pytest.param(b'{"target":"a","priority":"5"}', "priority", id="a text for a number"),
    pytest.param(b'{"target":"a","priority":1.5}', "priority", id="a fraction"),
    pytest.param(b'{"target":"a","priority":1e999}', "priority", id="infinity"),
    pytest.param(b'{"target":"a","priority":NaN}', "", id="not a number"),
    pytest.param(b'{"target":"a","priority":true}', "priority", id="a boolean for a number"),
    pytest.param(b'{"target":"a","priority":1001}', "priority", id="a priority above the range"),
    pytest.param(b'{"target":"a","owner":null}', "owner", id="null for a text"),
    pytest.param(b'{"target":"a","owner":"a\\nb"}', "owner", id="a line break in a name"),
    pytest.param(b'{"target":"a","owner":"\\u001b[2J"}', "owner", id="a terminal escape in a name"),
    pytest.param(b'{"target":"a","owner":"\\u202ereversed"}', "owner", id="text that runs backwards"),
    pytest.param(b'{"target":"a","owner":"' + b"x" * 257 + b'"}', "owner", id="a long name"),
    pytest.param(b'{"target":"../../etc/passwd"}', "target", id="a path as target"),
    pytest.param(b'{"target":"A"}', "target", id="upper case as target"),
    pytest.param(b'{"target":"a\\u0000"}', "target", id="NUL in a target"),
    pytest.param(b'{"target":"a\\n"}', "target", id="a line break behind a target"),
    pytest.param(b'{"target":""}', "target", id="an empty target"),
]


@pytest.mark.parametrize(("raw", "field"), BODIES)
@pytest.mark.parametrize("path", ["/acquire", "/v1/lease"])
def test_a_body_that_is_not_exactly_what_is_asked_for_is_refused_with_its_field(path, raw, field):
    async def story() -> None:
        async with unasked() as client:
            answer = await client.post(path, content=raw, headers=JSON)
            assert_problem(answer, 400, "bad_request")
            assert answer.json()["field"] == field

    run(story())


NUMBERS = {
    "/acquire": ("lease_ttl_s", "wait_s"),
    "/v1/lease": ("ttl_seconds", "wait_seconds", "ready_timeout_seconds"),
    "/v1/lease/some-token/claim": ("ttl_seconds", "wait_seconds", "ready_timeout_seconds"),
}


@pytest.mark.parametrize("value", ["-1", "2147483648", "9" * 400, "1.0", "1e3", '"5"', "-0.0", "1e999"])
def test_numbers_out_of_range_are_refused_with_their_field(value):
    async def story() -> None:
        async with unasked() as client:
            for path, fields in NUMBERS.items():
                target = b"" if path.endswith("claim") else b'"target":"a",'
                for field in fields:
                    raw = b"{%b%b:%b}" % (target, json.dumps(field).encode(), value.encode())
                    answer = await client.post(path, content=raw, headers=JSON)
                    assert_problem(answer, 400, "bad_request")
                    assert answer.json()["field"] == field

    run(story())


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        pytest.param({}, b"{}", 415, "unsupported_media_type", id="no content type"),
        pytest.param({"Content-Type": "text/plain"}, b"{}", 415, "unsupported_media_type", id="a form's content type"),
        pytest.param(
            {"Content-Type": "application/x-www-form-urlencoded"}, b"a=b", 415, "unsupported_media_type", id="a form"
        ),
        pytest.param(
            {"Content-Type": "application/json; charset=latin-1"}, b"{}", 415, "unsupported_media_type", id="a charset"
        ),
        pytest.param(
            {"Content-Type": "application/jsonp"}, b"{}", 415, "unsupported_media_type", id="nearly the right type"
        ),
        pytest.param(
            {**JSON, "Content-Encoding": "gzip"},
            gzip.compress(b" " * 1_000_000),
            415,
            "unsupported_media_type",
            id="a gzip bomb",
        ),
        pytest.param(JSON, b" " * 65_537, 413, "body_too_large", id="one byte too many"),
        pytest.param(JSON, b" " * 3_000_000, 413, "body_too_large", id="megabytes"),
    ],
)
def test_a_body_of_the_wrong_kind_or_size_is_refused(headers, body, status, code):
    async def story() -> None:
        async with house() as it:
            for path in ("/acquire", "/v1/lease", "/v1/lease/x/renew"):
                assert_problem(await it.client.post(path, content=body, headers=headers), status, code)
            assert (await it.get("/healthz")).status_code == 200

    run(story())


def test_a_body_of_exactly_the_limit_is_read():
    async def story() -> None:
        async with house() as it:
            raw = b'{"target":"a"}'.ljust(65_536)
            assert (await it.client.post("/v1/lease", content=raw, headers=JSON)).status_code == 201

    run(story())


def test_a_body_in_pieces_is_counted_as_it_comes():
    async def story() -> None:
        async with house() as it:

            async def pieces(count: int):
                for _ in range(count):
                    yield b" " * 1_000
                yield b'{"target":"a"}'

            assert (await it.client.post("/v1/lease", content=pieces(30), headers=JSON)).status_code == 201
            assert_problem(await it.client.post("/v1/lease", content=pieces(70), headers=JSON), 413, "body_too_large")

    run(story())


def test_calls_without_a_body_need_no_content_type_and_refuse_what_they_do_not_know():
    async def story() -> None:
        async with house() as it:
            token = (await it.lease("a")).json()["token"]
            assert (await it.client.post(f"/v1/lease/{token}/renew")).status_code == 200
            assert (await it.post(f"/v1/lease/{token}/renew", {})).status_code == 200
            assert_problem(await it.post(f"/v1/lease/{token}/renew", {"ttl": 5}), 400, "bad_request")

    run(story())


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/", 405, "method_not_allowed"),
        ("GET", "/?a=1", 400, "bad_request"),
        ("GET", "/v2/status", 404, "not_found"),
        ("GET", "/status/", 404, "not_found"),
        ("GET", "/v1/lease/a/b/c", 404, "not_found"),
        ("GET", "/v1/targets/..%2f..%2fetc", 404, "not_found"),
        ("GET", "/v1/targets/%00", 400, "bad_request"),
        ("GET", "/v1/targets/A", 400, "bad_request"),
        ("GET", "/v1/targets/%F0%9F%A6%99", 400, "bad_request"),
        ("GET", "/v1/targets/%ff", 400, "bad_request"),
        ("GET", "/v1/targets/nobody", 404, "target_unknown"),
        ("POST", "/v1/targets/nobody/evict", 404, "target_unknown"),
        ("DELETE", "/v1/leases/nobody?only=all", 400, "bad_request"),
        ("DELETE", "/v1/leases/" + "l" * 101, 400, "bad_request"),
        ("DELETE", "/v1/leases/a%0ab", 400, "bad_request"),
        ("GET", "/v1/targets/nobody/logs", 404, "target_unknown"),
        ("GET", "/v1/targets/a/logs?lines=0", 400, "bad_request"),
        ("GET", "/v1/targets/a/logs?lines=201", 400, "bad_request"),
        ("POST", "/v1/leases/x%0ay/move", 400, "bad_request"),
        ("GET", "/v1/why/nobody", 404, "target_unknown"),
        ("GET", "/v1/why/a%0ab", 400, "bad_request"),
        ("GET", "/v1/why/" + "x" * 301, 400, "bad_request"),
        ("PUT", "/v1/lease", 405, "method_not_allowed"),
        ("GET", "/acquire", 405, "method_not_allowed"),
        ("POST", "/v1/events", 405, "method_not_allowed"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/lease", 405, "method_not_allowed"),
        ("TRACE", "/status", 405, "method_not_allowed"),
    ],
)
def test_every_path_and_method_is_answered_with_a_problem_or_at_all(method, path, status, code):
    async def story() -> None:
        async with known().client() as client:
            answer = await client.request(method, path)
            assert_problem(answer, status, code)
            if status == 405:
                assert answer.headers["allow"]

    run(story())


@pytest.mark.parametrize(
    "query",
    [
        "after=-1",
        "after=x",
        "after=1&after=2",
        "limit=0",
        "limit=1001",
        "nonsense=1",
        "after=%ff",
        "target=%0a",
        "&".join(f"a{n}=1" for n in range(30)),
    ],
)
def test_a_query_that_is_not_exactly_what_is_asked_for_is_refused(query):
    async def story() -> None:
        async with unasked() as client:
            assert_problem(await client.get(f"/v1/events?{query}"), 400, "bad_request")
            stream = await client.get(f"/v1/events?{query}", headers={"Accept": "text/event-stream"})
            assert_problem(stream, 400, "bad_request")

    run(story())


def test_head_is_answered_without_a_body():
    async def story() -> None:
        async with house() as it:
            answer = await it.client.head("/status")
            assert (answer.status_code, answer.content) == (200, b"")
            assert (await it.get("/healthz")).status_code == 200

    run(story())


# ---- raw bytes

HOST = b"Host: 127.0.0.1\r\n"
SMUGGLED = b"5\r\n{}   \r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40, id="a TLS hello"),
        pytest.param(b"\0" * 200, id="zeros"),
        pytest.param(b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", id="a version that is none"),
        pytest.param(b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n", id="a path that is not ASCII"),
        pytest.param(b"CONNECT evil:443 HTTP/1.1\r\n" + HOST + b"\r\n", id="a tunnel"),
        pytest.param(b"GET /a\rb HTTP/1.1\r\n" + HOST + b"\r\n", id="a bare CR in the path"),
        pytest.param(b"GET /status HTTP/1.1\r\n" + HOST + b"Bad Header: x\r\n\r\n", id="a blank in a header's name"),
        pytest.param(
            b"POST /v1/lease HTTP/1.1\r\n"
            + HOST
            + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            + SMUGGLED,
            id="a length and chunks",
        ),
        pytest.param(
            b"POST /v1/lease HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
            id="two lengths",
        ),
        pytest.param(b"POST /v1/lease HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(
            b"POST /v1/lease HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
            id="a transfer coding that is none",
        ),
        pytest.param(b"GET /status HTTP/1.1\r\n" + HOST + b" folded: x\r\n\r\n", id="a folded header first"),
    ],
)
def test_bytes_that_are_no_request_are_answered_400_or_less_and_closed(raw):
    async def story() -> None:
        async with house() as it:
            reader, writer = await it.connect()
            writer.write(raw)
            writer.write_eof()
            async with asyncio.timeout(10):
                answer = await reader.read()
            writer.close()
            assert not answer.startswith(b"HTTP/1.1 2"), answer
            if answer:
                assert answer.startswith((b"HTTP/1.1 4",))
                assert b"Traceback" not in answer
            assert (await it.get("/healthz")).status_code == 200
            assert not it.state.durable.leases

    run(story())


# ---- any bytes at all

TYPES = [AcquireBody, LeaseBody, ClaimBody, ReleaseBody]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = st.dictionaries(
    st.sampled_from([*(name for type_ in TYPES for name in type_.__struct_fields__), "x"]), VALUES, max_size=6
)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=300) | FIELDS.map(lambda value: json.dumps(value).encode()), type_=st.sampled_from(TYPES))
def test_any_body_is_decoded_or_refused(raw, type_):
    read = decoded(lambda: decode_body(raw, type_))
    if isinstance(read, Refusal):
        assert read.code == "bad_request"
        assert len(read.detail.encode()) < 2_000
    else:
        assert isinstance(read, type_)


def decoded(read: Callable[[], Body]) -> Body | Refusal:
    """Return what was read, or why it was refused; anything else that is raised fails the test."""
    try:
        return read()
    except RequestRefused as refused:
        return refused.refusal


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=100) | st.text("aftergimlt=&0123456789%+-", max_size=40).map(str.encode))
def test_any_query_is_decoded_or_refused(raw):
    read = decoded(lambda: decode_query(raw, EventsQuery))
    assert isinstance(read, EventsQuery) or read.code == "bad_request"
