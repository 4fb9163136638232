"""What can go wrong with the journal.

JournalError
├── JournalLocked    another supervisor has it; exit status 2
├── JournalTooNew    a newer version wrote it
├── JournalDamaged   something was to be written behind damage
└── JournalBroken    a write or a sync failed: memory and disk may disagree, the process must end
"""

from __future__ import annotations

import errno
from pathlib import Path

from supervisor.core.errors import SupervisorError

HINTS: dict[int | None, str] = {
    errno.ENOSPC: "free some space (df, du); a restart goes on from what is on the disk",
    errno.EDQUOT: "free some space or raise the quota; a restart goes on from what is on the disk",
    errno.EACCES: "the data directory must belong to the user who runs the supervisor; see --data-dir",
    errno.EPERM: "the data directory must belong to the user who runs the supervisor; see --data-dir",
    errno.ENOTDIR: "name a directory: see --data-dir",
    errno.ENOENT: "name a directory that can be made: see --data-dir",
    errno.EROFS: "the file system is mounted read-only; see --data-dir",
}


class JournalError(SupervisorError):
    """Base of the journal's errors. ``exit_status`` is what a process that ends because of it should return."""

    code = "journal_error"
    exit_status = 1


class JournalLocked(JournalError):
    """Another supervisor uses this data directory. ``pid`` is None where it could not be read."""

    code = "journal_locked"
    exit_status = 2

    def __init__(self, directory: Path, pid: int | None) -> None:
        who = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{who} already uses the journal in {str(directory)!r}",
            hint="stop that supervisor first, or give this one another --data-dir",
        )
        self.pid = pid


class JournalTooNew(JournalError):
    """The journal holds something that this version does not know. ``written_by`` is the version that does."""

    code = "journal_too_new"

    def __init__(self, name: str, written_by: str, version: str, what: str) -> None:
        super().__init__(
            f"the journal ({name}) was written by gpu-supervisor {written_by}, and this is {version}: {what}",
            hint=f"run gpu-supervisor {written_by} or newer; nothing was changed",
        )
        self.written_by = written_by


class JournalDamaged(JournalError):
    """Something was to be written to a journal that is damaged, before ``salvage``."""

    code = "journal_damaged"

    def __init__(self, damage: str) -> None:
        super().__init__(
            f"the journal is damaged and takes no more facts: {damage}",
            hint="see gpu-supervisor journal verify, then gpu-supervisor journal salvage",
        )


class JournalBroken(JournalError):
    """A write or a sync failed. Nothing is retried: only a replay knows what is on disk.

    Linux marks the pages of a failed sync clean, so a second sync would "succeed" (PostgreSQL's fsyncgate).
    """

    code = "journal_broken"

    def __init__(self, what: str, why: BaseException | str) -> None:
        number = why.errno if isinstance(why, OSError) else None
        super().__init__(f"{what}: {why}", hint=HINTS.get(number, "look at the disk (dmesg); a restart replays it"))
