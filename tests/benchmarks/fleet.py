"""An engine that has as many containers as it is told, none of them real: the scripted engine of the tests.

Three to a target, one of them the master. A line on stdin starts the next one and says how many microseconds later the
kill request was there.

    python -m tests.benchmarks.fleet SOCKET PREFIX COUNT
"""

from __future__ import annotations

import queue
import sys
import time
from pathlib import Path
from typing import Any

from tests.engine.fake import FakeEngine, container

KILLED_S = 10.0


def made(number: int, prefix: str) -> dict[str, Any]:
    labels = {f"{prefix}target": f"target-{number // 3}", "com.docker.compose.project": "box"}
    if number % 3 == 0:
        labels[f"{prefix}healthcheck-master"] = "true"
    labels["com.docker.compose.service"] = f"service-{number}"
    labels["com.docker.compose.container-number"] = "1"
    one = container(number + 1, labels=labels, status="exited", Health={"Status": "healthy"})
    one["Config"]["Healthcheck"] = {"Test": ["CMD", "true"]}
    return one


class Fleet:
    def __init__(self, path: Path, prefix: str, count: int) -> None:
        self._engine = FakeEngine(path)
        self._all = [made(number, prefix) for number in range(count)]
        self._engine.put(*self._all)
        self._engine.answers["POST /containers/[0-9a-f]+/kill"] = self._kill
        self._killed: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._running: dict[str, Any] = {}
        self._next = 0

    def start(self) -> float:
        """Start a container that nobody leased; return how many microseconds its death sentence took."""
        one = self._all[self._next % len(self._all)]
        self._next += 1
        self._running = one
        at_ns = time.time_ns()
        started = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ns // 10**9)) + f".{at_ns % 10**9:09d}Z"
        one["State"].update(Status="running", StartedAt=started)
        begun = time.monotonic_ns()
        self._engine.event("start", one["Id"], at_ns=at_ns)
        took = (self._killed.get(timeout=KILLED_S) - begun) / 1000
        one["State"].update(Status="exited", ExitCode=137)
        self._engine.event("die", one["Id"], at_ns=time.time_ns())
        return took

    def _kill(self) -> tuple[int, bytes]:
        self._killed.put(time.monotonic_ns())
        return 204, b""


def main(path: Path, prefix: str, count: int) -> None:
    fleet = Fleet(path, prefix, count)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(fleet.start(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
