"""``gpu-supervisor status`` and ``queue``: who holds, who waits, what every target does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from supervisor.answers import GpuView, LeaseView, QueueEntry, StatusView
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
        _gpus(status),
        *(f"warning: {gpu.uuid} is closed: {gpu.problem}" for gpu in status.gpus if gpu.problem),
    ]
    rows: list[tuple[object, ...]]
    if status.leases:
        rows = [_lease_row(lease) for lease in status.leases]
        blocks.append(Grid("Leases", ("target", "owner", "state", "since", "expires", "needs", "lease"), rows))
    if status.queue:
        rows = [(*_ticket_row(ticket), ticket.why) for ticket in status.queue]
        blocks.append(Grid("Queue", ("place", "target", "owner", "priority", "needs", "since", "waits because"), rows))
    if status.targets:
        rows = [(target.name, target.state, count(target.problems)) for target in status.targets]
        blocks.append(Grid("Targets", ("target", "state", "problems"), rows))
    for problem in [*(problem for target in status.targets for problem in target.problems), *status.problems]:
        blocks.append(problem_line(problem))
    if not status.targets:
        blocks.append("no target yet: label a compose file with gpu.target, then docker compose create")
    return blocks


def _gpus(status: StatusView) -> Block:
    if not status.gpus:
        return "no GPU is known, so nothing is granted; the supervisor's log and /readyz say why"
    columns = ("gpu", "name", "state", "memory", "granted", "free", "on it")
    return Grid("GPUs", columns, [_gpu_row(gpu, status.leases) for gpu in status.gpus])


def _gpu_row(gpu: GpuView, leases: Iterable[LeaseView]) -> tuple[object, ...]:
    """``granted`` is promised to whoever is on it; ``free`` is left for the next grant."""
    memory = "unknown size" if gpu.total_mib is None else f"{gpu.used_mib or 0} of {gpu.total_mib} MiB used"
    return (gpu.uuid, gpu.name, gpu.state, memory, mib(gpu.granted_mib), mib(gpu.grantable_mib), _who(gpu, leases))


def _who(gpu: GpuView, leases: Iterable[LeaseView]) -> str:
    here = [f"{lease.target or '(bare)'} of {lease.owner}" for lease in leases if lease.id in gpu.leases]
    return ", ".join([*here, *(f"{target} (resident)" for target in gpu.residents)])


def mib(size_mib: int | None) -> str:
    return f"{size_mib} MiB" if size_mib is not None else ""


def on_gpus(need_mib: int | None, gpus: int) -> str:
    """Show what somebody needs, and of how many GPUs if it is more than one."""
    return needs(need_mib) if gpus < 2 else f"{gpus} x {mib(need_mib) or 'a whole GPU'}"


def _lease_row(lease: LeaseView) -> tuple[object, ...]:
    return (
        lease.target or "(bare)",
        lease.owner,
        lease.state,
        clock_time(lease.granted_at),
        _expires(lease) + (f", ends {clock_time(lease.ends_at)}" if lease.ends_at else ""),
        on_gpus(lease.vram_mib, len(lease.gpus)),
        lease.id,
    )


def _expires(lease: LeaseView) -> str:
    return f"with process {lease.pid}" if lease.pid is not None else clock_time(lease.expires_at)


def _ticket_row(ticket: QueueEntry) -> tuple[object, ...]:
    return (
        ticket.position + 1,
        ticket.target or "(bare)",
        ticket.owner,
        ticket.priority,
        on_gpus(ticket.vram_mib, ticket.gpu_count),
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
        columns = ("place", "target", "owner", "priority", "needs", "since", "until", "ticket", "waits because")
        rows = [(*_ticket_row(ticket), clock_time(ticket.until), ticket.id, ticket.why) for ticket in status.queue]
        blocks.append(Grid("Queue", columns, rows))
    else:
        blocks.append("nobody waits")
    show(blocks)


def holder_line(lease: LeaseView) -> str:
    until = f", until {clock_time(lease.expires_at)} unless renewed" if lease.expires_at else ""
    if lease.pid is not None:
        until = f", until process {lease.pid} ends"
    if lease.ends_at:
        until = f", until {clock_time(lease.ends_at)} if others still wait then"
    what = "the GPU" if len(lease.gpus) < 2 else f"{len(lease.gpus)} GPUs"
    return f"{lease.target or 'a bare lease'} holds {what} (owner {lease.owner}){until}"
