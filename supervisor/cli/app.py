"""The command line as a whole: which commands there are, and how each way to end becomes an exit status."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from supervisor import __version__
from supervisor.cli import errors
from supervisor.cli.commands import completion, leases, reading, serving
from supervisor.cli.commands.journal import journal_app
from supervisor.cli.commands.serving import config_app
from supervisor.cli.commands.shim import shim_app
from supervisor.cli.commands.token import token_app
from supervisor.cli.errors import Usage
from supervisor.cli.options import epilog, exit_statuses
from supervisor.cli.output import complain
from supervisor.core.errors import SupervisorError

__all__ = ["app", "journal_app", "run"]

#: What typer raises for a command line that it cannot read. Newer versions of it bring their own click along, so the
#: class has no import that works with all of them.
WrongCommandLine: type[Any] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="gpu-supervisor",
    help="Leases for the GPU of one box, steered by labels on Docker Compose stacks.",
    epilog=epilog(
        "gpu-supervisor serve",
        "gpu-supervisor check compose.yml",
        "gpu-supervisor acquire llm -- docker compose up",
        "gpu-supervisor status --watch",
    )
    + "\n\nThe server is found through GPU_SUPERVISOR_URL (http://... or unix:///...), and sent the key in "
    "GPU_SUPERVISOR_TOKEN.\n\n" + exit_statuses(),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (serving, reading, leases, completion):
    part.register(app)
app.add_typer(journal_app)
app.add_typer(config_app)
app.add_typer(token_app)
app.add_typer(shim_app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gpu-supervisor {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Run one command line. What follows ``--`` after ``acquire`` is a command to run, whatever it looks like."""
    command: list[str] = []
    split = arguments[:1] == ["acquire"] and "--" in arguments
    if split:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    if split and not command:
        usage = Usage("there is no command after --", "write: gpu-supervisor acquire TARGET -- COMMAND")
        return complain(usage, as_json="--json" in arguments)
    return run_app(app, "gpu-supervisor", arguments, command)


def run_gpurun(arguments: list[str]) -> int:
    """Run one command line of ``gpurun``."""
    from supervisor.cli.commands.gpurun import app as gpurun_app  # noqa: PLC0415

    return run_app(gpurun_app, "gpurun", arguments)


def run_app(program: typer.Typer, name: str, arguments: list[str], command: list[str] | None = None) -> int:
    """Run a command line of one of our programs, and turn whatever ends it into an exit status."""
    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    completion.prepare(name)
    try:
        ended = program(args=arguments, prog_name=name, obj=command, standalone_mode=False)
    except WrongCommandLine as wrong:
        if type(wrong).__name__ == "NoArgsIsHelpError":
            wrong.show()  # which is the help
            return errors.USAGE
        return complain(_usage(wrong, name), as_json=as_json)
    except SupervisorError as error:
        return complain(error, as_json=as_json)
    except SystemExit as end:  # a pipe that was closed
        return end.code if isinstance(end.code, int) else errors.FAILED
    return ended if isinstance(ended, int) else errors.OK


def _usage(wrong: Any, program: str) -> Usage:
    """Say what is wrong with a command line, and what was meant."""
    path = wrong.ctx.command_path if wrong.ctx is not None else program
    message, _, near = wrong.message.partition(". Did you mean ")  # typer's, of commands
    if hasattr(wrong, "possibilities"):  # an option that there is not
        near = f"{wrong.possibilities[0]}?" if wrong.possibilities else ""
    elif not near:
        message = wrong.format_message().replace(": Value error, ", ": ")  # pydantic's, of what typer has it check
    hint = f"see: {path} --help"
    return Usage(message[:1].lower() + message[1:].rstrip("."), f"did you mean {near} {hint}" if near else hint)
