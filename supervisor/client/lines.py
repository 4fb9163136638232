"""Whoever carries flows out: over httpx, in a thread (``Line``) or on a loop, asyncio's or trio's (``AsyncLine``).

A connection belongs to one process and, for the asynchronous one, to one loop: in another it is made anew, so a client
may be made at the top of a module, used in several loops one after the other, and carried over a fork.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import httpx
import msgspec

from supervisor.asking import Address, Silence, is_answer, not_understood, read_problem, silence, timeout
from supervisor.client.asks import Ask
from supervisor.client.errors import SupervisorError, Unreachable
from supervisor.client.flows import Flow, Pause, repeated
from supervisor.client.homes import home_here
from supervisor.client.refusals import refusal
from supervisor.client.retries import Retries

T = TypeVar("T")

TOKEN_VARIABLE = "GPU_SUPERVISOR_TOKEN"  # noqa: S105 - the name of a variable


class Settings:
    """Where one client asks, with what right, and how patiently.

    Raises:
        BadValue: the address is none.
    """

    def __init__(self, url: str | None, token: str | None, *, timeout: float, retry_for: float) -> None:
        self.address = Address.find(url)
        self.token = token if token is not None else os.environ.get(TOKEN_VARIABLE) or None
        self.answer_s = timeout
        self.retries = Retries(retry_for)

    def request(self, ask: Ask[Any]) -> dict[str, Any]:
        """What httpx's ``request`` is called with."""
        return {
            "method": ask.method,
            "url": ask.path,
            "json": ask.body,
            "params": ask.params,
            "headers": {"Idempotency-Key": ask.key} if ask.key is not None else None,
            "timeout": timeout(self.answer_s if ask.answer_s is None else ask.answer_s),
        }

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what httpx raises into ``Unreachable``, with what to do about it."""
        try:
            yield
        except httpx.TransportError as error:
            raise _unreachable(silence(self.address, error)) from error

    def read(self, ask: Ask[T], response: httpx.Response) -> T:
        """Return what a whole answer says, or raise it."""
        self.met(response)
        try:
            return ask.decode(response.content)
        except msgspec.DecodeError as error:
            raise _unreachable(not_understood(self.address, error)) from error

    def met(self, response: httpx.Response) -> None:
        """Remember that a supervisor answered. Raises what is wrong, where this is not a good answer."""
        if not is_answer(response):
            problem = read_problem(self.address, response)
            if isinstance(problem, Silence):
                raise _unreachable(problem)
            self.retries.met = True
            raise refusal(problem)
        self.retries.met = True


def _unreachable(why: Silence) -> Unreachable:
    return Unreachable(why.message, why.hint, asked=why.asked)


# ---- in a thread


class Line:
    """Requests from one thread or several."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._http: httpx.Client | None = None
        self._pid = 0

    @property
    def http(self) -> httpx.Client:
        if self._http is None or self._pid != os.getpid():
            # After a fork the parent's connections are left alone: closing them, too, would speak on them.
            self._http, self._pid = self.settings.address.client(self.settings.token), os.getpid()
        return self._http

    def close(self) -> None:
        if self._http is not None and self._pid == os.getpid():
            self._http.close()
        self._http = None

    def perform(self, ask: Ask[T]) -> T:
        with self.settings.translated():
            response = self.http.request(**self.settings.request(ask))
        return self.settings.read(ask, response)

    def ask(self, ask: Ask[T]) -> T:
        return self.run(repeated(ask, self.settings.retries))

    def run(self, flow: Flow[T], pause: Callable[[float], object] = time.sleep) -> T:
        """Carry a flow out. ``pause`` waits; what it raises ends the flow."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    pause(step.seconds)
                    step = flow.send(None)
                    continue
                try:
                    answer = self.perform(step)
                except SupervisorError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            flow.close()


# ---- on an event loop


class AsyncLine:
    """Requests from one event loop at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._http: httpx.AsyncClient | None = None
        self._where: tuple[int, object] | None = None

    @property
    def http(self) -> httpx.AsyncClient:
        where = (os.getpid(), home_here().loop)
        if self._http is None or self._where != where:
            # Connections of a loop that is over cannot be closed any more.
            self._http, self._where = self.settings.address.async_client(self.settings.token), where
        return self._http

    async def close(self) -> None:
        http, self._http = self._http, None
        if http is not None and self._where == (os.getpid(), home_here().loop):
            await http.aclose()

    async def perform(self, ask: Ask[T]) -> T:
        with self.settings.translated():
            response = await self.http.request(**self.settings.request(ask))
        return self.settings.read(ask, response)

    async def ask(self, ask: Ask[T]) -> T:
        return await self.run(repeated(ask, self.settings.retries))

    async def run(self, flow: Flow[T]) -> T:
        """Carry a flow out, as ``Line.run`` does."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    await anyio.sleep(step.seconds)
                    step = flow.send(None)
                    continue
                try:
                    answer = await self.perform(step)
                except SupervisorError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            flow.close()

    async def run_whatever_happens(self, flow: Flow[T], within_s: float) -> T | None:
        """Carry a flow out though we are cancelled; None if it took too long."""
        with anyio.move_on_after(within_s, shield=True):
            return await self.run(flow)
        return None
