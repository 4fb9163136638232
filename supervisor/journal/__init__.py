"""What was decided, on disk: append, sync, replay, snapshots; torn tails, damage, salvage.

``frame`` is the format, ``disk`` the file system underneath, ``recovery`` reads, ``journal`` writes, ``inspection`` and
``salvage`` are for people. Nothing but ``salvage`` knows what a fact means.
"""

from supervisor.journal.disk import Disk, OsDisk
from supervisor.journal.errors import JournalBroken, JournalDamaged, JournalError, JournalLocked, JournalTooNew
from supervisor.journal.inspection import Shown, SnapshotSeen, Torn, Verdict, show, verify
from supervisor.journal.journal import Journal
from supervisor.journal.recovery import Damage
from supervisor.journal.salvage import Salvaged, salvage

__all__ = [
    "Journal",
    "Disk",
    "OsDisk",
    "JournalError",
    "JournalLocked",
    "JournalTooNew",
    "JournalDamaged",
    "JournalBroken",
    "show",
    "Shown",
    "Torn",
    "Damage",
    "verify",
    "Verdict",
    "SnapshotSeen",
    "salvage",
    "Salvaged",
]
