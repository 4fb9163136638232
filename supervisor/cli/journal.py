"""``gpu-supervisor journal``: the files of the journal, for people. The server need not run."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from supervisor import __version__
from supervisor.api.sentences import sentence
from supervisor.cli.errors import FAILED, OK
from supervisor.cli.output import answer, clean
from supervisor.config import load
from supervisor.core.errors import SupervisorError
from supervisor.core.facts import AnyFact
from supervisor.journal import Damage, Shown, Torn, Verdict, salvage, show, verify


def show_records(data_dir: str | None, file: Path | None, after: int, limit: int | None, *, as_json: bool) -> int:
    """Print every record. Returns 1 if a bad place was among them."""
    directory = _directory(data_dir, file)
    damaged = False
    try:
        for item in show(directory, version=__version__, after=after, limit=limit):
            damaged = damaged or isinstance(item, Damage)
            if as_json:
                _print_json(item)
            else:
                _print_record(item)
    except FileNotFoundError as error:
        raise _no_journal(directory) from error
    return FAILED if damaged else OK


def _print_record(item: Shown | Damage | Torn) -> None:
    match item:
        case Shown():
            behind = ", behind damage" if item.behind_damage else ""
            answer(f"record {item.seq}: {item.name}, byte {item.offset}, {item.bytes} bytes{behind}")
            for number, fact in enumerate(item.facts, item.fact_seq):
                answer(f"  {number:>8}  {utc(fact.wall_ms)}  {sentence(fact)}")
        case Damage():
            answer(f"DAMAGE: {item}")
        case Torn():
            answer(f"unfinished write: {item.name}, byte {item.offset}, {item.bytes} bytes: {item.reason}")


def _print_json(item: Shown | Damage | Torn) -> None:
    document = {"kind": type(item).__name__.lower(), **msgspec.structs.asdict(item)}
    if isinstance(item, Shown):
        # Facts are arrays in the journal. People read names.
        document["facts"] = [_named(number, fact) for number, fact in enumerate(item.facts, item.fact_seq)]
    print(msgspec.json.encode(document).decode())


def _named(number: int, fact: AnyFact) -> dict[str, object]:
    return {"fact_seq": number, "type": type(fact).__name__, **msgspec.structs.asdict(fact)}


def show_verdict(data_dir: str | None, file: Path | None, *, as_json: bool) -> int:
    """Check every byte. Returns 1 if something is wrong with the journal."""
    directory = _directory(data_dir, file)
    try:
        verdict = verify(directory, version=__version__)
    except FileNotFoundError as error:
        raise _no_journal(directory) from error
    if as_json:
        print(msgspec.json.encode(verdict).decode())
    else:
        _print_verdict(directory, verdict)
    return OK if verdict.ok else FAILED


def _print_verdict(directory: Path, verdict: Verdict) -> None:
    written_by = f", written by gpu-supervisor {', '.join(verdict.versions)}" if verdict.versions else ""
    size = f"{_counted(verdict.segments, 'segment')}, {_counted(verdict.records, 'record')}"
    answer(f"{directory / 'journal'}: {size}{written_by}")
    if verdict.facts:
        answer(f"facts {verdict.first_fact} to {verdict.last_fact}, {verdict.facts} of them verify")
    for seen in verdict.snapshots:
        answer(f"snapshot {seen.name}: up to fact {seen.fact_seq}, {seen.problem or 'good'}")
    for damage in verdict.damages:
        answer(f"DAMAGE: {damage}")
    if verdict.behind:
        answer(f"{verdict.behind} facts behind the first damage verify")
    if verdict.torn is not None:
        answer(f"an unfinished write at the end ({verdict.torn.reason}): nothing that was acknowledged is in it")
    if verdict.refused:
        answer(f"a start would grant nothing: {verdict.refused}")
        answer("put it right with: gpu-supervisor journal salvage")
        if verdict.behind:
            facts = _counted(verdict.behind, "fact")
            answer(
                f"it leaves out the {facts} behind the damage; with --skip-damage it takes over what still makes sense"
            )
    answer("good" if verdict.ok else "NOT good")


def mend(data_dir: str | None, file: Path | None, *, skip_damage: bool, as_json: bool) -> int:
    """Salvage, and say what was lost."""
    directory = _directory(data_dir, file)
    if not (directory / "journal").is_dir():
        raise _no_journal(directory)
    done = salvage(directory, version=__version__, skip_damage=skip_damage)
    if as_json:
        print(msgspec.json.encode(done).decode())
        return OK
    if not done.put_aside:
        answer("nothing is damaged: nothing was done")
        return OK
    answer(f"damage: {done.damage}")
    answer(f"kept: every fact up to number {done.kept_up_to}")
    if done.found_behind:
        span = f" ({utc(done.behind_from_wall_ms)} to {utc(done.behind_to_wall_ms)})"
        answer(f"behind it: {done.found_behind} readable facts{span}, {done.taken_over} of them taken over")
    if done.senseless:
        answer(f"left out: {done.senseless} facts that rest on lost ones")
    answer(f"lost: {done.lost} facts that are known of" + (", and what nobody can count" if done.unreadable else ""))
    answer(f"the damaged files are in {directory / 'journal' / done.put_aside}; the next start works again")
    return OK


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def utc(wall_ms: int | None) -> str:
    """Show Unix milliseconds in UTC, to the millisecond: these lines are compared with other logs."""
    if wall_ms is None:
        return "?"
    return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _directory(data_dir: str | None, file: Path | None) -> Path:
    return load({"data_dir": data_dir}, os.environ, file=file).data_dir


def _no_journal(directory: Path) -> SupervisorError:
    return SupervisorError(f"there is no journal in {clean(directory)}", "name its folder with --data-dir")
