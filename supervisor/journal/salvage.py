"""Making a damaged journal usable again, after a person has decided to: ``gpu-supervisor journal salvage``.

What was good up to the damage stays as it is, byte for byte. The damaged files are put aside whole. What stands behind
the damage is given up, or taken over where it verifies and still makes sense without what was lost. This is the one
module of the journal that knows what facts mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.apply import apply
from supervisor.core.apply import replay as replay_state
from supervisor.core.facts import AnyFact, LeaseEnded, LeaseGranted
from supervisor.core.model import Lease, Terms
from supervisor.core.state import Settings, State
from supervisor.journal.disk import Disk, OsDisk, read_file, remove_if_there
from supervisor.journal.errors import JournalBroken, JournalTooNew
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
    found = [fact for _, facts in stood_behind for fact in facts]
    unreadable = _unreadable(recovery, stood_behind)
    most_mib: dict[str, int] = {}
    state = _state_left(disk, recovery, version, most_mib)
    taken, count = _take_over(state, [facts for _, facts in stood_behind], most_mib) if skip_damage else ([], 0)
    taken += _fence_off(state, found, unreadable)
    put_aside = _replace(disk, directory, recovery, _clean(disk, directory, recovery, taken, version))
    return Salvaged(
        damage=str(recovery.walk.damage),
        put_aside=put_aside,
        kept_up_to=recovery.walk.end.chain.fact_seq - 1,
        found_behind=len(found),
        taken_over=count,
        senseless=len(found) - count if skip_damage else 0,
        unreadable=unreadable,
        behind_from_wall_ms=found[0].wall_ms if found else None,
        behind_to_wall_ms=found[-1].wall_ms if found else None,
    )


def _behind(disk: Disk, recovery: Recovery, version: str) -> Iterator[tuple[int, list[AnyFact]]]:
    """Yield what verifies behind the damage: the number of a record's first fact, and its facts."""
    good = recovery.walk.end
    for item in sweep(disk, recovery.segments):
        if isinstance(item, Found) and (item.segment.index, item.record.offset) >= (good.index, good.offset):
            yield item.record.fact_seq, facts_of(item.data, item.record, item.segment, version)


def _unreadable(recovery: Recovery, stood_behind: list[tuple[int, list[AnyFact]]]) -> int:
    """Return how many facts are known, by the numbers of those behind them, to have been there."""
    if not stood_behind:
        return 0
    first, facts = stood_behind[-1]
    last_good = recovery.walk.end.chain.fact_seq - 1
    return max(0, first + len(facts) - 1 - last_good - sum(len(batch) for _, batch in stood_behind))


def _state_left(disk: Disk, recovery: Recovery, version: str, most_mib: dict[str, int]) -> State:
    """Return the state at the last fact before the damage, and note how much leases had of each GPU until then."""
    snapshot = recovery.snapshot

    def noted() -> Iterator[Sequence[AnyFact]]:
        for batch in replay(disk, recovery.walk.runs, version):
            _note_sizes(most_mib, batch)
            yield batch

    try:
        state = replay_state(Settings(), snapshot.payload if snapshot is not None else None, noted())
    except msgspec.DecodeError as error:
        assert snapshot is not None, "a record that does not decode is JournalTooNew"
        raise JournalTooNew(snapshot.path.name, snapshot.version, version, str(error)) from error
    _note_sizes(most_mib, state.durable.leases.values())
    return state


def _note_sizes(most_mib: dict[str, int], held: Iterable[Lease | AnyFact]) -> None:
    """Note the most that one lease ever had of each GPU, in MiB: as far as the journal tells, it has that much."""
    for one in held:
        if isinstance(one, Lease | LeaseGranted):
            for uuid in one.gpus:
                most_mib[uuid] = max(most_mib.get(uuid, 0), one.vram_mib or 0)


def _take_over(state: State, batches: list[list[AnyFact]], most_mib: dict[str, int]) -> tuple[list[list[AnyFact]], int]:
    """Apply the facts that still make sense without what was lost. Return them in batches, and how many there are.

    A grant whose GPU is still held in ``state`` proves that the end of the older lease was lost, unless the two may
    share it: that is made up for. One that joined a lease which was lost stands alone.
    """
    taken: list[list[AnyFact]] = []
    count = 0
    for batch in batches:
        _note_sizes(most_mib, batch)
        left: list[AnyFact] = []
        for fact in batch:
            taken_over = fact
            if isinstance(fact, LeaseGranted):
                left += _end_overtaken(state, fact, most_mib)
                lead = state.lease_of(fact.terms.target) if fact.terms.target is not None else None
                taken_over = replace(fact, joins=lead.id if lead is not None else None)
            if _applies(state, taken_over):
                left.append(taken_over)
                count += 1
        if left:
            taken.append(left)
    return taken, count


def _end_overtaken(state: State, grant: LeaseGranted, most_mib: dict[str, int]) -> list[AnyFact]:
    """End the leases that cannot be held beside ``grant``. Labels are not in the journal, so sizes alone say who may
    share a GPU: those that together are no more than one lease has had of it.
    """
    overtaken: list[Lease] = []
    for uuid in grant.gpus:
        there = [lease for lease in state.durable.leases.values() if uuid in lease.gpus]
        others = [lease for lease in there if lease.target is None or lease.target != grant.terms.target]
        sizes = [grant.vram_mib, *(lease.vram_mib for lease in others if state.leads(lease))]
        if None in sizes or sum(size or 0 for size in sizes) > most_mib[uuid]:
            overtaken += [lease for lease in others if lease not in overtaken]
        if grant.joins is None:
            overtaken += [lease for lease in there if lease not in others and lease not in overtaken]
    ends: list[AnyFact] = [
        LeaseEnded(
            at_ms=grant.at_ms,
            wall_ms=grant.wall_ms,
            id=lease.id,
            reason="salvaged",
            resident=False,
            owner=lease.terms.owner,
            target=lease.target,
        )
        for lease in overtaken
    ]
    for end in ends:
        apply(state, end)
    return ends


def _applies(state: State, fact: AnyFact) -> bool:
    try:
        apply(state, fact)
    except (KeyError, ValueError, AssertionError):
        return False
    return True


def _fence_off(state: State, found: list[AnyFact], unreadable: int) -> list[list[AnyFact]]:
    """Return facts that lift the fence above every one that may have been handed out, as a batch, or nothing.

    A fence only grows, also over a loss: each unreadable fact may have been a grant. A bare lease that was granted and
    ended at once lifts it and changes nothing else, and the audit says where it comes from.
    """
    fences = [fact.fence for fact in found if isinstance(fact, LeaseGranted)]
    fence = max([state.durable.fence, *fences]) + unreadable
    if fence == state.durable.fence:
        return []
    at_ms = max([state.durable.time_ms, *(fact.at_ms for fact in found)])
    wall_ms = max([state.durable.time_wall_ms, *(fact.wall_ms for fact in found)])
    id_ = f"salvage-{fence}"
    granted = LeaseGranted(
        at_ms=at_ms,
        wall_ms=wall_ms,
        id=id_,
        fence=fence,
        token_hash="",
        token_known=False,
        terms=Terms(target=None, owner="salvage", priority=0, ttl_ms=0),
        project="",
        gpus=(),
        vram_mib=None,
    )
    ended = LeaseEnded(
        at_ms=at_ms, wall_ms=wall_ms, id=id_, reason="salvaged", resident=False, owner="salvage", target=None
    )
    return [[granted, ended]]


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


def _replace(disk: Disk, directory: Path, recovery: Recovery, clean: dict[Path, bytes]) -> str:
    """Put the damaged files aside, and ``clean`` in their place. Returns the name of the folder they are in now."""
    doomed = [segment.path for segment in recovery.segments if segment.index >= recovery.walk.end.index]
    doomed += [snapshot.path for snapshot in recovery.bad_snapshots]
    put_aside = _put_aside(disk, directory, doomed)
    for path in doomed:
        if path not in clean:
            disk.unlink(path)
    for path, data in clean.items():
        put_file(disk, path, data)
    disk.sync_directory(directory)
    disk.unlink(directory / f"{put_aside}{UNFINISHED}")
    disk.sync_directory(directory)
    return put_aside


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
