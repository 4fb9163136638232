"""What a released version promised over HTTP is still so: nothing that callers send or read was taken away."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

import supervisor
from tests.golden.kept_api import broken
from tests.golden.record_api import contract, recorded

Json = dict[str, Any]
TODAY = contract("1.2.3")


@pytest.mark.parametrize("version", recorded())
def test_the_contract_of_a_released_version_is_kept(version):
    lost = broken(recorded()[version], TODAY)
    assert lost == [], (
        f"callers of {version} lose this. Keep it, or, before the release of that version, record it anew: "
        f"rm tests/golden/openapi-{version}.json && python -m tests.golden.record_api"
    )


def test_this_version_is_recorded():
    assert supervisor.__version__ in recorded()


# ---- where things are


def shape(document: Json, name: str) -> Json:
    found: Json = document["components"]["schemas"][name]
    return found


def field(document: Json, name: str, of: str) -> Json:
    found: Json = shape(document, name)["properties"][of]
    return found


def lease(document: Json) -> Json:
    found: Json = document["paths"]["/v1/lease"]["post"]
    return found


def parameter(document: Json, path: str, name: str) -> Json:
    found: Json = next(one for one in document["paths"][path]["get"]["parameters"] if one["name"] == name)
    return found


def codes(document: Json) -> list[str]:
    content = lease(document)["responses"]["409"]["content"]["application/problem+json"]
    found: list[str] = content["schema"]["allOf"][1]["properties"]["code"]["enum"]
    return found


def changed(change: Callable[[Json], object]) -> Json:
    document = deepcopy(TODAY)
    change(document)
    assert document != TODAY, "this row changes nothing"
    return document


# ---- every kind of breach


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        pytest.param(lambda d: d["paths"].pop("/status"), "GET /status is gone", id="a path is gone"),
        pytest.param(
            lambda d: d["paths"]["/v1/lease/{token}"].pop("delete"), "DELETE /v1/lease/{token} is gone", id="a method"
        ),
        pytest.param(lambda d: lease(d)["responses"].pop("202"), "POST /v1/lease: 202 is gone", id="a status is gone"),
        pytest.param(
            lambda d: d["paths"]["/v1/events"]["get"]["responses"]["200"]["content"].pop("text/event-stream"),
            "GET /v1/events: 200: text/event-stream is gone",
            id="a media type is gone",
        ),
        pytest.param(
            lambda d: lease(d)["responses"]["409"].pop("headers"),
            "POST /v1/lease: 409: header Retry-After is gone",
            id="a header is gone",
        ),
        # ---- answers
        pytest.param(
            lambda d: shape(d, "RenewAnswer")["properties"].pop("ttl_seconds"),
            "POST /v1/lease/{token}/renew: 200: answer.ttl_seconds is gone",
            id="a field of an answer is gone",
        ),
        pytest.param(
            lambda d: shape(d, "RenewAnswer")["required"].remove("ttl_seconds"),
            "POST /v1/lease/{token}/renew: 200: answer.ttl_seconds may be left out now",
            id="a field of an answer may be left out",
        ),
        pytest.param(
            lambda d: field(d, "RenewAnswer", "ttl_seconds").update(type="string"),
            "POST /v1/lease/{token}/renew: 200: answer.ttl_seconds may be string now",
            id="a field of an answer changes its type",
        ),
        pytest.param(
            lambda d: shape(d, "RenewAnswer")["properties"].update(
                ttl_seconds={"anyOf": [{"type": "integer"}, {"type": "null"}]}
            ),
            "POST /v1/lease/{token}/renew: 200: answer.ttl_seconds may be null now",
            id="a field of an answer may be null",
        ),
        pytest.param(
            lambda d: shape(d, "GpuView")["properties"].pop("uuid"),
            "GET /v1/status: 200: answer.gpus[].uuid is gone",
            id="a field deep in an answer is gone",
        ),
        pytest.param(
            lambda d: field(d, "Events", "events").update(items={"type": "string"}),
            "GET /v1/events: 200: answer.events[] may be string now",
            id="the items of a list change their type",
        ),
        pytest.param(
            lambda d: field(d, "PlainStatus", "services").update(additionalProperties={"type": "string"}),
            "GET /status: 200: answer.services.* may be string now",
            id="the values of a map change their type",
        ),
        pytest.param(
            lambda d: field(d, "PlainStatus", "services").pop("additionalProperties"),
            "GET /status: 200: answer.services is no map any more",
            id="a map is none any more",
        ),
        pytest.param(
            lambda d: shape(d, "EndedView")["properties"].pop("ended_at"),
            "GET /v1/lease/{token}: 200: answer.ended_at is gone",
            id="a field of one of several shapes is gone",
        ),
        pytest.param(
            lambda d: field(d, "TargetBrief", "state")["enum"].remove("resident"),
            "GET /v1/status: 200: answer.targets[].state: value 'resident' is gone",
            id="an enum value of an answer is gone",
        ),
        # ---- problems
        pytest.param(
            lambda d: d["x-problem-codes"].pop("gpu_busy"), "problem code gpu_busy is gone", id="a problem code is gone"
        ),
        pytest.param(
            lambda d: d["x-problem-codes"]["gpu_busy"].update(status=423),
            "problem code gpu_busy: status was 409, and is 423",
            id="a problem code changes its status",
        ),
        pytest.param(
            lambda d: d["x-problem-codes"]["gpu_busy"].update(retryable=False),
            "problem code gpu_busy: retryable was True, and is False",
            id="a problem code is not retryable any more",
        ),
        pytest.param(
            lambda d: codes(d).remove("gpu_busy"),
            "POST /v1/lease: 409: answer.code: value 'gpu_busy' is gone",
            id="a problem code of an operation is gone",
        ),
        pytest.param(
            lambda d: shape(d, "ProblemDetails")["properties"].pop("field"),
            "GET /status: 400: answer.field is gone",
            id="a field of a problem is gone",
        ),
        # ---- requests
        pytest.param(
            lambda d: shape(d, "LeaseBody")["properties"].pop("queue"),
            "POST /v1/lease: body.queue is gone",
            id="a field of a request is gone",
        ),
        pytest.param(
            lambda d: shape(d, "LeaseBody").update(required=["owner"]),
            "POST /v1/lease: body.owner is needed now",
            id="a field of a request is needed",
        ),
        pytest.param(
            lambda d: shape(d, "LeaseBody").update(
                required=["why"], properties={**shape(d, "LeaseBody")["properties"], "why": {"type": "string"}}
            ),
            "POST /v1/lease: body.why is needed now",
            id="a new field of a request is needed",
        ),
        pytest.param(
            lambda d: field(d, "LeaseBody", "ttl_seconds").update(type="string"),
            "POST /v1/lease: body.ttl_seconds does not take integer any more",
            id="a field of a request changes its type",
        ),
        pytest.param(
            lambda d: field(d, "LeaseBody", "priority")["anyOf"].pop(),
            "POST /v1/lease: body.priority does not take null any more",
            id="a field of a request may not be null",
        ),
        pytest.param(
            lambda d: field(d, "LeaseBody", "ttl_seconds").update(minimum=1),
            "POST /v1/lease: body.ttl_seconds: minimum was 0, and is 1",
            id="a higher minimum",
        ),
        pytest.param(
            lambda d: field(d, "LeaseBody", "ttl_seconds").update(maximum=10),
            "POST /v1/lease: body.ttl_seconds: maximum was 2147483647, and is 10",
            id="a lower maximum",
        ),
        pytest.param(
            lambda d: field(d, "LeaseBody", "owner").update(maxLength=10),
            "POST /v1/lease: body.owner: maxLength was 256, and is 10",
            id="a shorter text",
        ),
        pytest.param(
            lambda d: field(d, "LeaseBody", "owner").update(minLength=1),
            "POST /v1/lease: body.owner: minLength was None, and is 1",
            id="a bound where there was none",
        ),
        pytest.param(
            lambda d: field(d, "LeaseBody", "owner").update(pattern="^[a-z]+$"),
            "POST /v1/lease: body.owner: pattern was None, and is ^[a-z]+$",
            id="a pattern where there was none",
        ),
        pytest.param(
            lambda d: field(d, "LeaseBody", "owner").update(enum=["ann"]),
            "POST /v1/lease: body.owner takes only 'ann' now",
            id="values where there were all",
        ),
        pytest.param(
            lambda d: field(d, "LeaseBody", "ttl_seconds").update(default=60),
            "POST /v1/lease: body.ttl_seconds: default was 300, and is 60",
            id="another default",
        ),
        pytest.param(
            lambda d: d["paths"]["/v1/lease/{token}/claim"]["post"]["requestBody"].update(required=True),
            "POST /v1/lease/{token}/claim: a body is needed now",
            id="a body is needed",
        ),
        pytest.param(lambda d: lease(d).pop("requestBody"), "POST /v1/lease: its body is gone", id="a body is gone"),
        pytest.param(
            lambda d: lease(d)["parameters"].pop(),
            "POST /v1/lease: header parameter Idempotency-Key is gone",
            id="a header of a request is gone",
        ),
        pytest.param(
            lambda d: parameter(d, "/v1/events", "after").update(required=True),
            "GET /v1/events: query parameter after is needed now",
            id="a query parameter is needed",
        ),
        pytest.param(
            lambda d: parameter(d, "/v1/events", "limit")["schema"].update(maximum=100),
            "GET /v1/events: query parameter limit: maximum was 1000, and is 100",
            id="a narrower query parameter",
        ),
        pytest.param(
            lambda d: parameter(d, "/v1/why/{name}", "name")["schema"].update(pattern="^[a-z]+$"),
            "GET /v1/why/{name}: path parameter name: pattern was ^[ -.0-~]{1,300}$, and is ^[a-z]+$",
            id="a narrower path parameter",
        ),
    ],
)
def test_what_takes_something_away_is_a_breach(change, lost):
    assert lost in broken(TODAY, changed(change))


def test_a_request_that_took_any_field_and_does_not_any_more_is_a_breach():
    before = changed(lambda d: shape(d, "LeaseBody").update(additionalProperties=True))
    assert broken(before, TODAY) == ["POST /v1/lease: body does not take other fields any more"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d["paths"].update({"/v2": d["paths"]["/status"]}), id="an operation"),
        pytest.param(lambda d: lease(d)["responses"].update({"299": lease(d)["responses"]["201"]}), id="a status"),
        pytest.param(
            lambda d: shape(d, "LeaseAnswer")["properties"].update(more={"type": "string"}), id="a field of an answer"
        ),
        pytest.param(
            lambda d: shape(d, "LeaseBody")["properties"].update(more={"type": "string", "default": ""}),
            id="a field of a request that is not needed",
        ),
        pytest.param(lambda d: field(d, "TargetBrief", "state")["enum"].append("new"), id="an enum value"),
        pytest.param(
            lambda d: d["x-problem-codes"].update(new={"status": 400, "retryable": False}), id="a problem code"
        ),
        pytest.param(lambda d: codes(d).append("new"), id="a problem code of an operation"),
        pytest.param(lambda d: field(d, "LeaseBody", "ttl_seconds").update(minimum=-1), id="a wider bound"),
        pytest.param(lambda d: field(d, "LeaseBody", "owner").pop("maxLength"), id="a bound that is gone"),
        pytest.param(lambda d: field(d, "LeaseBody", "target")["anyOf"][0].pop("pattern"), id="a pattern that is gone"),
        pytest.param(lambda d: field(d, "LeaseBody", "priority")["anyOf"].append({"type": "string"}), id="a type more"),
        pytest.param(lambda d: shape(d, "AcquireBody").update(required=[]), id="a field that was needed and is not"),
        pytest.param(lambda d: field(d, "RenewAnswer", "expires_at")["anyOf"].pop(), id="an answer that is never null"),
        pytest.param(lambda d: field(d, "RenewAnswer", "token").update(description="new"), id="other words"),
        pytest.param(lambda d: parameter(d, "/v1/events", "limit")["schema"].update(maximum=5_000), id="a wider query"),
        pytest.param(
            lambda d: lease(d)["responses"]["201"].update(headers={"X": {"schema": {"type": "string"}}}), id="a header"
        ),
    ],
)
def test_what_only_adds_passes(change):
    assert broken(TODAY, changed(change)) == []


def test_another_name_for_the_same_shape_passes():
    text = json.dumps(TODAY).replace("LeaseAnswer", "GrantedLease")
    assert broken(TODAY, json.loads(text)) == []


def test_a_document_keeps_itself():
    assert broken(TODAY, deepcopy(TODAY)) == []
