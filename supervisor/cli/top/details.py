"""All that is known of what is selected, as lines of text: what Enter and ``l`` show. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from supervisor.answers import Event, GpuView, LeaseView, LogsView, ProcessView, QueueEntry, TargetView
from supervisor.cli.output import clean
from supervisor.cli.processes import ADVICE
from supervisor.cli.status import problem_line
from supervisor.cli.targets import sharing_line, suggestion
from supervisor.cli.top import bars
from supervisor.cli.top.model import Picture, left, named, note_of, size_of
from supervisor.cli.top.words import Line, Span, at, lasting, needs, seconds_to, since, size, until

Lines = tuple[Line, ...]


def lines(*texts: str, tone: str = "") -> Lines:
    return tuple((Span(clean(text), tone),) for text in texts)


def pairs(*given: tuple[str, object]) -> Lines:
    """Return one line for each name and value; those without a value are left out."""
    return tuple(
        (Span(f"{name:>10}  ", "dim"), Span(clean(value))) for name, value in given if value not in (None, "", ())
    )


def of_lease(lease: LeaseView, now: datetime) -> Lines:
    return pairs(
        ("target", named(lease.target)),
        ("owner", lease.owner),
        ("state", lease.state),
        ("because", note_of(lease)),
        ("granted", f"{at(lease.granted_at, now)} ({since(lease.granted_at, now)} ago)"),
        ("left", f"{left(lease, now).text}, renewed by {lease.ttl_seconds} s at a time" if lease.expires_at else ""),
        ("ends", f"{at(lease.ends_at, now)} while others wait" if lease.ends_at else ""),
        ("GPUs", ", ".join(lease.gpus)),
        ("reserved", f"{needs(lease.vram_mib)} on each" if len(lease.gpus) > 1 else needs(lease.vram_mib)),
        ("priority", lease.priority),
        ("fence", lease.fence),
        ("process", lease.pid),
        ("id", lease.id),
    )


def of_ticket(ticket: QueueEntry, now: datetime) -> Lines:
    return pairs(
        ("target", named(ticket.target)),
        ("owner", ticket.owner),
        ("place", ticket.position + 1),
        ("state", ticket.state),
        ("because", ticket.why),
        ("until", f"{at(ticket.until, now)} at the latest ({until(ticket.until, now)})" if ticket.until else ""),
        ("queued", f"{at(ticket.queued_at, now)} ({since(ticket.queued_at, now)} ago)"),
        ("priority", ticket.priority),
        ("needs", needs(ticket.vram_mib, ticket.gpu_count)),
        ("id", ticket.id),
    )


def of_target(target: TargetView, why: str) -> Lines:
    """``why``: the server's sentence on what last stopped it."""
    found = pairs(
        ("target", target.name),
        ("state", target.state),
        ("declared", needs(target.vram_mib)),
        ("seen", size(target.seen_mib) if target.seen_mib is not None else ""),
        ("priority", target.priority),
        ("lease", target.lease),
        ("project", target.project),
        ("sharing", sharing_line(target).strip()),
        ("answers at", f"{target.endpoint.host}:{target.endpoint.port}" if target.endpoint is not None else ""),
    )
    for container in target.containers:
        words = [
            container.status + (f" {container.exit_code}" if container.status == "exited" else ""),
            container.health if container.health != "none" else "",
            "master" if container.master else "",
            "one-off" if container.one_off else "",
        ]
        found += pairs(("container", f"{container.name}: {', '.join(word for word in words if word)}"))
    if target.suggested_label is not None:
        found += lines(suggestion(target))
    for problem in target.problems:
        found += lines(problem_line(problem), tone="bad" if problem.severity == "error" else "warn")
    if isinstance(target.create, str):
        found += pairs(("create", target.create))
    return (*found, *lines("", why)) if why else found


def of_gpu(gpu: GpuView, picture: Picture, now: datetime) -> Lines:
    found = pairs(
        ("GPU", f"{gpu.index}  {gpu.name}"),
        ("uuid", gpu.uuid),
        ("state", gpu.state),
        ("problem", gpu.problem),
        ("memory", f"{size_of(gpu)} GiB in use"),
        ("granted", size(gpu.granted_mib)),
        ("grantable", size(gpu.grantable_mib)),
        ("load", f"{gpu.utilization_percent}%" if gpu.utilization_percent is not None else ""),
        ("heat", f"{gpu.temperature_c}°C" if gpu.temperature_c is not None else ""),
        ("power", f"{gpu.power_w} W" if gpu.power_w is not None else ""),
    )
    found += (bars.bar(gpu, 66), bars.legend(gpu), *lines("", bars.LEGEND, tone="dim"))
    processes = picture.processes.processes if picture.processes is not None else ()
    here = [process for process in processes if any(use.gpu == gpu.uuid for use in process.gpus)]
    found += lines("", "Processes on it:" if here else "no process is known on it")
    found += _processes(here, gpu, now)
    return (*found, *lines("", ADVICE)) if any(one.standing == "unapproved" for one in here) else found


def _processes(processes: Iterable[ProcessView], gpu: GpuView, now: datetime) -> Lines:
    found: list[Line] = []
    for process in processes:
        used = sum(use.used_mib or 0 for use in process.gpus if use.gpu == gpu.uuid)
        tone = "bad" if process.standing in ("unleased", "unapproved") else ""
        whose = process.target or process.container or process.user or "?"
        text = f"{process.pid:>8}  {size(used):>9}  {process.standing:<10}  {whose}: {process.command or process.name}"
        found.append((Span(clean(text), tone),))
        if process.asked_to_end_at is not None:
            gone = seconds_to(process.asked_to_end_at, now) or 0
            found += lines(f"          asked to end {lasting(-gone)} ago", tone="warn")
    return tuple(found)


def of_event(event: Event, now: datetime) -> Lines:
    named_fields = ((name, msgspec.json.encode(value).decode()) for name, value in event.fields.items())
    return (
        *lines(event.sentence, ""),
        *pairs(
            ("number", event.seq),
            ("time", at(event.time, now)),
            ("kind", event.type),
            ("target", event.target),
            ("container", event.container),
            *((name, value.strip('"')) for name, value in named_fields if value not in ("null", '""', "[]")),
        ),
    )


def of_logs(logs: LogsView) -> Lines:
    found: Lines = ()
    for one in logs.containers:
        found += lines(f"── {one.container} ({one.service})", tone="strong")
        found += lines(*one.lines) if one.lines else lines("(no lines, or they could not be read in time)", tone="dim")
    if logs.left_out:
        found += lines(f"... and {logs.left_out} more containers", tone="dim")
    return found or lines("it has no containers, or the engine is not there", tone="dim")


HELP: Lines = (
    *lines("Panes", tone="strong"),
    *pairs(
        ("tab", "the next pane; shift+tab the one before"),
        ("1 to 5", "GPUs, leases, queue, targets, audit"),
        ("↑ ↓ j k", "select; PgUp PgDn Home End too"),
        ("enter", "everything about what is selected"),
        ("/", "filter by words; esc takes it back"),
    ),
    *lines("Keys that act, and ask first", tone="strong"),
    *pairs(
        ("r", "release the lease of what is selected, by force"),
        ("c", "cancel the selected ticket"),
        ("m", "move the selected ticket: another priority"),
        ("e", "evict (stop) the selected resident target"),
        ("o", "open a dirty GPU: say that it is clean"),
    ),
    *lines("Keys that show", tone="strong"),
    *pairs(
        ("l", "what the selected target's containers last wrote"),
        ("q", "quit; what is leased stays leased"),
    ),
    *lines("Bars: each target begins with its letter", tone="strong"),
    *lines(f"  {bars.LEGEND}"),
)
