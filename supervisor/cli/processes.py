"""``gpu-supervisor ps``: every process on each GPU, and what it stands by."""

from __future__ import annotations

from supervisor.api.shapes import GpuInUse, ProcessesView, ProcessUse, ProcessView
from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.output import Block, Grid, clock_time, show
from supervisor.cli.status import mib

COLUMNS = ("pid", "user", "memory", "since", "what", "standing")


def show_processes(*, as_json: bool) -> None:
    server, body = ask_raw("GET", "/v1/processes")
    if as_json:
        print(body.decode())
        return
    show(blocks(decoded(server, body, ProcessesView)))


def blocks(view: ProcessesView) -> list[Block]:
    """Return one table for each GPU, then what is limited and what to do."""
    found: list[Block] = []
    gpus = {gpu.uuid: gpu for gpu in view.gpus}
    # A process may still be on a GPU that is not read any more.
    for uuid in dict.fromkeys((*gpus, *(use.gpu for process in view.processes for use in process.gpus))):
        gpu = gpus.get(uuid)
        title = uuid if gpu is None else _title(gpu)
        rows = [_row(process, use) for process in view.processes for use in process.gpus if use.gpu == uuid]
        if rows:
            found.append(Grid(title, COLUMNS, rows))
        else:
            nobody = "nobody is known to use it" if gpu is not None and gpu.listed else "who uses it is not known"
            found.append(f"{title}: {nobody}")
    if not found:
        found.append("no process is known to use a GPU")
    found += [f"limited: {sentence}" for sentence in view.limited]
    if any(process.standing == "unapproved" for process in view.processes):
        found.append(
            "unapproved: lease the GPU for it (gpu-supervisor acquire --bare -- COMMAND, or --bare --pid PID), or "
            "allow it with the setting processes_allow"
        )
    return found


def _title(gpu: GpuInUse) -> str:
    name = f", {gpu.name}" if gpu.name else ""
    parts = [f"GPU {gpu.index} ({gpu.uuid}{name})"]
    if gpu.used_mib is not None:
        size = f" of {gpu.total_mib}" if gpu.total_mib is not None else ""
        parts.append(f"{gpu.used_mib}{size} MiB used")
    if gpu.unexplained_mib:
        parts.append(f"{gpu.unexplained_mib} MiB of it by no process that is known")
    return ", ".join(parts)


def _row(process: ProcessView, use: ProcessUse) -> tuple[object, ...]:
    return (
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
    inside = " > ".join(name[:40] for name in process.containers)  # a container in a container is in both
    return f"{what} in {inside}" if inside else what


def _standing(process: ProcessView) -> str:
    if process.killed:
        return f"{process.standing}, killed"
    return f"{process.standing}, asked to end" if process.asked_to_end_at else process.standing
