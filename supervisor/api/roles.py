"""Which role each operation needs. Nothing starts while a route is not in here: none is open because it was forgotten.

Whether the process is alive and can grant, and what the API is like, is open to everybody: probes and people carry no
keys, and it says nothing of whom the GPU belongs to. A lease's token is a capability beside that: who has it may look,
renew, claim and release with the role ``lease``, whoever asked for it. What takes away from others needs ``admin``;
``POST /release`` does with ``force``, and looks at it itself.
"""

from __future__ import annotations

from supervisor.keys import Role

Key = tuple[str, str]
"""A method and a path, as in ``ROUTES``."""

NEEDED: dict[Key, Role | None] = {
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/docs"): None,
    ("GET", "/status"): "read",
    ("GET", "/v1/status"): "read",
    ("GET", "/"): None,
    ("GET", "/web/{file}"): None,
    ("GET", "/v1/history"): "read",
    ("GET", "/v1/processes"): "read",
    ("GET", "/metrics"): "read",
    ("GET", "/v1/targets"): "read",
    ("GET", "/v1/targets/{name}"): "read",
    ("GET", "/v1/events"): "read",
    ("GET", "/v1/targets/{name}/logs"): "read",
    ("GET", "/v1/why/{name}"): "read",
    ("GET", "/v1/lease/{token}"): "read",
    ("POST", "/v1/lease"): "lease",
    ("POST", "/v1/lease/{token}/claim"): "lease",
    ("POST", "/v1/lease/{token}/renew"): "lease",
    ("DELETE", "/v1/lease/{token}"): "lease",
    ("DELETE", "/v1/lease"): "lease",
    ("POST", "/acquire"): "lease",
    ("POST", "/release"): "lease",
    ("DELETE", "/v1/leases/{id}"): "admin",
    ("POST", "/v1/leases/{id}/move"): "admin",
    ("POST", "/v1/targets/{name}/evict"): "admin",
    ("POST", "/v1/gpus/{uuid}/open"): "admin",
}

UNMETERED: frozenset[Key] = frozenset(
    {
        ("POST", "/v1/lease/{token}/renew"),
        ("DELETE", "/v1/lease/{token}"),
        ("DELETE", "/v1/lease"),
        ("POST", "/release"),
    }
)
"""Not counted as requests: a limit must cost nobody the lease that he has, nor keep a GPU from those who wait."""


def needed(method: str, path: str) -> Role | None:
    return NEEDED[("GET" if method == "HEAD" else method, path)]
