"""The one table, and the same as JSON."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import Machine
from tests.benchmarks.measure import Figures, Result, over

PLAIN_WIDTH = 200


def shown(value: float) -> str:
    """Three digits that count, and no more: nothing here is known better."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(figures: Figures | None) -> str:
    """The median, and the lowest and highest repetition."""
    if figures is None:
        return "-"
    low, high = figures.spread
    return shown(figures.median) + (f" ({shown(low)}-{shown(high)})" if len(figures.each) > 1 else "")


def render(machine: Machine, results: list[Result]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for line in machine.lines:
        console.print(line, style="dim")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("row", "what", "unit", "supervisor", "floor", "ratio", "others", "reach"):
        table.add_column(heading, justify="right" if heading == "ratio" else "left", overflow="fold")
    for result in results:
        floor = result.floor
        named = "" if floor is None or floor.name == "floor" else f" [{floor.name}]"
        table.add_row(
            result.row,
            result.what,
            result.unit,
            cell(result.subject),
            cell(floor) + named.replace("[", "\\["),
            "-" if result.ratio is None else f"{result.ratio:.2f}",
            "; ".join(f"{peer.name} {cell(peer)}, {over(result.subject, peer):.2f} x" for peer in result.peers) or "-",
            "; ".join(goal.said(_verdict(goal.reached)) for goal in result.goals) or "-",
        )
    console.print(table)
    for result in results:
        if result.note:
            console.print(f"{result.row}: {result.note}", style="dim")
    console.print("medians of repetitions that took turns (lowest-highest); ratio: supervisor / floor", style="dim")


def _verdict(reached: bool | None) -> str:
    return {True: "yes", False: "NO", None: "not installed"}[reached]


def as_json(machine: Machine, results: list[Result]) -> bytes:
    rows = [
        {
            **{name: getattr(result, name) for name in result.__struct_fields__},
            "subject": _figures(result.subject),
            "floor": _figures(result.floor) if result.floor is not None else None,
            "peers": [_figures(peer) for peer in result.peers],
            "ratio": result.ratio,
        }
        for result in results
    ]
    return msgspec.json.format(msgspec.json.encode({"machine": machine, "rows": rows}), indent=2) + b"\n"


def _figures(figures: Figures) -> dict[str, object]:
    return {"name": figures.name, "median": figures.median, "each": figures.each}
