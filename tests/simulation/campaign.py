"""Many histories, in as many processes as there are processors; and one of them told line by line.

python -m tests.simulation.campaign --hours 2        as many as fit into the time, from a random seed on
python -m tests.simulation.campaign --first 7 --count 500
python -m tests.simulation.campaign --seed 42        one history, with its end told line by line
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import os
import secrets
import subprocess
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from tests.simulation.world import Outcome, World, describe

ROOT = Path(__file__).parents[2]
SEEDS = Path(__file__).with_name("seeds.txt")
TOLD = 120


class Failure(Struct):
    """A history in which a rule did not hold. ``story`` ends with what broke it."""

    seed: int
    rule: str
    story: str

    def __str__(self) -> str:
        again = f"python -m tests.simulation.campaign --seed {self.seed}"
        return f"{self.story}\nseed {self.seed}: {self.rule}\nagain: {again}"


def play(seed: int) -> Outcome | Failure:
    world = World(seed)
    try:
        return world.play()
    except Exception as error:  # whatever it is, it belongs to this seed
        rule = str(error) or traceback.format_exception(error)[-2].strip()
        return Failure(seed, f"{type(error).__name__}: {rule}", describe(world))


def commit_seed() -> int:
    """Return a seed that is another one for every commit, and the same for everybody who has it."""
    command = ("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(found.stdout.strip() or "1", 16)


def kept_seeds() -> list[int]:
    """Return the seeds of bugs that were fixed."""
    lines = SEEDS.read_text(encoding="utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def run(seeds: Iterable[int], processes: int | None = None) -> Iterator[Outcome | Failure]:
    """Play histories side by side; the results come in the order of the seeds."""
    count = processes or len(os.sched_getaffinity(0))
    # What the journal warns of after a crash is what a crash is for.
    quiet = (logging.disable, (logging.WARNING,))
    with multiprocessing.get_context("forkserver").Pool(count, *quiet) as pool:
        yield from pool.imap(play, seeds, chunksize=8)


def _tell(seed: int) -> int:
    world = World(seed, trace=TOLD)
    try:
        print(world.play())
    except Exception:
        print(describe(world))
        traceback.print_exc()
        return 1
    return 0


def _until(seeds: Iterable[int], deadline_s: float) -> Iterator[int]:
    return itertools.takewhile(lambda _: time.monotonic() < deadline_s, seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="tell one history")
    parser.add_argument("--first", type=int, default=None, help="the first of many seeds")
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--hours", type=float, help="go on for so long, whatever --count says")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        return _tell(chosen.seed)
    first = chosen.first if chosen.first is not None else secrets.randbits(40)
    seeds: Iterable[int] = range(first, first + chosen.count)
    if chosen.hours is not None:
        seeds = _until(itertools.count(first), time.monotonic() + chosen.hours * 3600)
    played = failed = simulated_ms = 0
    for result in run(seeds):
        played += 1
        if isinstance(result, Failure):
            failed += 1
            print(f"seed {result.seed}: {result.rule}", flush=True)
        else:
            simulated_ms += result.simulated_ms
    print(f"{played} histories from seed {first}, {simulated_ms / 3_600_000:.1f} simulated hours, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
