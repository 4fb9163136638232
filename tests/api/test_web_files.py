"""``/`` and ``/web/...``: the files of the web view, and what comes with them. tests/web opens them in a browser."""

from __future__ import annotations

import re

import pytest

from supervisor.api.web_page import FOLDER, KINDS, web_files
from tests.api.house import house, run

SCRIPTS = [name for name in web_files() if name.endswith(".js")]


def test_the_page_and_its_files_come_under_a_strict_policy_and_are_never_stale():
    async def story() -> None:
        async with house() as it:
            for path in ("/", *(f"/web/{name}" for name in web_files() if name != "index.html")):
                answer = await it.get(path)
                assert answer.status_code == 200, path
                file = web_files()[path.rpartition("/")[2] or "index.html"]
                assert (answer.content, answer.headers["content-type"]) == (file.body, file.kind.decode())
                policy = answer.headers["content-security-policy"].split("; ")
                assert {
                    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"),
                    *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
                } <= set(policy)
                assert not any(word in one for one in policy for word in ("unsafe", "http", "*", "data:"))
                expected = {
                    "x-content-type-options": "nosniff",
                    "referrer-policy": "no-referrer",
                    "x-frame-options": "DENY",
                    "cross-origin-opener-policy": "same-origin",
                    "cache-control": "no-cache",
                    "etag": file.etag,
                }
                assert {name: answer.headers[name] for name in expected} == expected

    run(story())


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        pytest.param("{etag}", 304, id="the same"),
        pytest.param("W/{etag}", 304, id="the same, told weakly by a proxy"),
        pytest.param('"x", {etag}', 304, id="one of several"),
        pytest.param("*", 304, id="any"),
        pytest.param('"x"', 200, id="another"),
        pytest.param("", 200, id="none"),
    ],
)
def test_what_a_browser_has_already_is_not_sent_again(seen, status):
    async def story() -> None:
        async with house() as it:
            file = web_files()["app.js"]
            for method in ("GET", "HEAD"):
                headers = {"If-None-Match": seen.format(etag=file.etag)}
                answer = await it.client.request(method, "/web/app.js", headers=headers)
                body = file.body if (status, method) == (200, "GET") else b""
                assert (answer.status_code, answer.content, answer.headers["etag"]) == (status, body, file.etag)
                assert ("content-length" in answer.headers) == (status == 200)
            assert (await it.get("/healthz")).status_code == 200  # the connection is still good

    run(story())


@pytest.mark.parametrize("name", ["nothing.js", "index", "%2e%2e%2fpy.typed", "py.typed", "app.js%00", "APP.JS"])
def test_nothing_else_is_served_from_there(name):
    async def story() -> None:
        async with house() as it:
            answer = await it.get(f"/web/{name}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    run(story())


def test_every_file_is_of_a_kind_that_is_served():
    assert {path.suffix for path in FOLDER.iterdir()} <= set(KINDS)


def test_the_page_has_nothing_inline_and_asks_for_nothing_from_elsewhere():
    text = web_files()["index.html"].body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?:|//", text)
    assert re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL) == [""]
    named = set(re.findall(r'(?:src|href)="(?!#)([^"]+)"', text))
    assert named == {"web/icon.svg", "web/style.css", "web/app.js", "docs"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_makes_markup_of_a_text(name):
    text = web_files()[name].body.decode()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextual", text)
    assert not re.search(r"\beval\b|new Function|localStorage|document\.cookie", text)
    assert not re.search(r'"style"|\.cssText', text), "a style attribute is against the policy"


def test_the_scripts_name_each_other_and_none_is_left_over():
    imports = {name: set(re.findall(r'from "\./([a-z]+\.js)"', web_files()[name].body.decode())) for name in SCRIPTS}
    reached, todo = set(), ["app.js"]
    while todo:
        name = todo.pop()
        reached.add(name)
        todo += imports[name] - reached
    assert reached == set(SCRIPTS)
