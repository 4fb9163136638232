"""``/`` and ``/web/...``: the web view's files as they are in the package, under a policy that lets in nothing else.

They are the same for everybody and say nothing of the machine, so that they need no key: the page asks for that.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from msgspec import Struct

from supervisor.api.call import Call
from supervisor.api.context import Context
from supervisor.api.problems import Answer, Headers, refuse
from supervisor.api.schemas import EmptyQuery

FOLDER = Path(__file__).parents[1] / "web"
PAGE = "index.html"
KINDS = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
#: Its own scripts, styles and requests; nothing inline, nothing from elsewhere, and in nobody's frame.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Headers = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"x-frame-options", b"DENY"),
    # Kept, and asked for each time whether it is still the same: an upgrade shows at once.
    (b"cache-control", b"no-cache"),
)


class WebFile(Struct, frozen=True):
    body: bytes
    kind: bytes
    etag: str


@cache
def web_files() -> dict[str, WebFile]:
    """Return every file of the view by its name; read once."""
    return {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS}


def _read(path: Path) -> WebFile:
    body = path.read_bytes()
    return WebFile(body, KINDS[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


async def page(_api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    return _sent(call, web_files()[PAGE])


async def file(_api: Context, call: Call) -> Answer:
    call.query(EmptyQuery)
    found = web_files().get(call.param("file"))
    if found is None:
        raise refuse("not_found", "the web view has no such file")
    return _sent(call, found)


def _sent(call: Call, found: WebFile) -> Answer:
    headers = (*HEADERS, (b"etag", found.etag.encode()))
    if _same(call.header(b"if-none-match"), found.etag):
        return Answer(304, b"", found.kind, headers)
    return Answer(200, found.body, found.kind, headers)


def _same(seen: str | None, etag: str) -> bool:
    """Return whether a client has it already. Weak tags count. Source: RFC 9110, section 13.1.2."""
    if seen is None:
        return False
    return seen == "*" or etag in {one.strip().removeprefix("W/") for one in seen.split(",")}
