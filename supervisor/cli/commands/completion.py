"""``completion``: the script that makes a shell complete our commands, options and the names of targets."""

from __future__ import annotations

import os
from enum import Enum
from typing import Annotated

import typer

from supervisor.cli.options import epilog


def variable(program: str) -> str:
    """Return what the script sets when it asks a program for words."""
    return f"_{program.replace('-', '_').upper()}_COMPLETE"


class Program(str, Enum):  # noqa: UP042 - as below
    supervisor = "gpu-supervisor"
    gpurun = "gpurun"


class Shell(str, Enum):  # noqa: UP042 - typer reads the values of a plain one alike in all its versions
    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="Which shell.", metavar="bash|zsh|fish")],
    program: Annotated[
        Program, typer.Argument(help="Whose words.", metavar="[gpu-supervisor|gpurun]")
    ] = Program.supervisor,
) -> None:
    """Print a shell's completion script.

    It completes commands, options, and the names of targets, which come
    from the server, where one answers within half a second.
    """
    # It is what typer's own --show-completion prints, and in no list of exports.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # noqa: PLC0415

    name = program.value
    typer.echo(get_completion_script(prog_name=name, complete_var=variable(name), shell=shell.value))


def prepare(program: str) -> None:
    """Let typer answer the script, where it is the script that asks: only its own options would, else."""
    if variable(program) in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]  # noqa: PLC0415

        completion_init()


def register(app: typer.Typer) -> None:
    app.command(
        epilog=epilog(
            "source <(gpu-supervisor completion bash)",
            "source <(gpu-supervisor completion bash gpurun)",
            "gpu-supervisor completion zsh > ~/.zfunc/_gpu-supervisor",
            "gpu-supervisor completion fish > ~/.config/fish/completions/gpu-supervisor.fish",
        )
    )(completion)
