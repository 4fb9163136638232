"""Who uses a GPU, as it was found; and who may, whatever holds the leases: the list of the allowed.

Plain values. What they mean for the leases that there are is said in ``strangers``.
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from supervisor.core.model import FinishedUse
from supervisor.core.values import BadValue, shown

Kind = Literal["compute", "graphics", "mps"]
Standing = Literal["leased", "resident", "bare_lease", "allowed", "unapproved", "unleased"]
Outlived = Literal["target", "allowed", "unknown", "unapproved"]
Policy = Literal["observe", "warn", "terminate"]
ALLOWED_HINT = "write user=NAME, exe=GLOB, cgroup=GLOB or container=GLOB, with + between what must all be true"
ALLOWED_MAX = 100


class Ancestor(Struct, frozen=True):
    """One process that another descends from. ``started`` in clock ticks since the boot."""

    pid: int
    started: int
    name: str
    command: tuple[str, ...] = ()


class Use(Struct, frozen=True):
    """What a process has of one GPU. ``used_mib`` None: the driver does not say."""

    gpu: str
    used_mib: int | None
    kind: str = "compute"


class SeenProcess(Struct, frozen=True, kw_only=True):
    """One process that uses GPUs. (``pid``, ``started``) is its identity: a pid alone comes back.

    ``started``: clock ticks since the boot; 0 where even that may not be read. ``uid``, ``user``, ``root`` (one of its
    user ids is 0), ``executable`` and ``cgroup`` are None where they may not be read. ``containers``: ids of the
    containers it is in, the outermost first. ``ancestors``: the parent first. ``denied``: what may not be read.
    """

    pid: int
    started: int
    uses: tuple[Use, ...]
    started_wall_ms: int = 0
    name: str = ""
    uid: int | None = None
    user: str | None = None
    root: bool | None = None
    executable: str | None = None
    command: tuple[str, ...] = ()
    cgroup: str | None = None
    containers: tuple[str, ...] = ()
    ancestors: tuple[Ancestor, ...] = ()
    kernel_thread: bool = False
    denied: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[int, int]:
        return (self.pid, self.started)

    @property
    def users(self) -> tuple[str, ...]:
        """Its user by name and by number, as far as they may be read."""
        number = (str(self.uid),) if self.uid is not None else ()
        return (self.user, *number) if self.user is not None else number

    @property
    def used_mib(self) -> int | None:
        """What it uses of all GPUs together; None if of one of them nobody says."""
        sizes = [use.used_mib for use in self.uses]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def descends_from(self, pid: int, started: int) -> bool:
        """Return whether it is that process, or one of its descendants."""
        return self.identity == (pid, started) or any((a.pid, a.started) == (pid, started) for a in self.ancestors)


class Finished(Struct, frozen=True, kw_only=True):
    """A process that nobody looked at while it used a GPU, and what can still be said of it.

    ``standing``: ``target``: it was in a container of ``target``; ``allowed``: in a container that is on the list of
    the allowed; ``unknown``: it may have been anybody's, and ``meanwhile`` are targets and owners of bare leases that
    had the GPU then; ``unapproved``: nobody had it. ``container``: a name, or an id where no name is known.
    """

    use: FinishedUse
    standing: Outlived
    target: str | None = None
    container: str | None = None
    meanwhile: tuple[str, ...] = ()


class Allowed(Struct, frozen=True):
    """A kind of process that may use GPUs without a lease: every word that is given must be true of it.

    ``executable``, ``cgroup`` and ``container`` (a name or an id) are globs; ``user`` is a name or a number.
    """

    user: str | None = None
    executable: str | None = None
    cgroup: str | None = None
    container: str | None = None

    def __str__(self) -> str:
        """Return the entry as ``parse_allowed`` reads it."""
        given = ((word, getattr(self, field)) for word, field in _WORDS.items())
        return "+".join(f"{word}={value}" for word, value in given if value is not None)

    def covers(self, process: SeenProcess, container_names: tuple[str, ...]) -> bool:
        """Return whether this allows ``process``; what may not be read of it is never true."""
        return (
            (self.user is None or self.user in process.users)
            and _is_like(self.executable, (process.executable,))
            and _is_like(self.cgroup, (process.cgroup,))
            and _is_like(self.container, (*container_names, *process.containers))
        )


def _is_like(glob: str | None, texts: tuple[str | None, ...]) -> bool:
    return glob is None or any(text is not None and _compiled(glob).match(text) for text in texts)


@lru_cache(maxsize=4 * ALLOWED_MAX)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


_WORDS = {"user": "user", "exe": "executable", "cgroup": "cgroup", "container": "container"}


def parse_allowed(text: str) -> tuple[Allowed, ...]:
    """Read a list like ``user=anna, exe=/usr/lib/xorg/*, user=bob+container=jupyter*``.

    Raises:
        BadValue: a word is not ``name=value``, its name is unknown, it comes twice, or there are more than 100.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if len(entries) > ALLOWED_MAX:
        raise BadValue(f"more than {ALLOWED_MAX} entries", "allow by user or by a glob")
    return tuple(dict.fromkeys(_parse_entry(entry) for entry in entries))


def _parse_entry(entry: str) -> Allowed:
    values: dict[str, str] = {}
    for word in entry.split("+"):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not value or name not in _WORDS:
            raise BadValue(f'"{shown(entry)}" allows nothing that can be told', ALLOWED_HINT)
        if _WORDS[name] in values:
            raise BadValue(f'"{shown(entry)}" says {name} twice', "two entries with a comma between allow either")
        values[_WORDS[name]] = value
    return Allowed(**values)
