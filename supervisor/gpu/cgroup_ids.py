"""The containers that a process is in, from the text of its ``/proc/PID/cgroup``. Pure.

Engines and cgroup drivers put the id into the path in many ways (``/docker/ID``, ``docker-ID.scope``,
``libpod-ID.scope/container``, ``kubepods.../ID``, ``/../ID`` seen from inside a cgroup namespace), and
``--cgroup-parent`` may put anything before it. So ids are looked for, not prefixes; which of them is a container, the
engine knows.

Whoever may make cgroups may give one a container's name. Below a container that shows: the outermost id counts, and its
inmates can only add inner ones. A user to whom the host delegated a cgroup can pose as a container.
"""

from __future__ import annotations

import re
from collections.abc import Container

#: 64 hex digits that are not part of a longer word. The kernel lets no cgroup's name hold a line break (kernel/cgroup/
#: cgroup.c, ``cgroup_mkdir``).
_ID = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{64}(?![0-9A-Za-z])")
#: Podman and CRI-O keep a container's monitor in a cgroup with the container's id: it is outside of the container.
_MONITOR = re.compile(r"(?:^|[-/:])conmon-$")


def container_ids(cgroup_text: str) -> tuple[str, ...]:
    """Return all ids that may be containers, the outermost first, each once; () for a process of the host.

    Args:
        cgroup_text: one line per hierarchy, ``number:controllers:path`` (cgroup v1; v2 has one line, ``0::path``). All
            lines are read: with v1 a process may be in a container's cgroup in some hierarchies only.
    """
    depths: dict[str, int] = {}
    for line in cgroup_text.split("\n"):
        path = line.split(":", 2)[-1]
        depth = 0
        for match in _ID.finditer(path):
            if _MONITOR.search(path, 0, match.start()):
                continue
            depths[match[0]] = max(depth, depths.get(match[0], 0))
            depth += 1
    # Sorting is stable: ids of equal depth keep the order in which they were found.
    return tuple(sorted(depths, key=depths.__getitem__))


def container_of(cgroup_text: str, known: Container[str] | None = None) -> str | None:
    """Return the id of the container that the process is in: the outermost of those that are ``known``.

    A container inside a container is the outer engine's business, and only the outer one is known to it.

    Args:
        known: ids of the engine's containers; None takes the outermost id unchecked.
    """
    return next((found for found in container_ids(cgroup_text) if known is None or found in known), None)
