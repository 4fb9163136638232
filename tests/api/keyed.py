"""Callers of every kind for the app, without a socket in between: who sends, from where, and with which key."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from supervisor import keys
from supervisor.api.gate import Gate
from supervisor.keys import KeyBook, keys_file
from supervisor.peers import Peer

OWN_UID = 4_711
OTHER_UID = 1_000


class From:
    """Where a request comes from."""

    def __init__(self, client: tuple[str, int] | None, peer: Peer | None = None) -> None:
        server = ("127.0.0.1", 8080) if peer is None else ("/run/gpu.sock", None)
        self.scope: dict[str, Any] = {"client": client, "server": server, "gpu_supervisor.peer": peer}


LOOPBACK = From(("127.0.0.1", 5))
AFAR = From(("192.0.2.7", 5))


def user(uid: int) -> From:
    return From(None, Peer(77, uid, uid))


@asynccontextmanager
async def asking(app: ASGIApp, where: From, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that asks from there, with the key."""

    async def moved(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, **where.scope}, receive, send)

    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    transport = httpx.ASGITransport(app=moved)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080", headers=headers) as client:
        yield client


def gate_of(folder: Path, **settings: Any) -> Gate:
    """Return a gate for the keys of a folder that looks at them at every request, and never loses patience."""
    ages: Callable[[], float] = itertools.count(0.0, 10_000.0).__next__
    book = KeyBook(keys_file(folder), now_s=ages)
    return Gate(book, **{"own_uid": OWN_UID, "now_s": ages, **settings})


def some_keys(folder: Path) -> dict[str, str | None]:
    """Make keys of all kinds; returns them by what they are."""
    made: dict[str, str | None] = {role: keys.create(folder, role, role)[1] for role in keys.ROLES}
    over = datetime.now(UTC) - timedelta(seconds=1)
    made["expired"] = keys.create(folder, "expired", "admin", expires_at=over)[1]
    made["revoked"] = keys.create(folder, "revoked", "admin")[1]
    keys.revoke(folder, "revoked")
    return {**made, "wrong": "gpusk_" + "x" * 43, "none": None}
