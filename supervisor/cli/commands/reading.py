"""``status``, ``targets``, ``queue``, ``audit``, ``why`` and ``check``: what only looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli.errors import BUSY, FAILED, OK, UNREACHABLE, USAGE
from supervisor.cli.options import (
    AsJson,
    ConfigFile,
    OfTarget,
    epilog,
    target_and_container_names,
    target_names,
)


def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on: show it again whenever something changes, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show who holds the GPU, who waits, and what every target does."""
    from supervisor.cli.status import show_status  # noqa: PLC0415

    if not watch:
        return show_status(as_json=as_json)
    from supervisor.cli.watch import watch_status  # noqa: PLC0415

    raise typer.Exit(watch_status(as_json=as_json))


def targets(
    name: Annotated[
        str | None,
        typer.Argument(
            help="One target, with its containers and problems.",
            metavar="TARGET",
            show_default=False,
            autocompletion=target_names,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every target, or one in full.

    What each does, what it needs, and what is wrong with it.
    """
    from supervisor.cli.targets import show_target, show_targets  # noqa: PLC0415

    if name is None:
        show_targets(as_json=as_json)
    else:
        show_target(name, as_json=as_json)


def queue(as_json: AsJson = False) -> None:
    """Show who has the GPU and who waits for it.

    Since when, why, and until when at the latest.
    """
    from supervisor.cli.status import show_queue  # noqa: PLC0415

    show_queue(as_json=as_json)


def ps(
    finished: Annotated[
        bool, typer.Option("--finished", help="Those that came and went unseen, by the driver's accounts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every process on the GPUs.

    Whose it is, what it uses, and what it stands by: a lease, a residency, the list of the allowed, or nothing.
    """
    from supervisor.cli.processes import show_processes  # noqa: PLC0415

    show_processes(as_json=as_json, finished=finished)


def top() -> None:
    """Show everything on one screen, live.

    GPUs with their memory, leases, the queue, targets and the audit; keys to release, cancel, move and evict, which
    ask first. ? shows them all.
    """
    from supervisor.cli.top.command import show_top  # noqa: PLC0415

    show_top()


def why(
    name: Annotated[
        str,
        typer.Argument(help="A container or a target.", metavar="NAME", autocompletion=target_and_container_names),
    ],
    as_json: AsJson = False,
) -> None:
    """Say why a container was stopped.

    Who decided it, when, for whom, and what to type to get the GPU.
    """
    from supervisor.cli.audit import show_why  # noqa: PLC0415

    show_why(name, as_json=as_json)


def audit(
    target: OfTarget = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, metavar="NUMBER", help="How many decisions.")
    ] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is decided from now on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what was decided, and why."""
    from supervisor.cli.audit import show_audit  # noqa: PLC0415

    raise typer.Exit(show_audit(target, limit, follow=follow, as_json=as_json))


def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Compose files. Without any: the containers that are there.", metavar="FILE..."),
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", "-p", metavar="NAME", help="The Compose project of the files.")
    ] = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print targets and problems as JSON.")] = False,
) -> None:
    """Check labels, before anything starts.

    Those of compose files, or of the containers that are there. Exit status 1 if a label must be mended, or nothing is
    labelled; not for warnings.
    """
    from supervisor.cli.check import show_check  # noqa: PLC0415

    raise typer.Exit(show_check(files or [], project, config, as_json=as_json))


def register(app: typer.Typer) -> None:
    usual = (OK, FAILED, BUSY, UNREACHABLE)
    for command, examples, statuses in (
        (status, ("gpu-supervisor status", "gpu-supervisor status --watch", "gpu-supervisor status --json"), usual),
        (targets, ("gpu-supervisor targets", "gpu-supervisor targets comfyui"), usual),
        (queue, ("gpu-supervisor queue", "gpu-supervisor queue --json"), usual),
        (top, ("gpu-supervisor top", "GPU_SUPERVISOR_URL=http://gpubox:8080 gpu-supervisor top"), usual),
        (ps, ("gpu-supervisor ps", "gpu-supervisor ps --finished", "gpu-supervisor ps --json"), usual),
        (
            audit,
            (
                "gpu-supervisor audit",
                "gpu-supervisor audit --target comfyui --follow",
                "gpu-supervisor audit -n 5 --json",
            ),
            usual,
        ),
        (why, ("gpu-supervisor why whisper", "gpu-supervisor why whisper-server-1"), usual),
        (check, ("gpu-supervisor check compose.yml", "gpu-supervisor check"), (OK, FAILED, USAGE)),
    ):
        app.command(epilog=epilog(*examples, statuses=statuses))(command)
