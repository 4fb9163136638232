"""``gpu-supervisor status`` and ``queue``: who holds, who waits, what every target does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from supervisor.api.shapes import GpuView, LeaseView, QueueEntry, StatusView
from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.output import Block, Grid, answer_json, clock_time, needs, show
from supervisor.core.model import Problem


def show_status(*, as_json: bool) -> None:
    """Print what the server knows, for people or (``as_json``) word for word."""
    body, status = read_status()
    if as_json:
        print(body.decode())
    else:
        show(status_blocks(status))


def read_status() -> tuple[bytes, StatusView]:
    server, body = ask_raw("GET", "/v1/status")
    return body, decoded(server, body, StatusView)


def status_blocks(status: StatusView) -> list[Block]:
    engine = (
        "in sync with the engine" if status.engine.synced else f"NOT IN SYNC with the engine: {status.engine.reason}"
    )
    journal = "" if status.journal.state == "ok" else f", journal {status.journal.state}: {status.journal.detail}"
    blocks: list[Block] = [
        f"gpu-supervisor {status.version} on {status.host}: {engine}, enforcement {status.mode}{journal}",
        Grid("GPUs", ("gpu", "name", "memory", "lease"), [_gpu_row(gpu) for gpu in status.gpus]),
    ]
    rows: list[tuple[object, ...]]
    if status.leases:
        rows = [_lease_row(lease) for lease in status.leases]
        blocks.append(Grid("Leases", ("target", "owner", "state", "since", "expires", "needs", "lease"), rows))
    if status.queue:
        rows = [(*_ticket_row(ticket), ticket.why) for ticket in status.queue]
        blocks.append(Grid("Queue", ("place", "target", "owner", "priority", "since", "waits because"), rows))
    if status.targets:
        rows = [(target.name, target.state, count(target.problems)) for target in status.targets]
        blocks.append(Grid("Targets", ("target", "state", "problems"), rows))
    for problem in [*(problem for target in status.targets for problem in target.problems), *status.problems]:
        blocks.append(problem_line(problem))
    if not status.targets:
        blocks.append("no target yet: label a compose file with gpu.target, then docker compose create")
    return blocks


def _gpu_row(gpu: GpuView) -> tuple[object, ...]:
    memory = "unknown size" if gpu.total_mib is None else f"{gpu.used_mib or 0} of {gpu.total_mib} MiB used"
    return (gpu.uuid, gpu.name, memory, f"{gpu.lease or ''}{' ' if gpu.problem else ''}{gpu.problem}")


def _lease_row(lease: LeaseView) -> tuple[object, ...]:
    return (
        lease.target or "(bare)",
        lease.owner,
        lease.state,
        clock_time(lease.granted_at),
        clock_time(lease.expires_at),
        needs(lease.vram_mib),
        lease.id,
    )


def _ticket_row(ticket: QueueEntry) -> tuple[object, ...]:
    return (
        ticket.position + 1,
        ticket.target or "(bare)",
        ticket.owner,
        ticket.priority,
        clock_time(ticket.queued_at),
    )


def count(problems: Iterable[Problem]) -> str:
    """Say how many problems of which severity: ``1 error, 2 warnings``; "" where there is none."""
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem.severity] = counts.get(problem.severity, 0) + 1
    return ", ".join(f"{number} {word}{'s' if number > 1 else ''}" for word, number in sorted(counts.items()))


def problem_line(problem: Problem) -> str:
    return f"{problem.severity}: {problem.message}" + (f"; {problem.hint}" if problem.hint else "")


# ---- the queue alone


def show_queue(*, as_json: bool) -> None:
    """Print who has the GPU and who waits for it, in the order in which they get it."""
    body, status = read_status()
    if as_json:
        document = msgspec.json.decode(body, type=dict[str, Any])
        answer_json({"leases": document["leases"], "queue": document["queue"]})
        return
    blocks: list[Block] = [holder_line(lease) for lease in status.leases]
    if status.queue:
        columns = ("place", "target", "owner", "priority", "since", "until", "waits because")
        rows = [(*_ticket_row(ticket), clock_time(ticket.until), ticket.why) for ticket in status.queue]
        blocks.append(Grid("Queue", columns, rows))
    else:
        blocks.append("nobody waits")
    show(blocks)


def holder_line(lease: LeaseView) -> str:
    until = f", until {clock_time(lease.expires_at)} unless renewed" if lease.expires_at else ""
    return f"{lease.target or 'a bare lease'} holds the GPU (owner {lease.owner}){until}"
