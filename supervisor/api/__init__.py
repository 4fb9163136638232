"""The HTTP API: routes, their guard, and nothing that decides. ``server`` puts it on the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from supervisor.api import describe_routes, history, leasing, plain, reading, web_page
from supervisor.api.call import Call, Endpoint, refused, send_answer
from supervisor.api.context import Context, Meter
from supervisor.api.gate import Gate
from supervisor.api.guard import Guard
from supervisor.api.logs import LogTails
from supervisor.api.openapi import not_described
from supervisor.api.past import Past
from supervisor.api.problems import Answer, refuse
from supervisor.api.roles import NEEDED
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
    "/v1/lease": {"POST": leasing.lease, "DELETE": leasing.give_back_by_key},
    "/v1/lease/{token}": {"GET": leasing.look, "DELETE": leasing.give_back},
    "/v1/lease/{token}/claim": {"POST": leasing.claim},
    "/readyz": {"GET": plain.readyz},
    "/status": {"GET": plain.status},
    "/v1/leases/{id}": {"DELETE": leasing.force_end},
    "/acquire": {"POST": plain.acquire},
    "/release": {"POST": plain.release},
    "/v1/status": {"GET": reading.status},
    "/v1/targets": {"GET": reading.targets},
    "/v1/targets/{name}": {"GET": reading.target},
    "/v1/leases/{id}/move": {"POST": leasing.move},
    "/v1/targets/{name}/logs": {"GET": reading.target_logs},
    "/v1/targets/{name}/evict": {"POST": reading.evict},
    "/v1/processes": {"GET": reading.processes},
    "/v1/gpus/{uuid}/open": {"POST": reading.open_gpu},
    "/v1/why/{name}": {"GET": reading.why_stopped},
    "/healthz": {"GET": _healthz},
    "/metrics": {"GET": plain.metrics},
    "/v1/events": {"GET": reading.events},
    "/v1/history": {"GET": history.history},
    "/": {"GET": web_page.page},
    "/web/{file}": {"GET": web_page.file},
    "/openapi.json": {"GET": describe_routes.openapi},
    "/docs": {"GET": describe_routes.docs},
}
"""Every path. The busiest come first. Each has a row in ``describe``, and no row is without one."""

ASK, BELOW, HELD = "/v1/lease", "/v1/lease/", "/v1/lease/{token}"

STREAMS = frozenset({"/v1/events"})
"""Paths that also answer a stream, where the client accepts one."""

_lonely = not_described((method, path) for path, handlers in ROUTES.items() for method in handlers)
assert not _lonely, f"a route without a description in api/describe.py, or the other way round: {sorted(_lonely)}"
_unguarded = {(method, path) for path, handlers in ROUTES.items() for method in handlers} ^ NEEDED.keys()
assert not _unguarded, f"a route without a role in api/roles.py, or the other way round: {sorted(_unguarded)}"


def build_app(
    desk: Desk,
    *,
    mint: TokenMint,
    meter: Meter,
    logs: Callable[[str, int], Awaitable[str]],
    version: str,
    gate: Gate,
    host: str = "127.0.0.1",
    allowed_hosts: Iterable[str] = (),
    past: Past | None = None,
) -> ASGIApp:
    """Return the API as an ASGI app.

    Args:
        meter: Counts refusals, and has the page of metrics.
        gate: Says who may do what.
        logs: Returns the last log lines, so many, of a container (by id); its trouble is nobody else's.
        host: The address that it will listen on; as a ``Host`` it is ours, like the names of loopback.
        allowed_hosts: More names that are ours.
        past: What is remembered for the history; whoever gives one has it ``follow``.
    """
    api = Context(
        desk=desk,
        meter=meter,
        mint=mint,
        tails=LogTails(logs),
        gate=gate,
        version=version,
        kept=Kept(),
        past=past or Past(),
    )
    endpoints = {path: _endpoint(api, path, handlers) for path, handlers in ROUTES.items()}
    routes = [Route(path, endpoint) for path, endpoint in endpoints.items()]
    # A redirect to a path with a slash would carry the token that the path holds into a header.
    router = Router(routes, redirect_slashes=False, default=partial(_not_found, meter))
    return Guard(straight(endpoints, router), host=host, allowed_hosts=allowed_hosts, on_refusal=meter.refusal)


def straight(endpoints: dict[str, ASGIApp], router: ASGIApp) -> ASGIApp:
    """Return the router, with a way past its patterns for the paths that every lease takes: they cost a tenth of it.

    What it finds, the router would have found.
    """
    ask = endpoints[ASK]
    held = {path.removeprefix(HELD): endpoint for path, endpoint in endpoints.items() if path.startswith(HELD)}

    def find(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path: str = scope["path"]
        if path == ASK:
            scope["path_params"] = {}
            return ask(scope, receive, send)
        if path.startswith(BELOW):
            token, slash, verb = path[len(BELOW) :].partition("/")
            endpoint = held.get(slash + verb)
            if token and endpoint is not None:
                scope["path_params"] = {"token": token}
                return endpoint(scope, receive, send)
        return router(scope, receive, send)

    return find


def _endpoint(api: Context, path: str, handlers: dict[str, RouteHandler]) -> ASGIApp:
    bound = {method: partial(handler, api) for method, handler in handlers.items()}
    if path in STREAMS:
        return EventsEndpoint(api, path, bound["GET"])
    return Endpoint(path, bound, api.gate, api.meter.refusal)


async def _not_found(meter: Meter, _scope: Scope, _receive: Receive, send: Send) -> None:
    meter.refusal("not_found")
    await send_answer(send, refused(refuse("not_found", "there is nothing at this path")))
