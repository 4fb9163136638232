"""The command line: every command with its options, its help, and nothing else.

What the commands do is imported when they run: `--help` must not wait for an HTTP client.
"""

from __future__ import annotations

import getpass
import inspect
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor import __version__
from supervisor.cli import errors
from supervisor.cli.errors import Usage
from supervisor.cli.output import complain
from supervisor.core.errors import SupervisorError
from supervisor.core.values import BadValue, parse_duration_ms
from supervisor.settings import SETTINGS

EXIT_STATUS = "Exit status: " + "; ".join(f"{status} {meaning}" for status, meaning in errors.MEANINGS.items()) + "."

app = typer.Typer(
    name="gpu-supervisor",
    help="Leases for the GPU of one box, steered by labels on Docker Compose stacks.",
    epilog=f"The server is found through GPU_SUPERVISOR_URL (http://... or unix:///...). {EXIT_STATUS}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
journal_app = typer.Typer(name="journal", help="Look into the journal, and mend it.", no_args_is_help=True)
app.add_typer(journal_app)


def run(arguments: list[str]) -> int:
    """Run one command line. What follows ``--`` after ``acquire`` is a command to run, whatever it looks like."""
    command: list[str] = []
    if arguments[:1] == ["acquire"] and "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
        if not command:
            return complain(Usage("there is no command after --", "write: gpu-supervisor acquire TARGET -- COMMAND"))
    try:
        app(args=arguments, prog_name="gpu-supervisor", obj=command)
    except SupervisorError as error:
        return complain(error)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else errors.FAILED
    return errors.OK


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


# ---- options that several commands have

AsJson = Annotated[bool, typer.Option("--json", help="Print the server's answer as it is.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.", metavar="FILE")]
DataDir = Annotated[str | None, typer.Option("--data-dir", help="Where the journal lies.", metavar="DIR")]


def _seconds(flag: str, text: str) -> int:
    """Read a duration in whole seconds, rounded up: the interface counts in those."""
    try:
        return -(-parse_duration_ms(text) // 1000)
    except BadValue as error:
        raise Usage(f"{flag}: {error}", error.hint) from error


# ---- the server


def serve(config: Path | None, **flags: Any) -> None:
    """Run the supervisor until SIGTERM or Ctrl-C.

    Without any option it listens on 127.0.0.1:8080, uses the local Docker Engine, and takes the machine for one with
    one exclusive GPU. Settings come from defaults, TOML files (/etc/gpu-supervisor/config.toml and
    ~/.config/gpu-supervisor/config.toml, or --config), GPU_SUPERVISOR_<NAME> and options, the later the stronger.
    """
    from supervisor.cli.serve import serve as run_server  # noqa: PLC0415

    given = {key: "true" if value is True else value for key, value in flags.items() if value is not False}
    raise typer.Exit(run_server(given, config))


def _with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Give ``serve`` an option for each setting: the table in ``supervisor.settings`` is the only list of them."""
    parameters = [inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigFile)]
    for setting in SETTINGS:
        words = f"{setting.meaning.replace('`', '')} [{setting.default_shown.replace('`', '')}]"
        boolean = setting.kind == "boolean"
        option = typer.Option(setting.flag, help=words, metavar=None if boolean else setting.metavar)
        annotation = Annotated[bool, option] if boolean else Annotated[str | None, option]
        default = False if boolean else None
        parameters.append(
            inspect.Parameter(setting.key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


app.command()(_with_settings(serve))


# ---- leases


@app.command()
def acquire(
    context: typer.Context,
    target: Annotated[str | None, typer.Argument(help="Which stack. None with --bare.", show_default=False)] = None,
    owner: Annotated[str | None, typer.Option(help="Who asks, for the others. [USER@HOST]", show_default=False)] = None,
    priority: Annotated[
        int | None,
        typer.Option(help="Higher goes first. [the target's label]", show_default=False, min=-1000, max=1000),
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
    detach: Annotated[bool, typer.Option("--detach", help="Print the token and leave the lease to you.")] = False,
) -> None:
    """Lease the GPU for a target, and hold it.

    Waits for the turn, makes room, starts the target, and waits until it is healthy. Holds until Ctrl-C or, with
    -- COMMAND, until the command ends, whose exit status is passed on. The lease is renewed while it is held; if it is
    lost, the command is ended.
    """
    from supervisor.cli.acquire import acquire as hold  # noqa: PLC0415
    from supervisor.cli.borrower import Wish  # noqa: PLC0415

    command: list[str] = context.obj
    if bare == (target is not None):
        raise Usage(
            "name a target, or say --bare, and not both", "gpu-supervisor acquire TARGET [-- COMMAND]; see: status"
        )
    if detach and command:
        raise Usage("--detach leaves at once, so it cannot hold the lease for a command", "leave one of them out")
    wish = Wish(
        target=target,
        owner=_whoami() if owner is None else owner,
        priority=priority,
        ttl_s=_seconds("--ttl", ttl or ("5m" if detach else "60s")),
        wait_s=None if wait is None else _seconds("--wait", wait),
        wait_ready=not no_wait_ready,
        ready_timeout_s=_seconds("--ready-timeout", ready_timeout),
    )
    raise typer.Exit(hold(wish, command, detach=detach))


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in many containers
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


@app.command()
def release(
    token: Annotated[str | None, typer.Argument(help="What --detach printed; - reads it from stdin.")] = None,
    target: Annotated[str | None, typer.Option(help="With --force: whose lease.")] = None,
    force: Annotated[bool, typer.Option("--force", help="End somebody else's lease.")] = False,
) -> None:
    """Give a lease back, or cancel a place in the queue."""
    from supervisor.cli.release import force_release, release_token  # noqa: PLC0415

    if force and token is None:
        force_release(target)
    elif token is not None and not force and target is None:
        from_stdin = token == "-"  # noqa: S105 - where it comes from, not what it is
        release_token(sys.stdin.readline().strip() if from_stdin else token)
    else:
        raise Usage("name the token of a lease, or --force", "gpu-supervisor release TOKEN, or --target NAME --force")


# ---- reading


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show who holds the GPU, who waits, and what every target does."""
    from supervisor.cli.status import show_status  # noqa: PLC0415

    show_status(as_json=as_json)


@app.command()
def why(
    name: Annotated[str, typer.Argument(help="A container or a target.")],
    as_json: AsJson = False,
) -> None:
    """Say why a container was stopped.

    Who decided it, when, for whom, and what to type to get the GPU.
    """
    from supervisor.cli.audit import show_why  # noqa: PLC0415

    show_why(name, as_json=as_json)


@app.command()
def audit(
    target: Annotated[str | None, typer.Option(help="Only this target.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many decisions.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is decided from now on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what was decided, and why."""
    from supervisor.cli.audit import show_audit  # noqa: PLC0415

    raise typer.Exit(show_audit(target, limit, follow=follow, as_json=as_json))


@app.command()
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Compose files. Without any: the containers that are there.")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="The Compose project of the files.")] = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print targets and problems as JSON.")] = False,
) -> None:
    """Check labels, before anything starts.

    Those of compose files, or of the containers that are there. Exit status 1 if a label must be mended, or nothing is
    labelled; not for warnings.
    """
    from supervisor.cli.check import show_check  # noqa: PLC0415

    raise typer.Exit(show_check(files or [], project, config, as_json=as_json))


# ---- the journal


@journal_app.command("show")
def journal_show(
    after: Annotated[int, typer.Option(min=0, help="Only facts numbered above this.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many records.")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print the facts, record by record, and every bad place between them. Changes nothing."""
    from supervisor.cli.journal import show_records  # noqa: PLC0415

    raise typer.Exit(show_records(data_dir, config, after, limit, as_json=as_json))


@journal_app.command("verify")
def journal_verify(
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Check every byte. Exit status 1 where something is damaged. Changes nothing."""
    from supervisor.cli.journal import show_verdict  # noqa: PLC0415

    raise typer.Exit(show_verdict(data_dir, config, as_json=as_json))


@journal_app.command("salvage")
def journal_salvage(
    skip_damage: Annotated[
        bool, typer.Option("--skip-damage", help="Take over what is readable behind the damage, too.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Make a damaged journal usable again: keep what is good up to the damage, put the damaged files aside.

    The supervisor must be stopped. Says what is lost.
    """
    from supervisor.cli.journal import mend  # noqa: PLC0415

    raise typer.Exit(mend(data_dir, config, skip_damage=skip_damage, as_json=as_json))
