"""Looking at a journal without opening it: what ``gpu-supervisor journal show`` and ``verify`` say.

Nothing in here changes a byte or takes the lock. A journal that is being written looks, for an instant, as if its last
write were torn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from supervisor.core.facts import AnyFact
from supervisor.journal.disk import Disk, OsDisk, read_file
from supervisor.journal.errors import JournalTooNew
from supervisor.journal.frame import HEADER, Chain, Record, behind, judge, records
from supervisor.journal.recovery import Damage, facts_of, misfit, recover
from supervisor.journal.segments import Segment, list_segments
from supervisor.journal.snapshot import Place, list_snapshots, load


class Found(Struct, frozen=True):
    """A record that verifies. ``behind_damage``: something before it does not."""

    segment: Segment
    data: bytes
    record: Record
    behind_damage: bool


class Torn(Struct, frozen=True):
    """An unfinished write at the very end: the next start cuts it. Nobody was told that it is on disk."""

    name: str
    offset: int
    bytes: int
    reason: str


class Shown(Struct, frozen=True):
    """One record for people: where it is, who wrote it, what is in it."""

    name: str
    offset: int
    bytes: int
    seq: int
    fact_seq: int
    version: str
    behind_damage: bool
    facts: list[AnyFact]


class SnapshotSeen(Struct, frozen=True):
    """``problem`` is "" for a good one."""

    name: str
    fact_seq: int
    bytes: int
    version: str
    problem: str


class Verdict(Struct, frozen=True):
    """What ``verify`` found. Facts are counted where their records verify.

    ``refused``: what a start would say instead of granting, or ""; damage only in what the snapshots cover spoils the
    audit and nothing else. ``behind``: how many of ``facts`` stand behind the first damage.
    """

    segments: int
    records: int
    facts: int
    first_fact: int
    last_fact: int
    behind: int
    versions: list[str]
    snapshots: list[SnapshotSeen]
    damages: list[Damage]
    torn: Torn | None
    refused: str

    @property
    def ok(self) -> bool:
        return not self.damages and not self.refused and not any(seen.problem for seen in self.snapshots)


def show(
    data_dir: Path, *, version: str, after: int = 0, limit: int | None = None, disk: Disk | None = None
) -> Iterator[Shown | Damage | Torn]:
    """Yield every record that holds facts above ``after``, at most ``limit`` records, and every bad place between them.

    Raises:
        JournalTooNew: a later version than ``version`` wrote it.
        FileNotFoundError: there is no journal.
    """
    disk = OsDisk() if disk is None else disk
    shown = 0
    for item in sweep(disk, list_segments(disk, data_dir / "journal")):
        if not isinstance(item, Found):
            yield item
            continue
        record, segment = item.record, item.segment
        if record.fact_seq + record.facts <= after + 1:
            continue
        if limit is not None and shown >= limit:
            return
        shown += 1
        yield Shown(
            name=segment.name,
            offset=record.offset,
            bytes=record.end - record.offset,
            seq=record.seq,
            fact_seq=record.fact_seq,
            version=segment.header.version if segment.header is not None else "",
            behind_damage=item.behind_damage,
            facts=facts_of(item.data, record, segment, version),
        )


def verify(data_dir: Path, *, version: str, disk: Disk | None = None) -> Verdict:
    """Check every byte of a journal, the audit and the snapshots included.

    Raises:
        FileNotFoundError: there is no journal.
    """
    disk = OsDisk() if disk is None else disk
    directory = data_dir / "journal"
    segments = list_segments(disk, directory)
    found: list[Record] = []
    behind_damage = 0
    damages: list[Damage] = []
    torn: Torn | None = None
    for item in sweep(disk, segments):
        match item:
            case Found():
                found.append(item.record)
                behind_damage += item.record.facts if item.behind_damage else 0
            case Damage():
                damages.append(item)
            case Torn():
                torn = item
    return Verdict(
        segments=len(segments),
        records=len(found),
        facts=sum(record.facts for record in found),
        first_fact=found[0].fact_seq if found else 0,
        last_fact=found[-1].fact_seq + found[-1].facts - 1 if found else 0,
        behind=behind_damage,
        versions=sorted({segment.header.version for segment in segments if segment.header is not None}),
        snapshots=see_snapshots(disk, directory),
        damages=damages,
        torn=torn,
        refused=refusal(disk, directory, version),
    )


def refusal(disk: Disk, directory: Path, version: str) -> str:
    """Return what would keep a start from granting, or ""."""
    try:
        damage = recover(disk, directory, version).walk.damage
    except JournalTooNew as error:
        return str(error)
    return "" if damage is None else str(damage)


def see_snapshots(disk: Disk, directory: Path) -> list[SnapshotSeen]:
    loaded = [load(disk, path) for path in list_snapshots(disk, directory)]
    return [
        SnapshotSeen(seen.path.name, seen.fact_seq, len(seen.payload), seen.version, seen.problem) for seen in loaded
    ]


def sweep(disk: Disk, segments: list[Segment]) -> Iterator[Found | Damage | Torn]:
    """Yield all that verifies, oldest first, also behind damage; and each place that does not, once."""
    damaged = False
    index: int | None = None
    chain: Chain | None = None
    for segment in segments:
        own = segment.header.chain if segment.header is not None else Chain()
        due = Place(segment.index if index is None else index + 1, HEADER, own if chain is None else chain)
        reason = misfit(segment, due)
        if reason:
            yield Damage(segment.name, 0, due.chain.seq, reason)
            damaged = True
        data = read_file(disk, segment.path)
        index, offset, chain = segment.index, HEADER, due.chain if segment.header is None else own
        while chain is not None:
            for record in records(data, offset, chain):
                yield Found(segment, data, record, damaged)
                offset, chain = record.end, record.chain
            ending = judge(data, offset, chain)
            if ending.kind == "clean":
                break
            if ending.kind == "torn" and segment is segments[-1]:
                yield Torn(segment.name, ending.offset, ending.end - ending.offset, ending.reason)
                break
            yield Damage(segment.name, ending.offset, chain.seq, ending.reason)
            damaged = True
            found = next(behind(data, offset, chain), None)
            if found is not None:
                yield Found(segment, data, found, damaged)
                offset, chain = found.end, found.chain
            else:
                chain = None  # how many records were lost here, only the next segment's header knows
