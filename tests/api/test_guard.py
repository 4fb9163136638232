"""Browsers on this machine, and web pages in them, must not drive the supervisor."""

from __future__ import annotations

import httpx
import pytest

from supervisor.api.guard import Guard
from tests.api.house import house, run


def ask(
    headers: dict[str, str] | list[tuple[bytes, bytes]],
    *,
    server: tuple[str, int | None] | None = ("127.0.0.1", 8080),
    host: str = "127.0.0.1",
    allowed: tuple[str, ...] = ("gpu.lan",),
    method: str = "GET",
    target: str = "/status",
) -> int:
    """Send one request through the guard; 200 if it comes through."""
    sent: list[int] = []
    told: list[str] = []

    async def inner(_scope: object, _receive: object, send: object) -> None:
        sent.append(200)

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            sent.append(int(str(message["status"])))

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    raw = headers if isinstance(headers, list) else [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]

    async def story() -> None:
        path, _, query = target.partition("?")
        asked = {"method": method, "path": path, "query_string": query.encode()}
        scope = {"type": "http", **asked, "headers": raw, "server": server}
        await Guard(inner, host=host, allowed_hosts=allowed, on_refusal=told.append)(scope, receive, send)

    run(story())
    assert len(told) == (sent[0] >= 400), "a refusal is counted"
    return sent[0]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:8080", "localhost", "localhost:8080", "LOCALHOST", "[::1]", "[::1]:8080"),
        *("gpu.lan", "gpu.lan:8080", "GPU.lan"),
    ],
)
def test_our_own_names_come_through(host):
    assert ask({"host": host}) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1:x"),
        *("localhost@evil.example", "evil.example#localhost", "0.0.0.0", "127.1", "2130706433", "0x7f000001"),
        *("", " ", "localhost ", "localhost.", "[::1", "[::ffff:127.0.0.1]", "gpu.lan.evil", "192.168.1.5", "\xe4"),
    ],
)
def test_foreign_names_are_refused(host):
    assert ask({"host": host}) == 403


def test_no_host_and_two_hosts_are_refused():
    assert ask({}) == 403
    assert ask([(b"host", b"localhost"), (b"host", b"localhost")]) == 403


def test_the_address_that_was_told_to_listen_on_and_the_one_that_was_reached_are_ours():
    assert ask({"host": "10.0.0.7:8080"}, host="10.0.0.7", server=("10.0.0.7", 8080)) == 200
    assert ask({"host": "10.0.0.7:8080"}, host="0.0.0.0", server=("10.0.0.7", 8080)) == 200
    assert ask({"host": "10.0.0.8:8080"}, host="0.0.0.0", server=("10.0.0.7", 8080)) == 403
    assert ask({"host": "[fd00::1]:8080"}, host="::", server=("fd00::1", 8080)) == 200


def test_a_unix_socket_needs_no_host_and_still_no_foreign_page():
    unix = ("/run/gpu.sock", None)
    assert ask({"host": "whatever"}, server=unix) == 200
    assert ask({}, server=unix) == 200
    assert ask({"host": "whatever", "origin": "http://evil.example"}, server=unix) == 403
    assert ask({"sec-fetch-site": "cross-site"}, server=unix) == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://127.0.0.1:8080"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8081"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),
        ({"origin": "http://localhost:8080"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "file://"}, 403),
        ({"origin": "chrome-extension://127.0.0.1:8080"}, 403),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "SAME-ORIGIN"}, 403),
        ({"sec-fetch-site": ""}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8080"}, 403),
    ],
)
def test_a_page_from_elsewhere_is_refused(headers, status):
    assert ask({"host": "127.0.0.1:8080", **headers}) == status


FOLLOWED = {"host": "localhost", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        pytest.param("/", {"sec-fetch-dest": "document"}, 200, id="a link to the page"),
        pytest.param("/docs", {"sec-fetch-dest": "document"}, 200, id="a link to the documents"),
        pytest.param("/status", {"sec-fetch-dest": "document"}, 403, id="a link to what says something"),
        pytest.param("/?key=x", {"sec-fetch-dest": "document"}, 403, id="a link that brings something along"),
        pytest.param("/", {"sec-fetch-dest": "iframe"}, 403, id="a frame"),
        pytest.param("/", {"sec-fetch-dest": "empty", "sec-fetch-mode": "cors"}, 403, id="a script of another page"),
        pytest.param("/", {"sec-fetch-dest": "image", "sec-fetch-mode": "no-cors"}, 403, id="a picture"),
        pytest.param("/", {}, 403, id="nobody says what for"),
        pytest.param("/", {"sec-fetch-dest": "document", "host": "evil.example"}, 403, id="a name that is not ours"),
    ],
)
def test_a_person_may_follow_a_link_from_elsewhere_to_a_page_that_is_the_same_for_everybody(target, headers, status):
    assert ask({**FOLLOWED, **headers}, target=target) == status
    assert ask({**FOLLOWED, **headers}, target=target, method="POST") == 403


def test_one_good_origin_does_not_cover_for_a_foreign_one():
    headers = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"http://evil.example")]
    assert ask(headers) == 403


def test_every_route_is_behind_the_guard(tmp_path):
    async def story() -> None:
        async with house(unix_socket=tmp_path / "gpu.sock") as it:
            for method, path in (("GET", "/healthz"), ("GET", "/v1/events"), ("POST", "/v1/lease"), ("GET", "/nope")):
                answer = await it.client.request(method, path, headers={"Host": "evil.example"})
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
                answer = await it.client.request(method, path, headers={"Sec-Fetch-Site": "cross-site"})
                assert answer.status_code == 403
            assert "access-control-allow-origin" not in (await it.get("/status")).headers

            over_unix = httpx.AsyncHTTPTransport(uds=str(tmp_path / "gpu.sock"))
            async with httpx.AsyncClient(transport=over_unix, base_url="http://any.name") as client:
                assert (await client.get("/status")).status_code == 200
                assert (await client.get("/status", headers={"Origin": "http://evil"})).status_code == 403

    run(story())
