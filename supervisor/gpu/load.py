"""What a container is believed to use of the GPUs, for those that only pretend."""

from __future__ import annotations

from msgspec import Struct


class Load(Struct, frozen=True):
    """One running container: ``used_mib`` on each of ``gpus`` (UUIDs); None: all of their memory."""

    container: str
    gpus: tuple[str, ...]
    used_mib: int | None = None
