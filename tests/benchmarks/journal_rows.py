"""Rows about what is on disk: replaying it, and starting with it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec

from tests.benchmarks import history
from tests.benchmarks.bench import Bench, Program
from tests.benchmarks.http_rows import FLOOR, OURS
from tests.benchmarks.measure import Figures, Goal, Result, at_least
from tests.benchmarks.wire import Refused

#: Facts in one record: what one caller at a time makes of it, and what group commit makes of sixty-four.
BATCHES = (3, 64)
MILLION_S = 1.5
#: A million facts take seconds: they take fewer turns.
MOST = 3


def replay(bench: Bench) -> list[Result]:
    count = bench.effort.replayed
    facts = history.facts(count)
    file = bench.place("facts") / "facts"
    file.write_bytes(msgspec.msgpack.encode(facts))
    rows = []
    for batch in BATCHES:
        data_dir = bench.place("journal")
        history.write(data_dir, facts, batch)
        with bench.program("replay", str(data_dir), str(file), stdin=True) as program:
            seen = bench.take_turns(
                {
                    OURS: lambda program=program: _rate(program, "journal", count),  # type: ignore[misc]
                    FLOOR: lambda program=program: _rate(program, "decode", count),  # type: ignore[misc]
                },
                most=MOST,
            )
        shutil.rmtree(data_dir)
        million_s = 1e6 / seen[OURS].median
        rows.append(
            Result(
                row="replay",
                what=f"replay of {count:,} facts, {batch} in a record",
                unit="facts/s",
                subject=seen[OURS],
                floor=seen[FLOOR],
                goals=(
                    at_least(0.4, seen[OURS], seen[FLOOR]),
                    Goal(f"10^6 in {MILLION_S:g} s (takes {million_s:.2f} s)", million_s <= MILLION_S),
                ),
                note="the floor is one msgpack decode of all facts, and apply",
            )
        )
    return rows


def _rate(program: Program, what: str, count: int) -> float:
    seconds, replayed = program.tell(what).split()
    if int(replayed) != count:
        raise Refused(f"{what} replayed {replayed} of {count} facts")
    return count / float(seconds)


def startup(bench: Bench) -> list[Result]:
    """From the process's start to its ready line, which waits for the engine; the floor has nothing to replay."""
    originals = {}
    for count in bench.effort.facts:
        originals[count] = bench.place("startup")
        history.write(originals[count], history.facts(count), BATCHES[0])
    empty = bench.place("startup")
    seen = bench.take_turns(
        {
            "nothing": lambda: _start(bench, empty),
            **{str(count): lambda made=made: _start(bench, made) for count, made in originals.items()},  # type: ignore[misc]
        },
        most=MOST,
        warm_up=False,
    )
    floor = Figures("nothing to replay", seen["nothing"].each)
    for made in (empty, *originals.values()):
        shutil.rmtree(made)
    return [
        Result(
            row="startup",
            what=f"start with {count:,} facts -> the ready line",
            unit="ms",
            subject=seen[str(count)],
            floor=floor,
            note=f"no snapshot, {BATCHES[0]} facts in a record; a supervisor takes a snapshot every 100,000 facts",
        )
        for count in originals
    ]


def _start(bench: Bench, original: Path) -> float:
    data_dir = bench.place("copy")
    shutil.copytree(original, data_dir, dirs_exist_ok=True)
    begun = time.perf_counter()
    with bench.supervisor(data_dir=data_dir, wait=False):
        took = (time.perf_counter() - begun) * 1000
    shutil.rmtree(data_dir)
    return took
