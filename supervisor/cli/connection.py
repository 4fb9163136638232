"""The way to the server, with its refusals as the command's errors; what the client needs as well is in ``asking``.

Commands that read use ``ask``; ``acquire``, which waits and renews at the same time, uses ``Line``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import msgspec

from supervisor.asking import ANSWER_S, Address, Silence, is_answer, not_understood, read_problem, silence, timeout
from supervisor.cli.errors import Refused, Unreachable, Usage
from supervisor.core.values import BadValue

T = TypeVar("T")


class Server(Address, frozen=True):
    """Where the server is."""

    @classmethod
    def find(cls, given: str | None = None) -> Server:
        """Read GPU_SUPERVISOR_URL. Raises ``Usage`` if it is no address of a server."""
        try:
            found = Address.find(given)
        except BadValue as error:
            raise Usage(str(error), error.hint) from error
        return cls(found.url, found.socket)

    def options(self, token: str | None = None) -> dict[str, Any]:
        """What httpx clients are made with: the key is that of GPU_SUPERVISOR_TOKEN. Raises ``Usage`` if it is none."""
        return super().options(token or _key())


def _key() -> str:
    """Return the key of GPU_SUPERVISOR_TOKEN; "" where there is none.

    Raises:
        Usage: it cannot stand in a header. What it is is not shown.
    """
    key = os.environ.get("GPU_SUPERVISOR_TOKEN", "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise Usage("GPU_SUPERVISOR_TOKEN is no key: it has blanks or other characters that none has", KEY_HINT)
    return key


@contextmanager
def translated(server: Server) -> Iterator[None]:
    """Turn what httpx raises into ``Unreachable``, with what to do about it."""
    try:
        yield
    except httpx.TransportError as error:
        raise _unreachable(silence(server, error)) from error


KEY_HINT = "give it what gpu-supervisor token create printed"


def _unreachable(why: Silence) -> Unreachable:
    return Unreachable(why.message, why.hint, asked=why.asked)


def checked(server: Server, response: httpx.Response) -> bytes:
    """Return the body of a good answer, or raise what a bad one says.

    Raises:
        Refused: the supervisor said no.
        Unreachable: something answers that is no supervisor.
    """
    if is_answer(response):
        return response.content
    problem = read_problem(server, response)
    if isinstance(problem, Silence):
        raise _unreachable(problem)
    raise Refused(
        problem.code, problem.detail, status=problem.status, retryable=problem.retryable, context=problem.context
    )


def decoded(server: Server, body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.DecodeError as error:
        raise _unreachable(not_understood(server, error)) from error


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
