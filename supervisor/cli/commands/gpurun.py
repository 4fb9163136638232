"""``gpurun``: its own program, with the options of a bare lease."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from supervisor import __version__
from supervisor.cli.errors import BUSY, FAILED, LOST, UNREACHABLE, USAGE, Usage
from supervisor.cli.options import epilog, mebibytes, seconds
from supervisor.core.errors import SupervisorError
from supervisor.whoami import whoami

#: How long the lease outlives a gpurun that was killed, where the server does not see that by itself.
TTL = "60s"
#: There is nothing to become ready but the room, and what must stop for that has its own grace.
READY_S = 900

Gpus = Annotated[
    int | None,
    typer.Option("-n", "--gpus", help="How many GPUs. [1]", metavar="NUMBER", show_default=False, min=1, max=64),
]
Vram = Annotated[
    str | None, typer.Option(help="What it needs on each, as in 8GiB. [all of it]", metavar="SIZE", show_default=False)
]
GpuClass = Annotated[
    str | None, typer.Option("--class", help="Only GPUs of this class. [any]", metavar="NAME", show_default=False)
]
Priority = Annotated[
    int | None, typer.Option(help="Higher goes first. [0]", metavar="NUMBER", show_default=False, min=-1000, max=1000)
]
Wait = Annotated[
    str | None,
    typer.Option(help="How long to wait; 0 not at all. [as long as it takes]", metavar="TIME", show_default=False),
]
Name = Annotated[
    str | None, typer.Option(help="What it is, for the others in the queue.", metavar="TEXT", show_default=False)
]


def signal_named(flag: str, text: str) -> signal.Signals:
    """Read ``USR1``, ``SIGUSR1`` or ``10``."""
    name = text.upper().removeprefix("SIG")
    known = {one.name.removeprefix("SIG"): one for one in signal.Signals} | {
        str(int(one)): one for one in signal.Signals
    }
    if name not in known:
        raise Usage(f'{flag}: "{text}" is not a signal', "write its name: TERM, USR1, INT")
    return known[name]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gpurun {__version__}")
        raise typer.Exit


def gpurun(
    command: Annotated[list[str], typer.Argument(help="What to run.", metavar="COMMAND")],
    gpus: Gpus = None,
    vram: Vram = None,
    gpu_class: GpuClass = None,
    priority: Priority = None,
    wait: Wait = None,
    name: Name = None,
    ttl: Annotated[
        str, typer.Option(help="How long the lease outlives gpurun, where that is killed.", metavar="TIME")
    ] = TTL,
    loss_signal: Annotated[
        str, typer.Option("--signal", help="What the command gets when its lease is lost.", metavar="SIGNAL")
    ] = "TERM",
    loss_grace: Annotated[
        str, typer.Option("--loss-grace", help="How long until SIGKILL then; 0 at once.", metavar="TIME")
    ] = "10s",
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Say nothing unless it has to wait or something is wrong.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Progress and errors as JSON, a line each, on stderr.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback has done it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Run a command with GPUs of its own, as soon as there are any.

    Waits for its turn, sets CUDA_VISIBLE_DEVICES, runs the command, and gives the GPUs back when it ends. Signals,
    Ctrl-C and Ctrl-Z are the command's; its exit status is passed on. While the command is stopped its lease is held;
    a wait that is stopped keeps its place in the queue. Inside another gpurun the lease of that one is used.
    """
    from supervisor.cli.borrower import Wish  # noqa: PLC0415
    from supervisor.cli.gpurun import Manner  # noqa: PLC0415
    from supervisor.cli.gpurun import gpurun as run_it  # noqa: PLC0415
    from supervisor.cli.hold.command import Parting  # noqa: PLC0415
    from supervisor.cli.output import complain  # noqa: PLC0415

    try:
        wish = Wish(
            target=None,
            owner=whoami() if name is None else f"{whoami()}:{name}",
            priority=priority,
            ttl_s=seconds("--ttl", ttl),
            wait_s=None if wait is None else seconds("--wait", wait),
            wait_ready=True,
            ready_timeout_s=READY_S,
            gpus=gpus,
            vram_mib=None if vram is None else mebibytes("--vram", vram),
            gpu_class=gpu_class,
        )
        parting = Parting(signal_named("--signal", loss_signal), seconds("--loss-grace", loss_grace))
        status = run_it(wish, command, Manner(parting=parting, as_json=as_json, quiet=quiet))
    except SupervisorError as error:  # here, because only here --json is ours for sure, and not the command's
        raise typer.Exit(complain(error, as_json=as_json)) from None
    raise typer.Exit(status)


app = typer.Typer(
    name="gpurun", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True
)
app.command(
    # What follows the command's name is the command's, with -- before it or without.
    context_settings={"allow_interspersed_args": False},
    no_args_is_help=True,
    epilog=epilog(
        "gpurun -- python3 train.py",
        "gpurun -n 4 -- torchrun --nproc_per_node=4 train.py",
        "gpurun --vram 8GiB --wait 2h --name eval -- ./eval.sh",
        "gpurun --signal USR1 --loss-grace 1m -- python3 train.py",
        "gpurun --json --wait 0 -- python3 train.py",
        statuses=(FAILED, USAGE, BUSY, UNREACHABLE, LOST),
        more="Else the command's own status; 128 and the signal's number where a signal ended it, or ended the wait; "
        "126 or 127 where it cannot be run. The server is found through GPU_SUPERVISOR_URL; over a unix socket the "
        "lease ends at once where gpurun is killed, else by its TTL.",
    ),
)(gpurun)
