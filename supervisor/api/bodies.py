"""Bodies and queries, read strictly: whatever is not exactly what a schema says is a 400 that names the field.

Source: RFC 8259 section 4 leaves duplicate names to the reader: they are refused, because two readers of one request
must not disagree. msgspec takes the last of them, so they are looked for in what it has already found to be flat.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive

from supervisor.api.problems import RequestRefused, refuse
from supervisor.api.schemas import Body
from supervisor.core.values import BadValue, parse_target, shown

B = TypeVar("B", bound=Body)

BODY_MAX_BYTES = 64 * 1024
QUERY_MAX_FIELDS = 20
_PLACE = re.compile(r"^(?P<why>.*?)(?: - at `\$\.?(?P<field>.*)`)?$", re.DOTALL)


class CallerHungUp(Exception):
    """Nobody is there any more to be answered."""


async def read_body(receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        RequestRefused: it is larger than 64 KiB; whatever comes after is not read.
        CallerHungUp: the caller went away in the middle of it.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerHungUp
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > BODY_MAX_BYTES:
            raise too_large()
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def too_large() -> RequestRefused:
    return refuse("body_too_large", f"a body has at most {BODY_MAX_BYTES} bytes")


def decode_body(raw: bytes, type_: type[B]) -> B:
    """Decode a body.

    Raises:
        RequestRefused: it is no JSON, has a name twice, or is not what ``type_`` says; ``field`` says where.
    """
    try:
        body = msgspec.json.decode(raw, type=type_)
        # Every member has one colon of its own: as many as there are names, and no name is there twice.
        if raw.count(b":") != len(ANY.decode(raw)):
            NAMES.decode(raw.decode())
    except msgspec.ValidationError as error:
        raise _mismatch(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise refuse("bad_request", f"the body is not JSON: {shown(str(error), 200)}", field="") from None
    return body


def decode_query(raw: bytes, type_: type[B]) -> B:
    """Decode a query string; refuses as ``decode_body`` does."""
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_MAX_FIELDS)
        query: B = msgspec.convert(_once(pairs), type_, strict=False)
    except msgspec.ValidationError as error:
        raise _mismatch(str(error)) from None
    except ValueError as error:
        raise refuse("bad_request", f"the query cannot be read: {shown(str(error), 200)}", field="") from None
    return query


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name is there twice")
    return fields


ANY = msgspec.json.Decoder(dict[str, Any])
#: Made once: ``json.loads`` with a hook makes one for each body.
NAMES = json.JSONDecoder(object_pairs_hook=_once)


def _mismatch(message: str) -> RequestRefused:
    match = _PLACE.match(message)
    assert match is not None, "the pattern matches any text"
    field, why = match["field"] or "", shown(match["why"], 200)
    return refuse("bad_request", f"{field}: {why}" if field else why, field=field)


# ---- values that a type cannot say


def target_name(field: str, text: str) -> str:
    """Return ``text`` if it is a target's name; a path or a query can hold anything."""
    try:
        return parse_target(text)
    except BadValue as error:
        hint = f"; {error.hint}" if error.hint else ""
        raise refuse("bad_request", f"{field}: {error}{hint}", field=field) from None


def printable(field: str, text: str) -> str:
    """Return ``text`` if it can stand in a log line and on a terminal as it is."""
    if not text.isprintable():
        raise refuse("bad_request", f"{field}: only printable characters, on one line", field=field)
    return text
