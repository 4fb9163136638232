"""``completion``: the script that makes a shell complete our commands, options and the names of targets."""

from __future__ import annotations

import os
from enum import Enum
from typing import Annotated

import typer

from supervisor.cli.options import epilog

#: Set by the script when it asks for words.
VARIABLE = "_GPU_SUPERVISOR_COMPLETE"


class Shell(str, Enum):  # noqa: UP042 - typer reads the values of a plain one alike in all its versions
    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Which shell.", metavar="bash|zsh|fish")]) -> None:
    """Print a shell's completion script.

    It completes commands, options, and the names of targets, which come
    from the server, where one answers within half a second.
    """
    # It is what typer's own --show-completion prints, and in no list of exports.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # noqa: PLC0415

    typer.echo(get_completion_script(prog_name="gpu-supervisor", complete_var=VARIABLE, shell=shell.value))


def prepare() -> None:
    """Let typer answer the script, where it is the script that asks: only its own options would, else."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]  # noqa: PLC0415

        completion_init()


def register(app: typer.Typer) -> None:
    app.command(
        epilog=epilog(
            "source <(gpu-supervisor completion bash)",
            "gpu-supervisor completion zsh > ~/.zfunc/_gpu-supervisor",
            "gpu-supervisor completion fish > ~/.config/fish/completions/gpu-supervisor.fish",
        )
    )(completion)
