"""The document that the API gives of itself: whole, valid, and true of the code that it is made from."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

import supervisor
from supervisor.api import ROUTES
from supervisor.api.describe import EVERYWHERE, KEYED, OPERATIONS
from supervisor.api.describe_fields import CHECKED, FIELDS, IN_STRUCT, TARGET_PATTERN
from supervisor.api.describe_problems import BESIDE_OPERATIONS, PROBLEMS, ProblemDetails
from supervisor.api.openapi import codes_of, decodable, document, not_described
from supervisor.api.problems import RETRY_AFTER_S
from supervisor.api.roles import NEEDED
from supervisor.core.errors import CODES
from supervisor.core.values import BadValue, parse_target
from tests.api.described import Described
from tests.api.house import house, run

DOCUMENT = document("1.2.3")
DESCRIBED = Described(DOCUMENT)
KEYS = [pytest.param(method, path, id=f"{method} {path}") for method, path in OPERATIONS]


def test_it_is_a_valid_openapi_document():
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_the_validator_sees_a_document_that_is_not_valid():
    broken = {**DOCUMENT, "paths": {"/status": {"get": {"responses": {"200": {}}}}}}
    assert list(OpenAPIV31SpecValidator(broken).iter_errors()) != []


# ---- routes


def test_every_route_is_described_and_every_description_has_a_route():
    routes = [(method, path) for path, handlers in ROUTES.items() for method in handlers]
    assert not_described(routes) == set()
    assert {(method.upper(), path) for path, ways in DOCUMENT["paths"].items() for method in ways} == set(routes)


def test_a_route_without_a_description_and_the_other_way_round_are_noticed():
    routes = [(method, path) for path, handlers in ROUTES.items() for method in handlers]
    assert not_described([*routes, ("PUT", "/v1/lease")]) == {("PUT", "/v1/lease")}
    assert not_described(routes[1:]) == {routes[0]}


def test_the_parts_of_a_path_are_its_parameters():
    for (method, path), row in OPERATIONS.items():
        assert [param.name for param in row.path] == re.findall(r"{(\w+)}", path), (method, path)


def test_names_of_operations_are_there_once():
    assert len({row.id for row in OPERATIONS.values()}) == len(OPERATIONS)


# ---- examples


@pytest.mark.parametrize(("method", "path"), KEYS)
def test_every_body_and_answer_has_an_example_that_is_valid_and_decodes(method, path):
    row, said = OPERATIONS[method, path], DESCRIBED.operation(method, path)
    if row.body is not None:
        content = said["requestBody"]["content"]["application/json"]
        place = ("paths", path, method.lower(), "requestBody", "content", "application/json", "schema")
        assert content["examples"]
        for example in content["examples"].values():
            assert DESCRIBED.errors(example["value"], *place) == []
            msgspec.convert(example["value"], row.body)
    for status, answers in row.answers.items():
        for answer in answers:
            content = said["responses"][str(status)]["content"][answer.media]
            place = ("paths", path, method.lower(), "responses", str(status), "content", answer.media, "schema")
            assert content["examples"]
            for name, example in content["examples"].items():
                assert DESCRIBED.errors(example["value"], *place) == []
                if answer.shapes:
                    given = answer.examples[name]
                    assert isinstance(given, answer.shapes)
                    # A service that is not there is {}, which its twin has no word for.
                    if example["value"].get("service") != {}:
                        decoded = msgspec.convert(example["value"], decodable(type(given)))
                        assert msgspec.json.decode(msgspec.json.encode(decoded)) == example["value"]


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_an_example_and_advice(code):
    example = DOCUMENT["components"]["examples"][code]["value"]
    assert DESCRIBED.errors(example, "components", "schemas", "ProblemDetails") == []
    assert msgspec.convert(example, ProblemDetails).code == code
    assert (example["status"], example["retryable"]) == CODES[code]
    assert PROBLEMS[code].advice.endswith(".")


def test_an_example_that_is_not_like_its_schema_is_noticed():
    example = {**DOCUMENT["components"]["examples"]["gpu_busy"]["value"], "code": "nonsense", "more": 1}
    errors = DESCRIBED.errors(example, "components", "schemas", "ProblemDetails")
    assert len(errors) == 2
    assert "nonsense" in str(errors)
    assert "'more' was unexpected" in str(errors)


# ---- fields


def test_every_field_is_described_and_every_description_has_a_field():
    schemas = DOCUMENT["components"]["schemas"]
    used = {(shape, field) for shape, schema in schemas.items() for field in schema["properties"]}
    bare = [
        (shape, field)
        for shape, schema in schemas.items()
        for field, said in schema["properties"].items()
        if not said["description"]
    ]
    assert bare == [], "say in api/describe_fields.py what they mean"
    queries = {
        (row.query.__name__, field) for row in OPERATIONS.values() if row.query for field in row.query.__struct_fields__
    }
    assert IN_STRUCT.keys() - used - queries == set()
    assert CHECKED.keys() - used == set()
    assert FIELDS.keys() - {field for shape, field in used | queries if (shape, field) not in IN_STRUCT} == set()


def test_types_bounds_and_defaults_are_those_of_the_structs():
    lease = DOCUMENT["components"]["schemas"]["LeaseBody"]
    assert lease["additionalProperties"] is False
    ttl = {key: value for key, value in lease["properties"]["ttl_seconds"].items() if key != "description"}
    assert ttl == {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 300}
    assert lease["properties"]["priority"]["anyOf"] == [
        {"type": "integer", "minimum": -1000, "maximum": 1000},
        {"type": "null"},
    ]
    limit = next(one for one in DESCRIBED.operation("GET", "/v1/events")["parameters"] if one["name"] == "limit")
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "a" * 63, "", "A", "-a", "a" * 64, "a b", "ä", "a/b"])
def test_the_name_of_a_target_is_described_as_it_is_read(name):
    try:
        accepted = parse_target(name) == name
    except BadValue:
        accepted = False
    assert bool(re.fullmatch(TARGET_PATTERN.strip("^$"), name)) is accepted


# ---- codes


def test_every_code_stands_at_an_operation_or_is_said_to_belong_to_none():
    at = {code for row in OPERATIONS.values() for code in codes_of(row)}
    assert at | BESIDE_OPERATIONS.keys() == CODES.keys()
    assert at & BESIDE_OPERATIONS.keys() == {"not_found"}, "of a GPU, and of a path that is not there"
    for code, said in DOCUMENT["x-problem-codes"].items():
        assert said["operations"] == [row.id for row in OPERATIONS.values() if code in codes_of(row)]


def test_every_code_that_the_source_refuses_with_is_in_the_table():
    """The codes in ``Refusal(...)`` and ``refuse(...)``, read from the source, but for those that it computes."""
    found = set()
    for path in Path(supervisor.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Refusal", "refuse"}:
                code = node.args[0]
                found |= {code.value} if isinstance(code, ast.Constant) else set()
    computed = {"target_unhealthy", "target_failed"}
    assert found | computed == CODES.keys()


@pytest.mark.parametrize(("method", "path"), KEYS)
def test_the_problems_of_an_operation_stand_at_their_statuses(method, path):
    responses = DESCRIBED.operation(method, path)["responses"]
    said = {}
    for status, response in responses.items():
        problem = response["content"].get("application/problem+json")
        codes = problem["schema"]["allOf"][1]["properties"]["code"]["enum"] if problem else []
        said |= dict.fromkeys(codes, int(status))
        assert ("headers" in response) == any(code in RETRY_AFTER_S for code in codes)
    keyed = KEYED if NEEDED[method, path] is not None else set()
    assert said == {code: CODES[code][0] for code in OPERATIONS[method, path].codes | EVERYWHERE | keyed}


# ---- the routes


def test_it_is_served_under_the_guard_with_the_version_that_runs():
    async def story() -> None:
        async with house() as it:
            answer = await it.get("/openapi.json")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            assert answer.json() == DOCUMENT
            for path in ("/openapi.json", "/docs"):
                foreign = await it.get(path, headers={"Host": "evil.example"})
                assert (foreign.status_code, foreign.json()["code"]) == (403, "forbidden")
                asked = await it.get(f"{path}?x=1")
                assert (asked.status_code, asked.json()["code"]) == (400, "bad_request")

    run(story())


def test_the_stream_is_described_as_it_is_sent():
    async def story() -> None:
        async with house() as it:
            await it.lease("a")
            headers = {"Accept": "text/event-stream", "Last-Event-ID": "0"}
            async with it.client.stream("GET", "/v1/events", headers=headers) as answer:
                kind = answer.headers["content-type"]
                assert DESCRIBED.unlike("GET", "/v1/events", answer.status_code, dict(answer.headers), b"") == []
                lines = answer.aiter_lines()
                seen = [await anext(lines) for _ in range(6)]
            content = DESCRIBED.operation("GET", "/v1/events")["responses"]["200"]["content"][kind]
            shown = content["examples"]["one"]["value"].splitlines()
            assert [line.partition(":")[0] for line in seen] == [line.partition(":")[0] for line in shown[:6]]
            data = next(line.removeprefix("data: ") for line in seen if line.startswith("data: "))
            assert DESCRIBED.errors(msgspec.json.decode(data), "components", "schemas", "Event") == []

    run(story())
