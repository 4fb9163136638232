"""The container that the supervisor itself runs in, where it does: no label makes it judge, lease or stop itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from supervisor.core.inputs import ContainerSeen, EngineSnapshot, Input
from supervisor.core.model import Container

log = logging.getLogger(__name__)

#: Docker and Podman mount these from the container's own folder. Where they are no mounts, this is no container; the
#: mounts of others, which a host sees too, have other places.
MOUNTED = re.compile(r"/(?:overlay-)?containers/([0-9a-f]{64})/\S* /etc/(?:hostname|hosts|resolv\.conf) ")


def own_container_id(mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Return the full id of the container that this process runs in, or None.

    Not from the cgroup, whose path a private namespace hides, nor from the host name, which ``--network host`` shares.
    """
    try:
        found = MOUNTED.search(mountinfo.read_text())
    except OSError:
        return None
    return found[1] if found else None


def sparing(own_id: str, post: Callable[[Input], None]) -> Callable[[Input], None]:
    """Return a ``post`` that takes the target off the supervisor's own container, and says so once."""
    told = False

    def spared(container: Container) -> Container:
        nonlocal told
        if container.id != own_id or container.target is None:
            return container
        if not told:
            log.warning(
                'this supervisor\'s own container is labelled as part of the target "%s", which it can neither lease '
                "nor stop: take the labels off it",
                container.target,
            )
        told = True
        return replace(container, target=None, master=False, problems=())

    def post_spared(item: Input) -> None:
        match item:
            case EngineSnapshot():
                post(replace(item, containers=tuple(spared(container) for container in item.containers)))
            case ContainerSeen():
                post(ContainerSeen(spared(item.container)))
            case _:
                post(item)

    return post_spared
