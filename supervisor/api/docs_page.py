"""``/docs``: the document of ``openapi`` as one HTML page that needs nothing from outside, and no scripts. Pure.

Whatever is not made by ``tag`` is escaped, so nothing that the document says can become markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

Json = dict[str, Any]

BASE = "http://127.0.0.1:8080"
STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--link:#0a58ca}
@media (prefers-color-scheme:dark){:root{--link:#8ab4f8}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;overflow-wrap:break-word}
a{color:var(--link)}
h2{border-bottom:1px solid var(--line);margin-top:3rem}
h3{margin-top:2.5rem}
h4{margin:1.2rem 0 .3rem}
code,pre{font:14px/1.4 ui-monospace,monospace}
code{background:var(--soft);padding:.1em .3em;border-radius:3px}
pre{background:var(--soft);padding:.7rem;border-radius:5px;overflow-x:auto;white-space:pre}
summary{cursor:pointer}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}
td,th{border-top:1px solid var(--line);padding:.3rem .6rem .3rem 0;text-align:left;vertical-align:top}
td:first-child{white-space:nowrap}
nav li{margin:.2rem 0}
"""
#: No script, no picture, no frame, and this one style sheet.
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


class Html(str):
    """Markup that is safe as it is: only ``tag`` and ``join`` make it."""

    __slots__ = ()


def tag(name: str, *inside: str, **attributes: str) -> Html:
    """Return one element. Plain text in it is escaped; ``class_`` and the like lose their underscore."""
    said = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{said}>{join(inside)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def between(word: str, parts: Iterable[str]) -> Html:
    first, *others = parts
    return join((first, *(part for other in others for part in (word, other))))


def prose(text: str) -> Html:
    """Return a text with its `code` and *emphasis* marked, which is all the Markdown that is used."""
    parts = re.split(r"(`[^`]+`|\*[^*]+\*)", text)
    return join(_marked(part) for part in parts)


def _marked(part: str) -> str:
    if len(part) > 2 and part[0] == part[-1] and part[0] in "`*":
        return tag("code" if part[0] == "`" else "em", part[1:-1])
    return part


def paragraphs(text: str) -> Html:
    return join(tag("p", prose(part)) for part in text.split("\n\n") if part.strip())


def page(document: Json) -> str:
    """Return the whole page."""
    info = document["info"]
    operations = [(path, method, said) for path, ways in document["paths"].items() for method, said in ways.items()]
    common = set.intersection(*(set(_codes(said)) for *_, said in operations))
    by_tag = [(one, [row for row in operations if row[2]["tags"] == [one["name"]]]) for one in document["tags"]]
    title = f"{info['title']} {info['version']}: HTTP API"
    head = join(
        (
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", title),
            Html(f"<style>{STYLE}</style>"),
        )
    )
    body = join(
        (
            tag("h1", title),
            paragraphs(info["description"]),
            tag("p", "The same for programs: ", tag("a", "openapi.json", href="openapi.json"), "."),
            _contents(by_tag),
            *(_chapter(document, one, rows, common) for one, rows in by_tag),
            _problems(document, common),
            tag("h2", "Shapes", id="shapes"),
            *(_shape(name, said) for name, said in document["components"]["schemas"].items()),
        )
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


# ---- contents and operations


def _contents(by_tag: list[tuple[Json, list[tuple[str, str, Json]]]]) -> Html:
    rows = [
        tag("li", tag("a", f"{method.upper()} {path}", href=f"#{said['operationId']}"), f" {said['summary']}")
        for _, operations in by_tag
        for path, method, said in operations
    ]
    rest = [
        tag("li", tag("a", title, href=f"#{place}"))
        for title, place in (("Problem codes", "codes"), ("Shapes", "shapes"))
    ]
    return tag("nav", tag("ul", *rows, *rest))


def _chapter(document: Json, one: Json, rows: list[tuple[str, str, Json]], common: set[str]) -> Html:
    inside = (_operation(document, path, method, said, common) for path, method, said in rows)
    return tag("section", tag("h2", one["name"].capitalize()), paragraphs(one["description"]), *inside)


def _operation(document: Json, path: str, method: str, said: Json, common: set[str]) -> Html:
    parts: list[str] = [
        tag("h3", tag("code", f"{method.upper()} {path}"), f" {said['summary']}", id=said["operationId"]),
        paragraphs(said.get("description", "")),
    ]
    parameters = said.get("parameters", [])
    if parameters:
        rows = [
            (f"{one['name']} ({one['in']})", {**one["schema"], "description": one["description"]}, one["required"])
            for one in parameters
        ]
        parts += [tag("h4", "Parameters"), _fields(rows)]
    body = said.get("requestBody")
    if body is not None:
        shape = document["components"]["schemas"][_name(body["content"]["application/json"]["schema"])]
        if shape["properties"]:
            needed = "" if body["required"] else " (may be left out)"
            parts += [tag("h4", f"Body{needed}"), _fields(_rows(shape))]
    parts += [tag("h4", "Try it"), *_curls(path, method, said)]
    parts += [tag("h4", "Answers"), *(_answer(*answer) for answer in said["responses"].items())]
    own = [code for code in _codes(said) if code not in common]
    links = [part for code in own for part in (tag("a", code, href=f"#code-{code}"), " ")]
    parts.append(tag("p", "Refusals: ", *links, tag("a", "what every call may be answered", href="#codes")))
    return tag("section", *parts)


def _requests(said: Json) -> list[tuple[str, Json | None]]:
    """Return a call's examples: a name and a body, or one without either."""
    body = said.get("requestBody")
    if body is None:
        return [("", None)]
    examples = [(name, one["value"]) for name, one in body["content"]["application/json"]["examples"].items()]
    return [(name, value or None) for name, value in examples]


def _curls(path: str, method: str, said: Json) -> list[Html]:
    # Headers only in the first: an Idempotency-Key stands for one request.
    return [_curl(path, method, said, *one, first=not i) for i, one in enumerate(_requests(said))]


def _curl(path: str, method: str, said: Json, name: str, body: Json | None, *, first: bool) -> Html:
    for one in said.get("parameters", []):
        path = path.replace(f"{{{one['name']}}}", quote(str(one.get("example", "")), safe=""))
    words = ["curl", "-s", *(("-X", method.upper()) if method != "get" else ()), BASE + path]
    headers = [
        f"{one['name']}: {one['example']}" for one in said.get("parameters", []) if first and one["in"] == "header"
    ]
    if "text/event-stream" in said["responses"].get("200", {}).get("content", {}):
        words[1] = "-sN"
        headers.insert(0, "Accept: text/event-stream")
    if body is not None:
        headers.insert(0, "Content-Type: application/json")
    for header in headers:
        words += ["-H", header]
    if body is not None:
        words += ["-d", json.dumps(body)]
    comment = f"# {name}\n" if body is not None else ""
    return tag("pre", comment + shlex.join(words))


def _answer(status: str, response: Json) -> Html:
    shown = [(media, one) for media, one in response["content"].items() if media != "application/problem+json"]
    if not shown:
        return Html("")
    kinds = [
        part
        for media, one in shown
        for part in (" ", tag("code", media), " ", kind(one["schema"]) if "json" in media else "")
    ]
    examples = [
        tag("details", tag("summary", f"Example: {name}"), tag("pre", _pretty(example["value"])))
        for _, one in shown
        for name, example in one["examples"].items()
    ]
    return join(
        (tag("p", tag("code", status), " ", prose(response["description"].split(" Refused:")[0]), *kinds), *examples)
    )


def _pretty(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2)


def _codes(said: Json) -> list[str]:
    contents = (response["content"].get("application/problem+json") for response in said["responses"].values())
    return [code for one in contents if one for code in one["schema"]["allOf"][1]["properties"]["code"]["enum"]]


# ---- shapes


def _shape(name: str, said: Json) -> Html:
    about = paragraphs(said.get("description", ""))
    fields = _fields(_rows(said)) if said["properties"] else tag("p", "No fields.")
    return tag("section", tag("h3", name, id=f"shape-{name}"), about, fields)


def _rows(shape: Json) -> list[tuple[str, Json, bool]]:
    needed = shape.get("required", ())
    return [(name, field, name in needed) for name, field in shape["properties"].items()]


def _fields(rows: list[tuple[str, Json, bool]]) -> Html:
    lines = (
        tag(
            "tr",
            tag("td", tag("code", name)),
            tag("td", kind(said), _default(said, needed)),
            tag("td", prose(_about(said))),
        )
        for name, said, needed in rows
    )
    heading = tag("tr", tag("th", "Field"), tag("th", "Type"), tag("th", "Meaning"))
    return tag("div", tag("table", heading, *lines), class_="wide")


def _about(said: Json) -> str:
    return str(said.get("description", ""))


def _default(said: Json, needed: bool) -> Html:
    if "default" in said:
        return join(("; default ", tag("code", json.dumps(said["default"]))))
    return join(("; required" if needed else "; may be left out",))


def kind(schema: Json) -> Html:
    """Return a schema's type and bounds in words."""
    if "$ref" in schema:
        name = _name(schema)
        return tag("a", name, href=f"#shape-{name}")
    if "anyOf" in schema:
        return between(" or ", map(kind, schema["anyOf"]))
    if "enum" in schema:
        return between(", ", (tag("code", json.dumps(value)) for value in schema["enum"]))
    word = schema.get("type", "anything")
    if word == "array":
        return join(("list of ", kind(schema.get("items", {}))))
    if word == "object" and isinstance(schema.get("additionalProperties"), dict):
        return join(("object of ", kind(schema["additionalProperties"])))
    if word == "object" and schema.get("maxProperties") == 0:
        return tag("code", "{}")
    return join((word, _bounds(schema)))


def _bounds(schema: Json) -> str:
    said = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "from"),
            ("maximum", "to"),
            ("minLength", "at least"),
            ("maxLength", "at most"),
            ("pattern", "like"),
        )
        if key in schema
    ]
    unit = " characters" if {"minLength", "maxLength"} & schema.keys() else ""
    return f", {' '.join(said)}{unit}" if said else ""


def _name(schema: Json) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


# ---- problems


def _problems(document: Json, common: set[str]) -> Html:
    heading = tag("tr", *(tag("th", word) for word in ("Code", "Status", "Try again", "What to do")))
    lines = (
        tag(
            "tr",
            tag("td", tag("code", code)),
            tag("td", str(said["status"])),
            tag("td", _again(said)),
            tag("td", prose(said["advice"]), " Any call." if code in common else ""),
            id=f"code-{code}",
        )
        for code, said in document["x-problem-codes"].items()
    )
    return tag(
        "section",
        tag("h2", "Problem codes", id="codes"),
        tag("div", tag("table", heading, *lines), class_="wide"),
    )


def _again(said: Json) -> str:
    if not said["retryable"]:
        return "no"
    return f"after {said['retry_after_s']} s" if "retry_after_s" in said else "yes"
