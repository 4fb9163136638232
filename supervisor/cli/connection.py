"""The way to the server: where it is (GPU_SUPERVISOR_URL), with which key (GPU_SUPERVISOR_TOKEN), time limits, and its
refusals as errors.

Commands that read use ``ask``; ``acquire``, which waits and renews at the same time, uses ``Line``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import msgspec
from msgspec import Struct

from supervisor import __version__
from supervisor.cli.errors import Refused, Unreachable, Usage

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_S = 2.0
ANSWER_S = 10.0


class Server(Struct, frozen=True):
    """Where the server is. ``socket`` is the path of a unix socket, or None over TCP."""

    url: str
    socket: str | None = None

    @classmethod
    def find(cls) -> Server:
        """Read GPU_SUPERVISOR_URL. Raises ``Usage`` if it is no address of a server."""
        given = os.environ.get("GPU_SUPERVISOR_URL") or DEFAULT_URL
        if given.startswith("unix:///"):
            return cls(given, given.removeprefix("unix://"))
        try:
            parsed = httpx.URL(given)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise Usage(f'GPU_SUPERVISOR_URL="{given}" is no address', f"write {DEFAULT_URL} or unix:///path/to/socket")
        return cls(given.rstrip("/"))

    @property
    def options(self) -> dict[str, Any]:
        """What httpx clients are made with. A proxy from the environment is not meant for this machine."""
        return {
            "base_url": "http://localhost" if self.socket else self.url,
            "headers": {"User-Agent": f"gpu-supervisor/{__version__}", **_key()},
            "timeout": timeout(ANSWER_S),
            "trust_env": False,
        }

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.HTTPTransport(uds=self.socket), **self.options)

    def async_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=self.socket), **self.options)


def _key() -> dict[str, str]:
    """Return the header with the key of GPU_SUPERVISOR_TOKEN; nothing where there is none.

    Raises:
        Usage: it cannot stand in a header. What it is is not shown.
    """
    key = os.environ.get("GPU_SUPERVISOR_TOKEN", "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise Usage("GPU_SUPERVISOR_TOKEN is no key: it has blanks or other characters that none has", KEY_HINT)
    return {"Authorization": f"Bearer {key}"} if key else {}


def timeout(answer_s: float | None) -> httpx.Timeout:
    """Limits for one request; ``answer_s`` None waits for ever between two pieces of an answer (a live stream)."""
    return httpx.Timeout(answer_s, connect=CONNECT_S, write=ANSWER_S, pool=CONNECT_S)


@contextmanager
def translated(server: Server) -> Iterator[None]:
    """Turn what httpx raises into ``Unreachable``, with what to do about it."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        message = f"nothing answers at {server.url} (no connection in {CONNECT_S:g} s)"
        raise Unreachable(message, START, asked=False) from error
    except httpx.TimeoutException as error:
        raise Unreachable(
            f"the server at {server.url} did not answer in time", "see whether it hangs: its log"
        ) from error
    except httpx.ConnectError as error:
        raise Unreachable(f"no supervisor answers at {server.url} ({_reason(error)})", START, asked=False) from error
    except httpx.TransportError as error:
        raise Unreachable(f"the server at {server.url} went away ({_reason(error)})", START) from error


KEY_HINT = "give it what gpu-supervisor token create printed"
START = "start one with: gpu-supervisor serve (GPU_SUPERVISOR_URL says where to look)"


def _reason(error: Exception) -> str:
    """The system's own words, which httpx keeps one or more causes away; where it has none, the other end hung up."""
    cause: BaseException | None = error
    while cause is not None:
        # Not its own text: asyncio's names the call, and repeats the address.
        if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return "the connection was closed"


class _Problem(Struct):
    detail: str
    code: str
    status: int = 500
    retryable: bool = False


def checked(server: Server, response: httpx.Response) -> bytes:
    """Return the body of a good answer, or raise what a bad one says.

    Raises:
        Refused: the supervisor said no.
        Unreachable: something answers that is no supervisor.
    """
    if response.is_success and "json" in response.headers.get("content-type", ""):
        return response.content
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
        context = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        kind = response.headers.get("content-type", "no content type")
        raise Unreachable(
            f"what answers at {server.url} is no GPU supervisor (HTTP {response.status_code}, {kind})",
            "say where it is with GPU_SUPERVISOR_URL",
        ) from error
    raise Refused(
        problem.code, problem.detail, status=response.status_code, retryable=problem.retryable, context=context
    )


def decoded(server: Server, body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.DecodeError as error:
        raise Unreachable(
            f"the answer of {server.url} is not understood: {error}",
            "see whether server and command are of one version",
        ) from error


def ask(method: str, path: str, type_: type[T], *, params: dict[str, Any] | None = None, json: Any = None) -> T:
    """Send one request and decode its answer."""
    return decoded(*ask_raw(method, path, params=params, json=json), type_)


def ask_raw(method: str, path: str, *, params: dict[str, Any] | None = None, json: Any = None) -> tuple[Server, bytes]:
    server = Server.find()
    with translated(server), server.client() as client:
        response = client.request(method, path, params=params, json=json)
    return server, checked(server, response)


class Line:
    """One open line to the server, for requests side by side; each says how long its answer may take."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._client = server.async_client()

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        type_: type[T],
        *,
        json: Any = None,
        headers: dict[str, str] | None = None,
        answer_s: float = ANSWER_S,
    ) -> T:
        return self.decoded(await self.ask_raw(method, path, json=json, headers=headers, answer_s=answer_s), type_)

    async def ask_raw(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: dict[str, str] | None = None,
        answer_s: float = ANSWER_S,
    ) -> bytes:
        with translated(self.server):
            response = await self._client.request(method, path, json=json, headers=headers, timeout=timeout(answer_s))
        return checked(self.server, response)

    def decoded(self, body: bytes, type_: type[T]) -> T:
        return decoded(self.server, body, type_)
