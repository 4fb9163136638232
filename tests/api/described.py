"""Answers and requests held against the document that the API gives of itself.

``Described`` is strict where the published document is open: a field that it does not name is a breach here, because a
later version may add fields, and this version must know its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT202012

Json = dict[str, Any]

PROBLEM = "application/problem+json"
#: What a path that is not there, or a method that it does not take, is answered: no operation can answer these.
BESIDE = {404: "not_found", 405: "method_not_allowed"}


def strict(document: Json) -> Json:
    """Return the document with every named shape closed."""
    closed = deepcopy(document)
    for schema in closed["components"]["schemas"].values():
        schema.setdefault("additionalProperties", False)
    return closed


class Described:
    """One document. ``unlike`` says how an answer differs from it."""

    def __init__(self, document: Json) -> None:
        self.document = document
        registry: Registry[Any] = Registry().with_resource("urn:api", DRAFT202012.create_resource(strict(document)))

        @cache
        def validator(*place: str) -> Draft202012Validator:
            pointer = "/".join(part.replace("~", "~0").replace("/", "~1") for part in place)
            return Draft202012Validator({"$ref": f"urn:api#/{pointer}"}, registry=registry)

        self._validator = validator

    def operation(self, method: str, path: str) -> Json:
        """Return what is said of an operation; HEAD is its GET."""
        found: Json = self.document["paths"][path]["get" if method == "HEAD" else method.lower()]
        return found

    def errors(self, value: object, *place: str) -> list[str]:
        """Return what keeps a value from being what the schema at a place of the document says."""
        return [_told(error) for error in self._validator(*place).iter_errors(value)]

    def unlike(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> list[str]:
        """Return every way in which an answer differs from what is said of its operation.

        Args:
            path: As a key of ``paths``.
            headers: By lower-case name.
        """
        place = ("paths", path, "get" if method == "HEAD" else method.lower(), "responses", str(status))
        response = self.operation(method, path)["responses"].get(str(status))
        if response is None:
            return [f"status {status} is not described"]
        media = headers.get("content-type", "").partition(";")[0]
        if media not in response["content"]:
            return [f"{media or 'no content type'} is not described for {status}"]
        if method == "HEAD":
            return ["HEAD is answered with a body"] if body else []
        if "json" not in media:
            return []
        try:
            value = json.loads(body)
        except ValueError as error:
            return [f"the body is not JSON: {error}"]
        said = self.errors(value, *place, "content", media, "schema")
        return [*said, *(self._problem(status, headers, value) if media == PROBLEM and not said else ())]

    def _problem(self, status: int, headers: Mapping[str, str], value: Json) -> list[str]:
        code = self.document["x-problem-codes"][value["code"]]
        said = (value["status"], value["retryable"], headers.get("retry-after"))
        after = str(code["retry_after_s"]) if "retry_after_s" in code else None
        expected = (code["status"], code["retryable"], after)
        if said == expected == (status, *expected[1:]):
            return []
        return [f"{value['code']}: status, retryable and Retry-After are {said}, not {expected}"]


def _told(error: ValidationError) -> str:
    """Return the deepest reason of an error: of ``anyOf`` the one that came furthest."""
    where = "/".join(str(part) for part in error.absolute_path)
    deeper = "; ".join(sorted({_told(one) for one in error.context or ()}))
    return f"{where or 'the whole'}: {deeper or error.message[:300]}"
