"""``shim install | list | remove``: tools that nobody can change ask for a GPU, too."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli.commands.gpurun import GpuClass, Gpus, Priority, Vram, Wait
from supervisor.cli.options import AsJson, epilog, mebibytes, seconds

shim_app = typer.Typer(
    name="shim",
    help="Programs for the front of the PATH that lease a GPU, then run the real one of their name.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=epilog("gpu-supervisor shim install whisper --vram 6GiB", "gpu-supervisor shim list"),
)


class WhenDown(str, Enum):  # noqa: UP042 - typer reads the values of a plain one alike in all its versions
    run = "run"
    refuse = "refuse"


def shim_names(incomplete: str) -> list[str]:
    """Complete the name of a shim in the usual folder."""
    from supervisor.cli.shims import default_folder, installed  # noqa: PLC0415

    return [shim.name for shim in installed(default_folder()) if shim.name.startswith(incomplete)]


Folder = Annotated[
    Path | None,
    typer.Option(
        "--dir", help="Where shims are. [~/.local/share/gpu-supervisor/shims]", metavar="DIR", show_default=False
    ),
]
Name = Annotated[str, typer.Argument(help="The program, as it is typed.", metavar="NAME")]
ShimName = Annotated[str, typer.Argument(help="Which one.", metavar="NAME", autocompletion=shim_names)]


@shim_app.command(
    epilog=epilog(
        "gpu-supervisor shim install whisper",
        "gpu-supervisor shim install train-lora --gpus 2 --vram 16GiB --wait 2h",
        "gpu-supervisor shim install blender --when-down refuse",
    )
)
def install(
    name: Name,
    gpus: Gpus = None,
    vram: Vram = None,
    gpu_class: GpuClass = None,
    priority: Priority = None,
    wait: Wait = None,
    when_down: Annotated[
        WhenDown, typer.Option(help="What to do where no supervisor answers.", metavar="run|refuse")
    ] = WhenDown.run,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Put a program called NAME into a folder for the front of the PATH.

    It leases what is asked for here, then runs the real NAME with its arguments, and passes its exit status and signals
    on. Under a lease already, as inside gpurun or another shim, it only runs the real one. Where no supervisor answers
    it runs it all the same, with a warning, or refuses; where one answers and is busy, it waits.
    """
    from supervisor.cli.shims import Terms, default_folder  # noqa: PLC0415
    from supervisor.cli.shims import install as write  # noqa: PLC0415

    terms = Terms(
        gpus=gpus,
        vram_mib=None if vram is None else mebibytes("--vram", vram),
        gpu_class=gpu_class,
        priority=priority,
        wait_s=None if wait is None else seconds("--wait", wait),
        when_down=when_down.value,
    )
    write(name, folder or default_folder(), terms, as_json=as_json)


@shim_app.command("list", epilog=epilog("gpu-supervisor shim list"))
def list_(folder: Folder = None, as_json: AsJson = False) -> None:
    """Show the shims, what each asks for and what it runs."""
    from supervisor.cli.shims import default_folder, show  # noqa: PLC0415

    show(folder or default_folder(), as_json=as_json)


@shim_app.command(epilog=epilog("gpu-supervisor shim remove whisper"))
def remove(name: ShimName, folder: Folder = None, as_json: AsJson = False) -> None:
    """Remove a shim. A file that is none is left alone."""
    from supervisor.cli.shims import default_folder  # noqa: PLC0415
    from supervisor.cli.shims import remove as delete  # noqa: PLC0415

    delete(name, folder or default_folder(), as_json=as_json)
