"""The mounted cgroup hierarchies in which a container can be killed, from ``/proc/self/mountinfo``. Only parses.

With cgroup v1, and with v1 and v2 mounted beside each other, engines put containers into the hierarchies of v1, and
into that of v2 only since runc 1.1: so the freezer of v1 comes first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from msgspec import Struct


class Tree(Struct, frozen=True):
    """One hierarchy, mounted at ``root``. ``version`` 1: it has the freezer. 2: the unified one (``cgroup.kill``)."""

    root: Path
    version: Literal[1, 2]

    @property
    def words(self) -> str:
        return f"cgroup v{self.version}"


def mounted_trees(mountinfo: str) -> tuple[Tree, ...]:
    """Return the hierarchies that can be of use, the one to be tried first first.

    Left out: mounts of a part of one (a container's own, or a bind), which do not show other containers.

    Source: proc_pid_mountinfo(5); a hierarchy of v1 names its controllers in the options of its super block.
    """
    found: dict[int, Tree] = {}
    for line in mountinfo.splitlines():
        mount, _, file_system = line.partition(" - ")
        where, what = mount.split(), file_system.split()
        if len(where) < 5 or len(what) < 3 or where[3] != "/":
            continue
        root = Path(_unescaped(where[4]))
        if what[0] == "cgroup2":
            found.setdefault(2, Tree(root, 2))
        elif what[0] == "cgroup" and "freezer" in what[2].split(","):
            found.setdefault(1, Tree(root, 1))
    return tuple(found[version] for version in sorted(found))


def _unescaped(path: str) -> str:
    """Undo the kernel's escapes of blanks and the like: ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
