"""``gpu-supervisor ps``: every process on each GPU, and what it stands by."""

from __future__ import annotations

from supervisor.answers import FinishedView, GpuInUse, ProcessesView, ProcessUse, ProcessView
from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.output import Block, Grid, clock_time, show
from supervisor.cli.status import mib

COLUMNS = ("pid", "user", "memory", "since", "what", "standing")
FINISHED_COLUMNS = ("pid", "gpu", "from", "to", "memory", "whose")
#: The web page says the same (processes.js).
ADVICE = (
    "unapproved: lease the GPU for it (gpu-supervisor acquire --bare -- COMMAND, or --bare --pid PID), or allow it "
    "with the setting processes_allow"
)
#: What it means for who comes and goes between two looks.
ACCOUNTING = {
    "on": "the driver's accounts are on, and are read every few seconds",
    "off": "the driver's accounts are off, so nobody is seen who comes and goes between two looks; nvidia-smi -am 1, "
    "as root, turns them on until the driver is unloaded",
    "unsupported": "this GPU keeps no accounts, so nobody is seen who comes and goes between two looks",
    "denied": "the driver does not let the supervisor read its accounts; run it as root to have them",
    "unknown": "nobody can say now whether the driver keeps accounts",
}


def show_processes(*, as_json: bool, finished: bool = False) -> None:
    server, body = ask_raw("GET", "/v1/processes")
    if as_json:
        print(body.decode())
        return
    view = decoded(server, body, ProcessesView)
    show(finished_blocks(view) if finished else blocks(view))


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
    if view.finished:
        found.append(f"{_count(view)} came and went unseen: gpu-supervisor ps --finished")
    found += [f"limited: {sentence}" for sentence in view.limited]
    if any(process.standing == "unapproved" for process in view.processes):
        found.append(ADVICE)
    return found


def finished_blocks(view: ProcessesView) -> list[Block]:
    """Return who came and went unseen, and for each GPU whether such processes can be found at all."""
    names = {gpu.uuid: f"{gpu.index}" for gpu in view.gpus}
    rows = [
        (
            one.pid,
            names.get(one.gpu, one.gpu),
            clock_time(one.started_at),
            clock_time(one.ended_at),
            mib(one.peak_mib) or "unknown",
            _whose(one),
        )
        for one in view.finished
    ]
    found: list[Block] = [Grid("came and went unseen", FINISHED_COLUMNS, rows)] if rows else []
    if not rows:
        found.append("nobody is known to have come and gone unseen")
    found += [f"GPU {gpu.index} ({gpu.uuid}): {ACCOUNTING[gpu.accounting]}" for gpu in view.gpus]
    return found


def _count(view: ProcessesView) -> str:
    count = len(view.finished)
    return "one process" if count == 1 else f"{count} processes"


def _whose(one: FinishedView) -> str:
    inside = f", in the container {one.container[:40]}" if one.container else ""
    match one.standing:
        case "target":
            return f"{one.target}{inside}"
        case "allowed":
            return f"allowed{inside}"
        case "unapproved":
            return f"unapproved, nobody had the GPU{inside}"
        case "unknown":
            may_be = f"; {' or '.join(name[:40] for name in one.meanwhile[:4])} had the GPU" if one.meanwhile else ""
            return f"not known{inside}{may_be}"


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
