"""What an opening puts right by itself: leftovers of a crash, and a torn tail. Loses nothing that was acknowledged."""

from __future__ import annotations

import logging
from pathlib import Path

from supervisor.journal.disk import Disk, read_file, remove_if_there
from supervisor.journal.frame import Ending
from supervisor.journal.segments import FULL, Segment, put_file, zero

log = logging.getLogger(__name__)

#: How many side files of torn tails are kept: a machine that loses power every day must not fill its disk with them.
TORN_KEPT = 16


def clear_leftovers(disk: Disk, directory: Path) -> None:
    """Remove files that were being made when the process ended. None of them had a name that means anything."""
    for name in disk.list_directory(directory):
        if name == "segment" or name.endswith(".new"):
            disk.unlink(directory / name)


def cut_tail(disk: Disk, segment: Segment, torn: Ending) -> None:
    """Keep what a crash left of the last write in a side file, then put zeros in its place, and sync.

    It was never acknowledged: no sync of it returned. Zeros need no space, so this works on a full disk too; the side
    file may then be missing.
    """
    directory = segment.path.parent
    side = directory / f"{segment.name}.{torn.offset}.torn"
    left = read_file(disk, segment.path)[torn.offset : torn.end]
    kept = f"kept in {side.name}"
    try:
        put_file(disk, side, left)
    except OSError as error:
        if error.errno not in FULL:
            raise
        kept = "not kept, the disk is full"
    log.warning(
        "cut an unfinished write off the journal: %s, byte %d: %s, %d bytes (%s)",
        segment.name,
        torn.offset,
        torn.reason,
        len(left),
        kept,
    )
    zero(disk, segment.path, torn.offset, torn.end)
    names = sorted(name for name in disk.list_directory(directory) if name.endswith(".torn"))
    for name in names[:-TORN_KEPT]:
        remove_if_there(disk, directory / name)
