"""Every request of the client as a value: what is sent, how long its answer may take, and what it is decoded into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from supervisor.answers import (
    EndedView,
    Events,
    EvictAnswer,
    ForecastAnswer,
    LeaseAnswer,
    LeaseView,
    OpenedAnswer,
    ProcessesView,
    ReleasedAnswer,
    RenewAnswer,
    StatusView,
    TargetsView,
    TargetView,
    TicketAnswer,
    TicketView,
    Why,
)
from supervisor.client.wishes import Wish

T = TypeVar("T")

#: How much later than it said a server's answer may come. A bare lease is answered when room was made for it, and what
#: must stop for that may have minutes of grace.
LATE_S = 30.0
ROOM_S = 900.0
QUEUED = frozenset({"queued", "claimable"})


class Ask(Struct, Generic[T], frozen=True, kw_only=True):
    """One request. ``answer_s`` None: as long as the client was told.

    ``once``: to send it twice is not the same as once, so it is not repeated where it may have arrived.
    """

    method: str
    path: str
    decode: Callable[[bytes], T]
    body: dict[str, Any] | None = None
    params: dict[str, Any] | None = None
    key: str | None = None
    answer_s: float | None = None
    once: bool = False


def _as(type_: type[T]) -> Callable[[bytes], T]:
    return msgspec.json.Decoder(type_).decode


class _Stand(Struct):
    state: str


_STAND = msgspec.json.Decoder(_Stand)
_LEASE_ANSWER, _TICKET_ANSWER = _as(LeaseAnswer), _as(TicketAnswer)
_LEASE_VIEW, _TICKET_VIEW, _ENDED_VIEW = _as(LeaseView), _as(TicketView), _as(EndedView)
_RELEASED, _RENEWED = _as(ReleasedAnswer), _as(RenewAnswer)


def _granted_or_queued(raw: bytes) -> LeaseAnswer | TicketAnswer:
    return _TICKET_ANSWER(raw) if _STAND.decode(raw).state in QUEUED else _LEASE_ANSWER(raw)


def _view(raw: bytes) -> LeaseView | TicketView | EndedView:
    state = _STAND.decode(raw).state
    if state in QUEUED:
        return _TICKET_VIEW(raw)
    return _ENDED_VIEW(raw) if state == "ended" else _LEASE_VIEW(raw)


# ---- leases


def lease(wish: Wish, key: str, *, queue: bool) -> Ask[LeaseAnswer | TicketAnswer]:
    """Ask for a lease, or for a place in the queue; neither the turn nor readiness is waited for.

    So a token is there soon: what takes long is waited for with it, and can be given back at any time. A bare lease's
    comes when room was made for it; until then the key is what it can be given back by.
    """
    return Ask(
        method="POST",
        path="/v1/lease",
        body={**wish.body, "queue": queue, "wait_ready": False},
        key=key,
        decode=_granted_or_queued,
        answer_s=ROOM_S + LATE_S,
    )


def forecast(wish: Wish) -> Ask[ForecastAnswer]:
    body = {**wish.body, "queue": wish.wait_s != 0, "dry_run": True}
    return Ask(method="POST", path="/v1/lease", body=body, decode=_as(ForecastAnswer))


def claim(token: str, *, wait_s: int, wait_ready: bool, ready_timeout_s: int) -> Ask[LeaseAnswer]:
    return Ask(
        method="POST",
        path=f"{_lease(token)}/claim",
        body={"wait_seconds": wait_s, "wait_ready": wait_ready, "ready_timeout_seconds": ready_timeout_s},
        decode=_LEASE_ANSWER,
        answer_s=wait_s + ROOM_S + ready_timeout_s + LATE_S,
    )


def look(token: str, answer_s: float | None = None) -> Ask[LeaseView | TicketView | EndedView]:
    return Ask(method="GET", path=_lease(token), decode=_view, answer_s=answer_s)


def renew(token: str, answer_s: float | None = None) -> Ask[RenewAnswer]:
    return Ask(method="POST", path=f"{_lease(token)}/renew", decode=_RENEWED, answer_s=answer_s)


def release(token: str) -> Ask[ReleasedAnswer]:
    return Ask(method="DELETE", path=_lease(token), decode=_RELEASED)


def release_by_key(key: str) -> Ask[ReleasedAnswer]:
    """Give back what ``lease`` with this key may have got, though its answer was never read."""
    return Ask(method="DELETE", path="/v1/lease", decode=_RELEASED, key=key)


def _lease(token: str) -> str:
    return f"/v1/lease/{quote(token, safe='')}"


# ---- everything else


def status() -> Ask[StatusView]:
    return Ask(method="GET", path="/v1/status", decode=_as(StatusView))


def targets() -> Ask[TargetsView]:
    return Ask(method="GET", path="/v1/targets", decode=_as(TargetsView))


def target(name: str) -> Ask[TargetView]:
    return Ask(method="GET", path=f"/v1/targets/{quote(name, safe='')}", decode=_as(TargetView))


def evict(name: str) -> Ask[EvictAnswer]:
    return Ask(method="POST", path=f"/v1/targets/{quote(name, safe='')}/evict", decode=_as(EvictAnswer), once=True)


def open_gpu(uuid: str) -> Ask[OpenedAnswer]:
    return Ask(method="POST", path=f"/v1/gpus/{quote(uuid, safe='')}/open", decode=_as(OpenedAnswer), once=True)


def processes() -> Ask[ProcessesView]:
    return Ask(method="GET", path="/v1/processes", decode=_as(ProcessesView))


def why(name: str) -> Ask[Why]:
    return Ask(method="GET", path=f"/v1/why/{quote(name, safe='')}", decode=_as(Why))


def audit(*, after: int | None, target: str | None, limit: int) -> Ask[Events]:
    chosen = {"after": after, "target": target, "limit": limit}
    params = {name: value for name, value in chosen.items() if value is not None}
    return Ask(method="GET", path="/v1/events", params=params, decode=_as(Events))
