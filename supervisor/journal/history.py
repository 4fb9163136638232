"""Reading the audit back from the segments, while another thread writes."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator

from msgspec import Struct

from supervisor.core.facts import AnyFact
from supervisor.journal.disk import Disk, read_file
from supervisor.journal.frame import HEADER, records
from supervisor.journal.recovery import facts_of
from supervisor.journal.segments import Segment
from supervisor.journal.snapshot import Place

log = logging.getLogger(__name__)


class View(Struct, frozen=True):
    """What is synced: ``segments``, oldest first, up to ``end``. Replaced as a whole, so any thread may hold one."""

    segments: tuple[Segment, ...]
    end: Place


def history(disk: Disk, view: View, version: str, after: int, limit: int) -> list[tuple[int, AnyFact]]:
    """Return facts numbered above ``after`` with their numbers, oldest first, at most ``limit``.

    Facts whose segments were deleted, or are damaged, are left out: their numbers are missing.
    """
    found: list[tuple[int, AnyFact]] = []
    for segment in _from(view, after):
        for seq, facts in _batches(disk, view, segment, version, after):
            skip = max(0, after + 1 - seq)
            found += enumerate(facts[skip : skip + limit - len(found)], seq + skip)
            if len(found) >= limit:
                return found
    return found


def _from(view: View, after: int) -> list[Segment]:
    """Return the segments that may hold facts above ``after``, by what their headers say."""
    readable = [segment for segment in view.segments if segment.header is not None and segment.index <= view.end.index]
    firsts = [segment.header.chain.fact_seq for segment in readable if segment.header is not None]
    return readable[max(0, bisect_right(firsts, after + 1) - 1) :]


def _batches(disk: Disk, view: View, segment: Segment, version: str, after: int) -> Iterator[tuple[int, list[AnyFact]]]:
    assert segment.header is not None
    last = segment.index == view.end.index
    try:
        data = read_file(disk, segment.path, view.end.offset if last else None)
    except FileNotFoundError:
        return  # retention deleted it a moment ago
    offset = HEADER
    for record in records(data, HEADER, segment.header.chain):
        if record.fact_seq + record.facts > after + 1:
            yield record.fact_seq, facts_of(data, record, segment, version)
        offset = record.end
    if data[offset:].strip(b"\0"):
        log.warning("the audit is damaged: %s, byte %d: facts behind it are left out", segment.name, offset)
