"""``token create``, ``list`` and ``revoke``: the keys of callers. The server need not run, and need not be told."""

from __future__ import annotations

from typing import Annotated

import typer

from supervisor.cli.errors import FAILED, OK, USAGE
from supervisor.cli.options import ConfigFile, DataDir, epilog

token_app = typer.Typer(
    name="token",
    help="Make, show and revoke keys: who may do what over HTTP.",
    no_args_is_help=True,
    epilog=epilog("gpu-supervisor token create ci --role lease", "gpu-supervisor token list"),
)
STATUSES = (OK, FAILED, USAGE)
Name = Annotated[str, typer.Argument(help="What it is called in lists and in the audit.", metavar="NAME")]


@token_app.command(
    "create",
    epilog=epilog(
        "gpu-supervisor token create grafana --role read",
        "gpu-supervisor token create ci --role lease --targets 'whisper*,@bare' --expires 30d",
        "GPU_SUPERVISOR_TOKEN=$(gpu-supervisor token create ops --role admin)",
        statuses=STATUSES,
    ),
)
def create(
    name: Name,
    role: Annotated[
        str,
        typer.Option(
            help="read: look; lease: and ask for leases; admin: and evict, open GPUs, take leases away.",
            metavar="ROLE",
            show_default=False,
        ),
    ],
    targets: Annotated[
        str,
        typer.Option(
            help="What it may lease and evict: names with * and ?, with commas; @bare for the GPU alone.",
            metavar="PATTERNS",
        ),
    ] = "*",
    expires: Annotated[
        str | None, typer.Option(help="How long it is good for, as in 30d. [for ever]", metavar="TIME")
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the key and what it may do as JSON.")] = False,
) -> None:
    """Make a key and print it, once: only its digest is kept.

    A server on the same data directory takes it over at once. From the first key on every caller over TCP needs one.
    """
    from supervisor.cli.token import create_key  # noqa: PLC0415

    create_key(name, role, targets, expires, data_dir, config, as_json=as_json)


@token_app.command("list", epilog=epilog("gpu-supervisor token list", statuses=STATUSES))
def show(
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the keys as JSON.")] = False,
) -> None:
    """Show every key: its name, role, targets and times, and never the key itself."""
    from supervisor.cli.token import show_keys  # noqa: PLC0415

    show_keys(data_dir, config, as_json=as_json)


@token_app.command("revoke", epilog=epilog("gpu-supervisor token revoke ci", statuses=STATUSES))
def revoke(
    name: Name,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Take a key away, at once. Its leases stay: end them with release --force."""
    from supervisor.cli.token import revoke_key  # noqa: PLC0415

    revoke_key(name, data_dir, config, as_json=as_json)
