"""The journal: batches of facts, each written and synced as one record.

``write``, ``replenish`` and ``save_snapshot`` belong to one thread; ``headroom_bytes`` and ``history`` may be called
from any other meanwhile: they use values that are replaced as a whole, never changed. ``close`` waits for what is under
way.

What is believed of the disk: a sync that returned has kept its word; an unsynced write may be there in any part, its
sectors in any order; a failed sync means that nobody knows. What is not believed: that bytes stay as they were written.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.facts import AnyFact
from supervisor.journal.disk import Disk, OsDisk, remove_if_there, write_all
from supervisor.journal.errors import JournalBroken, JournalDamaged
from supervisor.journal.frame import FORMAT, HEADER, Chain, SegmentHeader, encode_record
from supervisor.journal.history import View, history
from supervisor.journal.lock import take_lock
from supervisor.journal.recovery import Recovery, recover, replay
from supervisor.journal.repair import clear_leftovers, cut_tail
from supervisor.journal.segments import FULL, Reserve, Segment
from supervisor.journal.snapshot import Place, list_snapshots, load, save

log = logging.getLogger(__name__)

MIB = 1 << 20
DAY_MS = 86_400_000
SNAPSHOTS_KEPT = 2
ENCODER = msgspec.msgpack.Encoder()
NO_ROOM = (errno.ENOSPC, os.strerror(errno.ENOSPC))


class Limits(Struct, frozen=True, kw_only=True):
    """``Journal.open`` says what each is for."""

    segment_bytes: int
    ballast_bytes: int
    retain_ms: int
    retain_bytes: int


class Journal:
    """Open it with ``Journal.open``. It has a lock on the directory until it is closed or the process ends.

    ``snapshot``: payload of the newest good snapshot, if there is one; ``replay`` goes on behind it.
    ``first``: there was nothing to replay: no fact was ever on disk here.
    ``damage``: "" or a sentence that says where; then only what is good before it is replayed, and nothing can be
    written before ``salvage``.
    ``ballast_bytes``: how much of ``headroom_bytes`` is meant for releases only. Constant: while the ballast is in
    use, the headroom is below it.
    """

    def __init__(self, disk: Disk, directory: Path, lock: int, version: str, limits: Limits) -> None:
        """Read what is in a directory whose lock was taken, and make it ready for writing."""
        found = recover(disk, directory, version)
        damage = found.walk.damage
        self.snapshot = found.snapshot.payload if found.snapshot is not None else None
        self.damage = "" if damage is None else str(damage)
        self.first = not self.damage and found.walk.end.chain == Chain()
        self.ballast_bytes = limits.ballast_bytes
        self._disk = disk
        self._directory = directory
        self._lock: int | None = lock
        self._version = version
        self._limits = limits
        self._runs = found.walk.runs
        self._view = View(tuple(found.segments), found.walk.end)
        self._bad_snapshots = [snapshot.path for snapshot in found.bad_snapshots]
        self._active: int | None = None
        self._reserve: Reserve | None = None
        self._headroom = 0
        self._at_ms = 0
        self._failed: BaseException | str = ""
        self._busy = threading.Lock()
        if not self.damage:
            self._make_ready(found)

    @classmethod
    def open(
        cls,
        data_dir: Path,
        *,
        version: str,
        disk: Disk | None = None,
        segment_bytes: int = 4 * MIB,
        ballast_bytes: int = MIB,
        retain_ms: int = 30 * DAY_MS,
        retain_bytes: int = 40 * MIB,
    ) -> Journal:
        """Open ``<data_dir>/journal``, creating it if it is not there. Works on a full disk.

        A torn tail is kept in a side file and cut, with a warning. Damage is no error: see ``damage``.

        Args:
            version: The version of this supervisor, at most 32 bytes; an older one is told by it who wrote what.
            disk: The real file system if left out.
            segment_bytes: Size of one segment. It is allocated in advance.
            ballast_bytes: Size of what is kept back for a full disk.
            retain_ms: Segments that the snapshots cover are the audit. They are deleted when they are older than this,
                in supervisor time ...
            retain_bytes: ... or when all segments together are larger than this.

        Raises:
            JournalLocked: another process has it (exit status 2).
            JournalTooNew: a later version wrote it.
            JournalBroken: the disk failed.
        """
        disk = OsDisk() if disk is None else disk
        directory = data_dir / "journal"
        limits = Limits(
            segment_bytes=segment_bytes,
            ballast_bytes=ballast_bytes,
            retain_ms=retain_ms,
            retain_bytes=retain_bytes,
        )
        try:
            disk.make_directories(directory)
            lock = take_lock(disk, directory)
            try:
                return cls(disk, directory, lock, version, limits)
            except BaseException:
                disk.close(lock)
                raise
        except OSError as error:
            raise JournalBroken(f"the journal in {str(directory)!r} cannot be opened", error) from error

    @property
    def fact_seq(self) -> int:
        """Number of the last fact on disk; 0 if there is none."""
        return self._view.end.chain.fact_seq - 1

    def replay(self) -> Iterator[Sequence[AnyFact]]:
        """Yield the facts behind the snapshot, batch by batch. Before the first ``write``.

        Raises:
            JournalTooNew: a later version wrote one of them.
            JournalBroken: the disk failed.
        """
        try:
            yield from replay(self._disk, self._runs, self._version)
        except OSError as error:
            raise JournalBroken("the journal cannot be read", error) from error

    def write(self, facts: Sequence[AnyFact]) -> None:
        """Write facts as one record and sync it. When this returns, they survive whatever happens to the process.

        Raises:
            JournalBroken: it is not known whether they are on disk, or there is no room for them at all.
            JournalDamaged: the journal takes nothing before it is salvaged.
        """
        if not facts:
            return
        record, chain = encode_record(ENCODER.encode(facts), len(facts), self._view.end.chain)
        with self._or_broken("facts cannot be written"):
            if not self._append(record, chain):
                self._begin_segment(len(record), facts[0].at_ms)
                if not self._append(record, chain):
                    raise OSError(*NO_ROOM)
        self._at_ms = facts[-1].at_ms
        self._reckon()

    def headroom_bytes(self) -> int:
        """Return how many bytes of records can be written whatever the disk says, the ballast's included.

        A batch must fit as a whole into the rest of the segment, the spare or the ballast. Any thread.
        """
        return self._headroom

    def replenish(self) -> bool:
        """Allocate what is missing of the reserve, ahead of need. False: the disk has no room for it.

        Raises:
            JournalBroken: the disk failed in another way.
        """
        if self._reserve is None:
            return False
        with self._or_broken("room for facts cannot be allocated"):
            complete = self._reserve.refill()
        self._reckon()
        return complete

    def save_snapshot(self, payload: bytes, fact_seq: int) -> None:
        """Keep ``payload``, the state after the last fact written, which has the number ``fact_seq``.

        The two newest are kept, and with them every segment that either needs. A full disk is logged: the one before
        is as good, only slower.

        Raises:
            JournalBroken: the disk failed in another way.
            JournalDamaged: the journal takes nothing before it is salvaged.
        """
        assert fact_seq == self.fact_seq, "a snapshot belongs to the last fact written"
        if fact_seq == 0:
            return
        with self._or_broken("a snapshot cannot be written"):
            try:
                saved = save(self._disk, self._directory, payload, self._view.end, self._version)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                log.warning("no room for a snapshot of %d bytes: the one before stays", len(payload))
                return
            self._drop_old(saved)

    def history(self, after: int, limit: int) -> list[tuple[int, AnyFact]]:
        """Return facts on disk numbered above ``after``, oldest first, at most ``limit``. Any thread.

        Raises:
            JournalBroken: the disk failed.
        """
        try:
            return history(self._disk, self._view, self._version, after, limit)
        except OSError as error:
            raise JournalBroken("the audit cannot be read", error) from error

    def close(self) -> None:
        """Give back the lock, once a write that is under way has ended. Any thread; twice is no error."""
        with self._busy:
            self._failed = self._failed or "it was closed"
            if self._active is not None:
                self._disk.close(self._active)
                self._active = None
            if self._lock is not None:
                self._disk.close(self._lock)
                self._lock = None

    # ---- opening

    def _make_ready(self, found: Recovery) -> None:
        disk, limits = self._disk, self._limits
        clear_leftovers(disk, self._directory)
        for snapshot in found.bad_snapshots:
            log.warning("%s is damaged: %s; an older one is used", snapshot.path.name, snapshot.problem)
        last = found.segments[-1] if found.segments else None
        if last is not None:
            if found.walk.torn is not None:
                cut_tail(disk, last, found.walk.torn)
            header = last.header
            # Every record of a segment is of the version in its header, so an older one can be told who wrote it.
            if header is not None and (header.version, header.format) == (self._version, FORMAT):
                self._active = disk.open(last.path)
        self._reserve = Reserve(disk, self._directory, limits.segment_bytes, limits.ballast_bytes)
        self._reserve.refill()
        self._reckon()

    # ---- writing

    def _append(self, record: bytes, chain: Chain) -> bool:
        """Write and sync a record into the active segment; False if there is no room in it."""
        segments, end = self._view.segments, self._view.end
        if self._active is None or end.offset + len(record) > segments[-1].size:
            return False
        try:
            write_all(self._disk, self._active, record, end.offset)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._cut_back()
            return False
        self._disk.sync(self._active)
        self._view = View(segments, Place(end.index, end.offset + len(record), chain))
        return True

    def _cut_back(self) -> None:
        """End the active segment at its last good byte, durably, before anything is written behind it.

        A file system that copies on write can be full even for bytes that were allocated. What a short write left
        would otherwise stand between acknowledged records.
        """
        assert self._active is not None
        segments, end = self._view.segments, self._view.end
        self._disk.truncate(self._active, end.offset)
        self._disk.sync(self._active)
        self._view = View((*segments[:-1], replace(segments[-1], size=end.offset)), end)

    def _begin_segment(self, need: int, at_ms: int) -> None:
        assert self._reserve is not None
        end = self._view.end
        header = SegmentHeader(FORMAT, self._version, end.index + 1, end.chain, at_ms)
        segment = self._reserve.take(header, need)
        if segment is None:
            raise OSError(*NO_ROOM)
        if self._active is not None:
            self._disk.close(self._active)
        self._active = self._disk.open(segment.path)
        self._view = View((*self._view.segments, segment), Place(header.index, HEADER, end.chain))

    def _reckon(self) -> None:
        rest = 0
        if self._active is not None:
            rest = self._view.segments[-1].size - self._view.end.offset
        reserve = self._reserve.room if self._reserve is not None else 0
        self._headroom = rest + reserve

    @contextmanager
    def _or_broken(self, what: str) -> Iterator[None]:
        """Let a change of the disk be made, unless it must not; turn a failure of the disk into the end of them all."""
        with self._busy:
            if self.damage:
                raise JournalDamaged(self.damage)
            if self._failed:
                raise JournalBroken("the journal takes no more facts", self._failed)
            try:
                yield
            except OSError as error:
                self._failed = error
                raise JournalBroken(what, error) from error

    # ---- retention

    def _drop_old(self, saved: Path) -> None:
        """Delete snapshots but the newest two, and segments that both cover and that the audit need not keep."""
        disk = self._disk
        bad = [path for path in self._bad_snapshots if path != saved]
        good = [path for path in list_snapshots(disk, self._directory) if path not in bad]
        for path in [*good[SNAPSHOTS_KEPT:], *bad]:
            remove_if_there(disk, path)
        self._bad_snapshots = []
        if len(good) < SNAPSHOTS_KEPT:
            return
        oldest = load(disk, good[SNAPSHOTS_KEPT - 1])
        if oldest.problem:
            return  # the newest may have to do with the segments alone
        for segment in self._outlived(oldest.place.index):
            # Out of sight first: whoever reads the history meets no file that is being deleted, or passes over it.
            self._view = View(self._view.segments[1:], self._view.end)
            remove_if_there(disk, segment.path)
        disk.sync_directory(self._directory)

    def _outlived(self, needed_from: int) -> list[Segment]:
        """Return the oldest segments that are covered and too old, or too many, for the audit."""
        outlived: list[Segment] = []
        segments = self._view.segments
        total = sum(segment.size for segment in segments)
        for segment, following in pairwise(segments):
            ended_at_ms = following.header.at_ms if following.header is not None else self._at_ms
            too_old = self._at_ms - ended_at_ms > self._limits.retain_ms
            if segment.index >= needed_from or not (too_old or total > self._limits.retain_bytes):
                break
            total -= segment.size
            outlived.append(segment)
        return outlived
