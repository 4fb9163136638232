"""Small words for small places: sizes, times, and text that is cut to a width in terminal cells."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct
from rich.cells import cell_len, set_cell_size

from supervisor.cli.output import clean

CUT = "…"


class Span(Struct, frozen=True):
    """Text in a tone: "", good, warn, bad, dim, strong, or t0 to t5 (targets in a bar)."""

    text: str
    tone: str = ""


Line = tuple[Span, ...]

#: Words whose tone says how good they are.
TONES = {
    **dict.fromkeys(("ready", "ok", "healthy", "claimable"), "good"),
    **dict.fromkeys(("starting", "stopping", "yielding", "parked", "restarting", "observe", "dirty"), "warn"),
    **dict.fromkeys(("invalid", "unhealthy", "down", "lost", "unreadable", "mig", "full", "damaged"), "bad"),
    **dict.fromkeys(("absent", "stopped", "none"), "dim"),
    "resident": "cool",
}


def toned(word: str) -> Span:
    """Return a state in its tone."""
    return Span(clean(word), TONES.get(word, ""))


def gib(mib: int | None) -> str:
    """Show a size as a number of GiB without the unit; ``?`` where nobody knows it."""
    return "?" if mib is None else f"{mib / 1024:.1f}"


def size(mib: int | None) -> str:
    if mib is None:
        return "?"
    return f"{mib} MiB" if mib < 1024 else f"{gib(mib)} GiB"


def needs(mib: int | None, gpus: int = 1) -> str:
    """Show what somebody needs; None is a whole GPU."""
    what = "whole GPU" if mib is None else size(mib)
    return what if gpus < 2 else f"{gpus}x{what}"


def lasting(seconds: float) -> str:
    """Show a time span in two units at most: ``45s``, ``9m58s``, ``1h02m``, ``3d04h``. What is over is ``0s``."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    if left < 3_600:
        return f"{left // 60}m{left % 60:02}s"
    if left < 86_400:
        return f"{left // 3_600}h{left % 3_600 // 60:02}m"
    return f"{left // 86_400}d{left % 86_400 // 3_600:02}h"


def seconds_to(rfc3339: str | None, now: datetime) -> float | None:
    """Return how long it is from ``now`` (aware) to a time of the API, in seconds; None without one."""
    if not rfc3339:
        return None
    try:
        return (datetime.fromisoformat(rfc3339) - now).total_seconds()
    except (ValueError, TypeError):
        return None


def until(rfc3339: str | None, now: datetime) -> str:
    left = seconds_to(rfc3339, now)
    return "" if left is None else lasting(left)


def since(rfc3339: str | None, now: datetime) -> str:
    left = seconds_to(rfc3339, now)
    return "" if left is None else lasting(-left)


def at(rfc3339: str | None, now: datetime) -> str:
    """Show a time of the API as this machine's clock does; the date only where it is not today."""
    if not rfc3339:
        return ""
    try:
        when = datetime.fromisoformat(rfc3339).astimezone()
    except ValueError:
        return clean(rfc3339)
    return when.strftime("%H:%M:%S" if when.date() == now.astimezone().date() else "%m-%d %H:%M:%S")


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """Return ``text`` in exactly ``width`` cells: filled up with blanks, or cut with a sign that says so."""
    have = cell_len(text)
    if have > width:
        return set_cell_size(text, width - 1) + CUT if width > 0 else ""
    return " " * (width - have) + text if right else text + " " * (width - have)


def fill(line: Line, width: int) -> Line:
    """Return a line in exactly ``width`` cells."""
    spans: list[Span] = []
    left = width
    for span in line:
        have = cell_len(span.text)
        if have > left:
            spans.append(Span(fitted(span.text, left), span.tone))
            return tuple(spans)
        spans.append(span)
        left -= have
    return (*spans, Span(" " * left)) if left else tuple(spans)
