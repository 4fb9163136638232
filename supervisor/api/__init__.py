"""The HTTP API: routes, their guard, and nothing that decides. ``server`` puts it on the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from supervisor.api import describe_routes, leasing, plain, reading
from supervisor.api.call import Call, Endpoint, refused, send_answer
from supervisor.api.context import Context
from supervisor.api.guard import Guard
from supervisor.api.logs import LogTails
from supervisor.api.openapi import not_described
from supervisor.api.problems import Answer, refuse
from supervisor.api.stream import EventsEndpoint
from supervisor.api.tokens import TokenMint
from supervisor.api.views.kept import Kept
from supervisor.ports import Desk

__all__ = ["build_app"]

RouteHandler = Callable[[Context, Call], Awaitable[Answer]]


async def _healthz(_api: Context, call: Call) -> Answer:
    return await plain.healthz(call)


ROUTES: dict[str, dict[str, RouteHandler]] = {
    "/v1/lease/{token}/renew": {"POST": leasing.renew},
    "/v1/lease": {"POST": leasing.lease},
    "/v1/lease/{token}": {"GET": leasing.look, "DELETE": leasing.give_back},
    "/v1/lease/{token}/claim": {"POST": leasing.claim},
    "/readyz": {"GET": plain.readyz},
    "/status": {"GET": plain.status},
    "/acquire": {"POST": plain.acquire},
    "/release": {"POST": plain.release},
    "/v1/status": {"GET": reading.status},
    "/v1/targets": {"GET": reading.targets},
    "/v1/targets/{name}": {"GET": reading.target},
    "/v1/targets/{name}/evict": {"POST": reading.evict},
    "/v1/processes": {"GET": reading.processes},
    "/v1/gpus/{uuid}/open": {"POST": reading.open_gpu},
    "/v1/why/{name}": {"GET": reading.why_stopped},
    "/healthz": {"GET": _healthz},
    "/v1/events": {"GET": reading.events},
    "/openapi.json": {"GET": describe_routes.openapi},
    "/docs": {"GET": describe_routes.docs},
}
"""Every path. The busiest come first. Each has a row in ``describe``, and no row is without one."""

STREAMS = frozenset({"/v1/events"})
"""Paths that also answer a stream, where the client accepts one."""

_lonely = not_described((method, path) for path, handlers in ROUTES.items() for method in handlers)
assert not _lonely, f"a route without a description in api/describe.py, or the other way round: {sorted(_lonely)}"


def build_app(
    desk: Desk,
    *,
    mint: TokenMint,
    logs: Callable[[str], Awaitable[str]],
    version: str,
    host: str = "127.0.0.1",
    allowed_hosts: Iterable[str] = (),
) -> ASGIApp:
    """Return the API as an ASGI app.

    Args:
        logs: Returns the last log lines of a container (by id); its trouble is nobody else's.
        host: The address that it will listen on; as a ``Host`` it is ours, like the names of loopback.
        allowed_hosts: More names that are ours.
    """
    api = Context(desk=desk, mint=mint, tails=LogTails(logs), version=version, kept=Kept())
    routes = [Route(path, _endpoint(api, path, handlers)) for path, handlers in ROUTES.items()]
    # A redirect to a path with a slash would carry the token that the path holds into a header.
    router = Router(routes, redirect_slashes=False, default=_not_found)
    return Guard(router, host=host, allowed_hosts=allowed_hosts)


def _endpoint(api: Context, path: str, handlers: dict[str, RouteHandler]) -> ASGIApp:
    bound = {method: partial(handler, api) for method, handler in handlers.items()}
    return EventsEndpoint(api, path, bound["GET"]) if path in STREAMS else Endpoint(path, bound)


async def _not_found(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_answer(send, refused(refuse("not_found", "there is nothing at this path")))
