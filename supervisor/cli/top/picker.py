"""A list to select from that draws only the lines in sight: a thousand rows cost what a screenful does.

Rows keep their identity by key: what is selected stays selected while rows come, go and move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from supervisor.answers import GpuView
from supervisor.cli.output import clean
from supervisor.cli.top import bars, columns, model
from supervisor.cli.top.columns import Row
from supervisor.cli.top.model import Pane, Table
from supervisor.cli.top.words import Line, Span, fill, fitted

#: Colours of the tones, out of the sixteen that every terminal has: each person's own scheme decides how they look.
STYLES = {
    "": Style(),
    "good": Style(color="green"),
    "cool": Style(color="cyan"),
    "warn": Style(color="yellow"),
    "bad": Style(color="red", bold=True),
    "dim": Style(dim=True),
    "strong": Style(bold=True),
    "t0": Style(color="cyan"),
    "t1": Style(color="magenta"),
    "t2": Style(color="green"),
    "t3": Style(color="blue"),
    "t4": Style(color="yellow"),
    "t5": Style(color="bright_cyan"),
}
SELECTED = Style(reverse=True)
MARK, NO_MARK = "▌", " "


def segments(line: Line, more: Style | None = None) -> list[Segment]:
    """Return a line as Textual draws it. ``more`` is laid over each tone."""
    return [Segment(span.text, STYLES[span.tone] + more if more else STYLES[span.tone]) for span in line]


class Picker(ScrollView, can_focus=True):
    """One pane. ``Chosen`` is posted for Enter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "step(-1)", "up", show=False),
        Binding("down,j", "step(1)", "down", show=False),
        Binding("pageup", "leap(-1)", "page up", show=False),
        Binding("pagedown", "leap(1)", "page down", show=False),
        Binding("home,g", "edge(False)", "first", show=False),
        Binding("end,G", "edge(True)", "last", show=False),
        Binding("enter", "choose", "details", key_display="enter"),
        Binding("tab", "app.focus_next", "pane", key_display="tab"),
    ]

    class Chosen(Message):
        """Enter was pressed on what is selected."""

    class Moved(Message):
        """Something else is selected."""

    def __init__(self, pane: Pane) -> None:
        super().__init__(id=pane)
        self.pane: Pane = pane
        self.keys: list[str] = []
        self.at = 0
        self.stale = False

    # ---- what a kind of pane says

    @property
    def row_height(self) -> int:
        return 1

    @property
    def head(self) -> int:
        """How many lines of headings stay at the top."""
        return 0

    @property
    def nothing(self) -> str:
        """What stands where there is no row."""
        return model.EMPTY[self.pane]

    def row_line(self, at: int, line: int, width: int) -> Line:
        raise NotImplementedError

    def head_line(self, line: int, width: int) -> Line:
        raise NotImplementedError

    # ---- selection

    @property
    def selected(self) -> str | None:
        return self.keys[self.at] if self.keys else None

    def take(self, keys: Sequence[str], *, follow_top: bool = False) -> None:
        """Take over the keys of new rows. ``follow_top``: whoever has selected the first row wants the newest."""
        before = self.selected
        at_top = follow_top and self.at == 0
        self.keys = list(keys)
        if not at_top and before is not None and before in self.keys:
            self.at = self.keys.index(before)
        self.at = max(0, min(self.at, len(self.keys) - 1))
        self.virtual_size = Size(self.size.width, len(self.keys) * self.row_height + self.head)
        self._show_selected()
        self.refresh()

    def select(self, at: int) -> None:
        at = max(0, min(at, len(self.keys) - 1))
        if at != self.at:
            self.at = at
            self._show_selected()
            self.refresh()
            self.post_message(self.Moved())

    def _show_selected(self) -> None:
        top = self.at * self.row_height
        room = max(1, self.size.height - self.head)
        if top < self.scroll_y:
            self.scroll_to(y=top, animate=False)
        elif top + self.row_height > self.scroll_y + room:
            self.scroll_to(y=top + self.row_height - room, animate=False)

    def action_step(self, by: int) -> None:
        self.select(self.at + by)

    def action_leap(self, by: int) -> None:
        self.select(self.at + by * max(1, (self.size.height - self.head) // self.row_height))

    def action_edge(self, last: bool) -> None:
        self.select(len(self.keys) - 1 if last else 0)

    def action_choose(self) -> None:
        if self.keys:
            self.post_message(self.Chosen())

    def on_click(self, event: Click) -> None:
        line = event.y - self.head
        if line >= 0:
            self.select((line + int(self.scroll_y)) // self.row_height)

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self.keys) * self.row_height + self.head)
        self._show_selected()

    # ---- drawing

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        over = Style(dim=True) if self.stale else None
        if y < self.head:
            return self._strip(fill(self.head_line(y, width - 1), width - 1), None, "", over)
        at, line = divmod(y - self.head + int(self.scroll_y), self.row_height)
        if at >= len(self.keys):
            empty = self.nothing if not self.keys and y == self.head else ""
            return self._strip((Span(fitted(empty, max(0, width - 1)), "dim"),), None, "", over)
        chosen = at == self.at
        mark = MARK if chosen else NO_MARK
        reverse = SELECTED if chosen and self.has_focus and line == 0 else None
        return self._strip(self.row_line(at, line, max(0, width - 1)), reverse, mark, over)

    def _strip(self, line: Line, reverse: Style | None, mark: str, over: Style | None) -> Strip:
        found = segments(line, reverse)
        if over is not None:
            # Greyed as a whole: what was red a while ago may not be so now.
            found = [Segment(segment.text, over) for segment in found]
        strip = Strip([Segment(mark or NO_MARK, STYLES["strong" if self.has_focus else "dim"]), *found])
        return strip.apply_style(self.rich_style)

    def on_focus(self) -> None:
        self.refresh()
        self.post_message(self.Moved())

    def on_blur(self) -> None:
        self.refresh()


#: So few lines are all for rows, if there are as many: their heading gives way.
LOW = 2


class TablePicker(Picker):
    """Rows in columns."""

    def __init__(self, pane: Pane) -> None:
        super().__init__(pane)
        self.table = Table((), (), 0)
        self._widths: list[int] = []
        self._fitted_to = -1

    @property
    def head(self) -> int:
        rows = len(self.table.rows)
        return 1 if rows and self.size.height > min(LOW, rows) else 0

    @property
    def nothing(self) -> str:
        return "nothing has all the words of the filter" if self.table.all else super().nothing

    def put(self, table: Table) -> None:
        self.table = table
        self._fitted_to = -1
        self.border_title = f" {model.title(self.pane, table)} "
        self.take([row.key for row in table.rows], follow_top=self.pane == "audit")

    def _fit(self, width: int) -> list[int]:
        if width != self._fitted_to:
            self._widths = columns.widths(self.table.columns, self.table.rows, width)
            self._fitted_to = width
        return self._widths

    def head_line(self, line: int, width: int) -> Line:  # noqa: ARG002 - there is one
        return (Span(columns.heading(self.table.columns, self._fit(width)), "dim"),)

    def row_line(self, at: int, line: int, width: int) -> Line:  # noqa: ARG002 - a row has one
        row: Row = self.table.rows[at]
        return columns.line_of(row, self.table.columns, self._fit(width), width)


#: Cells for a GPU's number and name, and for the numbers behind the bar.
NUMBER_W, NAME_W, FACTS_W = 3, 20, 32


class GpuPicker(Picker):
    """A bar for each GPU and, where there is room (``tall``), who is who in it below. ``lines``: its height."""

    def __init__(self) -> None:
        super().__init__("gpus")
        self.gpus: tuple[GpuView, ...] = ()
        self.tall = True
        self.lines = 2

    @property
    def row_height(self) -> int:
        return 2 if self.tall else 1

    def put(self, gpus: tuple[GpuView, ...], *, tall: bool) -> None:
        self.gpus = gpus
        self.tall = tall
        count = f" {len(gpus)}" if len(gpus) > 1 else ""
        self.border_title = f" {model.TITLES['gpus']}{count}   {bars.LEGEND} "
        self.take([gpu.uuid for gpu in gpus])

    def row_line(self, at: int, line: int, width: int) -> Line:
        gpu = self.gpus[at]
        named = width >= 110
        lead = f"{gpu.index:>2} " + (fitted(clean(gpu.name).removeprefix("NVIDIA "), NAME_W - 1) + " " if named else "")
        if line == 1:
            if gpu.problem:
                return fill((Span(" " * NUMBER_W), Span(clean(gpu.problem), "bad")), width)
            return fill((Span(" " * NUMBER_W), *bars.legend(gpu)), width)
        facts = model.gpu_facts(gpu)
        room = max(10, width - len(lead) - FACTS_W)
        return fill((Span(lead, "strong"), *bars.bar(gpu, room), Span(" "), facts), width)
