"""``gpu-supervisor acquire --dry-run``: what would happen, without anything happening."""

from __future__ import annotations

from supervisor.answers import Ahead, ForecastAnswer
from supervisor.cli.borrower import Wish
from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.errors import BUSY, FAILED, OK
from supervisor.cli.output import Block, clock_time, needs, show
from supervisor.cli.status import problem_line


def show_forecast(wish: Wish, *, as_json: bool) -> int:
    """Print what would happen. Returns 0 if it would be granted at once, 3 if later, 1 if never.

    Raises:
        Refused: the request itself is wrong.
    """
    server, body = ask_raw("POST", "/v1/lease", json={**wish.body, "dry_run": True})
    seen = decoded(server, body, ForecastAnswer)
    if as_json:
        print(body.decode())
    else:
        show(forecast_blocks(wish, seen))
    match seen.would:
        case "grant":
            return OK
        case "wait":
            return BUSY
        case "refuse":
            return BUSY if seen.retryable else FAILED


def forecast_blocks(wish: Wish, seen: ForecastAnswer) -> list[Block]:
    match seen.would:
        case "grant":
            blocks: list[Block] = [f"{wish.name} would be granted now: {seen.why}", *_grant(seen)]
        case "wait":
            would = f"be refused ({seen.code})" if wish.wait_s == 0 else "have to wait"
            blocks = [f"{wish.name} would {would}: {seen.why}", *_wait(seen)]
        case "refuse":
            later = "; the same may succeed later" if seen.retryable else ""
            blocks = [f"{wish.name} would be refused ({seen.code}): {seen.why}{later}"]
    return [*blocks, *(problem_line(problem) for problem in seen.problems)]


def _grant(seen: ForecastAnswer) -> list[str]:
    start = {
        "warm": "it runs already",
        "cold": "it would be started",
        "joined": "it is leased already, and would be shared",
    }
    return [
        f"  gets     {needs(seen.vram_mib)} on {'each of ' * (len(seen.gpus) > 1)}{', '.join(seen.gpus)}",
        *([f"  start    {seen.start}: {start[seen.start]}"] if seen.start else []),
        *([f"  evicts   {', '.join(seen.evicts)}"] if seen.evicts else []),
    ]


def _wait(seen: ForecastAnswer) -> list[str]:
    place = [] if seen.position is None else [f"  place    {seen.position + 1}"]
    return [
        *place,
        *(f"  ahead    {_ahead(other)}" for other in seen.ahead),
        *([f"  until    {clock_time(seen.until)} unless renewed"] if seen.until else []),
    ]


def _ahead(other: Ahead) -> str:
    return f"{other.target or '(bare)'} of {other.owner}: {other.state}, priority {other.priority}"
