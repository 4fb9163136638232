"""``gpu-supervisor ps``: every process on the GPUs, and what it stands by."""

from __future__ import annotations

from supervisor.answers import ProcessesView, ProcessUse, ProcessView
from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.output import Block, Grid, clock_time, show
from supervisor.cli.status import mib

COLUMNS = ("gpu", "pid", "user", "memory", "since", "what", "standing")


def show_processes(*, as_json: bool) -> None:
    server, body = ask_raw("GET", "/v1/processes")
    if as_json:
        print(body.decode())
        return
    show(blocks(decoded(server, body, ProcessesView)))


def blocks(view: ProcessesView) -> list[Block]:
    found: list[Block] = []
    rows = [_row(process, use) for process in view.processes for use in process.gpus]
    if rows:
        found.append(Grid("Processes", COLUMNS, rows))
    else:
        found.append("no process is known to use a GPU")
    for one in view.unexplained:
        found.append(f"{one.unexplained_mib} MiB of {one.gpu} are in use by no process that is known")
    found += [f"limited: {sentence}" for sentence in view.limited]
    if any(process.standing == "unapproved" for process in view.processes):
        found.append(
            "unapproved: lease the GPU for it (gpu-supervisor acquire --bare -- COMMAND), or allow it with the setting "
            "processes_allow"
        )
    return found


def _row(process: ProcessView, use: ProcessUse) -> tuple[object, ...]:
    return (
        use.gpu,
        process.pid,
        process.user or "",
        mib(use.used_mib) or "unknown",
        clock_time(process.started_at) if process.started_at else "",
        _what(process),
        _standing(process),
    )


def _what(process: ProcessView) -> str:
    if process.target is not None:
        return f"{process.target} ({process.service or process.container})"
    what = process.command[:60] or process.name
    return f"{what} in {process.container}" if process.container else what


def _standing(process: ProcessView) -> str:
    if process.killed:
        return f"{process.standing}, killed"
    return f"{process.standing}, asked to end" if process.asked_to_end_at else process.standing
