"""What each call of the driver's library costs: ``python -m tests.gpu.call_costs ROUNDS`` prints it as JSON.

The calls are those of the readings, made by the same code, but in this process: {function: {calls, median_us, p99_us,
max_us}}. What happens between two calls counts to the first of them. The first reading sets the library up, and is left
out.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict

from supervisor.gpu.nvml import Nvml
from supervisor.gpu.wire import Calling, Request


def main() -> None:
    took_us: defaultdict[str, list[float]] = defaultdict(list)
    began: list[tuple[str, float]] = []

    def mark(name: str) -> None:
        """What was called until now took until now."""
        now_s = time.perf_counter()
        if began:
            last, at_s = began.pop()
            took_us[last].append((now_s - at_s) * 1e6)
        if name:
            began.append((name, time.perf_counter()))

    def announce(calling: Calling) -> None:
        mark(calling.call)

    nvml = Nvml(announce)
    for round_ in range(1 + int(sys.argv[1])):
        for _message in nvml.read(Request(off_s=3600.0, refresh_s=3600.0, accounts_s=0.0)):
            mark("")
        if not round_:
            took_us.clear()
    json.dump({name: _summary(sorted(all_us)) for name, all_us in took_us.items()}, sys.stdout)


def _summary(sorted_us: list[float]) -> dict[str, float]:
    count = len(sorted_us)
    return {
        "calls": count,
        "median_us": round(sorted_us[count // 2], 1),
        "p99_us": round(sorted_us[count * 99 // 100], 1),
        "max_us": round(sorted_us[-1], 1),
    }


if __name__ == "__main__":
    main()
