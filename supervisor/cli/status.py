"""``gpu-supervisor status``: who holds, who waits, what every target does."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.api.shapes import GpuView, StatusView
from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.output import answer, clock_time, table
from supervisor.core.model import Problem


def show_status(*, as_json: bool) -> None:
    """Print what the server knows, for people or (``as_json``) word for word."""
    server, body = ask_raw("GET", "/v1/status")
    if as_json:
        print(body.decode())
        return
    status = decoded(server, body, StatusView)
    engine = (
        "in sync with the engine" if status.engine.synced else f"NOT IN SYNC with the engine: {status.engine.reason}"
    )
    journal = "" if status.journal.state == "ok" else f", journal {status.journal.state}: {status.journal.detail}"
    answer(f"gpu-supervisor {status.version} on {status.host}: {engine}, enforcement {status.mode}{journal}")
    table("GPUs", ("gpu", "name", "memory", "lease"), [_gpu_row(gpu) for gpu in status.gpus])
    if status.leases:
        table(
            "Leases",
            ("target", "owner", "state", "since", "expires", "needs", "lease"),
            [
                (
                    lease.target or "(bare)",
                    lease.owner,
                    lease.state,
                    clock_time(lease.granted_at),
                    clock_time(lease.expires_at),
                    _mib(lease.vram_mib),
                    lease.id,
                )
                for lease in status.leases
            ],
        )
    if status.queue:
        table(
            "Queue",
            ("place", "target", "owner", "priority", "since", "waits because"),
            [
                (
                    ticket.position + 1,
                    ticket.target or "(bare)",
                    ticket.owner,
                    ticket.priority,
                    clock_time(ticket.queued_at),
                    ticket.why,
                )
                for ticket in status.queue
            ],
        )
    if status.targets:
        table(
            "Targets",
            ("target", "state", "problems"),
            [(target.name, target.state, _count(target.problems)) for target in status.targets],
        )
    problems = [problem for target in status.targets for problem in target.problems]
    for problem in [*problems, *status.problems]:
        answer(f"{problem.severity}: {problem.message}" + (f"; {problem.hint}" if problem.hint else ""))
    if not status.targets:
        answer("no target yet: label a compose file with gpu.target, then docker compose create")


def _gpu_row(gpu: GpuView) -> tuple[object, ...]:
    memory = "unknown size" if gpu.total_mib is None else f"{gpu.used_mib or 0} of {gpu.total_mib} MiB used"
    return (gpu.uuid, gpu.name, memory, f"{gpu.lease or ''}{' ' if gpu.problem else ''}{gpu.problem}")


def _mib(mib: int | None) -> str:
    return "the whole GPU" if mib is None else f"{mib} MiB"


def _count(problems: Iterable[Problem]) -> str:
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem.severity] = counts.get(problem.severity, 0) + 1
    return ", ".join(f"{number} {word}{'s' if number > 1 else ''}" for word, number in sorted(counts.items()))
