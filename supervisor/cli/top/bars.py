"""A GPU's memory as a bar of text: who uses it, what is reserved beyond that, and what nobody explains.

Every kind has a fill of its own, and every target begins with its letter, so that it reads without colours.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from supervisor.answers import GpuView
from supervisor.cli.output import clean
from supervisor.cli.top.words import Line, Span, gib, size

#: What the bar is filled with. ``others`` use memory that no target has: processes without a lease.
FILLS = {"used": "█", "reserved": "▒", "others": "#", "unexplained": "?", "driver": "=", "free": "·"}
TONES = {"others": "bad", "unexplained": "bad", "driver": "dim", "free": "dim"}
LEGEND = "█ used  ▒ reserved  # others  ? unexplained  = driver  · free"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HUES = 6


class Part(Struct, frozen=True):
    """A piece of a GPU's memory. ``letter`` and ``hue`` are those of the target that has it."""

    kind: str
    mib: int
    letter: str = ""
    hue: int = 0


class Share(Struct, frozen=True):
    """What one target, or the bare leases together, have of a GPU (MiB). ``used`` None: the driver does not say."""

    name: str
    used_mib: int | None
    reserved_mib: int

    @property
    def beyond_mib(self) -> int:
        return max(0, self.reserved_mib - (self.used_mib or 0))


def shares(gpu: GpuView) -> tuple[Share, ...]:
    """Return who has what of a GPU; what is granted and to no target is the bare leases'."""
    total = gpu.total_mib or 0
    found = [
        Share(clean(use.target), use.used_mib, total if use.reserved_mib is None else use.reserved_mib)
        for use in gpu.targets
    ]
    bare = (gpu.granted_mib or 0) - sum(share.reserved_mib for share in found)
    if bare > 0:
        found.append(Share("(bare)", min(_others(gpu, found), bare), bare))
    return tuple(found)


def _others(gpu: GpuView, found: Sequence[Share]) -> int:
    """Return what is in use by processes that are known and belong to none of ``found``."""
    return max(0, (gpu.used_mib or 0) - (gpu.unexplained_mib or 0) - sum(share.used_mib or 0 for share in found))


def parts(gpu: GpuView) -> tuple[Part, ...]:
    """Return a GPU's memory piece by piece; what is left of its size is free. Empty where the size is unknown."""
    if not gpu.total_mib:
        return ()
    found = shares(gpu)
    pieces = []
    for at, share in enumerate(found):
        letter, hue = LETTERS[at % len(LETTERS)], at % HUES
        pieces.append(Part("used", share.used_mib or 0, letter, hue))
        pieces.append(Part("reserved", share.beyond_mib, "" if share.used_mib else letter, hue))
    pieces += [
        Part("others", _others(gpu, found)),
        Part("unexplained", gpu.unexplained_mib or 0),
        Part("driver", gpu.reserved_mib or 0),
    ]
    pieces.append(Part("free", max(0, gpu.total_mib - sum(piece.mib for piece in pieces))))
    return tuple(piece for piece in pieces if piece.mib > 0)


def cells(pieces: Sequence[Part], width: int) -> list[int]:
    """Share ``width`` cells among the pieces by size. All are used, and while there are enough, each gets one."""
    total = sum(piece.mib for piece in pieces)
    if not total or width <= 0:
        return [0] * len(pieces)
    least = 1 if len(pieces) <= width else 0
    spare = width - least * len(pieces)
    exact = [piece.mib * spare / total for piece in pieces]
    found = [least + int(part) for part in exact]
    by_rest = sorted(range(len(pieces)), key=lambda at: (int(exact[at]) - exact[at], at))
    for at in by_rest[: width - sum(found)]:
        found[at] += 1
    return found


def bar(gpu: GpuView, width: int) -> Line:
    """Return the bar between its brackets, ``width`` cells in all; blank where the size is unknown."""
    inner = max(0, width - 2)
    pieces = parts(gpu)
    if not pieces:
        return (Span("[", "dim"), Span(" " * inner), Span("]", "dim"))
    spans = [Span("[", "dim")]
    for piece, have in zip(pieces, cells(pieces, inner), strict=True):
        text = FILLS[piece.kind] * have
        if piece.letter and have:
            text = piece.letter + text[1:]
        tone = TONES.get(piece.kind) or f"t{piece.hue}"
        spans.append(Span(text, tone))
    return (*spans, Span("]", "dim"))


def legend(gpu: GpuView) -> Line:
    """Return who is who in the bar, with used and reserved GiB."""
    spans: list[Span] = []
    for at, share in enumerate(shares(gpu)):
        text = f"{LETTERS[at % len(LETTERS)]} {share.name} {gib(share.used_mib)} of {size(share.reserved_mib)}"
        spans += [Span(text, f"t{at % HUES}"), Span("  ")]
    others = sum(piece.mib for piece in parts(gpu) if piece.kind == "others")
    if others:
        spans += [Span(f"# others {size(others)}", "bad"), Span("  ")]
    if gpu.unexplained_mib:
        spans += [Span(f"? unexplained {size(gpu.unexplained_mib)}", "bad"), Span("  ")]
    if gpu.reserved_mib:
        spans += [Span(f"= driver {size(gpu.reserved_mib)}", "dim"), Span("  ")]
    if gpu.grantable_mib is not None:
        spans.append(Span(f"· grantable {size(gpu.grantable_mib)}", "dim"))
    return tuple(spans)
