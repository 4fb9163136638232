"""``acquire``, ``renew``, ``release``, ``move`` and ``evict``: what changes who has the GPU."""

from __future__ import annotations

from typing import Annotated

import typer

from supervisor.cli.errors import BUSY, FAILED, LOST, OK, UNREACHABLE, USAGE, Usage
from supervisor.cli.options import AsJson, Token, epilog, mebibytes, seconds, target_names
from supervisor.whoami import whoami


def acquire(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            help="Which stack. None with --bare.", metavar="TARGET", show_default=False, autocompletion=target_names
        ),
    ] = None,
    owner: Annotated[
        str | None, typer.Option(help="Who asks, for the others. [USER@HOST]", metavar="NAME", show_default=False)
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            help="Higher goes first. [the target's label]", metavar="NUMBER", show_default=False, min=-1000, max=1000
        ),
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(help="How long the lease outlives its owner. [60s; 5m with --detach]", metavar="TIME"),
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option(help="How long to wait for the turn; 0 not at all. [as long as it takes]", metavar="TIME"),
    ] = None,
    no_wait_ready: Annotated[bool, typer.Option("--no-wait-ready", help="Do not wait until it is healthy.")] = False,
    ready_timeout: Annotated[str, typer.Option(help="When to give up waiting for that.", metavar="TIME")] = "15m",
    bare: Annotated[bool, typer.Option("--bare", help="The GPU alone: for a process outside Docker.")] = False,
    gpus: Annotated[
        int | None,
        typer.Option(help="With --bare: how many GPUs. [1]", metavar="NUMBER", show_default=False, min=1, max=64),
    ] = None,
    vram: Annotated[
        str | None,
        typer.Option(help="With --bare: what it needs on each, as in 8GiB. [all of it]", metavar="SIZE"),
    ] = None,
    gpu_class: Annotated[
        str | None, typer.Option("--class", help="With --bare: only GPUs of this class. [any]", metavar="NAME")
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option(
            help="With --bare, over the unix socket: ends with this process of yours, and needs no renewal.",
            metavar="PID",
            show_default=False,
            min=1,
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the token and leave the lease to you.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would happen: who is ahead, what would be evicted.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="The lease (with --detach: and its token) as one line on stdout, progress as lines on stderr.",
        ),
    ] = False,
) -> None:
    """Lease the GPU for a target, and hold it.

    Waits for the turn, makes room, starts the target, and waits until it is healthy. Holds until Ctrl-C or, with
    -- COMMAND, until the command ends, whose exit status is passed on. The lease is renewed while it is held; if it is
    lost, the command is ended. With --bare the command finds its GPUs in CUDA_VISIBLE_DEVICES; with --pid the lease
    ends the moment that process does, whatever becomes of this command.
    """
    from supervisor.cli.acquire import acquire as hold  # noqa: PLC0415
    from supervisor.cli.borrower import Wish  # noqa: PLC0415
    from supervisor.cli.forecast import show_forecast  # noqa: PLC0415

    command: list[str] = context.obj or []
    if bare == (target is not None):
        raise Usage(
            "name a target, or say --bare, and not both",
            "write: gpu-supervisor acquire TARGET [-- COMMAND]; see what there is with: gpu-supervisor targets",
        )
    if detach and command:
        raise Usage("--detach leaves at once, so it cannot hold the lease for a command", "leave one of them out")
    for flag, value in (("--gpus", gpus), ("--vram", vram), ("--class", gpu_class)):
        if value is not None and not bare:
            raise Usage(f"{flag} is for --bare: of a target its labels say it", "see: gpu-supervisor targets TARGET")
    if pid is not None:
        _check_pid(bare=bare, command=bool(command), ttl=ttl)
    wish = Wish(
        target=target,
        owner=whoami() if owner is None else owner,
        priority=priority,
        ttl_s=seconds("--ttl", ttl or ("5m" if detach else "60s")),
        wait_s=None if wait is None else seconds("--wait", wait),
        wait_ready=not no_wait_ready,
        ready_timeout_s=seconds("--ready-timeout", ready_timeout),
        gpus=gpus,
        vram_mib=None if vram is None else mebibytes("--vram", vram),
        gpu_class=gpu_class,
        pid=pid,
    )
    if dry_run:
        raise typer.Exit(show_forecast(wish, as_json=as_json))
    raise typer.Exit(hold(wish, command, detach=detach, as_json=as_json))


def _check_pid(*, bare: bool, command: bool, ttl: str | None) -> None:
    from supervisor.cli.connection import Server  # noqa: PLC0415

    if not bare:
        raise Usage("--pid is for --bare: a target's lease ends with its containers", "leave it out")
    if command:
        raise Usage(
            "--pid and -- COMMAND both say what the lease ends with",
            "leave one of them out: a command ends its lease by itself",
        )
    if ttl is not None:
        raise Usage("--ttl: a lease with --pid has none, it ends with the process", "leave one of them out")
    server = Server.find()
    if server.socket is None:
        raise Usage(
            f"--pid: over TCP ({server.url}) nobody can tell whose process it is: it needs the unix socket",
            "set GPU_SUPERVISOR_URL=unix:///path/to/socket, which the server opens with: serve --socket",
        )


def renew(token: Annotated[str, Token], as_json: AsJson = False) -> None:
    """Give a lease that --detach left its whole time again.

    A lease that is not renewed within its TTL ends.
    """
    from supervisor.cli.release import renew_token, token_of  # noqa: PLC0415

    renew_token(token_of(token), as_json=as_json)


def release(
    token: Annotated[str | None, Token] = None,
    target: Annotated[
        str | None,
        typer.Option(help="With --force: whose lease.", metavar="TARGET", autocompletion=target_names),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="End somebody else's lease.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a lease back, or cancel a place in the queue."""
    from supervisor.cli.release import force_release, release_token, token_of  # noqa: PLC0415

    if force and token is None:
        force_release(target, as_json=as_json)
    elif token is not None and not force and target is None:
        release_token(token_of(token), as_json=as_json)
    else:
        raise Usage("name the token of a lease, or --force", "gpu-supervisor release TOKEN, or --target NAME --force")


def move(
    ticket: Annotated[str, typer.Argument(help="A ticket, by its id in queue --json.", metavar="ID")],
    priority: Annotated[
        int, typer.Option(help="Higher goes first; what it has aged stays.", metavar="NUMBER", min=-1000, max=1000)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which place that would be.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change a ticket's place in the queue.

    It gets another priority. Whose turn has come is served as it is.
    """
    from supervisor.cli.moving import move_ticket  # noqa: PLC0415

    move_ticket(ticket, priority, dry_run=dry_run, as_json=as_json)


def evict(
    target: Annotated[
        str, typer.Argument(help="A target that runs without a lease.", metavar="TARGET", autocompletion=target_names)
    ],
    as_json: AsJson = False,
) -> None:
    """Stop a resident target now.

    A target stays resident (warm) when its lease has ended, until something else needs the room.
    """
    from supervisor.cli.targets import evict as stop  # noqa: PLC0415

    stop(target, as_json=as_json)


def open_gpu(
    uuid: Annotated[str, typer.Argument(help="The GPU, as status names it.", metavar="UUID")], as_json: AsJson = False
) -> None:
    """Say that a GPU is clean whose memory did not come back.

    It is closed until then, or until its memory is back. What is really free still decides over each grant.
    """
    from supervisor.cli.gpus import open_gpu as say_clean  # noqa: PLC0415

    say_clean(uuid, as_json=as_json)


def register(app: typer.Typer) -> None:
    usual = (OK, FAILED, BUSY, UNREACHABLE)
    app.command(
        epilog=epilog(
            "gpu-supervisor acquire comfyui",
            "gpu-supervisor acquire llm --wait 10m -- docker compose up",
            "gpu-supervisor acquire llm --dry-run",
            "gpu-supervisor acquire --bare -- python3 train.py",
            "gpu-supervisor acquire --bare --gpus 2 --vram 8GiB --class high -- torchrun train.py",
            "gpu-supervisor acquire --bare --pid 4711 --detach",
            "token=$(gpu-supervisor acquire llm --detach --ttl 30m)",
            statuses=(OK, FAILED, USAGE, BUSY, UNREACHABLE, LOST),
            more="With -- COMMAND: the command's own status; 128 and the signal's number where a signal ended it, or "
            "ended the wait; 126 or 127 where it cannot be run. With --dry-run: 0 it would be granted now, 3 later, 1 "
            "never.",
        )
    )(acquire)
    app.command(
        epilog=epilog('gpu-supervisor renew "$token"', 'echo "$token" | gpu-supervisor renew - --json', statuses=usual)
    )(renew)
    app.command(
        epilog=epilog(
            'gpu-supervisor release "$token"',
            'echo "$token" | gpu-supervisor release -',
            "gpu-supervisor release --target comfyui --force",
            statuses=usual,
        )
    )(release)
    app.command(
        epilog=epilog(
            "gpu-supervisor move l_8f3kQ2mXw1aZ --priority 10",
            "gpu-supervisor move l_8f3kQ2mXw1aZ --priority 10 --dry-run",
            statuses=usual,
        )
    )(move)
    app.command(epilog=epilog("gpu-supervisor evict comfyui", statuses=usual))(evict)
    app.command("open-gpu", epilog=epilog("gpu-supervisor open-gpu GPU-4f1c2b7e", statuses=usual))(open_gpu)
