"""Columns that fit: which of them there is room for, and how wide each is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from rich.cells import cell_len

from supervisor.cli.top.words import Line, Span, fill, fitted

GAP = 2
Cell = str | Span


class Column(Struct, frozen=True):
    """``least`` and ``most`` cells wide. ``keep``: columns with smaller numbers give way first where it is narrow.

    ``rest``: takes what the others leave as well.
    """

    title: str
    least: int
    most: int = 0
    keep: int = 9
    rest: bool = False
    right: bool = False


class Row(Struct, frozen=True):
    """One line of a table. ``about``: more words that a filter finds it by."""

    key: str
    cells: tuple[Cell, ...]
    about: str = ""

    def has(self, words: Iterable[str]) -> bool:
        found = " ".join([*(text_of(cell) for cell in self.cells), self.about]).casefold()
        return all(word in found for word in words)


def text_of(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def widths(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[int]:
    """Return how wide each column is; 0: it is left out. With the gaps they never take more than ``width`` cells."""
    found = [_wanted(column, rows, at) for at, column in enumerate(columns)]
    giving_way = sorted(range(len(columns)), key=lambda at: (columns[at].keep, -at))[:-1]
    for at in giving_way:
        if _taken([min(column.least, have) for column, have in zip(columns, found, strict=True)]) <= width:
            break
        found[at] = 0
    _squeeze(columns, found, width)
    for at, column in enumerate(columns):
        if column.rest and found[at]:
            found[at] += max(0, width - _taken(found))
    return [min(have, max(0, width)) for have in found]


def _wanted(column: Column, rows: Sequence[Row], at: int) -> int:
    sample = [*rows[:SAMPLE], *rows[-SAMPLE:]]
    longest = max((cell_len(text_of(row.cells[at])) for row in sample), default=0)
    return max(column.least, min(column.most or column.least, longest))


#: The widths of a thousand rows are those of the first and the last, or every look would measure them all.
SAMPLE = 100


def _taken(found: Sequence[int]) -> int:
    shown = [have for have in found if have]
    return sum(shown) + GAP * max(0, len(shown) - 1)


def _squeeze(columns: Sequence[Column], found: list[int], width: int) -> None:
    """Take away what is too much, from the widest first; none becomes narrower than it may be."""
    while _taken(found) > width:
        loose = [at for at, column in enumerate(columns) if found[at] > column.least]
        if not loose:
            return
        found[max(loose, key=lambda at: found[at])] -= 1


def heading(columns: Sequence[Column], found: Sequence[int]) -> str:
    shown = [
        fitted(column.title, have, right=column.right) for column, have in zip(columns, found, strict=True) if have
    ]
    return (" " * GAP).join(shown)


def line_of(row: Row, columns: Sequence[Column], found: Sequence[int], width: int) -> Line:
    """Return a row as a line of exactly ``width`` cells."""
    spans: list[Span] = []
    for cell, column, have in zip(row.cells, columns, found, strict=True):
        if not have:
            continue
        if spans:
            spans.append(Span(" " * GAP))
        tone = cell.tone if isinstance(cell, Span) else ""
        spans.append(Span(fitted(text_of(cell), have, right=column.right), tone))
    return fill(tuple(spans), width)
