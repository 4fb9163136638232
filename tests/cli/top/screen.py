"""The screen as a test sees it: as text, and with waits for what it comes to show."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console
from textual.pilot import Pilot

from supervisor.cli.connection import Server
from supervisor.cli.top.app import Top
from tests.cli.top.scenes import NOW


def text_of(app: Top) -> str:
    """Return what is on the screen, line by line; blanks at the ends are left out."""
    width, height = app.size
    console = Console(
        width=width, height=height, file=io.StringIO(), record=True, color_system=None, legacy_windows=False
    )
    drawn = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    console.print(drawn)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


class Eyes:
    """Looks at the screen until it shows what is waited for."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def text(self) -> str:
        return text_of(self.app)

    async def until(self, seen: str | Callable[[str], Any], within_s: float = 10.0) -> str:
        found = seen if callable(seen) else lambda text: seen in text
        try:
            async with asyncio.timeout(within_s):
                while not found(self.text):
                    await self.pilot.pause(0.05)
        except TimeoutError:
            raise AssertionError(f"not seen: {seen}\n{self.text}") from None
        await self.pilot.pause()
        return self.text

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()


@asynccontextmanager
async def screen(
    url: str, size: tuple[int, int] = (80, 24), now: Callable[[], Any] = lambda: NOW
) -> AsyncIterator[Eyes]:
    app = Top(Server(url), now)
    async with app.run_test(size=size) as pilot:
        yield Eyes(app, pilot)
