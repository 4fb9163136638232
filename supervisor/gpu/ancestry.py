"""Where a process came from: its parent, the parent of that, and so on up to init."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from supervisor.core.values import shown
from supervisor.gpu.proc_files import ProcessFiles, Stat

#: Deeper trees exist (a build in a shell in a container in ...), and the nearest ancestors tell the most.
ANCESTORS_MAX = 32
#: A parent that ends at every look: give up, and say only what was seen.
_LOOKS_MAX = 3

_ARGUMENTS_MAX = 64
_ARGUMENT_MAX = 200
_COMMAND_BYTES_MAX = 4096


class Ancestor(Struct, frozen=True):
    """One process that another descends from. ``started`` as in ``Stat``; texts are made fit to be shown."""

    pid: int
    started: int
    name: str
    command: tuple[str, ...]


def read_command(files: ProcessFiles) -> tuple[str, ...]:
    """Return the arguments that a process shows, escaped and cut: 64 of them, each of 200 characters, 4 KiB in all.

    Empty for a kernel thread and for a process that has ended. A process may write here what it likes.
    """
    raw = files.read("cmdline", _COMMAND_BYTES_MAX).rstrip(b"\0")
    if not raw:
        return ()
    arguments = raw.decode(errors="surrogateescape").split("\0")
    return tuple(shown(argument, _ARGUMENT_MAX) for argument in arguments[:_ARGUMENTS_MAX])


def ancestors_of(files: ProcessFiles, proc: Path = Path("/proc")) -> tuple[Ancestor, ...]:
    """Return the ancestors of a process, its parent first, at most 32; what cannot be read ends the list."""
    found: list[Ancestor] = []
    child = files
    try:
        while len(found) < ANCESTORS_MAX:
            step = _parent_of(child, proc)
            if step is None:
                break
            ancestor, parent = step
            found.append(ancestor)
            if child is not files:
                child.close()
            child = parent
    finally:
        if child is not files:
            child.close()
    return tuple(found)


def _parent_of(child: ProcessFiles, proc: Path) -> tuple[Ancestor, ProcessFiles] | None:
    """Read the parent of ``child``, and hand it out open; None at the top, or where nothing more can be read.

    The number alone could mislead:
    1. the child names its parent; 2. the parent ends and is reaped; 3. its pid is given to somebody else;
    4. we open that pid. But then the child was given another parent at step 2: so it is asked again.
    """
    for _ in range(_LOOKS_MAX):
        try:
            pid = child.stat().parent
            if pid == 0:
                return None
            parent = ProcessFiles(pid, proc)
        except ProcessLookupError:
            if _is_gone(child):
                return None
            continue
        except PermissionError:
            return None
        try:
            ancestor = _describe(parent, parent.stat())
            if child.stat().parent == pid:
                return ancestor, parent
        except ProcessLookupError:
            pass
        except PermissionError:
            parent.close()
            return None
        parent.close()
    return None


def _describe(files: ProcessFiles, stat: Stat) -> Ancestor:
    try:
        command = read_command(files)
    except PermissionError:
        command = ()
    return Ancestor(stat.pid, stat.started, shown(stat.name), command)


def _is_gone(files: ProcessFiles) -> bool:
    try:
        files.stat()
    except (ProcessLookupError, PermissionError):
        return True
    return False
