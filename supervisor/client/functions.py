"""``@gpu``: a function that holds a lease while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, ParamSpec, TypeVar, Unpack, cast

from supervisor.client.errors import NotHeld
from supervisor.client.leases import HeldLease, OnLost
from supervisor.client.loops import AsyncClient
from supervisor.client.threads import Client
from supervisor.client.wishes import LeaseOptions, wish_for

P = ParamSpec("P")
R = TypeVar("R")

_CURRENT: ContextVar[HeldLease] = ContextVar("lease of the function that runs")


def current_lease() -> HeldLease:
    """Return the lease of the ``@gpu`` function that runs here, the innermost one.

    Raises:
        NotHeld: none does.
    """
    lease = _CURRENT.get(None)
    if lease is None:
        raise NotHeld("no function with @gpu runs here", "call this from one, or hand the lease on")
    return lease


def gpu(
    target: str | None = None,
    *,
    url: str | None = None,
    token: str | None = None,
    on_lost: OnLost | None = None,
    **options: Unpack[LeaseOptions],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function hold a lease while it runs: for each call one of its own. ``async def`` works, too.

    >>> @gpu("comfyui", priority=5, wait="10m")
    ... def draw(prompt: str) -> str:
    ...     current_lease().check()
    ...     return f"{prompt} on {current_lease().gpus[0]}"
    >>> draw("a cat")
    'a cat on SIM-0'

    Args:
        target: Which stack; None: a bare lease.
        url: Where the supervisor is; ``token``: the API token; as for ``Client``, read at each call.
        on_lost: As for ``Client.lease``.
        options: As for ``Client.lease``.

    Raises:
        BadValue: a duration or a size cannot be read: at once, not at the first call.
        TypeError: the function is a generator, which runs after its call has returned.
    """
    wish_for(target, **options)

    def held(function: Callable[P, R]) -> Callable[P, R]:
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator: take the lease inside of it, with client.lease()")

        @wraps(function)
        def in_a_thread(*args: P.args, **kwargs: P.kwargs) -> R:
            with Client(url, token=token) as client, client.lease(target, on_lost=on_lost, **options) as lease:
                before = _CURRENT.set(lease)
                try:
                    return function(*args, **kwargs)
                finally:
                    _CURRENT.reset(before)

        @wraps(function)
        async def on_a_loop(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with (
                AsyncClient(url, token=token) as client,
                client.lease(target, on_lost=on_lost, **options) as lease,
            ):
                before = _CURRENT.set(lease)
                try:
                    return await cast(Any, function(*args, **kwargs))
                finally:
                    _CURRENT.reset(before)

        return cast(Callable[P, R], on_a_loop) if iscoroutinefunction(function) else in_a_thread

    return held
