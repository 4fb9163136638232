"""The event loop that somebody lives on, asyncio's or trio's, and how another thread tells it something."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from msgspec import Struct


class Home(Struct, frozen=True):
    """``loop``: what tells this loop from others. ``call_soon`` runs a function on it, from any thread."""

    loop: object
    call_soon: Callable[[Callable[[], Any]], Any]

    def tell(self, call: Callable[[], Any]) -> None:
        """Run ``call`` on the loop soon; on one that is over there is nobody to be told."""
        # asyncio says RuntimeError; trio.RunFinishedError is one as well.
        with suppress(RuntimeError):
            self.call_soon(call)


def home_here() -> Home:
    """Return the loop that runs here. Raises ``RuntimeError`` where none does."""
    with suppress(RuntimeError):
        loop = asyncio.get_running_loop()
        return Home(loop, loop.call_soon_threadsafe)
    # Who runs on trio has imported it; nobody else has to have it.
    trio = sys.modules.get("trio")
    if trio is None:
        raise RuntimeError("no event loop runs here: AsyncClient is for asyncio and trio, Client for everything else")
    token = trio.lowlevel.current_trio_token()
    return Home(token, token.run_sync_soon)
