"""The way past the router's patterns: what it finds is what the router finds, and everything else is the router's."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from supervisor.api import ROUTES, straight

PARTS = st.sampled_from(["v1", "lease", "leases", "renew", "claim", "move", "status", "", "a", "{token}", "a\n", "%2f"])
PATHS = st.one_of(
    st.lists(PARTS, max_size=5).map(lambda parts: "/" + "/".join(parts)),
    st.lists(PARTS, max_size=3).map(lambda parts: "/".join(["/v1/lease", *parts])),
)


class Mark:
    """An endpoint that says where one came to."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["arrived"].append((self.path, dict(scope.get("path_params", {}))))


ENDPOINTS = {path: Mark(path) for path in ROUTES}
ROUTER = Router(
    [Route(path, mark) for path, mark in ENDPOINTS.items()], redirect_slashes=False, default=Mark("nothing there")
)
#: Comes to its own end, so that what the straight way leaves to the router is seen.
STRAIGHT = straight(dict(ENDPOINTS), Mark("the router"))


def arrived(app: Any, path: str) -> Any:
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "headers": [], "arrived": []}
    asyncio.run(app(scope, None, None))
    return scope["arrived"]


@given(path=PATHS)
def test_it_comes_to_where_the_router_comes_or_leaves_it_to_the_router(path):
    assert arrived(STRAIGHT, path) in (arrived(ROUTER, path), [("the router", {})])


def test_the_paths_of_every_lease_go_straight():
    for path in ("/v1/lease", "/v1/lease/abc", "/v1/lease/abc/renew", "/v1/lease/abc/claim"):
        assert arrived(STRAIGHT, path) == arrived(ROUTER, path)
