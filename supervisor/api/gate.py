"""Who a caller is, and whether it may do what it asks: by its key, or over the unix socket by its user id.

As long as there is no file of keys, everybody who reaches the supervisor may do everything. From the first key on:

=============================  =================================================================================
caller                         role
=============================  =================================================================================
sends a key, in whatever way   the key's; a wrong one is refused, also over the unix socket
unix socket, no key            root and the supervisor's own user: admin; others: the setting ``socket_role``
TCP, loopback too, no key      none: only what needs no role
=============================  =================================================================================

Who sends wrong keys is made to wait (``Guesses``). A key that was used from the same address before is let through
meanwhile: a neighbour's mistakes, or a stranger's behind the same proxy, must cost nobody its lease.
"""

from __future__ import annotations

import ipaddress
import math
import os
import time
from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct
from starlette.types import Scope

from supervisor.api.problems import Headers, RequestRefused, refuse
from supervisor.api.roles import UNMETERED, needed
from supervisor.api.throttle import Guesses, Meter
from supervisor.keys import ALL, ROLES, KeyBook, Role, digest, reaches
from supervisor.peers import Peer

#: The key of a scope under which its caller is.
CALLER = "gpu_supervisor.caller"
#: The scope of idempotency keys of those who may do everything on this machine.
LOCAL = "local"
KNOWN_MAX = 4_096
RANK = {role: rank for rank, role in enumerate(ROLES)}
CHALLENGE: Headers = ((b"www-authenticate", b'Bearer realm="gpu-supervisor"'),)


class Caller(Struct, frozen=True, kw_only=True):
    """``name``: as the audit has it: ``key ci``, ``uid 1000``, ``loopback``, ``address 10.0.0.7``. ``scope``: whose
    idempotency keys are its own. ``targets``: patterns of what it may lease and evict.
    """

    name: str
    scope: str
    role: Role | None
    targets: tuple[str, ...] = (ALL,)

    def require(self, role: Role) -> None:
        if self.role is None or RANK[self.role] < RANK[role]:
            has = f"has the role {self.role}" if self.role is not None else "has none"
            raise refuse("forbidden", f"this needs the role {role}, and {self.name} {has}", needed_role=role)

    def require_target(self, target: str | None) -> None:
        """Refuse what its key is not for. ``target`` None: the GPU alone."""
        if not reaches(self.targets, target):
            what = target if target is not None else "the GPU without a target"
            detail = f"{self.name} is not for {what}: its targets are {', '.join(self.targets)}"
            raise refuse("forbidden", detail, target=target)

    def require_all(self, what: str) -> None:
        if ALL not in self.targets:
            detail = f"{what} may touch every target, and {self.name} is for {', '.join(self.targets)} only"
            raise refuse("forbidden", detail)


class Gate:
    """``socket_role``: what users other than root and our own may do over the unix socket; None: nothing without a key.

    ``requests_per_s``: of one caller; 0: no limit. ``now_s`` counts on and on, ``wall_s`` is what a key expires by.
    """

    def __init__(
        self,
        book: KeyBook,
        *,
        socket_role: Role | None = "lease",
        requests_per_s: float = 0.0,
        own_uid: int | None = None,
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._book = book
        self._socket_role = socket_role
        self._trusted_uids = {0, os.geteuid() if own_uid is None else own_uid}
        self._now_s = now_s
        self._wall_s = wall_s
        self._guesses = Guesses()
        self._meter = Meter(requests_per_s) if requests_per_s else None

    def admit(self, scope: Scope, path: str) -> None:
        """Let a request through and note who sent it. ``path`` is its pattern.

        Raises:
            RequestRefused: ``unauthorized``, ``forbidden`` or ``too_many_requests``.
        """
        role = needed(scope["method"], path)
        if role is None:
            return
        caller = self._who(scope, role)
        caller.require(role)
        if self._meter is not None and (scope["method"], path) not in UNMETERED:
            wait_s = self._meter.take(caller.name, self._now_s())
            if wait_s > 0:
                raise _too_many(f"{caller.name} sends more requests than it may", wait_s)
        scope[CALLER] = caller

    def still(self, scope: Scope, path: str) -> bool:
        """Return whether a request that was let through would be let through now: streams live long, and keys end."""
        role = needed(scope["method"], path)
        try:
            if role is not None:
                self._who(scope, role).require(role)
        except RequestRefused:
            return False
        return True

    def _who(self, scope: Scope, role: Role) -> Caller:
        self._book.look()
        peer: Peer | None = scope.get("gpu_supervisor.peer")
        client = scope.get("client")
        address = client[0] if client else ""
        if not self._book.needed:
            return _anybody(peer.uid if peer is not None else None, address)
        text = _presented(scope)
        if text is not None:
            return self._by_key(text, role, f"uid {peer.uid}" if peer is not None else _origin(address))
        if peer is None:
            raise _unauthorized("a key is needed here", role)
        return _user(peer.uid, "admin" if peer.uid in self._trusted_uids else self._socket_role)

    def _by_key(self, text: str, role: Role, origin: str) -> Caller:
        key_digest = digest(text)
        blocked_s = self._guesses.blocked_s(origin, self._now_s())
        if blocked_s > 0 and not self._guesses.welcome(origin, key_digest):
            raise _too_many("too many wrong keys came from this address", blocked_s)
        key = self._book.find(key_digest)
        if key is None:
            self._guesses.wrong(origin, self._now_s())
            raise _unauthorized("this key is not known here (it was revoked, or never was)", role)
        if key.expired(self._wall_s()):
            raise _unauthorized(f"the key {key.name} has expired", role)
        self._guesses.right(origin, key_digest)
        return _holder(key.name, key.role, key.targets)


# ---- callers, made once


@lru_cache(maxsize=KNOWN_MAX)
def _anybody(uid: int | None, address: str) -> Caller:
    """While no keys are needed. All share the scope of idempotency keys: a retry may come in another way."""
    name = f"uid {uid}" if uid is not None else "loopback" if _is_loopback(address) else f"address {address}"
    return Caller(name=name, scope=LOCAL, role="admin")


@lru_cache(maxsize=KNOWN_MAX)
def _user(uid: int, role: Role | None) -> Caller:
    return Caller(name=f"uid {uid}", scope=LOCAL if role == "admin" else f"uid {uid}", role=role)


@lru_cache(maxsize=KNOWN_MAX)
def _holder(name: str, role: Role, targets: tuple[str, ...]) -> Caller:
    return Caller(name=f"key {name}", scope=f"key {name}", role=role, targets=targets)


# ---- what came in


def _presented(scope: Scope) -> str | None:
    """Return the key of a request, or None. Other kinds of ``Authorization`` are a proxy's business.

    Source: RFC 6750, section 2.1: the scheme's name is in any case, one blank or more, then the token.
    """
    found = set()
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            found.add(value.decode("latin-1").strip())
        elif name == b"authorization":
            scheme, _, text = value.decode("latin-1").strip().partition(" ")
            if scheme.lower() == "bearer":
                found.add(text.strip())
    if len(found) > 1:
        raise refuse("bad_request", "the request has two different keys: which of them counts would be a guess")
    return found.pop() if found else None


def _is_loopback(address: str) -> bool:
    ip = _ip(address)
    return ip is not None and ip.is_loopback


def _origin(address: str) -> str:
    """Return as whom an address is counted: of IPv6, everybody has 2**64."""
    ip = _ip(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return address


@lru_cache(maxsize=KNOWN_MAX)
def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


# ---- refusals


def _unauthorized(why: str, role: Role) -> RequestRefused:
    how = f"send one of the role {role} as Authorization: Bearer or X-API-Key; gpu-supervisor token create makes one"
    return refuse(
        "unauthorized",
        f"{why}: {how}",
        headers=CHALLENGE,
        needed_role=role,
    )


def _too_many(why: str, wait_s: float) -> RequestRefused:
    seconds = math.ceil(wait_s)
    after: Headers = ((b"retry-after", str(seconds).encode()),)
    return refuse("too_many_requests", f"{why}: try again in {seconds} s", headers=after)
