"""Sees the cgroup of a container appear before its main process runs, and kills what may not run there and then.

1. An engine's runtime makes the cgroup; 2. puts a process of its own into it, which becomes the container's main one
only at the end of the preparations, tens of milliseconds later. In between it is killed, and the start call fails.

All of it happens in the thread that owns the state: whether a container may run is asked right before the kill, with
nothing in between. A container that is not known yet is asked for again for a moment. Whatever is missed (the kernel's
queue overflows, a parent is not known) the start event tells as ever: nothing depends on this.

Source: inotify(7); runc libcontainer/process_linux.go, ``initProcess.start`` (``manager.Apply`` before the bootstrap).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath

from inotify_simple import INotify, flags
from msgspec import Struct

from supervisor.cgroups.below import Below
from supervisor.cgroups.places import id_in
from supervisor.core.tripwire import Verdict

log = logging.getLogger(__name__)

#: How long a container that nobody knows is asked for, and one that may not run is watched until it is gone.
UNKNOWN_S, REFUSED_S = 0.5, 5.0
#: Between two looks: short while somebody is to be killed, growing while somebody is only to be known.
LOOK_S, LOOK_MAX_S = 0.001, 0.05
#: More are left to their start events.
PENDING_MAX = 1_024
_MASK = flags.CREATE | flags.ONLYDIR


class _Coming(Struct):
    """A container whose cgroup has appeared."""

    until_s: float
    refused: bool = False
    hit: bool = False


class Tripwire:
    """Belongs to the loop that owns the state; nothing but ``learned`` may be called from another thread."""

    def __init__(
        self,
        below: Below,
        judge: Callable[[str], Verdict],
        hit: Callable[[str], None],
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        """``hit`` is told of every container that was killed, once, right after; ``hurry`` that some are coming."""
        self._hurry = hurry
        self._below, self._judge, self._hit = below, judge, hit
        self._loop = asyncio.get_running_loop()
        self._inotify: INotify | None = None
        self._folders: dict[int, str] = {}
        self._coming: dict[str, _Coming] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._look_s = LOOK_S

    def start(self) -> None:
        """Watch from now on. Raises ``OSError`` where the kernel gives us no more watches."""
        self._inotify = INotify(nonblocking=True)
        self._loop.add_reader(self._inotify.fileno(), self._read)
        self._arm()
        self._below.places.on_learned = self.learned

    def close(self) -> None:
        self._below.places.on_learned = None
        if self._timer is not None:
            self._timer.cancel()
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def learned(self) -> None:
        """Watch the parents that became known as well. From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._bearing, self._arm)
        except RuntimeError:
            log.debug("the loop is closed: a late report is dropped")

    def _bearing(self, step: Callable[[], object]) -> None:
        """Do something for which there may be no more watches: what is not seen here, start events tell."""
        try:
            step()
        except OSError as error:
            log.warning("the tripwire cannot watch all that it should: %s", error)

    # ---- where

    def _wanted(self) -> set[str]:
        """The parents, and the folders above them: who was missing, or went, comes back in one of those."""
        found = {""}
        for parent in self._below.places.parents():
            path = PurePosixPath(parent)
            found.update(str(each) for each in (path, *path.parents))
        return {"" if each == "." else each for each in found}

    def _arm(self) -> None:
        watched = set(self._folders.values())
        for folder in sorted(self._wanted() - watched):
            self._watch(folder)

    def _disarm(self, folder: str) -> None:
        """Watch a folder and those in it no more. One that was removed says nothing by itself in a cgroup's file system
        (no IN_DELETE_SELF), and its watch would stay for ever.
        """
        gone = [wd for wd, each in self._folders.items() if not folder or f"{each}/".startswith(f"{folder}/")]
        for wd in gone:
            del self._folders[wd]
            with suppress(OSError):
                if self._inotify is not None:
                    self._inotify.rm_watch(wd)

    def _watch(self, folder: str) -> bool:
        """Watch a folder, relative to the root. Returns False where there is none."""
        if self._inotify is None:
            return False
        try:
            number = self._inotify.add_watch(self._below.tree.root / folder, _MASK)
        except (FileNotFoundError, NotADirectoryError):
            return False
        self._folders[number] = folder
        return True

    # ---- what the kernel says

    def _read(self) -> None:
        if self._inotify is None:
            return
        overflown = False
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                overflown = True
                log.warning("the tripwire missed cgroups, more than the kernel keeps: their start events tell of them")
            elif event.mask & flags.IGNORED:
                self._folders.pop(event.wd, None)
            elif event.mask & flags.ISDIR and event.wd in self._folders:
                self._bearing(partial(self._made, self._folders[event.wd], event.name))
        if overflown:  # a parent may have come anew
            self._disarm("")
            self._bearing(self._arm)
        self._look()
        if self._coming:
            self._hurry()

    def _made(self, folder: str, name: str) -> None:
        id_ = id_in(name)
        path = f"{folder}/{name}" if folder else name
        if id_ is not None:
            self._below.places.found(folder, name)
            if len(self._coming) < PENDING_MAX:
                self._coming[id_] = _Coming(self._loop.time() + UNKNOWN_S)
            self._look_s = LOOK_S
        elif path in self._wanted():
            self._disarm(path)
            if self._watch(path):
                # What was made in it before it was watched is as new as itself.
                for inner in _folders_in(self._below.tree.root / path):
                    self._made(path, inner)

    # ---- what follows

    def _look(self) -> None:
        """Judge all that is coming, now."""
        now_s = self._loop.time()
        for id_, coming in list(self._coming.items()):
            verdict = self._judge(id_)
            if verdict == "leave" or now_s > coming.until_s or (coming.hit and self._below.places.find(id_) is None):
                del self._coming[id_]
            elif verdict == "refuse":
                if not coming.refused:
                    coming.refused, coming.until_s = True, now_s + REFUSED_S
                if self._below.kill(id_) and not coming.hit:
                    coming.hit = True
                    self._hit(id_)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._coming:
            urgent = any(coming.refused and not coming.hit for coming in self._coming.values())
            self._look_s = LOOK_S if urgent else min(LOOK_MAX_S, self._look_s * 2)
            self._timer = self._loop.call_later(self._look_s, self._look)


def _folders_in(folder: os.PathLike[str]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # It went while we looked.
