"""``tests/benchmarks/run``: which rows, how much of each, and where the table goes."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.benchmarks import engine_rows, handover_rows, http_rows, journal_rows, scale_rows, tripwire_rows
from tests.benchmarks.bench import FULL, QUICK, Bench
from tests.benchmarks.machine import file_system, machine
from tests.benchmarks.measure import Result
from tests.benchmarks.table import as_json, render

ROWS: dict[str, Callable[[Bench], list[Result]]] = {
    "generator": http_rows.generator,
    "renew": http_rows.renew,
    "lease": http_rows.lease,
    "durable": http_rows.durable,
    "handover": handover_rows.handover,
    "switch": engine_rows.switch,
    "warm": engine_rows.warm,
    "enforcement": engine_rows.enforcement,
    "burst": engine_rows.burst,
    "tripwire": tripwire_rows.tripwire,
    "replay": journal_rows.replay,
    "status": scale_rows.status,
    "waiters": scale_rows.waiters,
    "containers": scale_rows.containers,
    "startup": journal_rows.startup,
}
"""Each may fill several lines of the table. In the order of the table."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/benchmarks/run",
        description="Measure the supervisor beside floors that take turns with it, and print one table.",
        epilog=f"rows: {', '.join(ROWS)}",
    )
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help="this row (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="less of everything: a few minutes, rougher figures")
    parser.add_argument("--repetitions", type=int, metavar="N", help="how often each side has its turn")
    parser.add_argument("--json", metavar="FILE", help="write it to a file as well; - is stdout, and no table")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where data go: a folder on a real disk")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    effort = QUICK if options.quick else FULL
    if options.repetitions:
        effort = msgspec.structs.replace(effort, repetitions=options.repetitions)
    engine_url = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    results: list[Result] = []
    failed: list[str] = []
    with Bench(effort, engine_url, options.dir or real_disk()) as bench:
        described = machine(bench.engine_socket, bench.folder)
        for name in options.only or ROWS:
            begun = time.monotonic()
            try:
                results += ROWS[name](bench)
            except Exception:  # the other rows took their minutes, and are worth seeing
                traceback.print_exc()
                failed.append(name)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if options.json != "-":
        render(described, results)
    if options.json:
        raw = as_json(described, results)
        if options.json == "-":
            sys.stdout.buffer.write(raw)
        else:
            Path(options.json).write_bytes(raw)
    if failed:
        print(f"error: no figures for {', '.join(failed)}: see above", file=sys.stderr)
    return 1 if failed else 0


def real_disk() -> Path:
    """Return a folder that is not in memory: a sync must cost what it costs."""
    for folder in (Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()):
        if folder.is_dir() and file_system(folder).split()[0] not in {"tmpfs", "ramfs"}:
            return folder
    return Path.cwd()


if __name__ == "__main__":
    sys.exit(main())
