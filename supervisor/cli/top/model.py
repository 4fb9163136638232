"""From the answers of the server to what is shown: pure, and everybody's text made safe for a terminal on its way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from supervisor.answers import (
    Event,
    GpuView,
    LeaseView,
    ProcessesView,
    QueueEntry,
    StatusView,
    TargetBrief,
    TargetView,
)
from supervisor.cli.output import clean
from supervisor.cli.top.columns import Column, Row
from supervisor.cli.top.words import Line, Span, at, needs, seconds_to, since, size, toned, until

Pane = Literal["gpus", "leases", "queue", "targets", "audit"]
PANES: tuple[Pane, ...] = ("gpus", "leases", "queue", "targets", "audit")
TITLES: dict[Pane, str] = {
    "gpus": "GPUs",
    "leases": "Leases",
    "queue": "Queue",
    "targets": "Targets",
    "audit": "Audit",
}
EMPTY: dict[Pane, str] = {
    "gpus": "no GPU is known",
    "leases": "nobody holds a GPU",
    "queue": "nobody waits",
    "targets": "no target yet: label a compose file with gpu.target, then docker compose create",
    "audit": "nothing was decided yet",
}
#: Seconds before its end from which a lease is shown as one that ends soon.
SOON_S = 15.0


class Picture(Struct, frozen=True, kw_only=True):
    """What the server last said. ``events``: the newest first. ``away``: why it does not answer; "" while it does."""

    status: StatusView | None = None
    targets: dict[str, TargetView] = {}
    processes: ProcessesView | None = None
    events: tuple[Event, ...] = ()
    away: str = ""
    away_since: datetime | None = None


class Table(Struct, frozen=True):
    """``all``: how many rows there are without the filter."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    all: int


# ---- the whole


def header(picture: Picture, now: datetime, said: Span | None = None) -> Line:
    """Return the first line: which server, how it is, and whether what is shown is so now.

    ``said``: what there is to say of the last key; it stands there instead while the server answers.
    """
    clock = now.astimezone().strftime("%H:%M:%S")
    if picture.away:
        gone = lasting_since(picture.away_since, now)
        return (Span(f" NO ANSWER {gone}", "bad"), Span(f"  {clean(picture.away)}; trying again  {clock} "))
    if said is not None:
        return (Span(f" {said.text}", said.tone), Span(f"  {clock} "))
    status = picture.status
    if status is None:
        return (Span(" gpu-supervisor", "strong"), Span(f"  asking ...  {clock} "))
    spans = [Span(f" {clean(status.host)}", "strong"), Span(f"  {clean(status.version)}  ")]
    if status.engine.synced:
        spans.append(Span("in sync", "good"))
    else:
        spans.append(Span(f"NOT IN SYNC: {clean(status.engine.reason)}", "bad"))
    spans += [Span("  enforcement "), toned(status.mode)]
    if status.journal.state != "ok":
        spans.append(Span(f"  journal {status.journal.state}: {clean(status.journal.detail)}", "bad"))
    problems = sum(len(target.problems) for target in status.targets) + len(status.problems)
    if problems:
        spans.append(Span(f"  {problems} label problem{'s' if problems > 1 else ''}", "warn"))
    return (*spans, Span(f"  {clock} "))


def lasting_since(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else f"for {since(moment.isoformat(), now)}"


def words_of(text: str) -> tuple[str, ...]:
    """Return what a filter looks for: every word must be in a row."""
    return tuple(text.casefold().split())


def tables(picture: Picture, now: datetime, filter_: str = "") -> dict[Pane, Table]:
    """Return what each pane but that of the GPUs shows."""
    status = picture.status
    leases = status.leases if status is not None else ()
    queue = status.queue if status is not None else ()
    briefs = status.targets if status is not None else ()
    gpus = {gpu.uuid: gpu.index for gpu in status.gpus} if status is not None else {}
    made: dict[Pane, tuple[tuple[Column, ...], Iterable[Row]]] = {
        "leases": (LEASES, (_lease(lease, gpus, now) for lease in leases)),
        "queue": (QUEUE, (_ticket(ticket, now) for ticket in queue)),
        "targets": (TARGETS, (_target(brief, picture.targets.get(brief.name)) for brief in in_order(briefs))),
        "audit": (AUDIT, (_event(event, now) for event in picture.events)),
    }
    return {pane: _filtered(columns, tuple(rows), words_of(filter_)) for pane, (columns, rows) in made.items()}


def _filtered(columns: tuple[Column, ...], rows: tuple[Row, ...], words: Sequence[str]) -> Table:
    return Table(columns, tuple(row for row in rows if row.has(words)) if words else rows, len(rows))


def title(pane: Pane, table: Table) -> str:
    """Return a pane's title: how many there are, and how many of them are shown."""
    shown = len(table.rows)
    if pane == "audit":
        return TITLES[pane] if shown == table.all else f"{TITLES[pane]} (filtered)"
    return f"{TITLES[pane]} {table.all}" if shown == table.all else f"{TITLES[pane]} {shown} of {table.all}"


# ---- leases

LEASES = (
    Column("target", 8, 26, keep=9),
    Column("owner", 8, 24, keep=7),
    Column("state", 8, 9, keep=8),
    Column("left", 6, 8, keep=9, right=True),
    Column("gpu", 3, 7, keep=6),
    Column("reserved", 8, 12, keep=5),
    Column("held", 5, 7, keep=4, right=True),
    Column("note", 4, 60, keep=3, rest=True),
)


def _lease(lease: LeaseView, gpus: dict[str, int], now: datetime) -> Row:
    on = ",".join(str(gpus.get(uuid, "?")) for uuid in lease.gpus)
    cells = (
        named(lease.target),
        clean(lease.owner),
        toned(lease.state),
        left(lease, now),
        on,
        needs(lease.vram_mib, len(lease.gpus)),
        since(lease.granted_at, now),
        Span(note_of(lease), "dim" if lease.state == "ready" and not lease.ends_at else "warn"),
    )
    return Row(lease.id, cells, f"{clean(lease.id)} {' '.join(lease.gpus)}")


def left(lease: LeaseView, now: datetime) -> Span:
    """Return how long a lease lasts unless it is renewed."""
    ends = lease.ends_at or lease.expires_at
    if ends is None:
        return Span("no end", "dim")
    seconds = seconds_to(ends, now)
    soon = seconds is not None and seconds < SOON_S
    return Span(until(ends, now), "warn" if soon or lease.ends_at else "")


def note_of(lease: LeaseView) -> str:
    """Return what is to be said of a lease beyond the columns: what it waits for, or what its end hangs on."""
    if lease.why:
        return clean(lease.why)
    if lease.ends_at:
        return "others wait: it ends by then"
    if lease.pid is not None:
        return f"ends with process {lease.pid}"
    if lease.adopted:
        return "adopted: ends with its containers"
    return "shared with other leases" if lease.joined else ""


def named(target: str | None) -> str:
    return clean(target) if target is not None else "(bare)"


# ---- the queue

QUEUE = (
    Column("#", 2, 4, keep=9, right=True),
    Column("target", 8, 26, keep=9),
    Column("owner", 8, 24, keep=8),
    Column("prio", 4, 5, keep=7, right=True),
    Column("waits", 5, 7, keep=6, right=True),
    Column("needs", 8, 12, keep=4),
    Column("why", 12, 60, keep=5, rest=True),
)


def _ticket(ticket: QueueEntry, now: datetime) -> Row:
    claimable = ticket.state == "claimable"
    turn = f"its turn: to be claimed in {until(ticket.until, now)}" if claimable else clean(ticket.why)
    cells = (
        str(ticket.position + 1),
        named(ticket.target),
        clean(ticket.owner),
        str(ticket.priority),
        since(ticket.queued_at, now),
        needs(ticket.vram_mib, ticket.gpu_count),
        Span(turn, "good" if claimable else ""),
    )
    return Row(ticket.id, cells, clean(ticket.id))


# ---- targets

TARGETS = (
    Column("target", 10, 28, keep=9),
    Column("state", 9, 9, keep=9),
    Column("health", 9, 10, keep=8),
    Column("up", 3, 7, keep=6),
    Column("declared", 9, 12, keep=5),
    Column("seen", 8, 9, keep=4),
    Column("note", 4, 60, keep=3, rest=True),
)
#: What does something comes first; what is as it should be while nobody wants it comes last.
_FIRST = ("starting", "down", "unhealthy", "ready", "stopping", "resident", "invalid", "stopped", "absent")


def in_order(briefs: Iterable[TargetBrief]) -> list[TargetBrief]:
    rank = {state: at for at, state in enumerate(_FIRST)}
    return sorted(briefs, key=lambda brief: (rank.get(brief.state, 0), brief.name))


def _target(brief: TargetBrief, view: TargetView | None) -> Row:
    note = _note_on(brief, view)
    if view is None:
        return Row(brief.name, (clean(brief.name), toned(brief.state), "", "", "", "", note))
    running = sum(container.status == "running" for container in view.containers)
    cells = (
        clean(brief.name),
        toned(brief.state),
        health(view),
        f"{running}/{len(view.containers)}" if view.containers else "",
        needs(view.vram_mib),
        size(view.seen_mib) if view.seen_mib is not None else "",
        note,
    )
    about = [*(container.name for container in view.containers), view.project, *view.groups]
    return Row(brief.name, cells, clean(" ".join(about)))


def health(view: TargetView) -> Span:
    """Return what Docker says of the health of the master, which is the target's."""
    master = next((container for container in view.containers if container.master), None)
    if master is None:
        return Span("no master", "bad") if view.containers else Span("")
    if master.status != "running":
        failed = master.status == "exited" and master.exit_code not in {0, 137, 143}
        word = f"exit {master.exit_code}" if failed else master.status
        return Span(clean(word), "bad" if failed or master.status == "dead" else "dim")
    return toned(master.health)


def _note_on(brief: TargetBrief, view: TargetView | None) -> Span:
    if brief.problems:
        worst = next((problem for problem in brief.problems if problem.severity == "error"), brief.problems[0])
        return Span(clean(worst.message), "bad" if worst.severity == "error" else "warn")
    if view is None:
        return Span("")
    if isinstance(view.create, str):
        return Span(clean(view.create), "dim")
    if view.holders > 1:
        return Span(f"{view.holders} holders")
    return Span("")


# ---- the audit

AUDIT = (Column("time", 8, 14, keep=9), Column("decision", 20, 200, keep=9, rest=True))

_AUDIT_TONES = {
    **dict.fromkeys(("ContainerRefused", "StopFailed", "GpuClosed", "TargetDown", "SignalFailed"), "bad"),
    **dict.fromkeys(("ProcessReported", "ProcessSignalled", "LeaseTold", "ContainerSpared"), "warn"),
    **dict.fromkeys(("TargetReady", "LeaseGranted"), "good"),
}


def _event(event: Event, now: datetime) -> Row:
    tone = _AUDIT_TONES.get(event.type, "")
    about = " ".join(clean(word) for word in (event.type, event.target, event.container) if word)
    return Row(str(event.seq), (Span(at(event.time, now), "dim"), Span(clean(event.sentence), tone)), about)


# ---- GPUs


def gpu_facts(gpu: GpuView) -> Span:
    """Return the numbers behind a GPU's bar; what is wrong with it where something is."""
    used = f"{size_of(gpu)} GiB"
    if gpu.state != "ok":
        return Span(f"{used:>14} {gpu.state.upper()}", "bad")
    percent = "" if gpu.utilization_percent is None else f" {gpu.utilization_percent:>3}%"
    heat = "" if gpu.temperature_c is None else f" {gpu.temperature_c:>2}°C"
    power = "" if gpu.power_w is None else f" {gpu.power_w:>3}W"
    return Span(f"{used:>14}{percent}{heat}{power}")


def size_of(gpu: GpuView) -> str:
    used = "?" if gpu.used_mib is None else f"{gpu.used_mib / 1024:.1f}"
    total = "?" if gpu.total_mib is None else f"{gpu.total_mib / 1024:.1f}"
    return f"{used}/{total}"
