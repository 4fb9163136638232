"""What every route needs: the way to the supervisor, the mint, the log lines; and replies made into answers."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from supervisor.api.logs import REFUSAL_S, LogTails
from supervisor.api.problems import RequestRefused
from supervisor.api.times import epoch_s, rfc3339
from supervisor.api.tokens import TokenMint
from supervisor.api.views.kept import Kept
from supervisor.core.errors import Refusal
from supervisor.core.model import Now
from supervisor.core.replies import Granted, Refused
from supervisor.ports import Desk


class Context(Struct, frozen=True, kw_only=True):
    desk: Desk
    mint: TokenMint
    tails: LogTails
    version: str
    kept: Kept

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
            now = await self.desk.read(lambda _state, now: now)
            context = dict(_outside(context, now, plain=plain))
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
