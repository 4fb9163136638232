"""What lies over the screen: a question before anything is done, a priority to type, and text to read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from supervisor.cli.top.deeds import Deed
from supervisor.cli.top.details import Lines
from supervisor.cli.top.picker import STYLES


def as_text(lines: Lines) -> Text:
    """Return lines as text for Textual: never read as markup."""
    return Text("\n").join(Text.assemble(*((span.text, STYLES[span.tone]) for span in line)) for line in lines)


class Question(ModalScreen[bool]):
    """Ask before something is done. ``y`` is yes, and nothing else is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, deed: Deed) -> None:
        super().__init__()
        self._deed = deed

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._deed.question, style="bold"))
            for line in self._deed.says:
                yield Static(Text(line))
            yield Static(Text("y  yes     n  no", style="bold"), classes="keys")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Priority(ModalScreen[int | None]):
    """Ask for a priority, and say which place it would give as it is typed."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave it as it is")]

    def __init__(self, question: str, now: int, foretell: Callable[[int], Awaitable[str]]) -> None:
        super().__init__()
        self._question = question
        self._priority = now
        self._foretell = foretell

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._question, style="bold"))
            yield Static(Text("Priority, -1000 to 1000: higher goes first. What it has aged stays."))
            yield Input(str(self._priority), type="integer", max_length=5, id="priority")
            yield Static(Text("-"), id="place")
            yield Static(Text("enter  move it     esc  leave it as it is", style="bold"), classes="keys")

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    @property
    def _typed(self) -> int | None:
        try:
            typed = int(self.query_one(Input).value)
        except ValueError:
            return None
        return typed if -1000 <= typed <= 1000 else None

    def on_input_changed(self) -> None:
        self.run_worker(self._say_place(), exclusive=True)

    async def _say_place(self) -> None:
        typed = self._typed
        said = "a whole number from -1000 to 1000" if typed is None else await self._foretell(typed)
        self.query_one("#place", Static).update(Text(said))

    def on_input_submitted(self) -> None:
        if self._typed is not None:
            self.dismiss(self._typed)

    def action_leave(self) -> None:
        self.dismiss(None)


class Reading(ModalScreen[None]):
    """Text to read, and to scroll through. ``again`` reads it anew every so often while it is open."""

    AGAIN_S = 2.0
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,l", "leave", "close"),
        Binding("down,j", "scroll(1)", "down", show=False),
        Binding("up,k", "scroll(-1)", "up", show=False),
    ]

    def __init__(
        self,
        title: str,
        lines: Lines,
        *,
        again: Callable[[], Awaitable[Lines | None]] | None = None,
        at_end: bool = False,
    ) -> None:
        super().__init__()
        self._title = title
        self._lines = lines
        self._again = again
        self._at_end = at_end

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="reading") as box:
            box.border_title = Text(self._title)
            box.border_subtitle = "esc closes"
            yield Static(as_text(self._lines), id="text")

    def on_mount(self) -> None:
        self._to_end()
        if self._again is not None:
            self.run_worker(self._read_again(), exclusive=True)
            self.set_interval(self.AGAIN_S, lambda: self.run_worker(self._read_again(), exclusive=True))

    async def _read_again(self) -> None:
        assert self._again is not None
        lines = await self._again()
        box = self.query_one(VerticalScroll)
        if lines is not None and lines != self._lines:
            stay = self._at_end and box.scroll_y < box.max_scroll_y
            self._lines = lines
            self.query_one("#text", Static).update(as_text(lines))
            if not stay:
                self._to_end()

    def _to_end(self) -> None:
        if self._at_end:
            self.query_one(VerticalScroll).scroll_end(animate=False)

    def action_scroll(self, by: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_leave(self) -> None:
        self.dismiss(None)
