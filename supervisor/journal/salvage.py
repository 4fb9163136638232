"""Making a damaged journal usable again, after a person has decided to: ``gpu-supervisor journal salvage``.

What was good up to the damage stays as it is, byte for byte. The damaged files are put aside whole. What stands behind
the damage is given up, or taken over where it verifies and still makes sense without what was lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from supervisor.core.apply import apply
from supervisor.core.apply import replay as replay_state
from supervisor.core.facts import AnyFact
from supervisor.core.state import Settings, State
from supervisor.journal.disk import Disk, OsDisk, read_file, remove_if_there
from supervisor.journal.errors import JournalBroken
from supervisor.journal.frame import FORMAT, SegmentHeader, encode_record, encode_segment_header
from supervisor.journal.inspection import Found, sweep
from supervisor.journal.journal import ENCODER
from supervisor.journal.lock import take_lock
from supervisor.journal.recovery import UNFINISHED, Recovery, facts_of, recover, replay
from supervisor.journal.repair import clear_leftovers
from supervisor.journal.segments import list_segments, put_file, segment_path


class Salvaged(Struct, frozen=True):
    """What was done, and what it cost.

    ``put_aside`` is the folder with the damaged files, "" where nothing was damaged and nothing was done.
    ``kept_up_to`` is the number of the last fact before the damage. Behind it stood ``found_behind`` facts that verify,
    between the two times (Unix milliseconds): ``taken_over`` of them were kept, under new numbers, and ``senseless``
    ones left out because they rest on facts that are gone. ``unreadable`` facts are known to have been there and cannot
    be read; what stood behind the last readable one nobody can count.
    """

    damage: str
    put_aside: str = ""
    kept_up_to: int = 0
    found_behind: int = 0
    taken_over: int = 0
    senseless: int = 0
    unreadable: int = 0
    behind_from_wall_ms: int | None = None
    behind_to_wall_ms: int | None = None

    @property
    def lost(self) -> int:
        """How many facts are known to be gone from the journal (the files put aside still have them)."""
        return self.found_behind - self.taken_over + self.unreadable


def salvage(data_dir: Path, *, version: str, skip_damage: bool = False, disk: Disk | None = None) -> Salvaged:
    """Put the damaged files aside and leave a journal that opens, with all facts up to the damage.

    If it is interrupted, the journal stays in safe mode and the next salvage begins anew from the files put aside.

    Args:
        skip_damage: Take over the facts behind the damage that verify, too. A fact that rests on a lost one (the end of
            a lease whose grant is gone) is left out.

    Raises:
        JournalLocked: a supervisor is using it.
        JournalTooNew: a later version wrote it.
        JournalBroken: the disk failed, or there is no room to do it.
    """
    disk = OsDisk() if disk is None else disk
    directory = data_dir / "journal"
    try:
        lock = take_lock(disk, directory)
        try:
            return _salvage(disk, directory, version, skip_damage=skip_damage)
        finally:
            disk.close(lock)
    except OSError as error:
        raise JournalBroken(f"the journal in {str(directory)!r} cannot be salvaged", error) from error


def _salvage(disk: Disk, directory: Path, version: str, *, skip_damage: bool) -> Salvaged:
    clear_leftovers(disk, directory)
    _undo_unfinished(disk, directory)
    recovery = recover(disk, directory, version)
    if recovery.walk.damage is None:
        return Salvaged(damage="")
    stood_behind = list(_behind(disk, recovery, version))
    taken = _sensible(disk, recovery, [facts for _, facts in stood_behind], version) if skip_damage else []
    doomed = [segment.path for segment in recovery.segments if segment.index >= recovery.walk.end.index]
    doomed += [snapshot.path for snapshot in recovery.bad_snapshots]
    clean = _clean(disk, directory, recovery, taken, version)
    put_aside = _put_aside(disk, directory, doomed)
    for path in doomed:
        if path not in clean:
            disk.unlink(path)
    for path, data in clean.items():
        put_file(disk, path, data)
    disk.sync_directory(directory)
    disk.unlink(directory / f"{put_aside}{UNFINISHED}")
    disk.sync_directory(directory)
    return _report(recovery, put_aside, stood_behind, taken, skip_damage=skip_damage)


def _behind(disk: Disk, recovery: Recovery, version: str) -> Iterator[tuple[int, list[AnyFact]]]:
    """Yield what verifies behind the damage: the number of a record's first fact, and its facts."""
    good = recovery.walk.end
    for item in sweep(disk, recovery.segments):
        if isinstance(item, Found) and (item.segment.index, item.record.offset) >= (good.index, good.offset):
            yield item.record.fact_seq, facts_of(item.data, item.record, item.segment, version)


def _sensible(disk: Disk, recovery: Recovery, batches: list[list[AnyFact]], version: str) -> list[list[AnyFact]]:
    """Return the facts that still make sense without what was lost, by applying them to the state that is left."""
    snapshot = recovery.snapshot.payload if recovery.snapshot is not None else None
    state = replay_state(Settings(), snapshot, replay(disk, recovery.walk.runs, version))
    sensible = ([fact for fact in batch if _applies(state, fact)] for batch in batches)
    return [batch for batch in sensible if batch]


def _applies(state: State, fact: AnyFact) -> bool:
    try:
        apply(state, fact)
    except (KeyError, ValueError, AssertionError):
        return False
    return True


def _clean(
    disk: Disk, directory: Path, recovery: Recovery, taken: list[list[AnyFact]], version: str
) -> dict[Path, bytes]:
    """Return the files that replace the damaged ones: the good part of the first as it was, then what is taken over."""
    good = recovery.walk.end
    files: dict[Path, bytes] = {}
    index = good.index
    run = recovery.walk.runs[-1] if recovery.walk.runs else None
    if run is not None and run.segment.index == index:
        files[run.segment.path] = read_file(disk, run.segment.path, good.offset).ljust(run.segment.size, b"\0")
        index += 1
    if taken:
        header = SegmentHeader(FORMAT, version, index, good.chain, taken[0][0].at_ms)
        parts, chain = [encode_segment_header(header)], good.chain
        for batch in taken:
            record, chain = encode_record(ENCODER.encode(batch), len(batch), chain)
            parts.append(record)
        files[segment_path(directory, index)] = b"".join(parts)
    return files


def _put_aside(disk: Disk, directory: Path, doomed: list[Path]) -> str:
    """Give every file that will change or go a second name in a folder of its own. Returns the folder's name.

    From here to the end a marker keeps the journal in safe mode.
    """
    number = 1
    while f"damaged-{number}" in disk.list_directory(directory):
        number += 1
    folder = directory / f"damaged-{number}"
    disk.make_directories(folder)
    for path in doomed:
        disk.link(path, folder / path.name)
    disk.sync_directory(folder)
    disk.sync_directory(directory)
    put_file(disk, directory / f"{folder.name}{UNFINISHED}", b"see salvage\n")
    return folder.name


def _undo_unfinished(disk: Disk, directory: Path) -> None:
    """Put everything back as it was before a salvage that was interrupted; its folder stays."""
    for marker in [name for name in disk.list_directory(directory) if name.endswith(UNFINISHED)]:
        folder = directory / marker.removesuffix(UNFINISHED)
        first = min((segment.index for segment in list_segments(disk, folder)), default=None)
        for segment in list_segments(disk, directory):
            if first is not None and segment.index >= first:
                disk.unlink(segment.path)
        for name in disk.list_directory(folder):
            remove_if_there(disk, directory / name)
            disk.link(folder / name, directory / name)
        disk.sync_directory(directory)
        disk.unlink(directory / marker)
        disk.sync_directory(directory)


def _report(
    recovery: Recovery,
    put_aside: str,
    stood_behind: list[tuple[int, list[AnyFact]]],
    taken: list[list[AnyFact]],
    *,
    skip_damage: bool,
) -> Salvaged:
    kept_up_to = recovery.walk.end.chain.fact_seq - 1
    found = [fact for _, batch in stood_behind for fact in batch]
    kept = sum(len(batch) for batch in taken)
    last = stood_behind[-1][0] + len(stood_behind[-1][1]) - 1 if stood_behind else kept_up_to
    return Salvaged(
        damage=str(recovery.walk.damage),
        put_aside=put_aside,
        kept_up_to=kept_up_to,
        found_behind=len(found),
        taken_over=kept,
        senseless=len(found) - kept if skip_damage else 0,
        unreadable=max(0, last - kept_up_to - len(found)),
        behind_from_wall_ms=found[0].wall_ms if found else None,
        behind_to_wall_ms=found[-1].wall_ms if found else None,
    )
