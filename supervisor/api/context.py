"""What every route needs: the way to the supervisor, the mint, the log lines; and replies made into answers."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct

from supervisor.api.gate import Gate
from supervisor.api.logs import REFUSAL_S, LogTails
from supervisor.api.past import Past
from supervisor.api.problems import RequestRefused
from supervisor.api.times import epoch_s, rfc3339
from supervisor.api.tokens import TokenMint
from supervisor.api.views.kept import Kept
from supervisor.core.errors import Refusal
from supervisor.core.model import Now
from supervisor.core.replies import Granted, Refused
from supervisor.ports import Desk


class Meter(Protocol):
    """Counts, and shows what was counted."""

    def refusal(self, code: str) -> None:
        """Count a request that is refused, by its problem code."""

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        ...


class Context(Struct, frozen=True, kw_only=True):
    desk: Desk
    meter: Meter
    mint: TokenMint
    tails: LogTails
    gate: Gate
    version: str
    kept: Kept
    past: Past

    def expires_wall_ms(self, granted: Granted) -> int | None:
        """Return when a lease expires, in Unix milliseconds. None: it has no TTL now."""
        return self.outside(granted.expires_at_ms)

    def outside(self, at_ms: int | None) -> int | None:
        """Return the wall time that belongs to a supervisor time, in Unix milliseconds."""
        return self.desk.now().wall_of(at_ms) if at_ms is not None else None

    async def refusal(self, refused: Refused, *, plain: bool = False) -> RequestRefused:
        """Return a refusal with times that callers can read, and the last words of whatever failed."""
        context = refused.refusal.context
        if any(name.endswith("_at_ms") for name in context):
            context = dict(_outside(context, self.desk.now(), plain=plain))
        if refused.logs_of is not None:
            context = {**context, "logs_tail": await self.tails.tail(refused.logs_of, REFUSAL_S)}
        return RequestRefused(Refusal(refused.refusal.code, refused.refusal.detail, context))


def _outside(context: dict[str, Any], now: Now, *, plain: bool) -> list[tuple[str, Any]]:
    """Turn supervisor time, in fields named ``*_at_ms``, into what callers read."""
    pairs = []
    for name, value in context.items():
        if not name.endswith("_at_ms"):
            pairs.append((name, value))
        elif value is not None:
            wall_ms = now.wall_of(value)
            pairs.append((name.removesuffix("_ms"), epoch_s(wall_ms) if plain else rfc3339(wall_ms)))
        else:
            pairs.append((name.removesuffix("_ms"), None))
    return pairs
