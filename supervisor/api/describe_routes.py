"""``/openapi.json`` and ``/docs``: the API as it describes itself, made at the first request and kept."""

from __future__ import annotations

from functools import cache

from supervisor.api.call import ENCODER, Call
from supervisor.api.context import Context
from supervisor.api.docs_page import POLICY, page
from supervisor.api.openapi import document
from supervisor.api.problems import Answer
from supervisor.api.schemas import EmptyQuery

HTML = b"text/html; charset=utf-8"
PAGE_HEADERS = ((b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer"))


async def openapi(api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    return _document(api.version)


async def docs(api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    return _page(api.version)


@cache
def _document(version: str) -> Answer:
    return Answer(200, ENCODER.encode(document(version)))


@cache
def _page(version: str) -> Answer:
    return Answer(200, page(document(version)).encode(), HTML, PAGE_HEADERS)
