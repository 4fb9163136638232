"""Facts reach a receiver that fails, hangs, hangs up, redirects or is gone; and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from supervisor.core.facts import AnyFact, LeaseGranted, StopFailed, TargetReady
from supervisor.core.state import Durable
from supervisor.hooks.bodies import message
from supervisor.hooks.choice import Hook
from supervisor.hooks.delivery import Hooks, HookUnusable, Limits, read_address
from supervisor.metrics.counts import Counts, Targets
from tests.hooks.receiver import Receiver, receiving
from tests.journal.facts import ONE_OF_EACH
from tests.metrics.scrape import read, value

DEADLINE_S = 10.0
#: So fast that a test waits for no back-off, and as many attempts as by default.
QUICK = Limits(first_s=0.001, most_s=0.01, jitter_s=0.001)


def ready(target: str = "a") -> AnyFact:
    return TargetReady(1, 1_790_000_000_000, "l_1", target, 700)


class Rig:
    def __init__(self, hooks: tuple[Hook, ...], limits: Limits) -> None:
        self._registry = CollectorRegistry()
        self.hooks = Hooks(hooks, Counts(self._registry, Targets(), Durable()), "box", limits)

    def count(self, outcome: str, hook: str = "h") -> int:
        series = read(generate_latest(self._registry))
        return int(value(series, "hook_deliveries_total", hook=hook, outcome=outcome) or 0)

    def retries(self) -> int:
        return int(value(read(generate_latest(self._registry)), "hook_retries_total", hook="h") or 0)

    async def settled(self) -> None:
        """Wait until nothing waits."""
        await asyncio.gather(*(courier.drained() for courier in self.hooks._couriers))


@contextlib.asynccontextmanager
async def rig(*hooks: Hook, limits: Limits = QUICK) -> AsyncIterator[Rig]:
    made = Rig(hooks, limits)
    try:
        yield made
    finally:
        await made.hooks.close(0)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, DEADLINE_S))


def to(receiver: Receiver, **more: Any) -> Hook:
    return Hook(**{"name": "h", "url": receiver.url, "facts": ("all",), **more})


# ---- what is sent


def test_a_fact_is_sent_as_its_event_signed_and_numbered(tmp_path: Path):
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "token").write_text("tk_1\n")

    async def story() -> None:
        async with (
            receiving() as receiver,
            rig(to(receiver, secret_file=tmp_path / "secret", token_file=tmp_path / "token")) as it,
        ):
            it.hooks.told(19, ready())
            (got,) = await receiver.count(1)
            await it.settled()

        assert (got.method, got.path) == ("POST", "/T0/SECRET")
        body = json.loads(got.body)
        assert (body["host"], body["seq"], body["type"], body["target"]) == ("box", 19, "TargetReady", "a")
        assert body["sentence"] == "a is ready after 0.7 s (lease l_1)"
        assert got.headers["content-type"] == "application/json"
        assert got.headers["x-gpu-supervisor-seq"] == "19"
        assert got.headers["authorization"] == "Bearer tk_1"
        stamp = got.headers["x-gpu-supervisor-timestamp"]
        assert abs(int(stamp) - time.time()) < 60
        signed = hmac.new(b"s3cret", f"{stamp}.".encode() + got.body, hashlib.sha256).hexdigest()
        assert got.headers["x-gpu-supervisor-signature"] == f"sha256={signed}"
        assert it.count("delivered") == 1

    run(story())


def test_a_hook_is_sent_only_what_it_chose_in_order():
    async def story() -> None:
        async with receiving() as receiver:
            async with rig(to(receiver, facts=("TargetReady",), targets=("a*",))) as it:
                it.hooks.told(1, ready("b"))
                it.hooks.told(2, StopFailed(1, 1, "c", "a-1", "a", "it hangs"))
                for seq in range(3, 40):
                    it.hooks.told(seq, ready("ab"))
                await it.settled()

            assert [got.seq for got in receiver.got] == list(range(3, 40))
            assert "x-gpu-supervisor-signature" not in receiver.got[0].headers

    run(story())


def test_ntfy_gets_a_message_with_a_title_and_what_is_urgent_is():
    calm = message("ntfy", "bóx\r\n", 7, ready())
    alarm = message("ntfy", "box", 8, StopFailed(1, 1, "c", "a-1", "a", "it hangs"))

    assert calm.body == b"a is ready after 0.7 s (lease l_1)"
    assert dict(calm.headers)["Title"] == "b_x__: TargetReady", "headers are ASCII, on one line"
    assert "Priority" not in dict(calm.headers)
    assert dict(alarm.headers).items() >= {"Priority": "high", "Tags": "warning"}.items()


def test_slack_gets_a_text_whose_control_characters_are_escaped():
    told = message("slack", "box", 7, StopFailed(1, 1, "c", "a-1", "a", "<!channel> & co"))

    assert json.loads(told.body) == {
        "text": "*box*: container a-1 of a cannot be stopped: &lt;!channel&gt; &amp; co; its GPU stays closed"
    }


@pytest.mark.parametrize("form", ["json", "ntfy", "slack"])
def test_no_digest_of_a_token_is_sent(form):
    hashes = {fact.token_hash for fact in ONE_OF_EACH if isinstance(fact, LeaseGranted)} - {""}
    assert hashes
    for seq, fact in enumerate(ONE_OF_EACH, 1):
        told = message(form, "box", seq, fact)
        assert not [text for text in hashes if text in told.body.decode() + repr(told.headers)]


# ---- receivers that are not well


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param(["503 Busy"] * 3, id="fails three times"),
        pytest.param(["429 Slow Down", "408 Timeout", "425 Early"], id="is not ready yet"),
        pytest.param([Receiver.CUT, Receiver.CUT], id="hangs up"),
    ],
)
def test_a_fact_is_tried_again_with_the_same_number_until_it_arrives(failures):
    async def story() -> None:
        async with receiving(*failures) as receiver:
            async with rig(to(receiver)) as it:
                it.hooks.told(5, ready())
                it.hooks.told(6, ready())
                await it.settled()

            assert [got.seq for got in receiver.got] == [*[5] * len(failures), 5, 6]
            assert (it.count("delivered"), it.retries()) == (2, len(failures))

    run(story())


def test_a_receiver_that_never_answers_costs_its_timeout_and_is_tried_again():
    async def story() -> None:
        async with receiving(Receiver.HANG) as receiver:
            async with rig(to(receiver, timeout_ms=50)) as it:
                it.hooks.told(5, ready())
                await it.settled()

            assert [got.seq for got in receiver.got] == [5, 5]
            assert it.count("delivered") == 1

    run(story())


def test_an_answer_without_an_end_is_not_read():
    async def story() -> None:
        async with receiving(Receiver.ENDLESS) as receiver:
            async with rig(to(receiver)) as it:
                it.hooks.told(5, ready())
                await it.settled()

            assert it.count("delivered") == 1

    run(story())


def test_how_long_a_receiver_asks_to_be_left_alone_counts_within_the_bound():
    async def story() -> None:
        async with (
            receiving("429 Slow Down\r\nretry-after: 99999") as receiver,
            rig(to(receiver), limits=Limits(first_s=0.0, most_s=0.2, jitter_s=0.0)) as it,
        ):
            began = time.monotonic()
            it.hooks.told(5, ready())
            await it.settled()

        assert it.count("delivered") == 1
        assert 0.2 <= time.monotonic() - began < 5

    run(story())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param("410 Gone", "answered 410", id="it is gone"),
        pytest.param("400 Bad Request", "answered 400", id="it does not understand"),
        pytest.param("401 Unauthorized", "answered 401", id="it does not know us"),
        pytest.param(
            "302 Found\r\nlocation: http://127.0.0.1:1/elsewhere", "a redirect is not followed", id="it redirects"
        ),
        pytest.param(
            "307 Again\r\nlocation: /elsewhere", "a redirect is not followed", id="it redirects with the body"
        ),
    ],
)
def test_what_no_attempt_can_change_is_given_up_at_once(answer, told, caplog):
    async def story() -> None:
        async with receiving(answer) as receiver:
            async with rig(to(receiver)) as it:
                it.hooks.told(5, ready())
                it.hooks.told(6, ready())
                await it.settled()

            assert [(got.seq, got.path) for got in receiver.got] == [(5, "/T0/SECRET"), (6, "/T0/SECRET")]
            assert (it.count("given_up"), it.count("delivered"), it.retries()) == (1, 1, 0)

    run(story())
    assert "hook h: TargetReady (seq 5) was given up" in caplog.text
    assert told in caplog.text
    assert "SECRET" not in caplog.text
    assert "elsewhere" not in caplog.text


def test_a_receiver_that_is_not_there_is_given_up_after_all_attempts(caplog):
    async def story() -> None:
        async with receiving() as receiver:
            url = receiver.url
        async with rig(
            Hook(name="h", url=url, facts=("all",)), limits=Limits(attempts=4, first_s=0.001, jitter_s=0)
        ) as it:
            it.hooks.told(5, ready())
            await it.settled()

        assert (it.count("given_up"), it.retries()) == (1, 3)

    caplog.set_level(logging.DEBUG, "supervisor")
    run(story())
    assert [record.message for record in caplog.records if record.name.startswith("supervisor")] == [
        "hook h: not delivered, and tried again: its receiver could not be spoken to (ConnectError)",
        "hook h: TargetReady (seq 5) was given up: its receiver could not be spoken to (ConnectError)",
    ]


def test_a_full_queue_drops_the_oldest_and_says_so_once(caplog):
    async def story() -> None:
        async with (
            receiving(Receiver.HANG) as receiver,
            rig(to(receiver, timeout_ms=60_000), limits=Limits(queue=3)) as it,
        ):
            it.hooks.told(1, ready())
            await receiver.count(1)
            began = time.monotonic()
            for seq in range(2, 1_000):
                it.hooks.told(seq, ready())
            assert time.monotonic() - began < 2, "it waits for nobody"
            assert it.hooks.waiting() == {"h": 3}
            assert it.count("dropped") == 996

    run(story())
    warnings = [record.message for record in caplog.records if "dropped" in record.message]
    assert warnings == ["hook h: 3 facts wait for its receiver, and the oldest are dropped from now on"]
    assert "hook h: 3 facts were not delivered (seq 1 to 999)" in caplog.text


def test_one_receiver_that_hangs_keeps_no_other_from_its_facts():
    async def story() -> None:
        async with (
            receiving(Receiver.HANG) as slow,
            receiving() as quick,
            rig(to(slow, name="slow"), to(quick, name="quick")) as it,
        ):
            it.hooks.told(1, ready())
            it.hooks.told(2, ready())
            await quick.count(2)
            assert it.count("delivered", "slow") == 0

    run(story())


def test_the_end_delivers_what_it_can_and_waits_no_longer():
    async def story() -> None:
        async with receiving(Receiver.HANG) as slow, receiving() as quick:
            it = Rig((to(slow, name="slow"), to(quick, name="quick")), QUICK)
            it.hooks.told(1, ready())
            began = time.monotonic()
            await it.hooks.close(0.3)

            assert time.monotonic() - began < 3
            assert [got.seq for got in quick.got] == [1]

    run(story())


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(tmp_path, caplog):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            key,
            "-out",
            cert,
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)

    async def story() -> None:
        async with receiving(tls=tls) as receiver:
            async with rig(to(receiver), limits=Limits(attempts=1)) as it:
                it.hooks.told(1, ready())
                await it.settled()

            assert receiver.got == []
            assert it.count("given_up") == 1

    run(story())
    assert "its certificate was not accepted: self-signed certificate" in caplog.text.replace(
        "self signed", "self-signed"
    )


# ---- files


@pytest.mark.parametrize(
    ("make", "told"),
    [
        pytest.param(lambda path: None, "cannot be read: no such file", id="missing"),
        pytest.param(lambda path: path.write_text("\n"), "does not hold one line", id="empty"),
        pytest.param(lambda path: path.write_text("two\nlines"), "does not hold one line", id="two lines"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read: it is no text", id="no text"),
        pytest.param(lambda path: path.write_text("x" * 5_000), "does not hold one line", id="too long"),
        pytest.param(lambda path: path.mkdir(), "is no file", id="a folder"),
    ],
)
@pytest.mark.parametrize("key", ["secret_file", "token_file", "url_file"])
def test_a_file_that_cannot_be_used_is_said_with_its_name(tmp_path, key, make, told):
    path = tmp_path / "file"
    make(path)
    where = {"url": "https://h/SECRET"} if key != "url_file" else {}
    with pytest.raises(HookUnusable) as caught:
        read_address(Hook(name="h", facts=("all",), **where, **{key: path}))

    assert str(caught.value).startswith(f"hook h: {key} {path} ")
    assert told in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_an_address_in_a_file_is_checked_and_not_shown(tmp_path):
    path = tmp_path / "url"
    path.write_text("ntfy.sh/SECRET\n")
    hook = Hook(name="h", facts=("all",), url_file=path)
    with pytest.raises(HookUnusable) as caught:
        read_address(hook)
    assert "SECRET" not in str(caught.value) + caught.value.hint

    path.write_text("https://ntfy.sh/topic\n")
    assert read_address(hook).url == "https://ntfy.sh/topic"
