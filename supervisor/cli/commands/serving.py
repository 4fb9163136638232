"""``serve`` and ``config``: the server, and what it would run with."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from supervisor.cli.errors import FAILED, OK, USAGE
from supervisor.cli.options import AsJson, ConfigFile, epilog, given_settings, with_settings

config_app = typer.Typer(
    name="config",
    help="Show the settings in force, or write a file.",
    no_args_is_help=True,
    epilog=epilog("gpu-supervisor config init", "gpu-supervisor config show"),
)


def serve(config: ConfigFile = None, **flags: Any) -> None:
    """Run the supervisor until SIGTERM or Ctrl-C.

    Without any option it listens on 127.0.0.1:8080, uses the local Docker Engine, and takes the machine for one with
    one exclusive GPU. Settings come from defaults, TOML files (/etc/gpu-supervisor/config.toml and
    ~/.config/gpu-supervisor/config.toml, or --config), GPU_SUPERVISOR_<NAME> and options, the later the stronger.
    """
    from supervisor.cli.serve import serve as run_server  # noqa: PLC0415

    raise typer.Exit(run_server(given_settings(flags), config))


def show(config: ConfigFile = None, as_json: AsJson = False, **flags: Any) -> None:
    """Print the settings in force as TOML, each with its origin as a comment.

    Give it the options that serve gets: it shows what serve would run with. What it prints is a settings file that
    means the same.
    """
    from supervisor.cli.config import show_config  # noqa: PLC0415

    show_config(given_settings(flags), config, as_json=as_json)


config_app.command(
    "show",
    epilog=epilog(
        "gpu-supervisor config show",
        "gpu-supervisor config show --config /etc/gpu-supervisor/config.toml --port 9000",
        "gpu-supervisor config show > config.toml",
        statuses=(OK, USAGE),
    ),
)(with_settings(show))


@config_app.command(
    "init",
    epilog=epilog(
        "gpu-supervisor config init",
        "gpu-supervisor config init ./gpu-supervisor.toml --force",
        "gpu-supervisor config init - | less",
        statuses=(OK, FAILED),
    ),
)
def init(
    file: Annotated[
        str | None,
        typer.Argument(
            help="Where to write it; - prints it. [/etc/gpu-supervisor/config.toml as root, else your own]",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a settings file that explains every setting, with all of them commented out."""
    from supervisor.cli.config import init_config  # noqa: PLC0415

    init_config(file, force=force, as_json=as_json)


def register(app: typer.Typer) -> None:
    app.command(
        epilog=epilog(
            "gpu-supervisor serve",
            "gpu-supervisor serve --gpus sim:1x24576 --port 0 --data-dir /tmp/gpu",
            "gpu-supervisor serve --config /etc/gpu-supervisor/config.toml --enforce observe",
            statuses=(OK, FAILED, USAGE),
        )
    )(with_settings(serve))
