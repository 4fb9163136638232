"""Write the metrics of this version: ``python -m tests.golden.record_metrics``.

Once for each release, as the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import supervisor
from supervisor.metrics.table import METRICS

GOLDEN = Path(__file__).parent


def contract() -> list[str]:
    """Return what dashboards and alerts rest on, a line for each metric."""
    return sorted(f"{metric.kind} {metric.name} {','.join(metric.labels)}".strip() for metric in METRICS)


def recorded() -> dict[str, list[str]]:
    """Return the metrics of all versions that were recorded."""
    return {
        path.stem.removeprefix("metrics-"): path.read_text().splitlines()
        for path in sorted(GOLDEN.glob("metrics-*.txt"))
    }


if __name__ == "__main__":
    target = GOLDEN / f"metrics-{supervisor.__version__}.txt"
    if target.exists():
        sys.exit(f"{target.name} is recorded already: a released metric never changes")
    target.write_text("\n".join(contract()) + "\n")
