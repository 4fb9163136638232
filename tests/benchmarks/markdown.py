"""The table of a run as Markdown, for the README: python -m tests.benchmarks.markdown FILE (of ``run --json FILE``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from tests.benchmarks.measure import Goal
from tests.benchmarks.table import shown

HEAD = "| what (medians) | supervisor | floor | ratio | others | reach |\n| --- | --- | --- | --- | --- | --- |"
VERDICTS = {True: "yes", False: "**no**", None: "not installed"}


def row(result: dict[str, Any]) -> str:
    subject, floor, unit = result["subject"], result["floor"], result["unit"]
    named = "" if floor is None or floor["name"] == "floor" else f" ({floor['name']})"
    cells = (
        result["what"],
        f"{shown(subject['median'])} {unit}",
        "" if floor is None else f"{shown(floor['median'])}{named}",
        "" if result["ratio"] is None else f"{result['ratio']:.2f}",
        "; ".join(f"{peer['name']} {shown(peer['median'])}" for peer in result["peers"]),
        "; ".join(goal.said(VERDICTS[goal.reached]) for goal in msgspec.convert(result["goals"], list[Goal])),
    )
    return f"| {' | '.join(cells)} |"


def main(file: str) -> None:
    run = msgspec.json.decode(Path(file).read_bytes())
    machine = run["machine"]
    print(
        f"{machine['date']}: {machine['cores']} x {machine['cpu']}, {machine['memory_gib']:.0f} GiB, Linux "
        f"{machine['kernel']}, Python {machine['python']}, {machine['engine']}, data on {machine['disk']}, Redis "
        f"{machine['redis']}, etcd {machine['etcd']}.\n\n{HEAD}"
    )
    print("\n".join(map(row, run["rows"])))


if __name__ == "__main__":
    main(sys.argv[1])
