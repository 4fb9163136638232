"""Shims: small programs for the front of the PATH, each of which leases GPUs and then runs the real one of its name.

So tools that nobody can change ask before they use a GPU. A file that is not marked as ours is never touched.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from supervisor.cli.errors import Usage
from supervisor.cli.output import answer, answer_json, say
from supervisor.core.errors import SupervisorError

#: In the second line of every shim.
MARK = "# A gpu-supervisor shim:"
_MARKED_BYTES = 400
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}")
#: What a shim itself runs, or would wait for.
_OWN = frozenset({"gpurun", "gpu-supervisor"})
_TERMS = "# terms: "

WhenDown = Literal["run", "refuse"]


class Terms(Struct, frozen=True, omit_defaults=True):
    """What a shim asks for; kept in its file as JSON."""

    gpus: int | None = None
    vram_mib: int | None = None
    gpu_class: str | None = None
    priority: int | None = None
    wait_s: int | None = None
    when_down: WhenDown = "run"


class Shim(Struct, frozen=True):
    """``real``: what it runs now, "" where there is none."""

    name: str
    path: str
    real: str
    terms: Terms


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    data = environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "gpu-supervisor" / "shims"


# ---- the real one


def find_real(name: str, folder: Path, path: str) -> str | None:
    """Return the file that ``name`` means on a PATH without ``folder``, or None. Other shims are passed over."""
    ours = folder.resolve()
    for part in path.split(os.pathsep):
        # As execvp(3): an empty part is the working folder.
        file = Path(part or ".") / name
        if file.parent.resolve() == ours or not file.is_file() or not os.access(file, os.X_OK):
            continue
        if not is_shim(file):
            return str(file.absolute())
    return None


def is_shim(file: Path) -> bool:
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(_MARKED_BYTES).partition(b"\n")[2].startswith(MARK.encode())
    return False


# ---- files


def install(name: str, folder: Path, terms: Terms, *, as_json: bool) -> None:
    """Write a shim, or write it anew.

    Raises:
        Usage: a name that no shim can have, or a file that is not ours is in the way.
    """
    file = _file(name, folder)
    if os.path.lexists(file) and not is_shim(file):
        raise Usage(f"{file} is not a shim: it is left alone", "choose another folder with --dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{name}.new")
        fresh.write_text(script(name, folder, terms), encoding="utf-8")
        fresh.chmod(0o755)
        fresh.replace(file)
    except OSError as error:
        raise SupervisorError(f"{file} cannot be written: {(error.strerror or str(error)).lower()}") from error
    todo = advice(name, folder)
    if as_json:
        answer_json({"installed": str(file), "advice": todo})
        return
    answer(f"installed {file}")
    for line in todo:
        say(line)


def remove(name: str, folder: Path, *, as_json: bool) -> None:
    """Remove a shim. Raises ``SupervisorError``: there is none, or the file is not ours."""
    file = _file(name, folder)
    if not os.path.lexists(file):
        raise SupervisorError(f"there is no shim {file}", "see which there are: gpu-supervisor shim list")
    if not is_shim(file):
        raise SupervisorError(f"{file} is not a shim: it is left alone")
    file.unlink()
    if as_json:
        answer_json({"removed": str(file)})
    else:
        answer(f"removed {file}")


def installed(folder: Path) -> Iterator[Shim]:
    """Yield the shims of a folder, by name; what else is in it is passed over."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_file() and is_shim(file) and _NAME.fullmatch(file.name):
            yield Shim(file.name, str(file), find_real(file.name, folder, _path()) or "", terms_of(file))


def terms_of(file: Path) -> Terms:
    """Read what a shim asks for. Raises ``SupervisorError``."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    found = next((line.removeprefix(_TERMS) for line in lines if line.startswith(_TERMS)), "{}")
    try:
        return msgspec.json.decode(found, type=Terms)
    except msgspec.DecodeError as error:
        raise SupervisorError(
            f"{file} is not understood: {error}", f"install it anew: gpu-supervisor shim install {file.name}"
        ) from error


def show(folder: Path, *, as_json: bool) -> None:
    shims = list(installed(folder))
    if as_json:
        answer_json({"folder": str(folder), "shims": shims})
        return
    if not shims:
        answer(f"no shims in {folder}")
    for shim in shims:
        real = f"runs {shim.real}" if shim.real else "no real one is on the PATH"
        answer(f"{shim.name}: {real}; {_spelled(shim.terms)}")
        for line in advice(shim.name, folder):
            say(line)


def script(name: str, folder: Path, terms: Terms) -> str:
    """Return the text of a shim. The interpreter is named with its path: on the PATH there may be a shim of it, too."""
    python = shlex.quote(sys.executable)
    gone = f"gpu-supervisor, which made this shim, is gone ({sys.executable}): remove {folder / name}"
    return f"""#!/bin/sh
{MARK} leases a GPU, then runs the real {name}. Remove it with: gpu-supervisor shim remove {name}
{_TERMS}{msgspec.json.encode(terms).decode()}
[ -x {python} ] || {{ echo {shlex.quote(gone)} >&2; exit 127; }}
exec {python} -P -m supervisor.cli.shimmed "$0" "$@"
"""


def advice(name: str, folder: Path) -> list[str]:
    """Say what is still to be done for a shim to be what its name means."""
    path = _path()
    lines = []
    if find_real(name, folder, path) is None:
        lines.append(f"warning: no {name} is on the PATH yet: until there is one the shim has nothing to run")
    first = next((part for part in path.split(os.pathsep) if (Path(part or ".") / name).is_file()), None)
    if first is None or Path(first or ".").resolve() != folder.resolve():
        lines.append(f'next: export PATH="{folder}:$PATH"  (the folder must come first on the PATH)')
    return lines


def _path() -> str:
    return os.environ.get("PATH") or os.defpath


def _file(name: str, folder: Path) -> Path:
    if not _NAME.fullmatch(name) or name in _OWN:
        raise Usage(f'"{name}" cannot be shimmed', "name a program as you type it: no folder, and none of our own")
    return folder / name


def _spelled(terms: Terms) -> str:
    said: dict[str, Any] = msgspec.structs.asdict(terms)
    words = {
        "gpus": "{} GPUs",
        "vram_mib": "{} MiB on each",
        "gpu_class": "class {}",
        "priority": "priority {}",
        "wait_s": "waits at most {} s",
    }
    asked = [words[key].format(said[key]) for key in words if said[key] is not None] or ["one GPU"]
    down = "it runs all the same" if terms.when_down == "run" else "it is refused"
    return f"{', '.join(asked)}; when no supervisor answers {down}"
