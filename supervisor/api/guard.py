"""What keeps a browser on this machine, and other people's web pages in it, from driving the supervisor.

A page from elsewhere can make a browser send requests to 127.0.0.1. Three things give them away: a ``Host`` that is
not ours (DNS rebinding: the page's own name resolves to this machine), an ``Origin`` that is not ours, and
``Sec-Fetch-Site``, which no page can forge. What has a body must say that it is JSON: an HTML form cannot.

Source: Fetch standard, "CORS-safelisted request-header"; W3C Fetch Metadata, section 2.3; Caddy's admin endpoint and
Ollama's ``allowedHostsMiddleware`` check the same.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from supervisor.api.bodies import BODY_MAX_BYTES, too_large
from supervisor.api.call import refused, send_answer
from supervisor.api.problems import RequestRefused, refuse

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
LOOKED_AT = frozenset(
    (
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"sec-fetch-dest",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"transfer-encoding",
    )
)
PAGES = frozenset({"/", "/docs"})
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9._-]{1,255}))(?::[0-9]{1,5})?")
_JSON = re.compile(r"application/json\s*(?:;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE)


class Guard:
    """Pure ASGI middleware around ``app``: what it does not like never gets further."""

    def __init__(
        self, app: ASGIApp, *, host: str, allowed_hosts: Iterable[str], on_refusal: Callable[[str], None]
    ) -> None:
        self._app = app
        self._on_refusal = on_refusal
        self._names = {_bare(name) for name in (*LOOPBACK_NAMES, host, *allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            self._check(scope)
        except RequestRefused as error:
            self._on_refusal(error.code)
            await send_answer(send, refused(error))
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name in LOOKED_AT:
                headers.setdefault(name, []).append(value.decode("latin-1"))
        hosts = headers.get(b"host", [])
        if not is_unix(scope):
            self._check_host(scope, hosts)
        for site in headers.get(b"sec-fetch-site", ()):
            if site not in {"none", "same-origin"} and not _follows_link(scope, headers):
                raise refuse("forbidden", "a web page from elsewhere must not drive the supervisor")
        for origin in headers.get(b"origin", ()):
            if not _same_origin(origin, hosts):
                raise refuse("forbidden", "a web page from elsewhere must not drive the supervisor")
        _check_body(headers)

    def _check_host(self, scope: Scope, hosts: list[str]) -> None:
        name = _name_of(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self._names or name == _arrived_at(scope)):
            raise refuse(
                "forbidden",
                "this Host is not one of this server's names; --allowed-hosts adds names that it is known by",
            )


@lru_cache(maxsize=64)
def _name_of(host: str) -> str | None:
    """Return the name in a ``Host``, without its port; None if it is none."""
    match = _HOST.fullmatch(host.lower())
    return (match["v6"] or match["name"]) if match is not None else None


def is_unix(scope: Scope) -> bool:
    """Return whether the request came over a unix socket: only who may open it can send one, and no browser can."""
    server = scope.get("server")
    return server is not None and server[1] is None


def _arrived_at(scope: Scope) -> str | None:
    """Return the address that the connection came to. As a literal in ``Host`` it cannot be a name that was rebound."""
    server = scope.get("server")
    try:
        return str(ipaddress.ip_address(server[0])) if server is not None else None
    except ValueError:
        return None


def _bare(name: str) -> str:
    return name.strip("[]").lower()


def _follows_link(scope: Scope, headers: dict[bytes, list[str]]) -> bool:
    """Return whether a person followed a link from elsewhere to a page that is the same for everybody.

    It says nothing of this machine, runs nothing by itself that a link could steer, and no page can be its frame.
    """
    if scope["path"] not in PAGES or scope["method"] not in {"GET", "HEAD"} or scope["query_string"]:
        return False
    return headers.get(b"sec-fetch-mode") == ["navigate"] and headers.get(b"sec-fetch-dest") == ["document"]


def _same_origin(origin: str, hosts: list[str]) -> bool:
    scheme, _, authority = origin.partition("://")
    return scheme in {"http", "https"} and [authority.lower()] == [host.lower() for host in hosts]


def _check_body(headers: dict[bytes, list[str]]) -> None:
    lengths = [length.strip() for length in headers.get(b"content-length", ())]
    if not all(length in {"", "0"} for length in lengths):
        if not all(length.isdecimal() and int(length[:20]) <= BODY_MAX_BYTES for length in lengths):
            raise too_large()
    elif b"transfer-encoding" not in headers:
        return
    kinds = headers.get(b"content-type", [])
    if len(kinds) != 1 or not (kinds[0] == "application/json" or _JSON.fullmatch(kinds[0].strip())):
        raise refuse("unsupported_media_type", "a body needs the header Content-Type: application/json")
    if any(coding.strip().lower() != "identity" for coding in headers.get(b"content-encoding", ())):
        raise refuse("unsupported_media_type", "a body must not be compressed")
