"""``/docs``: one page that needs nothing, runs nothing, and says all of the document."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from copy import deepcopy
from html.parser import HTMLParser

import pytest

from supervisor.api.describe import OPERATIONS
from supervisor.api.docs_page import BASE, join, kind, page, prose, tag
from supervisor.api.openapi import document
from supervisor.core.errors import CODES
from tests.api.house import house, run

DOCUMENT = document("1.2.3")
EMPTY = {"meta"}


class Page(HTMLParser):
    """What is in a page: elements, attributes, ids, links and texts. Fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.blocks: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, name, attributes):
        self.tags.add(name)
        self.attributes |= {key for key, _ in attributes}
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links |= {values["href"]} if "href" in values else set()
        if name not in EMPTY:
            self._open.append(name)
            self.blocks.append((name, ""))

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, data):
        if self._open:
            self.blocks.append((self._open[-1], data))

    def texts(self, name: str) -> list[str]:
        return [text for block, text in self.blocks if block == name and text]


PAGE = Page(page(DOCUMENT))


def test_it_needs_nothing_from_outside_and_runs_nothing():
    async def story() -> None:
        async with house() as it:
            answer = await it.get("/docs")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert answer.text == page(DOCUMENT)
            (style,) = PAGE.texts("style")
            digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
            assert answer.headers["content-security-policy"] == (
                f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'"
            )
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "url(" not in style
            assert "@import" not in style

    run(story())
    assert PAGE.tags & {"script", "img", "iframe", "link", "object", "form", "base", "svg"} == set()
    assert {name for name in PAGE.attributes if name.startswith("on")} | PAGE.attributes & {"style", "src"} == set()


def test_it_fits_a_phone_and_a_dark_room():
    text = page(DOCUMENT)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme:dark" in text


def test_its_links_lead_somewhere():
    assert PAGE.links - {f"#{place}" for place in PAGE.ids} == {"openapi.json"}
    assert len(PAGE.ids) == len(set(PAGE.ids))


def test_it_says_every_operation_field_and_code():
    assert {row.id for row in OPERATIONS.values()} | {f"code-{code}" for code in CODES} <= set(PAGE.ids)
    fields = {field for schema in DOCUMENT["components"]["schemas"].values() for field in schema["properties"]}
    assert fields <= set(PAGE.texts("code"))
    text = page(DOCUMENT)
    assert "from 0 to 2147483647" in text
    assert "default <code>300</code>" in text
    for said in DOCUMENT["x-problem-codes"].values():
        assert str(prose(said["advice"])) in text


def test_its_examples_are_commands_that_can_be_typed():
    commands = [shlex.split(text, comments=True) for text in PAGE.texts("pre") if "curl" in text]
    assert len(commands) >= len(OPERATIONS)
    for words in commands:
        assert words[0] == "curl"
        (url,) = (word for word in words if word.startswith(BASE))
        assert "{" not in url


def test_an_answer_to_its_first_example_is_what_it_says():
    async def story() -> None:
        async with house() as it:
            words = next(shlex.split(text, comments=True) for text in PAGE.texts("pre") if "a bare lease" in text)
            headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
            path = next(word for word in words if word.startswith(BASE)).removeprefix(BASE)
            answer = await it.client.post(path, content=words[words.index("-d") + 1], headers=headers)
            assert answer.status_code == 201

    run(story())


def test_nothing_that_is_said_becomes_markup():
    evil = deepcopy(DOCUMENT)
    bad = "<script>alert('\"&')</script>`<b>`"

    def spoil(value):
        match value:
            case dict():
                return {
                    key: spoil(one) if key not in {"$ref", "in", "operationId", "tags", "name"} else one
                    for key, one in value.items()
                }
            case list():
                return [spoil(one) for one in value]
            case str() if re.search(r"[a-z] [a-z]", value):
                return value + bad
            case _:
                return value

    spoiled = page(spoil(evil))
    assert spoiled.count("alert(") > 100
    found = Page(spoiled)
    assert found.tags == PAGE.tags
    assert found.attributes == PAGE.attributes


@pytest.mark.parametrize(
    ("made", "text"),
    [
        pytest.param(tag("p", "<b>"), "<p>&lt;b&gt;</p>", id="text is escaped"),
        pytest.param(tag("p", tag("b", "x")), "<p><b>x</b></p>", id="an element is not"),
        pytest.param(tag("p", str(tag("b", "x"))[0:]), "<p>&lt;b&gt;x&lt;/b&gt;</p>", id="a part of one is text again"),
        pytest.param(tag("a", "x", href='"><b>'), '<a href="&quot;&gt;&lt;b&gt;">x</a>', id="an attribute is escaped"),
        pytest.param(join(["a&", tag("b")]), "a&amp;<b></b>", id="joined"),
        pytest.param(prose("a `b<c` *d*"), "a <code>b&lt;c</code> <em>d</em>", id="code and emphasis"),
    ],
)
def test_markup_is_what_was_made_as_such(made, text):
    assert made == text


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        pytest.param({"$ref": "#/components/schemas/Lease"}, '<a href="#shape-Lease">Lease</a>', id="a shape"),
        pytest.param(
            {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]}, "integer, from 0 or null", id="or"
        ),
        pytest.param({"enum": ["a", "b"]}, "<code>&quot;a&quot;</code>, <code>&quot;b&quot;</code>", id="one of"),
        pytest.param({"type": "array", "items": {"type": "string"}}, "list of string", id="a list"),
        pytest.param({"type": "object", "additionalProperties": {"type": "string"}}, "object of string", id="a map"),
        pytest.param({"type": "object", "maxProperties": 0}, "<code>{}</code>", id="nothing"),
        pytest.param({"type": "string", "maxLength": 256}, "string, at most 256 characters", id="a length"),
        pytest.param({}, "anything", id="anything"),
    ],
)
def test_a_type_in_words(schema, text):
    assert kind(schema) == text
