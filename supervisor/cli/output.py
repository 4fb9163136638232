"""What people read: tables, errors with their hints, and everybody's text made safe for a terminal.

Answers go to stdout, everything else to stderr, so that a pipe gets answers only. Colours and frames are rich's
business: it leaves them out for a pipe and for NO_COLOR.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from supervisor.cli.errors import Refused, exit_status
from supervisor.core.errors import SupervisorError


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


def complain(error: SupervisorError) -> int:
    """Show an error, what to do about it, and the last words of whatever failed. Returns the exit status for it."""
    busy = isinstance(error, Refused) and error.retryable
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    until = f", until {clock_time(error.until)} unless renewed" if isinstance(error, Refused) and error.until else ""
    _labelled(console, "busy:" if busy else "error:", "yellow" if busy else "red", f"{error}{until}")
    if isinstance(error, Refused):
        for line in error.logs_tail.splitlines():
            console.print(Text(f"  | {clean(line)}"))
    if error.hint:
        _labelled(console, "hint:" if busy else "hint: ", "cyan", error.hint)
    return exit_status(error)


def _labelled(console: Console, label: str, style: str, text: str) -> None:
    console.print(Text.assemble((label, style), " ", clean(text)))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Show a table: framed on a terminal, aligned columns in a pipe. None and "" are shown as ``-``."""
    cells = [[clean(cell) if cell not in (None, "") else "-" for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _plain_table(title, columns, cells)
        return
    framed = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        framed.add_column(column, overflow="fold")
    for cell_row in cells:
        framed.add_row(*(Text(cell) for cell in cell_row))
    Console().print(framed)


def _plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[at]) for row in [columns, *rows]) for at in range(len(columns))]
    print(f"{title}:")
    for row in [columns, *rows]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


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
