"""What a change of the HTTP API takes away from its callers: ``broken(old, new)``, on two OpenAPI documents. Pure.

Whoever asks may send what they sent before, and finds in an answer what was there before. So a request may take more
and never less, and an answer may say more and never less or something else:

====================  ======================================  ===================================================
what                  breaks                                  passes
====================  ======================================  ===================================================
operation, status     gone                                    new
media type, header    gone                                    new
field of an answer    gone, maybe left out, another kind      new, one kind fewer
field of a request    gone, needed now, narrower, one kind    new and not needed, wider, one kind more
                      fewer, another default
enum value            gone                                    new (in an answer: pass over what you don't know)
problem code          gone, another status or ``retryable``   new
====================  ======================================  ===================================================

Shapes are compared where they are used, so their names don't matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

Json = dict[str, Any]
Way = Literal["asked", "answered"]

PROBLEM = "application/problem+json"
#: Of a bound, whether a larger number is narrower.
BOUNDS = {
    "minimum": True,
    "exclusiveMinimum": True,
    "minLength": True,
    "minItems": True,
    "maximum": False,
    "exclusiveMaximum": False,
    "maxLength": False,
    "maxItems": False,
}
DEPTH_MAX = 20


def broken(old: Json, new: Json) -> list[str]:
    """Return what callers of ``old`` lose with ``new``, in a sentence each; empty if nothing."""
    return list(dict.fromkeys([*_codes(old, new), *_operations(_Pair(old, new))]))


class _Pair:
    """The two documents: where a ``$ref`` of either leads to."""

    def __init__(self, old: Json, new: Json) -> None:
        self.old, self.new = old, new

    def variants(self, old: Json, new: Json) -> tuple[list[Json], list[Json]]:
        return list(_variants(self.old, old)), list(_variants(self.new, new))


def _variants(document: Json, schema: Json) -> Iterator[Json]:
    """Return what a schema may be, one by one: references followed, ``anyOf`` taken apart, ``allOf`` put together."""
    if "$ref" in schema:
        yield from _variants(document, _found(document, schema["$ref"]))
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _variants(document, one)
    elif "allOf" in schema:
        parts = [part for one in schema["allOf"] for part in _variants(document, one)]
        yield _together(parts)
    elif isinstance(schema.get("type"), list):
        for kind in schema["type"]:
            yield {**schema, "type": kind}
    else:
        yield schema


def _together(parts: list[Json]) -> Json:
    whole: Json = {"type": "object", "properties": {}, "required": []}
    for part in parts:
        for name, field in part.get("properties", {}).items():
            whole["properties"][name] = {**whole["properties"].get(name, {}), **field}
        whole["required"] += part.get("required", [])
    return whole


def _found(document: Json, pointer: str) -> Json:
    found: Any = document
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


# ---- operations


def _codes(old: Json, new: Json) -> Iterator[str]:
    for code, said in old["x-problem-codes"].items():
        now = new["x-problem-codes"].get(code)
        if now is None:
            yield f"problem code {code} is gone"
            continue
        for what in ("status", "retryable"):
            if said[what] != now[what]:
                yield f"problem code {code}: {what} was {said[what]}, and is {now[what]}"


def _operations(pair: _Pair) -> Iterator[str]:
    for path, ways in pair.old["paths"].items():
        for method, said in ways.items():
            name = f"{method.upper()} {path}"
            now = pair.new["paths"].get(path, {}).get(method)
            if now is None:
                yield f"{name} is gone"
            else:
                yield from (f"{name}: {told}" for told in _operation(pair, said, now))


def _operation(pair: _Pair, old: Json, new: Json) -> Iterator[str]:
    yield from _parameters(pair, old.get("parameters", []), new.get("parameters", []))
    yield from _body(pair, old.get("requestBody"), new.get("requestBody"))
    for status, said in old["responses"].items():
        now = new["responses"].get(status)
        if now is None:
            yield f"{status} is gone"
            continue
        yield from (
            f"{status}: header {name} is gone" for name in said.get("headers", {}).keys() - now.get("headers", {})
        )
        yield from (f"{status}: {told}" for told in _contents(pair, "answered", said, now))


def _parameters(pair: _Pair, old: list[Json], new: list[Json]) -> Iterator[str]:
    before = {(one["in"], one["name"]): one for one in old}
    after = {(one["in"], one["name"]): one for one in new}
    for key, said in before.items():
        if key not in after:
            yield f"{key[0]} parameter {key[1]} is gone"
        else:
            place = f"{key[0]} parameter {key[1]}"
            yield from _schema(pair, "asked", place, said["schema"], after[key]["schema"])
    for key, now in after.items():
        if now.get("required", False) and not before.get(key, {}).get("required", False):
            yield f"{key[0]} parameter {key[1]} is needed now"


def _body(pair: _Pair, old: Json | None, new: Json | None) -> Iterator[str]:
    if new is not None and new.get("required", False) and not (old or {}).get("required", False):
        yield "a body is needed now"
    if old is not None and new is None:
        yield "its body is gone"
    elif old is not None and new is not None:
        yield from _contents(pair, "asked", old, new)


def _contents(pair: _Pair, way: Way, old: Json, new: Json) -> Iterator[str]:
    for media, said in old.get("content", {}).items():
        now = new.get("content", {}).get(media)
        if now is None:
            yield f"{media} is gone"
        else:
            yield from _schema(pair, way, "body" if way == "asked" else "answer", said["schema"], now["schema"])


# ---- schemas


def _schema(pair: _Pair, way: Way, place: str, old: Json, new: Json) -> Iterator[str]:
    """Compare what may stand at one place."""
    assert place.count(".") + place.count("[]") < DEPTH_MAX, f"a shape that holds itself is not compared: {place}"
    before, after = pair.variants(old, new)
    lost, gained = _kinds(before) - _kinds(after), _kinds(after) - _kinds(before)
    if way == "asked" and lost:
        yield f"{place} does not take {_words(lost)} any more"
    if way == "answered" and gained:
        yield f"{place} may be {_words(gained)} now"
    if way == "asked" and old.get("default") != new.get("default"):
        yield f"{place}: default was {old.get('default')!r}, and is {new.get('default')!r}"
    for said in before:
        matches = [now for now in after if _kind(now) == _kind(said)]
        told = [list(_variant(pair, way, place, said, now)) for now in matches]
        # Of several shapes the one that is nearest is its successor.
        yield from min(told, key=len, default=[])


def _kinds(variants: Iterable[Json]) -> set[str]:
    return {_kind(one) for one in variants}


def _kind(schema: Json) -> str:
    if "type" in schema:
        return str(schema["type"])
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    kinds = {"boolean" if isinstance(one, bool) else "string" if isinstance(one, str) else "integer" for one in values}
    return kinds.pop() if len(kinds) == 1 else "anything"


def _words(kinds: set[str]) -> str:
    return ", ".join(sorted(kinds))


def _variant(pair: _Pair, way: Way, place: str, old: Json, new: Json) -> Iterator[str]:
    """Compare two schemas of one kind."""
    yield from _values(way, place, old, new)
    if way == "asked":
        yield from _narrower(place, old, new)
    if "items" in old:
        yield from _schema(pair, way, f"{place}[]", old["items"], new.get("items", {}))
    if isinstance(old.get("additionalProperties"), dict):
        more = new.get("additionalProperties")
        if isinstance(more, dict):
            yield from _schema(pair, way, f"{place}.*", old["additionalProperties"], more)
        else:
            yield f"{place} is no map any more"
    yield from _fields(pair, way, place, old, new)


def _values(way: Way, place: str, old: Json, new: Json) -> Iterator[str]:
    before, after = _enum(old), _enum(new)
    if before is not None and after is not None:
        yield from (f"{place}: value {value!r} is gone" for value in before if value not in after)
    elif after is not None and way == "asked":
        yield f"{place} takes only {', '.join(map(repr, after))} now"


def _enum(schema: Json) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _narrower(place: str, old: Json, new: Json) -> Iterator[str]:
    for bound, up in BOUNDS.items():
        before, after = old.get(bound), new.get(bound)
        if after is not None and (before is None or (after > before if up else after < before)):
            yield f"{place}: {bound} was {before}, and is {after}"
    if new.get("pattern") is not None and old.get("pattern") != new["pattern"]:
        yield f"{place}: pattern was {old.get('pattern')}, and is {new['pattern']}"
    if old.get("additionalProperties", True) is not False and new.get("additionalProperties", True) is False:
        yield f"{place} does not take other fields any more"


def _fields(pair: _Pair, way: Way, place: str, old: Json, new: Json) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed_before, needed_after = set(old.get("required", ())), set(new.get("required", ()))
    for name, said in before.items():
        if name not in after:
            yield f"{place}.{name} is gone"
        else:
            yield from _schema(pair, way, f"{place}.{name}", said, after[name])
    if way == "asked":
        yield from (f"{place}.{name} is needed now" for name in sorted(needed_after - needed_before))
    else:
        left_out = (needed_before - needed_after) & after.keys()
        yield from (f"{place}.{name} may be left out now" for name in sorted(left_out))
