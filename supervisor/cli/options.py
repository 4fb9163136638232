"""What several commands have in common: options, arguments, and the end of their help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli import errors
from supervisor.cli.errors import Usage
from supervisor.core.values import BadValue, parse_duration_ms, parse_size_mib
from supervisor.settings import SETTINGS

#: Completion must not be felt: a server that takes longer is as good as none.
COMPLETION_S = 0.5


# ---- names from the live server


def target_names(incomplete: str) -> list[str]:
    """Complete the name of a target."""
    return [name for name in _known(containers=False) if name.startswith(incomplete)]


def target_and_container_names(incomplete: str) -> list[str]:
    """Complete the name of a target or of one of its containers."""
    return [name for name in _known(containers=True) if name.startswith(incomplete)]


def _known(*, containers: bool) -> list[str]:
    """Nothing at all where no server answers: a line that is being typed is no place for an error."""
    from supervisor.cli.names import known_names  # noqa: PLC0415 - `--help` must not wait for it

    return known_names(containers=containers, within_s=COMPLETION_S)


# ---- options and arguments

AsJson = Annotated[bool, typer.Option("--json", help="Print the server's answer as it is, and errors as JSON.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.", metavar="FILE")]
DataDir = Annotated[str | None, typer.Option("--data-dir", help="Where the journal lies.", metavar="DIR")]
OfTarget = Annotated[
    str | None, typer.Option("--target", help="Only this target.", metavar="TARGET", autocompletion=target_names)
]
Token = typer.Argument(help="What acquire --detach printed; - reads it from stdin.", metavar="TOKEN")


def seconds(flag: str, text: str) -> int:
    """Read a duration in whole seconds, rounded up: the interface counts in those."""
    try:
        return -(-parse_duration_ms(text) // 1000)
    except BadValue as error:
        raise Usage(f"{flag}: {error}", error.hint) from error


def mebibytes(flag: str, text: str) -> int:
    """Read a size with its unit in MiB, rounded up."""
    try:
        return parse_size_mib(text)
    except BadValue as error:
        raise Usage(f"{flag}: {error}", error.hint) from error


def with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each setting, beside its own: ``supervisor.settings`` is the only list of them."""
    own = [
        parameter
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
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


def given_settings(flags: dict[str, object]) -> dict[str, str | None]:
    """Return what was typed of the options that ``with_settings`` added, by key."""
    return {key: "true" if value is True else str(value) for key, value in flags.items() if value not in (None, False)}


# ---- the end of a command's help

#: Begins a paragraph that is not wrapped anew.
AS_IT_IS = "\b"


def epilog(*lines: str, statuses: tuple[int, ...] = (), more: str = "") -> str:
    """Return the end of a help text: examples, then what the exit statuses mean, where that is more than the usual."""
    parts = ["\n".join([AS_IT_IS, "Examples:", *(f"  {line}" for line in lines)])]
    if statuses:
        parts.append(exit_statuses(statuses))
    return "\n\n".join([*parts, *([more] if more else [])])


def exit_statuses(which: tuple[int, ...] = tuple(errors.MEANINGS)) -> str:
    return "\n".join([AS_IT_IS, "Exit status:", *(f"  {status}  {errors.MEANINGS[status]}" for status in which)])
