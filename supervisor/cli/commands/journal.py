"""``journal show``, ``verify`` and ``salvage``: the files of the journal. The server need not run."""

from __future__ import annotations

from typing import Annotated

import typer

from supervisor.cli.errors import FAILED, OK, USAGE
from supervisor.cli.options import ConfigFile, DataDir, epilog

journal_app = typer.Typer(
    name="journal",
    help="Look into the journal, and mend it.",
    no_args_is_help=True,
    epilog=epilog("gpu-supervisor journal show --after 100", "gpu-supervisor journal verify"),
)
STATUSES = (OK, FAILED, USAGE)


@journal_app.command(
    "show",
    epilog=epilog(
        "gpu-supervisor journal show", "gpu-supervisor journal show --after 100 --limit 20 --json", statuses=STATUSES
    ),
)
def show(
    after: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Only facts numbered above this.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, metavar="NUMBER", help="At most so many records.")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print the facts, record by record, and every bad place between them. Changes nothing."""
    from supervisor.cli.journal import show_records  # noqa: PLC0415

    raise typer.Exit(show_records(data_dir, config, after, limit, as_json=as_json))


@journal_app.command("verify", epilog=epilog("gpu-supervisor journal verify", statuses=STATUSES))
def verify(
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Check every byte. Exit status 1 where something is damaged. Changes nothing."""
    from supervisor.cli.journal import show_verdict  # noqa: PLC0415

    raise typer.Exit(show_verdict(data_dir, config, as_json=as_json))


@journal_app.command(
    "salvage",
    epilog=epilog("gpu-supervisor journal salvage", "gpu-supervisor journal salvage --skip-damage", statuses=STATUSES),
)
def salvage(
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
