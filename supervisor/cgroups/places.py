"""Where an engine puts the cgroup of the container with a given full id. Only looks; knows both drivers.

    cgroupfs    /docker/ID, or <cgroup-parent>/ID
    systemd     /system.slice/docker-ID.scope, or <slice>/docker-ID.scope, where a-b.slice lies in a.slice

A container's own ``--cgroup-parent`` is told by its inspect (``learn``). One that the daemon was configured with is
told by nobody: it is found by a ``search`` of the whole hierarchy, and remembered. The cgroup of a container is never
looked for below that of another: whoever may make cgroups in there may give them any name.

Source: moby daemon/daemon_unix.go, ``getCgroupParent``; oci_linux.go, ``WithCgroups``; systemd.slice(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from supervisor.gpu.cgroup_ids import container_ids

#: A search that meets more cgroups than these gives up: it is no longer a quick look.
SEARCH_MAX = 8_192
#: Parents that are remembered at most. Labels of Compose projects may name any.
SHAPES_MAX = 256
_FULL_ID = re.compile(r"[0-9a-f]{64}")


Driver = Literal["cgroupfs", "systemd"]
DRIVERS: tuple[Driver, ...] = ("cgroupfs", "systemd")


class Shape(Struct, frozen=True):
    """Cgroups named ``before`` + id + ``after`` in the folder ``parent``, relative to the hierarchy's root."""

    parent: str
    before: str = ""
    after: str = ""

    @property
    def driver(self) -> Driver:
        return "systemd" if self.after == ".scope" else "cgroupfs"


#: What Docker and Podman do where they are not told otherwise.
DEFAULT_SHAPES = (
    Shape("docker"),
    Shape("system.slice", "docker-", ".scope"),
    Shape("libpod_parent", "libpod-"),
    Shape("machine.slice", "libpod-", ".scope"),
)


def is_full_id(text: str) -> bool:
    return _FULL_ID.fullmatch(text) is not None


def id_in(name: str) -> str | None:
    """Return the id of the container that a cgroup of this name is the cgroup of; None: it is another one's."""
    return next(iter(container_ids(name)), None)


class Places:
    """The known parents in one hierarchy. May be used from any thread: every change is a single step."""

    def __init__(self, root: Path, drivers: Collection[Driver] = DRIVERS) -> None:
        """``drivers``: those whose containers are to be found at all."""
        self.root, self.drivers = root, drivers
        self.on_learned: Callable[[], None] | None = None
        self._shapes = dict.fromkeys(shape for shape in DEFAULT_SHAPES if shape.driver in drivers)

    def parents(self) -> tuple[str, ...]:
        """Return the folders in which containers' cgroups are expected, relative to the root."""
        return tuple(dict.fromkeys(shape.parent for shape in tuple(self._shapes)))

    def learn(self, cgroup_parent: str) -> None:
        """Take the ``--cgroup-parent`` of a container, as its inspect says it: a path, or the name of a slice."""
        for shape in shapes_of(cgroup_parent):
            self._remember(shape)

    def find(self, container_id: str) -> Path | None:
        """Return the cgroup of a container, or None if it is in none of the known places. A few look-ups."""
        if is_full_id(container_id):
            for shape in tuple(self._shapes):
                path = os.path.join(self.root, shape.parent, f"{shape.before}{container_id}{shape.after}")  # noqa: PTH118 - 2 us against 20
                if os.path.isdir(path):  # noqa: PTH112
                    return Path(path)
        return None

    def search(self) -> list[Path]:
        """Return the cgroups of all containers, and learn their parents. Takes milliseconds: it walks the hierarchy."""
        found = []
        for folder, name in _outermost(self.root):
            parent = os.path.relpath(folder, self.root)
            self.found("" if parent == "." else parent, name)
            found.append(Path(folder, name))
        return found

    def found(self, parent: str, name: str) -> None:
        """Remember that ``parent`` (relative to the root) has, or had, a container's cgroup of this name."""
        id_ = id_in(name)
        assert id_ is not None
        before, _, after = name.partition(id_)
        self._remember(Shape(parent, before, after))

    def _remember(self, shape: Shape) -> None:
        if shape not in self._shapes and shape.driver in self.drivers and len(self._shapes) < SHAPES_MAX:
            self._shapes[shape] = None
            if self.on_learned is not None:
                self.on_learned()


def shapes_of(cgroup_parent: str) -> tuple[Shape, ...]:
    """Return what the cgroups of containers with this ``--cgroup-parent`` look like.

    Both drivers' forms where it is a slice: with cgroupfs that is a folder's name like any other.
    """
    path = os.path.normpath("/" + cgroup_parent).lstrip("/")
    if not cgroup_parent or any(container_ids(part) for part in path.split("/")):
        return ()
    plain = Shape(path)
    if not path.endswith(".slice"):
        return (plain,)
    return (Shape(expanded_slice(path.rpartition("/")[2]), "docker-", ".scope"), plain)


def expanded_slice(name: str) -> str:
    """Return the path of a slice: ``a-b.slice`` lies in ``a.slice``. Source: systemd.slice(5)."""
    if name == "-.slice":  # the root
        return ""
    parts = name.removesuffix(".slice").split("-")
    return "/".join("-".join(parts[: count + 1]) + ".slice" for count in range(len(parts)))


def _outermost(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (folder, name) of every cgroup that carries a container's id and is not within such a one."""
    todo = [str(root)]
    met = 0
    while todo and met < SEARCH_MAX:
        folder = todo.pop()
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # It went while we looked.
        for name in names:
            met += 1
            if id_in(name) is not None:
                yield folder, name
            else:
                todo.append(f"{folder}/{name}")
