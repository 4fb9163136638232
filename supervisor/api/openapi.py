"""The API described by itself: an OpenAPI 3.1 document, made of the Structs and of the table in ``describe``. Pure.

Source: OpenAPI 3.1.0 (schemas are JSON Schema 2020-12, so ``$ref`` may have siblings); msgspec's ``schema_components``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from supervisor.api.describe import EVERYWHERE, KEYED, OPERATIONS, TAGS, Key, Operation, Param, Shown
from supervisor.api.describe_fields import CHECKED, meaning
from supervisor.api.describe_problems import BESIDE_OPERATIONS, PROBLEMS, ProblemDetails
from supervisor.api.problems import PROBLEM_JSON, RETRY_AFTER_S
from supervisor.api.roles import NEEDED
from supervisor.core.errors import CODES

Json = dict[str, Any]
ROLE_OF = {row.id: NEEDED[key] for key, row in OPERATIONS.items()}

REF = "#/components/schemas/{name}"
_ABOUT = """\
Leases for the GPUs of one box, steered by labels on Docker Compose stacks.

A body is JSON with `Content-Type: application/json`, at most 64 KiB, and read strictly: an unknown field, a wrong \
type or a number out of range is refused, and `field` says where. Answers may gain fields in later versions: pass over \
those that you don't know. Every GET answers HEAD too.

Errors are `application/problem+json` (RFC 9457) with a stable `code`, a sentence in `detail`, and `retryable`. \
`Retry-After` says in how many seconds it is worth another try, where that is known.

As long as no keys were made (`gpu-supervisor token create`), whoever reaches it may do everything. From the first one \
on a request needs a key, as `Authorization: Bearer` or `X-API-Key`, with the role that its operation has (`x-role`): \
`read` < `lease` < `admin`; over the unix socket the user id may stand for one. A lease's token is needed beside it. A \
foreign `Host` or `Origin` and a cross-site `Sec-Fetch-Site` are refused.
"""


SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key. Its role and targets bound what it may do."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
#: None at all will do as long as no keys were made, and where the user id stands for one.
KEYED_BY: list[Json] = [{"bearer": []}, {"apiKey": []}, {}]


def document(version: str) -> Json:
    """Return the whole document, as JSON-ready values."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "GPU supervisor", "version": version, "description": _ABOUT, "license": {"name": "MIT"}},
        "servers": [{"url": "/"}],
        "security": KEYED_BY,
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": SCHEMES,
            "examples": {code: _problem_example(code) for code in PROBLEMS},
            "headers": {
                "RetryAfter": {
                    "description": "Seconds after which the same request is worth another try.",
                    "schema": {"type": "integer", "minimum": 1},
                }
            },
        },
        "x-problem-codes": {code: _code(code) for code in CODES},
    }


def not_described(routes: Iterable[Key]) -> set[Key]:
    """Return the routes without a description, and the descriptions without a route."""
    return set(routes) ^ OPERATIONS.keys()


def codes_of(operation: Operation) -> list[str]:
    """Return every code that an operation can answer, in the order of the table of codes."""
    keyed = frozenset() if ROLE_OF[operation.id] is None else KEYED
    return [code for code in CODES if code in operation.codes | EVERYWHERE | keyed]


# ---- paths


def _paths() -> Json:
    paths: Json = {}
    for (method, path), row in OPERATIONS.items():
        paths.setdefault(path, {})[method.lower()] = _operation(row)
    return paths


def _operation(row: Operation) -> Json:
    said: Json = {"operationId": row.id, "tags": [row.tag], "summary": row.summary}
    if row.description:
        said["description"] = row.description
    role = ROLE_OF[row.id]
    if role is None:
        said["security"] = []
    else:
        said["x-role"] = role
    parameters = [
        *(_parameter(param, "path") for param in row.path),
        *(_query_parameters(row.query) if row.query is not None else ()),
        *(_parameter(param, "header") for param in row.headers),
    ]
    if parameters:
        said["parameters"] = parameters
    if row.body is not None:
        examples = {name: {"value": value} for name, value in row.requests.items()}
        content = {"application/json": {"schema": _ref(row.body), "examples": examples}}
        said["requestBody"] = {"required": row.body_needed, "content": content}
    said["responses"] = _responses(row)
    return said


def _parameter(param: Param, where: str) -> Json:
    return {
        "name": param.name,
        "in": where,
        "required": where == "path" or param.needed,
        "description": param.meaning,
        "schema": dict(param.schema),
        "example": param.example,
    }


def _query_parameters(query: type[Struct]) -> list[Json]:
    schema = _schemas()[query.__name__]
    needed = schema.get("required", ())
    return [
        {
            "name": name,
            "in": "query",
            "required": name in needed,
            "description": said["description"],
            "schema": _without_null({key: value for key, value in said.items() if key != "description"}),
        }
        for name, said in schema["properties"].items()
    ]


def _without_null(schema: Json) -> Json:
    """Return what can be said in a query: nothing in it is null, it is left out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**kinds[0], **({"default": schema["default"]} if schema.get("default") is not None else {})}


def _responses(row: Operation) -> Json:
    codes = codes_of(row)
    statuses = sorted({*row.answers, *(CODES[code][0] for code in codes)})
    return {
        str(status): _response(row.answers.get(status, ()), [code for code in codes if CODES[code][0] == status])
        for status in statuses
    }


def _response(shown: tuple[Shown, ...], codes: list[str]) -> Json:
    refused = [f"Refused: {', '.join(f'`{code}`' for code in codes)}."] if codes else []
    said: Json = {"description": " ".join([*(answer.what for answer in shown), *refused])}
    if any(code in RETRY_AFTER_S for code in codes):
        said["headers"] = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
    said["content"] = {answer.media: _content(answer) for answer in shown}
    if codes:
        said["content"][PROBLEM_JSON.decode()] = {
            "schema": {"allOf": [_ref(ProblemDetails), {"properties": {"code": {"enum": codes}}}]},
            "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
        }
    return said


def _content(answer: Shown) -> Json:
    refs = [_ref(shape) for shape in answer.shapes]
    if refs:
        schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    else:
        schema = {"type": "object" if answer.media == "application/json" else "string"}
    examples = {name: {"value": _json(value)} for name, value in answer.examples.items()}
    return {"schema": schema, "examples": examples}


def _json(value: object) -> Any:
    """Return a value as whoever reads its JSON gets it."""
    return msgspec.json.decode(msgspec.json.encode(value))


# ---- schemas


def _ref(shape: type[Struct]) -> Json:
    return {"$ref": REF.format(name=shape.__name__)}


@cache
def _schemas() -> Json:
    named: list[type[Struct]] = [ProblemDetails]
    for row in OPERATIONS.values():
        named += [shape for answers in row.answers.values() for answer in answers for shape in answer.shapes]
        named += [shape for shape in (row.body, row.query) if shape is not None]
    shapes = {shape.__name__: shape for shape in named}
    _, found = msgspec.json.schema_components([decodable(shape) for shape in shapes.values()], ref_template=REF)
    schemas = {name: _polished(name, schema) for name, schema in sorted(found.items())}
    for name, shape in shapes.items():
        for field in _or_nothing(shape):
            _allow_nothing(schemas[name]["properties"][field])
    return schemas


def decodable(shape: type[Struct]) -> type[Struct]:
    """Return a Struct, or its twin where msgspec cannot decode it: ``X | dict[str, Any]``, which is X or ``{}``.

    The twin knows only X. Source: msgspec allows one object-like type in a union of untagged ones.
    """
    fields = _or_nothing(shape)
    if not fields:
        return shape
    rows: list[Any] = []
    for field in msgspec.structs.fields(shape):
        assert field.encode_name == field.name, "a twin renames nothing"
        kind = fields.get(field.name, field.type)
        rows.append((field.name, kind) if field.default is NODEFAULT else (field.name, kind, field.default))
    namespace = {"__doc__": shape.__doc__}
    return msgspec.defstruct(shape.__name__, rows, kw_only=True, frozen=True, module=__name__, namespace=namespace)


def _or_nothing(shape: type[Struct]) -> Mapping[str, type[Struct]]:
    """Return the fields of the kind ``X | dict[str, Any]``, with X."""
    found = {}
    for field in msgspec.structs.fields(shape):
        kinds = get_args(field.type) if get_origin(field.type) in {Union, UnionType} else ()
        if any(get_origin(kind) is dict for kind in kinds):
            found[field.name] = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Struct))
    return found


def _allow_nothing(schema: Json) -> None:
    schema["anyOf"] = [{"$ref": schema.pop("$ref")}, {"type": "object", "maxProperties": 0}]


def _polished(name: str, schema: Json) -> Json:
    """Return a schema with a description of every field, and with its docstring as callers read it."""
    said = dict(schema)
    if "description" in said:
        said["description"] = _for_callers(said["description"])
    said["properties"] = {
        field: {**_checked(of, CHECKED.get((name, field), {})), "description": meaning(name, field) or ""}
        for field, of in said.get("properties", {}).items()
    }
    return said


def _checked(schema: Json, more: Mapping[str, str]) -> Json:
    """Return a schema whose text has to be ``more``."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_checked(one, more) for one in schema["anyOf"]]}
    return {**schema, **more} if schema.get("type") == "string" else schema


def _for_callers(docstring: str) -> str:
    """Return a docstring as Markdown about JSON."""
    text = re.sub(r"``(.+?)``", r"`\1`", docstring)
    return re.sub(r"\b(None|True|False)\b", lambda word: {"None": "null"}.get(word[0], word[0].lower()), text)


# ---- problems


def _problem_example(code: str) -> Json:
    status, retryable = CODES[code]
    text = PROBLEMS[code]
    value = {
        "type": f"urn:gpu-supervisor:problem:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": text.detail,
        "code": code,
        "retryable": retryable,
        **text.context,
    }
    return {"summary": code, "value": value}


def _code(code: str) -> Json:
    status, retryable = CODES[code]
    said: Json = {"status": status, "retryable": retryable}
    if code in RETRY_AFTER_S:
        said["retry_after_s"] = RETRY_AFTER_S[code]
    said["advice"] = PROBLEMS[code].advice
    said["operations"] = [row.id for row in OPERATIONS.values() if code in codes_of(row)]
    if code in BESIDE_OPERATIONS:
        said["beside"] = BESIDE_OPERATIONS[code]
    return said
