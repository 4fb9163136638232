"""What everybody needs who asks a supervisor over HTTP, the command and the client: where it is, and what came back.

Values only: whoever asks makes its own errors of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from supervisor import __version__
from supervisor.core.values import BadValue, shown

URL_VARIABLE = "GPU_SUPERVISOR_URL"
DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_S = 2.0
#: How long an answer may take that nobody has to wait for.
ANSWER_S = 10.0
#: A live stream is silent for no longer than this: the server sends comments in between.
SILENCE_S = 60.0

START = f"start one with: gpu-supervisor serve ({URL_VARIABLE} says where to look)"


class Address(Struct, frozen=True):
    """Where a server is. ``socket`` is the path of a unix socket, or None over TCP."""

    url: str
    socket: str | None = None

    @classmethod
    def read(cls, text: str) -> Address:
        """Read ``http://HOST:PORT`` or ``unix:///PATH``. Raises ``BadValue`` if it is neither."""
        if text.startswith("unix:///"):
            return cls(text, text.removeprefix("unix://"))
        try:
            parsed = httpx.URL(text)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise BadValue(f'"{shown(text)}" is no address', f"write {DEFAULT_URL} or unix:///path/to/socket")
        return cls(text.rstrip("/"))

    @classmethod
    def find(cls, given: str | None = None) -> Address:
        """Read what was given, or else GPU_SUPERVISOR_URL. Raises ``BadValue``, which names the variable."""
        if given is not None:
            return cls.read(given)
        try:
            return cls.read(os.environ.get(URL_VARIABLE) or DEFAULT_URL)
        except BadValue as error:
            raise BadValue(f"{URL_VARIABLE}={error}", error.hint) from None

    def options(self, token: str | None = None) -> dict[str, Any]:
        """What httpx clients are made with. A proxy from the environment is not meant for this machine."""
        headers = {"User-Agent": f"gpu-supervisor/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return {
            "base_url": "http://localhost" if self.socket else self.url,
            "headers": headers,
            "timeout": timeout(ANSWER_S),
            "trust_env": False,
        }

    @property
    def transport_options(self) -> dict[str, Any]:
        """What httpx transports are made with. The certificates, which take long to load, are read where they count."""
        return {"uds": self.socket, "verify": self.url.startswith("https:")}

    def client(self, token: str | None = None) -> httpx.Client:
        return httpx.Client(transport=httpx.HTTPTransport(**self.transport_options), **self.options(token))

    def async_client(self, token: str | None = None) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(**self.transport_options), **self.options(token))


def timeout(answer_s: float | None) -> httpx.Timeout:
    """Limits for one request; ``answer_s`` None waits for ever between two pieces of an answer (a live stream)."""
    connect_s = CONNECT_S if answer_s is None else min(CONNECT_S, answer_s)
    return httpx.Timeout(answer_s, connect=connect_s, write=ANSWER_S, pool=CONNECT_S)


class Silence(Struct, frozen=True):
    """Why there is no answer, and what to do about it. ``asked``: whether the request may have reached a server."""

    message: str
    hint: str
    asked: bool = True


def silence(address: Address, error: httpx.TransportError) -> Silence:
    """Say in words what httpx raised."""
    match error:
        case httpx.ConnectTimeout():
            return Silence(f"nothing answers at {address.url} (no connection in {CONNECT_S:g} s)", START, asked=False)
        case httpx.TimeoutException():
            return Silence(f"the server at {address.url} did not answer in time", "see whether it hangs: its log")
        case httpx.ConnectError():
            return Silence(f"no supervisor answers at {address.url} ({_reason(error)})", START, asked=False)
        case _:
            return Silence(f"the server at {address.url} went away ({_reason(error)})", START)


def _reason(error: Exception) -> str:
    """The system's own words, which httpx keeps one or more causes away; where it has none, the other end hung up."""
    cause: BaseException | None = error
    while cause is not None:
        # Not its own text: asyncio's names the call, and repeats the address.
        if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return "the connection was closed"


class Problem(Struct, frozen=True):
    """A problem answer (RFC 9457). ``context``: all of its fields."""

    detail: str
    code: str
    status: int = 500
    retryable: bool = False
    context: dict[str, Any] = {}


#: Made before there are threads: see ``engine.connection.decode``.
_PROBLEM = msgspec.json.Decoder(Problem)


def is_answer(response: httpx.Response) -> bool:
    return response.is_success and "json" in response.headers.get("content-type", "")


def read_problem(address: Address, response: httpx.Response) -> Problem | Silence:
    """Return what an answer says that is not a good one; something that is no supervisor may have sent it."""
    try:
        problem = _PROBLEM.decode(response.content)
        context = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError:
        kind = response.headers.get("content-type", "no content type")
        return Silence(
            f"what answers at {address.url} is no GPU supervisor (HTTP {response.status_code}, {kind})",
            f"say where it is with {URL_VARIABLE}",
        )
    return msgspec.structs.replace(problem, status=response.status_code, context=context)


def not_understood(address: Address, error: msgspec.DecodeError) -> Silence:
    return Silence(
        f"the answer of {address.url} is not understood: {error}",
        "see whether the server and this side are of one version",
    )


def messages(lines: Iterable[str]) -> Iterator[str]:
    """Yield the data of each message of an event stream; comments (heartbeats) and other fields are skipped.

    Our events carry their number inside, so ``id`` is not needed. Source: WHATWG HTML, section 9.2.6.
    """
    reader = MessageReader()
    for line in lines:
        if (data := reader.read(line)) is not None:
            yield data


class MessageReader:
    """The lines of an event stream, one after the other."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def read(self, line: str) -> str | None:
        """Return the data of the message that ends with this line, if one does."""
        if line.startswith("data:"):
            self._data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and self._data:
            data, self._data = "\n".join(self._data), []
            return data
        return None
