"""Requests to every operation, drawn from the document: as it asks for them, and as nobody should send them.

What only a story can know (a token that was handed out) stands in a drawn request as ``token(n)``, and ``told`` puts
the n-th newest one there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

Json = dict[str, Any]

#: Names of the targets in the house; the last has bad labels.
TARGETS = ("a", "b", "bad")
TOKENS = 3
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
PRINTABLE = st.text(st.characters(categories=("L", "N", "P", "S"), include_characters=" "), max_size=12)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | st.just("a" * 300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def token(n: int) -> str:
    return f"TOKEN-{n}"


class Ask(Struct, frozen=True, kw_only=True):
    """One request. ``path`` is a key of ``paths``, ``target`` what is sent. ``good``: it is as the document asks."""

    method: str
    path: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    good: bool = True

    def told(self, tokens: list[str]) -> Ask:
        """Return the request with the tokens that were handed out, the newest last, where it says so."""

        def put(text: str) -> str:
            return re.sub(r"TOKEN-(\d)", lambda found: [*reversed(tokens), *["none"] * TOKENS][int(found[1])], text)

        body = put(self.body.decode("latin-1")).encode("latin-1") if self.body is not None else None
        return replace(self, target=put(self.target), body=body)


#: Values that lead somewhere, where the schema would also take what leads nowhere. Waits are short.
KNOWN: dict[str, tuple[Any, ...]] = {
    "token": tuple(map(token, range(TOKENS))),
    "lease_token": tuple(map(token, range(TOKENS))),
    "target": TARGETS,
    "consumer": TARGETS,
    "name": (*TARGETS, "a-main", "a-main-1"),
    "Idempotency-Key": ("k1", "k2"),
    "uuid": ("SIM-0",),
    "gpus": (1,),
    "vram_mib": (None, 1_024),
    "gpu_class": (None, "high"),
    "pid": (None,),  # refused over TCP, whoever it is
}
WAITS = {"wait_s": (0, 1), "wait_seconds": (0,), "ready_timeout_seconds": (0, 1)}


def good_asks(document: Json, tags: Collection[str]) -> st.SearchStrategy[Ask]:
    """Draw a request as the document asks for it, to an operation with one of these tags."""
    return st.one_of(_good_ones(document, tags))


def one_of_each(document: Json) -> st.SearchStrategy[tuple[Ask, ...]]:
    """Draw a request to every operation, each as the document asks for it."""
    return st.tuples(*_good_ones(document, {tag["name"] for tag in document["tags"]}))


def _good_ones(document: Json, tags: Collection[str]) -> list[st.SearchStrategy[Ask]]:
    return [
        _good(document, method.upper(), path, said)
        for path, ways in document["paths"].items()
        for method, said in ways.items()
        if not set(said["tags"]).isdisjoint(tags)
    ]


def asks(document: Json, tags: Collection[str]) -> st.SearchStrategy[Ask]:
    """Draw a request: three of four as the document asks for it, one with something wrong."""
    good = good_asks(document, tags)
    return st.integers(0, 3).flatmap(lambda n: good if n else good.flatmap(spoiled))


# ---- as it should be


def values(document: Json, schema: Json, name: str = "") -> st.SearchStrategy[Any]:
    """Draw values that a schema takes: all the kinds that requests have."""
    if name in WAITS:
        return st.sampled_from(WAITS[name])
    drawn = _of_schema(document, schema)
    if name in KNOWN:
        return st.sampled_from([0, 1, 2]).flatmap(lambda n: st.sampled_from(KNOWN[name]) if n else drawn)
    return drawn


def _of_schema(document: Json, schema: Json) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return _of_schema(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return st.one_of([_of_schema(document, one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = schema["minimum"], schema["maximum"]
            return st.sampled_from([low, high]) | st.integers(low, high)
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"].strip("^$"), fullmatch=True).map(lambda text: text[:200])
        case "string":
            length = {"min_size": schema.get("minLength", 0), "max_size": min(schema.get("maxLength", 12), 12)}
            return st.text(st.characters(categories=("L", "N", "P", "S")), **length)
        case "object":
            fields = {field: values(document, of, field) for field, of in schema["properties"].items()}
            # Waits are always given: what they are where they are left out is too long for a test.
            needed = {*schema.get("required", ()), *WAITS}
            return st.fixed_dictionaries(
                {field: of for field, of in fields.items() if field in needed},
                optional={field: of for field, of in fields.items() if field not in needed},
            )
        case kind:
            raise AssertionError(f"no request has had a {kind} so far: {schema}")


@st.composite
def _good(draw: st.DrawFn, document: Json, method: str, path: str, said: Json) -> Ask:
    target, query, headers, body = path, {}, [], None
    for one in said.get("parameters", ()):
        if not one["required"] and draw(st.booleans()):
            continue
        value = str(draw(values(document, one["schema"], one["name"])))
        if one["in"] == "path":
            target = target.replace(f"{{{one['name']}}}", quote(value, safe=""))
        elif one["in"] == "query":
            query[one["name"]] = value
        else:
            headers.append((one["name"], value))
    if "requestBody" in said and (said["requestBody"]["required"] or draw(st.booleans())):
        schema = said["requestBody"]["content"]["application/json"]["schema"]
        body = json.dumps(draw(values(document, schema))).encode()
        headers.append(("Content-Type", "application/json"))
    target += f"?{urlencode(query)}" if query else ""
    return Ask(method=method, path=path, target=target, headers=tuple(headers), body=body)


# ---- as it should not be

NASTY = ("", "..", ".", "\0", "a\nb", "%00", "ä", "a" * 300, "*", "' OR 1=1", "<script>", "\N{RIGHT-TO-LEFT OVERRIDE}")
HEADERS = (
    ("Host", "evil.example"),
    ("Origin", "http://evil.example"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Content-Encoding", "gzip"),
    ("Idempotency-Key", "with a blank"),
    ("Idempotency-Key", ""),
    ("Idempotency-Key", "k" * 300),
    ("Last-Event-ID", "-1"),
    ("Last-Event-ID", "9" * 30),
    ("X-Long", "x" * 40_000),
)
CONTENT_TYPES = ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "")


def spoiled(ask: Ask) -> st.SearchStrategy[Ask]:
    """Draw a request with one thing wrong (or, now and then, only unusual)."""
    ways = [
        st.sampled_from(HEADERS).map(lambda header: replace(ask, headers=(*ask.headers, header))),
        st.sampled_from(METHODS).map(lambda method: replace(ask, method=method)),
        (st.sampled_from(NASTY) | st.text(max_size=20)).map(lambda text: _elsewhere(ask, text)),
        (st.sampled_from(NASTY) | st.text("aftergimlt=&0123456789%+-", max_size=20)).map(
            lambda text: replace(ask, target=f"{ask.target.partition('?')[0]}?{quote(text, safe='=&%+')}")
        ),
        st.binary(max_size=40).map(lambda raw: _with_body(ask, raw)),
        st.just(_with_body(ask, b" " * 70_000)),
        st.sampled_from(CONTENT_TYPES).map(lambda kind: _with_body(ask, ask.body or b"{}", kind)),
    ]
    if ask.body is not None:
        fields = json.loads(ask.body)
        names = st.sampled_from(sorted({*fields, "x"}))
        ways += [
            st.tuples(names, ANY_JSON).map(
                lambda pair: _with_body(ask, json.dumps({**fields, pair[0]: pair[1]}).encode())
            ),
            names.map(
                lambda name: _with_body(ask, json.dumps({k: v for k, v in fields.items() if k != name}).encode())
            ),
            ANY_JSON.map(lambda value: _with_body(ask, json.dumps(value).encode())),
        ]
    return st.one_of(ways).map(lambda found: replace(found, good=False))


def _elsewhere(ask: Ask, text: str) -> Ask:
    """Return the request with something else in its path: in the place of its parameter, or at its end."""
    try:
        filled = quote(text, safe="")
    except UnicodeEncodeError:
        filled = "%ED%A0%80"  # half a surrogate pair
    path = re.sub(r"{\w+}", lambda _: filled, ask.path) if "{" in ask.path else f"{ask.path}/{filled}"
    return replace(ask, target=path)


def _with_body(ask: Ask, body: bytes, kind: str = "application/json") -> Ask:
    headers = tuple(header for header in ask.headers if header[0] != "Content-Type")
    return replace(ask, body=body, headers=(*headers, ("Content-Type", kind)))
