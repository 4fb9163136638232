"""The whole API against its own description: stories of good and hostile requests to every operation, in all weathers.

Every answer has a described status, content type and shape, and a problem only a code of its operation; what is asked
for as described is never called bad, and what the body's schema forbids is never taken. The stories are the same at
every run (``derandomize``), and one that fails is printed whole.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.api import ROUTES
from supervisor.api.describe import OPERATIONS
from supervisor.api.describe_examples import LEASED
from supervisor.api.openapi import document
from supervisor.api.problems import Answer, refuse
from supervisor.core.inputs import EngineLost, ShutDown
from tests.api.asking import Ask, asks, good_asks, one_of_each, token
from tests.api.described import BESIDE, PROBLEM, Described
from tests.api.house import House, container, house, run

DOCUMENT = document("1.2.3")
#: Nothing in a story may take longer: its waits are at most one second.
ANSWER_S = 5.0
STEPS = 14
TOLD_AT_ONCE = 8
#: What the stories must lead to: they find tokens again, and refusals of all kinds.
REACHED = {
    ("POST", "/v1/lease", 201),
    ("POST", "/v1/lease", "gpu_busy"),
    ("POST", "/v1/lease", "bad_request"),
    ("POST", "/acquire", 200),
    ("POST", "/acquire", "target_unknown"),
    ("GET", "/v1/lease/{token}", 200),
    ("GET", "/v1/lease/{token}", "lease_unknown"),
    ("DELETE", "/v1/lease/{token}", 200),
    ("DELETE", "/v1/lease", 200),
}

# ---- weather


def _sick(it: House) -> None:
    engine = it.box.engine
    engine.start = lambda id_: type(engine).start(engine, id_, health="unhealthy")  # type: ignore[method-assign]


def _slow(it: House) -> None:
    engine = it.box.engine
    engine.start = lambda id_: type(engine).start(engine, id_, health="starting")  # type: ignore[method-assign]


def _room(it: House, free: int) -> None:
    it.box.disk.room = free


def _damaged(it: House) -> None:
    it.state.observed.safe_mode = "segment 3, byte 8192"


WEATHER: dict[str, Callable[[House], None]] = {
    "starts fail": _sick,
    "starts never come up": _slow,
    "the engine is away": lambda it: it.pump.post(EngineLost("connection refused")),
    "the engine is back": lambda it: it.box.engine.watch(it.pump.post),
    "the disk is full": lambda it: _room(it, 0),
    "there is room": lambda it: _room(it, 64 << 20),
    "the journal is damaged": _damaged,
    "it shuts down": lambda it: it.pump.post(ShutDown("a test")),
}

# ---- what is wrong with an answer


def wrong(described: Described, ask: Ask, status: int, headers: dict[str, str], body: bytes) -> list[str]:
    """Return what an answer to ``ask`` must not be."""
    if status == 500:
        return ["it failed: see the log"]
    if not ask.good and _beside(ask, status, headers, body):
        return []
    ways = described.document["paths"][ask.path]
    if ("get" if ask.method == "HEAD" else ask.method.lower()) not in ways:
        # Refused for its method, or by the guard before that: any operation of the path can say the latter.
        ask = Ask(method=next(iter(ways)).upper(), path=ask.path, target=ask.target, body=ask.body, good=False)
        if status < 400:
            return [f"a method that is not described is answered {status}"]
        body = body or b"{}"
    said = described.unlike(ask.method, ask.path, status, headers, body)
    if said:
        return said
    if ask.good and status == 400 and not _crossed(ask):
        return [f"what is described is refused: {body.decode()}"]
    if not ask.good and status < 400 and _forbidden(described, ask):
        return [f"a body that its schema forbids is answered {status}"]
    return []


def _beside(ask: Ask, status: int, headers: dict[str, str], body: bytes) -> bool:
    """Return whether the request was for a path or a method that is not there."""
    if status not in BESIDE or headers.get("content-type") != PROBLEM:
        return False
    return ask.method == "HEAD" or json.loads(body)["code"] == BESIDE[status]


def _crossed(ask: Ask) -> bool:
    """Return whether two fields that are good each do not go together, which a schema does not say."""
    body = json.loads(ask.body or b"{}")
    if ask.path == "/release":
        return bool(body.get("force", False)) == (body.get("lease_token") is not None) or "force" in body
    names = [body[name] for name in ("target", "consumer") if body.get(name) is not None]
    bare = (body.get("gpus", 1), body.get("vram_mib"), body.get("gpu_class"))
    if ask.path == "/v1/lease" and body.get("pid") is not None:
        return True  # over TCP nobody can tell whose process it is
    return ask.path == "/v1/lease" and (len(names) == 2 or (len(names) == 1 and bare != (1, None, None)))


def _forbidden(described: Described, ask: Ask) -> bool:
    said = described.operation(ask.method, ask.path).get("requestBody")
    if said is None:
        return False
    if not ask.body:
        return bool(said["required"])
    place = ("paths", ask.path, ask.method.lower(), "requestBody", "content", "application/json", "schema")
    try:
        value = json.loads(ask.body)
    except ValueError:
        return True
    return described.errors(value, *place) != []


# ---- the stories


class Telling:
    """What was found wrong, with its request, and how often an operation answered a code (or a status)."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.described = Described(answers)
        self.wrong: list[str] = []
        self.seen: Counter[tuple[str, str, Any]] = Counter()

    async def story(self, steps: list[Ask | str]) -> None:
        """Tell one story to a house of its own, up to the first answer that is wrong."""
        bad = container("bad", master=False)
        async with house(container("a"), container("b", vram_mib=8_192), bad) as it:
            tokens: list[str] = []
            for step in steps:
                if isinstance(step, str):
                    WEATHER[step](it)
                    continue
                ask = step.told(tokens)
                found = await self._ask(it, ask, tokens)
                if found:
                    self.wrong.append(f"{found}\n{ask}\nin {steps}")
                    return

    async def _ask(self, it: House, ask: Ask, tokens: list[str]) -> list[str]:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await it.client.request(
                    ask.method, it.url + ask.target, headers=list(ask.headers), content=ask.body
                )
        except TimeoutError:
            return [f"no answer in {ANSWER_S} s"]
        found = wrong(self.described, ask, answer.status_code, dict(answer.headers), answer.content)
        said = answer.json() if "json" in answer.headers["content-type"] and answer.content else {}
        tokens += [said[name] for name in ("token", "lease_token") if isinstance(said.get(name), str)]
        self.seen[ask.method, ask.path, said.get("code") or answer.status_code] += 1
        return found


LEASING = ("leases", "plain")


@st.composite
def stories(draw: st.DrawFn) -> list[Ask | str]:
    """Draw a story. It begins with somebody who asks for a lease; the weather changes now and then."""
    leases = {("POST", "/v1/lease"), ("POST", "/acquire")}
    opening = good_asks(DOCUMENT, LEASING).filter(lambda ask: (ask.method, ask.path) in leases and not _crossed(ask))
    kinds = [*[asks(DOCUMENT, LEASING)] * 5, *[asks(DOCUMENT, [tag["name"] for tag in DOCUMENT["tags"]])] * 4]
    step = st.integers(0, 9).flatmap(lambda n: kinds[n - 1] if n else st.sampled_from(sorted(WEATHER)))
    return [draw(opening), draw(opening), *draw(st.lists(step, min_size=STEPS, max_size=STEPS))]


def _lease(target: str, path: str = "/v1/lease") -> Ask:
    headers = (("Content-Type", "application/json"),)
    body = json.dumps({"target": target}).encode()
    return Ask(method="POST", path=path, target=path, headers=headers, body=body)


#: Somebody has the GPU, looks at the lease, and somebody else is refused; somebody has it the plain way. A new
#: operation changes all stories that are drawn, and how busy the machine is what they come to, but not these.
_LOOK = Ask(method="GET", path="/v1/lease/{token}", target=f"/v1/lease/{token(0)}")
BUSY: list[Ask | str] = [_lease("a"), _LOOK, _lease("b")]
PLAIN: list[Ask | str] = [_lease("a", "/acquire")]


@cache
def drawn(count: int) -> list[list[Ask | str]]:
    """Return ``count`` stories, two with one request to each operation, and two that are written: always the same."""
    found: list[list[Ask | str]] = [BUSY, PLAIN]
    same = settings(
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )

    @settings(same, max_examples=2)
    @given(one_of_each(DOCUMENT))
    def take_all(steps: tuple[Ask, ...]) -> None:
        found.append(list(steps))

    @settings(same, max_examples=count)
    @given(stories())
    def take(steps: list[Ask | str]) -> None:
        found.append(steps)

    take_all()
    take()
    return found


def tell(answers: dict[str, Any], count: int) -> Telling:
    """Tell stories that are drawn from the true document, and hold what is answered against ``answers``."""
    telling = Telling(answers)

    async def all_of_them() -> None:
        # Beside each other: a server takes a fifth of a second to end, and there is one for each story.
        places = asyncio.Semaphore(TOLD_AT_ONCE)

        async def one(steps: list[Ask | str]) -> None:
            async with places:
                await telling.story(steps)

        async with asyncio.TaskGroup() as group:
            for steps in drawn(count):
                group.create_task(one(steps))

    run(all_of_them())
    return telling


def test_every_answer_is_as_described():
    telling = tell(DOCUMENT, 50)
    assert telling.wrong == []
    reached = {(method, path) for method, path, _ in telling.seen}
    assert OPERATIONS.keys() - reached == set(), "the stories do not reach every operation"
    assert REACHED - telling.seen.keys() == set(), "the stories reach less than they did"


# ---- planted bugs: each must be seen


def _drop_field(document: dict[str, Any]) -> None:
    del document["components"]["schemas"]["LeaseAnswer"]["properties"]["fence"]


def _other_type(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["LeaseAnswer"]["properties"]["ttl_seconds"] = {"type": "string"}


def _promise_field(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["Readiness"]["required"].append("weather")


def _responses(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"]["/v1/lease"]["post"]["responses"]
    return found


def _drop_code(document: dict[str, Any]) -> None:
    problem = _responses(document)["409"]["content"][PROBLEM]["schema"]
    problem["allOf"][1]["properties"]["code"]["enum"].remove("gpu_busy")


def _drop_status(document: dict[str, Any]) -> None:
    del _responses(document)["201"]


def _other_media(document: dict[str, Any]) -> None:
    content = _responses(document)["409"]["content"]
    content["text/plain"] = content.pop(PROBLEM)


def _not_retryable(document: dict[str, Any]) -> None:
    document["x-problem-codes"]["gpu_busy"]["retryable"] = False


def _no_retry_after(document: dict[str, Any]) -> None:
    del document["x-problem-codes"]["gpu_busy"]["retry_after_s"]


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        pytest.param(_drop_field, "'fence' was unexpected", id="a field that is not described"),
        pytest.param(_other_type, "ttl_seconds: 300 is not of type 'string'", id="a field of another type"),
        pytest.param(_promise_field, "'weather' is a required property", id="a field that is not there"),
        pytest.param(_drop_code, "code: 'gpu_busy' is not one of", id="a code of another operation"),
        pytest.param(_drop_status, "status 201 is not described", id="a status that is not described"),
        pytest.param(_other_media, "application/problem+json is not described for 409", id="another content type"),
        pytest.param(_not_retryable, "status, retryable and Retry-After are", id="another word on trying again"),
        pytest.param(_no_retry_after, "status, retryable and Retry-After are", id="a header that is not described"),
    ],
)
def test_an_answer_that_is_not_as_described_is_seen(plant, told):
    planted = deepcopy(DOCUMENT)
    plant(planted)
    assert any(told in one for one in tell(planted, 6).wrong)


def test_a_body_that_is_taken_although_its_schema_forbids_it_is_seen():
    taken = msgspec.json.encode(LEASED)
    headers = {"content-type": "application/json"}
    ask = Ask(method="POST", path="/v1/lease", target="/v1/lease", body=b'{"ttl_seconds": -1}', good=False)
    found = wrong(Described(DOCUMENT), ask, 201, headers, taken)
    assert found == ["a body that its schema forbids is answered 201"]
    assert wrong(Described(DOCUMENT), replace(ask, body=b"{}"), 201, headers, taken) == []


async def _broken(_api: object, _call: object) -> Answer:
    raise ZeroDivisionError


async def _hanging(_api: object, _call: object) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError("it never ends")


async def _strict(_api: object, _call: object) -> Answer:
    raise refuse("bad_request", "not today")


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        pytest.param(_broken, "it failed", id="a failure of our own"),
        pytest.param(_hanging, "no answer in", id="no answer"),
        pytest.param(_strict, "what is described is refused", id="a refusal of what is described"),
    ],
)
def test_an_operation_that_misbehaves_is_seen(monkeypatch, handler, told):
    monkeypatch.setitem(ROUTES, "/v1/lease/{token}", {"GET": handler, "DELETE": handler})
    monkeypatch.setattr("tests.api.test_openapi_whole.ANSWER_S", 1.2)
    assert any(told in one for one in tell(DOCUMENT, 6).wrong)
