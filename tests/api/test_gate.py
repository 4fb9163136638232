"""Who a caller is taken for, what its key is for, and what becomes of wrong keys and of too many requests."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from supervisor import keys
from supervisor.api.gate import Gate
from supervisor.api.throttle import FREE_GUESSES, KNOWN_MAX, Guesses, Meter
from supervisor.core.facts import LeaseEnded, LeaseGranted, ResidencyEnded, TicketEnded, TicketMoved, TicketQueued
from supervisor.keys import KeyBook, keys_file
from tests.api.house import House, container, house, run
from tests.api.keyed import AFAR, LOOPBACK, OTHER_UID, From, asking, gate_of, some_keys, user


class Watch:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str | None]:
    return some_keys(tmp_path)


def patient_gate(folder: Path, watch: Watch, **settings: Any) -> Gate:
    return Gate(KeyBook(keys_file(folder)), now_s=watch, **settings)


async def status(it: House, headers: Any, where: From = LOOPBACK) -> httpx.Response:
    async with asking(it.app, where) as client:
        return await client.get("/v1/status", headers=headers)


# ---- the header


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        ("Authorization", "Bearer {}", 200),
        ("Authorization", "bearer   {} ", 200),
        ("X-API-Key", "{}", 200),
        ("X-API-Key", " {} ", 200),
        ("Authorization", "Basic {}", 401),
        ("Authorization", "{}", 401),
        ("Authorization", "Bearer", 401),
        ("Authorization", "Bearer {}x", 401),
        ("X-API-Key", "Bearer {}", 401),
        ("X-API-Key", "", 401),
        ("X-API-Key", "\xe4" * 20_000, 401),
        ("Cookie", "key={}", 401),
    ],
)
def test_a_key_comes_in_one_of_two_headers(tmp_path, made, header, value, expected):
    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it:
            raw = [(header.encode(), value.format(made["read"]).encode("latin-1"))]
            assert (await status(it, raw)).status_code == expected

    run(story())


def test_two_different_keys_are_a_contradiction_and_one_twice_is_not(tmp_path, made):
    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it:
            both = {"Authorization": f"Bearer {made['read']}", "X-API-Key": str(made["admin"])}
            answer = await status(it, both)
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
            assert (await status(it, {**both, "X-API-Key": str(made["read"])})).status_code == 200
            # A proxy's login beside the key is the proxy's business.
            assert (await status(it, {**both, "Authorization": "Basic YTpi"})).status_code == 200

    run(story())


# ---- what it is for


def test_a_key_leases_and_evicts_its_own_targets_and_reads_all(tmp_path):
    whisper = keys.create(tmp_path, "w", "admin", ("whisper*",))[1]
    stacks = [container(name) for name in ("whisper-1", "ollama")]

    async def story() -> None:
        async with house(*stacks, gate=gate_of(tmp_path)) as it, asking(it.app, AFAR, whisper) as client:

            async def code(path: str, body: Any = None) -> str:
                answer = await client.post(path, json=body)
                return answer.json()["code"] if answer.status_code == 403 else "let in"

            leased = await client.post("/v1/lease", json={"target": "whisper-1"})
            assert leased.status_code == 201
            for path, body in (
                ("/v1/lease", {"target": "ollama"}),
                ("/v1/lease", {"consumer": "ollama", "dry_run": True}),
                ("/v1/lease", {}),
                ("/acquire", {"target": "ollama"}),
                ("/release", {"force": True, "target": "ollama"}),
                ("/release", {"force": True}),
                ("/v1/targets/ollama/evict", None),
                ("/v1/gpus/SIM-0/open", None),
                ("/v1/leases/l_0/move", {"priority": 1}),
            ):
                assert await code(path, body) == "forbidden", (path, body)
            # By an id it could be anybody's.
            assert (await client.delete("/v1/leases/l_0")).status_code == 403
            assert await code("/v1/targets/whisper-1/evict") == "let in"
            assert await code("/release", {"force": True, "target": "whisper-1"}) == "let in"
            assert (await client.get("/v1/targets/ollama")).status_code == 200

    run(story())


def test_the_token_of_a_lease_needs_no_more_than_the_role(tmp_path):
    """It is a capability: whoever was handed it may keep the lease and give it back, whatever its own key is for."""
    one = keys.create(tmp_path, "one", "lease", ("a",))[1]
    other = keys.create(tmp_path, "other", "lease", ("b",))[1]

    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it:
            async with asking(it.app, AFAR, one) as client:
                token = (await client.post("/v1/lease", json={"target": "a"})).json()["token"]
            async with asking(it.app, AFAR, other) as client:
                assert (await client.post(f"/v1/lease/{token}/renew")).status_code == 200
                refreshed = await client.post("/acquire", json={"target": "a", "lease_token": token})
                assert refreshed.status_code == 200
                assert (await client.delete(f"/v1/lease/{token}")).json() == {"released": True}

    run(story())


@pytest.mark.parametrize(
    ("patterns", "target", "expected"),
    [
        (("*",), "a", True),
        (("*",), None, True),
        (("a*",), "abc", True),
        (("a*",), None, False),
        (("@bare",), None, True),
        (("@bare",), "bare", False),
        (("a?", "b"), "ab", True),
        (("a?", "b"), "abc", False),
        (("a.c",), "abc", False),
        (("a",), "A", False),
    ],
)
def test_patterns_cover_names_and_only_two_of_them_the_gpu_alone(patterns, target, expected):
    assert keys.reaches(patterns, target) is expected


# ---- who it was


def test_the_audit_names_the_caller_beside_the_owner_that_it_claims_to_be(tmp_path, made):
    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it:
            async with asking(it.app, AFAR, made["lease"]) as client:
                assert (await client.post("/v1/lease", json={"target": "a", "owner": "the boss"})).status_code == 201
                waits = (await client.post("/v1/lease", json={"queue": True})).json()["id"]
            async with asking(it.app, user(0)) as client:
                assert (await client.post(f"/v1/leases/{waits}/move", json={"priority": 1})).json()["moved"] is True
                assert (await client.delete(f"/v1/leases/{waits}")).json()["released"] is True
                assert (await client.post("/release", json={"force": True})).json()["released"] is True
                assert (await client.post("/v1/targets/a/evict")).json()["evicted"] is True
                events = (await client.get("/v1/events?limit=1000")).json()["events"]
            of = {event["type"]: event for event in events}
            told = [
                (of[kind.__name__]["fields"]["caller"], of[kind.__name__]["sentence"])
                for kind in (LeaseGranted, LeaseEnded, ResidencyEnded, TicketQueued, TicketMoved, TicketEnded)
            ]
            assert [caller for caller, _ in told] == ["key lease", "uid 0", "uid 0", "key lease", "uid 0", "uid 0"]
            assert "is leased to the boss" in told[0][1]
            assert told[0][1].endswith(", key lease)")
            assert told[1][1].startswith("the lease of the boss on a was taken away by an operator (uid 0)")
            assert told[2][1] == "a was evicted by an operator (uid 0)"

    run(story())


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (LOOPBACK, "loopback"),
        (From(("::1", 5)), "loopback"),
        (From(("::ffff:127.0.0.1", 5)), "loopback"),
        (AFAR, "address 192.0.2.7"),
        (user(OTHER_UID), "uid 1000"),
    ],
)
def test_without_keys_the_way_in_is_the_name(tmp_path, where, name):
    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it, asking(it.app, where) as client:
            await client.post("/v1/lease", json={})
            assert [lease.terms.caller for lease in it.state.durable.leases.values()] == [name]

    run(story())


def test_an_idempotency_key_of_one_caller_is_none_of_another(tmp_path, made):
    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it:
            tokens = []
            for where, key in ((AFAR, made["lease"]), (AFAR, made["admin"]), (user(OTHER_UID), None)):
                async with asking(it.app, where, key) as client:
                    body = {"target": "a", "queue": True, "wait_ready": False}
                    for _ in range(2):
                        answer = await client.post("/v1/lease", json=body, headers={"Idempotency-Key": "k"})
                        tokens.append(answer.json()["token"])
            assert len(set(tokens)) == 3
            assert tokens[::2] == tokens[1::2], "of one caller it is the same request again"

    run(story())


# ---- while it runs


def test_a_key_that_was_made_or_revoked_counts_at_the_next_request(tmp_path):
    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it:
            assert (await status(it, {})).status_code == 200
            one = keys.create(tmp_path, "one", "read")[1]
            assert (await status(it, {})).status_code == 401
            assert (await status(it, {"X-API-Key": one})).status_code == 200
            keys.revoke(tmp_path, "one")
            assert (await status(it, {"X-API-Key": one})).status_code == 401
            assert (await status(it, {})).status_code == 401, "the last key is gone, and nothing opens by that"

    run(story())


def test_a_stream_ends_when_its_key_does(tmp_path):
    one = keys.create(tmp_path, "one", "read")[1]

    async def story() -> None:
        async with house(gate=gate_of(tmp_path)) as it:
            headers = {"Accept": "text/event-stream", "X-API-Key": one}
            async with it.client.stream("GET", "/v1/events", headers=headers) as stream:
                lines = stream.aiter_lines()
                assert await anext(lines) == "retry: 1000"
                keys.revoke(tmp_path, "one")
                async with asking(it.app, user(0)) as client:
                    await client.post("/v1/lease", json={"target": "a"})
                rest = [line async for line in lines]
            assert not any("LeaseGranted" in line for line in rest)

    run(story())


# ---- wrong keys


def test_wrong_keys_are_made_to_wait_and_a_key_that_was_used_before_is_not(tmp_path, made):
    watch = Watch()

    async def story() -> None:
        async with house(gate=patient_gate(tmp_path, watch)) as it:
            wrong, good, new = ({"X-API-Key": str(made[kind])} for kind in ("wrong", "read", "admin"))
            assert (await status(it, good)).status_code == 200
            codes = [(await status(it, wrong)).status_code for _ in range(FREE_GUESSES + 2)]
            assert codes == [401] * (FREE_GUESSES + 1) + [429]
            refused = await status(it, new)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
            assert (refused.headers["retry-after"], refused.json()["retryable"]) == ("1", True)
            assert (await status(it, good)).status_code == 200, "nobody loses a lease by a neighbour's mistakes"
            assert (await status(it, new, AFAR)).status_code == 200, "another address has made none"
            assert (await status(it, {})).status_code == 401

            watch.s += 1.1
            assert (await status(it, new)).status_code == 200

    run(story())


def test_each_further_guess_waits_twice_as_long_up_to_a_minute():
    guesses = Guesses()
    waits = []
    now_s = 0.0
    for _ in range(FREE_GUESSES + 9):
        guesses.wrong("a", now_s)
        waits.append(guesses.blocked_s("a", now_s))
        now_s += waits[-1]
    assert waits == [0] * FREE_GUESSES + [1, 2, 4, 8, 16, 32, 60, 60, 60]
    guesses.wrong("a", now_s + 601)
    assert guesses.blocked_s("a", now_s + 601) == 0, "ten minutes forget it"


def test_what_is_remembered_of_guesses_and_callers_is_bounded():
    guesses, meter = Guesses(), Meter(1.0)
    for number in range(KNOWN_MAX + 100):
        guesses.wrong(f"address {number}", 0.0)
        guesses.right(f"address {number}", "digest")
        meter.take(f"caller {number}", 0.0)
    assert {len(guesses._wrong), len(guesses._right), len(meter._left)} == {KNOWN_MAX}


def test_addresses_of_one_ipv6_network_are_one_guesser(tmp_path, made):
    async def story() -> None:
        async with house(gate=patient_gate(tmp_path, Watch())) as it:
            codes = [
                (await status(it, {"X-API-Key": "no"}, From((f"2001:db8::{number:x}", 5)))).status_code
                for number in range(FREE_GUESSES + 2)
            ]
            assert codes[-1] == 429
            assert (await status(it, {"X-API-Key": "no"}, From(("2001:db8:0:1::1", 5)))).status_code == 401

    run(story())


# ---- too many requests


def test_a_caller_that_asks_too_often_is_told_when_to_come_back_and_keeps_its_lease(tmp_path, made):
    watch = Watch()

    async def story() -> None:
        async with house(gate=patient_gate(tmp_path, watch, requests_per_s=2.0)) as it:
            async with asking(it.app, AFAR, made["lease"]) as client:
                token = (await client.post("/v1/lease", json={"target": "a"})).json()["token"]
                codes = [(await client.get("/v1/status")).status_code for _ in range(4)]
                assert codes == [200, 200, 200, 429]
                refused = await client.get("/v1/status")
                assert (refused.json()["code"], refused.headers["retry-after"]) == ("too_many_requests", "1")
                assert (await client.get("/healthz")).status_code == 200
                assert (await client.post(f"/v1/lease/{token}/renew")).status_code == 200
                assert (await client.delete(f"/v1/lease/{token}")).status_code == 200
                watch.s += 0.5
                assert (await client.get("/v1/status")).status_code == 200
            async with asking(it.app, AFAR, made["read"]) as client:
                assert (await client.get("/v1/status")).status_code == 200

    run(story())


# ---- over real sockets

CONNECT = """
import http.client, json, os, socket, sys
path, uid, key = sys.argv[1:]
os.setuid(int(uid))
found = {}
for method, where in (("GET", "/v1/status"), ("POST", "/v1/lease"), ("POST", "/v1/targets/a/evict")):
    line = http.client.HTTPConnection("localhost")
    line.sock = socket.socket(socket.AF_UNIX)
    line.sock.connect(path)
    line.request(method, where, "{}" if method == "POST" else None,
                 {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})})
    found[where] = line.getresponse().status
print(json.dumps(found))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users come through."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def as_user(uid: int, path: Path, key: str = "") -> dict[str, int]:
    def connect() -> dict[str, int]:
        words = [sys.executable, "-c", CONNECT, str(path), str(uid), key]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, int] = json.loads(done.stdout)
        return found

    return await asyncio.to_thread(connect)


@pytest.mark.root
def test_the_kernel_says_who_is_at_the_other_end_of_the_unix_socket(open_folder, tmp_path, made):
    async def story() -> None:
        gate = Gate(KeyBook(keys_file(tmp_path)))
        async with house(gate=gate, unix_socket=open_folder / "gpu.sock") as it:
            (open_folder / "gpu.sock").chmod(0o666)
            assert (await it.get("/v1/status")).status_code == 401, "over TCP a key is needed, loopback or not"
            root = await as_user(0, open_folder / "gpu.sock")
            assert root == {"/v1/status": 200, "/v1/lease": 201, "/v1/targets/a/evict": 200}
            other = await as_user(12_345, open_folder / "gpu.sock")
            assert other == {"/v1/status": 200, "/v1/lease": 409, "/v1/targets/a/evict": 403}
            with_key = await as_user(12_345, open_folder / "gpu.sock", str(made["admin"]))
            assert with_key["/v1/targets/a/evict"] == 200
            root_with_less = await as_user(0, open_folder / "gpu.sock", str(made["read"]))
            assert root_with_less["/v1/lease"] == 403, "a key that is sent is the one that counts"
            (lease,) = it.state.durable.leases.values()
            assert lease.terms.caller == "uid 0"

    run(story())


def test_our_own_user_is_trusted_over_the_unix_socket(tmp_path, made):
    async def story() -> None:
        gate = Gate(KeyBook(keys_file(tmp_path)), socket_role=None, own_uid=os.geteuid())
        async with house(gate=gate, unix_socket=tmp_path / "gpu.sock"):
            over_unix = httpx.AsyncHTTPTransport(uds=str(tmp_path / "gpu.sock"))
            async with httpx.AsyncClient(transport=over_unix, base_url="http://localhost") as client:
                assert (await client.post("/v1/targets/a/evict")).status_code == 200

    run(story())
