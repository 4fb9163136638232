"""Write the golden journal of this version: ``python -m tests.golden.record``.

Done once for each release and never again: what a released version wrote stays as it is, whatever becomes of the code.
Before its release a version may be recorded anew: delete its folder first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

import supervisor
from supervisor.core.apply import apply, freeze
from supervisor.core.state import Settings, State
from supervisor.journal import Journal
from tests.journal.facts import ONE_OF_EACH

GOLDEN = Path(__file__).parent
SNAPSHOT_AFTER = 9
BATCH = 3


def record(folder: Path, version: str) -> None:
    """Write a journal of several segments with every kind of fact and a snapshot amid, and the facts as JSON."""
    journal = Journal.open(folder, version=version, segment_bytes=1024, ballast_bytes=256)
    state = State(Settings())
    for first in range(0, len(ONE_OF_EACH), BATCH):
        batch = ONE_OF_EACH[first : first + BATCH]
        journal.write(batch)
        for fact in batch:
            apply(state, fact)
        if journal.fact_seq == SNAPSHOT_AFTER:
            journal.save_snapshot(freeze(state.durable), SNAPSHOT_AFTER)
    journal.close()
    for name in ("lock", "spare", "ballast"):
        (folder / "journal" / name).unlink(missing_ok=True)
    lines = b",\n".join(msgspec.json.encode(fact) for fact in ONE_OF_EACH)
    (folder / "facts.json").write_bytes(b"[\n" + lines + b"\n]\n")


if __name__ == "__main__":
    target = GOLDEN / supervisor.__version__
    if target.exists():
        sys.exit(f"{target.name} is recorded already: a released journal never changes")
    record(target, supervisor.__version__)
