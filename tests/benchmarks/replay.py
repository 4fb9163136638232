"""Two ways from bytes to state, in a process of their own: the journal's, and the least that it can be done with.

python -m tests.benchmarks.replay DATA_DIR FACTS_FILE     "journal" or "decode" on stdin -> seconds
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

import msgspec

from supervisor import __version__
from supervisor.core.apply import apply, replay
from supervisor.core.facts import AnyFact
from supervisor.core.state import Settings, State
from supervisor.journal import Journal


def by_journal(data_dir: Path) -> int:
    """As a start does it: find the segments, verify every record, decode, apply."""
    journal = Journal.open(data_dir, version=__version__)
    try:
        return replay(Settings(), journal.snapshot, journal.replay()).durable.fact_seq
    finally:
        journal.close()


def by_decode(file: Path) -> int:
    """One decode of everything, and apply: no frames, no checksums."""
    state = State(Settings())
    for fact in msgspec.msgpack.decode(file.read_bytes(), type=list[AnyFact]):
        apply(state, fact)
    return state.durable.fact_seq


def main(data_dir: Path, file: Path) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        gc.collect()
        begun = time.perf_counter()
        count = by_journal(data_dir) if line.strip() == "journal" else by_decode(file)
        print(f"{time.perf_counter() - begun} {count}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
