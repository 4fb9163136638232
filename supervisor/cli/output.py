"""What people read: tables, errors with their hints, and everybody's text made safe for a terminal.

Answers go to stdout, everything else to stderr, so that a pipe gets answers only. Colours and frames are rich's
business: it leaves them out for a pipe and for NO_COLOR.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from rich.box import HEAVY_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from supervisor.cli.errors import Refused, also_wrong, exit_status
from supervisor.core.errors import SupervisorError


class Grid(Struct, frozen=True):
    """A table. None and "" are shown as ``-``."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


#: What an answer for people is made of: lines, and tables between them.
Block = str | Grid

#: Words whose colour says how good they are: a cell that is one of them, or goes on after a comma, and the label at the
#: beginning of a line.
STYLES = {
    "ready": "green",
    "ok": "green",
    "healthy": "green",
    "claimable": "green",
    "resident": "cyan",
    "starting": "yellow",
    "stopping": "yellow",
    "warning": "yellow",
    "invalid": "red",
    "unhealthy": "red",
    "down": "red",
    "error": "red",
    "unapproved": "bold red",
    "unleased": "red",
    "leased": "green",
    "bare_lease": "green",
    "limited": "yellow",
    "absent": "dim",
    "stopped": "dim",
}


def clean(text: object) -> str:
    """Escape what does not print: names are anybody's, and hold terminal escapes or text that runs backwards."""
    raw = str(text)
    if raw.isprintable():
        return raw
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw)


def say(text: str) -> None:
    """One line of progress."""
    print(clean(text), file=sys.stderr, flush=True)


def answer(text: str) -> None:
    """One line of what was asked for."""
    print(clean(text), flush=True)


def answer_json(value: object) -> None:
    """What was asked for, for a script: one document on one line."""
    print(msgspec.json.encode(value).decode(), flush=True)


def complain(error: SupervisorError, *, as_json: bool = False) -> int:
    """Show an error, what to do about it, and the last words of whatever failed. Returns the exit status for it."""
    if as_json:
        print(msgspec.json.encode(_as_document(error)).decode(), file=sys.stderr, flush=True)
        return exit_status(error)
    busy = isinstance(error, Refused) and error.retryable
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    until = f", until {clock_time(error.until)} unless renewed" if isinstance(error, Refused) and error.until else ""
    _labelled(console, "busy:" if busy else "error:", "yellow" if busy else "red", f"{error}{until}")
    if isinstance(error, Refused):
        for line in error.logs_tail.splitlines():
            console.print(Text(f"  | {clean(line)}"))
    if error.hint:
        _labelled(console, "hint:" if busy else "hint: ", "cyan", error.hint)
    for other in also_wrong(error):
        complain(other)
    return exit_status(error)


def _as_document(error: SupervisorError) -> dict[str, object]:
    """``context``: the other fields of the server's problem, where it is one; what else is wrong with the settings."""
    refused = error if isinstance(error, Refused) else None
    others = [{"message": str(other), "hint": other.hint} for other in also_wrong(error)]
    return {
        "event": "error",
        "code": error.code,
        "message": str(error),
        "hint": error.hint,
        "retryable": refused is not None and refused.retryable,
        "exit_status": exit_status(error),
        "context": refused.context if refused is not None else {"others": others} if others else {},
    }


def _labelled(console: Console, label: str, style: str, text: str) -> None:
    console.print(Text.assemble((label, style), " ", clean(text)))


# ---- blocks


def show(blocks: Sequence[Block]) -> None:
    """Print an answer: framed and coloured on a terminal, aligned columns in a pipe."""
    if sys.stdout.isatty():
        Console(highlight=False).print(framed(blocks))
    else:
        print(plain(blocks), flush=True)


def framed(blocks: Sequence[Block], *, low: bool = False) -> RenderableType:
    """Return an answer as rich shows it on a terminal; ``low`` without frames, to fit on a screen."""
    return Group(*(_framed(block, low=low) if isinstance(block, Grid) else _line(block) for block in blocks))


def _line(text: str) -> Text:
    shown = Text(clean(text), overflow="fold")
    label = text.strip().partition(":")[0]
    if label in STYLES:
        shown.highlight_words([f"{label}:"], STYLES[label])
    return shown


def _framed(grid: Grid, *, low: bool) -> Table:
    framed = Table(
        title=grid.title, title_justify="left", header_style="bold", box=None if low else HEAVY_HEAD, pad_edge=not low
    )
    for column in grid.columns:
        framed.add_column(column, overflow="fold")
    for row in _cells(grid):
        framed.add_row(*(Text(cell, style=STYLES.get(cell.partition(",")[0], "")) for cell in row))
    return framed


def plain(blocks: Sequence[Block]) -> str:
    """Return an answer as it goes into a pipe."""
    return "\n".join(_plain(block) if isinstance(block, Grid) else clean(block) for block in blocks)


def _plain(grid: Grid) -> str:
    rows = [list(grid.columns), *_cells(grid)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(grid.columns))]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([f"{grid.title}:", *lines])


def _cells(grid: Grid) -> list[list[str]]:
    return [[clean(cell) if cell not in (None, "") else "-" for cell in row] for row in grid.rows]


# ---- words


def clock_time(rfc3339: str | None) -> str:
    """Show a time of the API (RFC 3339, UTC) as this machine's clock shows it; the date only where it is not today."""
    if not rfc3339:
        return ""
    try:
        when = datetime.fromisoformat(rfc3339).astimezone()
    except ValueError:
        return rfc3339
    today = datetime.now(UTC).astimezone().date()
    return when.strftime("%H:%M:%S" if when.date() == today else "%Y-%m-%d %H:%M:%S")


def needs(mib: int | None) -> str:
    """Show how much VRAM something needs; None is all of it."""
    return "the whole GPU" if mib is None else f"{mib} MiB"
