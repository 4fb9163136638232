"""What is asked for, read from what people write: durations, sizes, names."""

from __future__ import annotations

import math
from typing import Any, TypedDict

from msgspec import Struct

from supervisor.core.values import BadValue, parse_duration_ms, parse_size_mib
from supervisor.whoami import whoami

Duration = float | str
"""Seconds, or a text: ``90s``, ``5m``, ``1h30m``."""


class LeaseOptions(TypedDict, total=False):
    """How a lease is asked for. What is left out is as it is said here.

    owner: Who asks, for the others to see; USER@HOST.
    priority: -1000 to 1000, a higher one goes first; the target's label.
    ttl: How long the lease outlives this process, when it dies; a minute. The server clamps it (``lease.ttl_s``).
    wait: How long to wait for the turn; an hour. 0: be refused at once when the GPU is busy. None: as long as it takes.
    wait_ready: Whether to wait until the target is healthy; true.
    ready_timeout: How long that may take; 15 minutes.
    gpus: How many GPUs a bare lease needs; 1.
    vram: How much memory a bare lease needs on each, with its unit: ``8GiB``; all of it.
    gpu_class: Which class of GPUs a bare lease needs, as the server's configuration names them; any.
    pid: A process of one's own with which a bare lease ends; over a unix socket only. It has no TTL then.
    """

    owner: str | None
    priority: int | None
    ttl: Duration
    wait: Duration | None
    wait_ready: bool
    ready_timeout: Duration
    gpus: int | None
    vram: str | None
    gpu_class: str | None
    pid: int | None


class Wish(Struct, frozen=True, kw_only=True):
    """``target`` None is a bare lease; ``wait_s`` None waits as long as it takes; other Nones are the server's
    choice."""

    target: str | None
    owner: str
    priority: int | None
    ttl_s: int
    wait_s: int | None
    wait_ready: bool
    ready_timeout_s: int
    gpus: int | None = None
    vram_mib: int | None = None
    gpu_class: str | None = None
    pid: int | None = None

    @property
    def name(self) -> str:
        return self.target or (f"{self.gpus} GPUs" if (self.gpus or 1) > 1 else "the GPU")

    @property
    def waits_ready(self) -> bool:
        return self.wait_ready and self.target is not None

    @property
    def body(self) -> dict[str, Any]:
        """What is sent; what was not said is left to the server."""
        said = {
            "target": self.target,
            "owner": self.owner,
            "priority": self.priority,
            "ttl_seconds": self.ttl_s,
            "ready_timeout_seconds": self.ready_timeout_s,
            "gpus": self.gpus,
            "vram_mib": self.vram_mib,
            "gpu_class": self.gpu_class,
            "pid": self.pid,
        }
        return {name: value for name, value in said.items() if value is not None}


def wish_for(
    target: str | None,
    *,
    owner: str | None = None,
    priority: int | None = None,
    ttl: Duration = 60,
    wait: Duration | None = 3600,
    wait_ready: bool = True,
    ready_timeout: Duration = 900,
    gpus: int | None = None,
    vram: str | None = None,
    gpu_class: str | None = None,
    pid: int | None = None,
) -> Wish:
    """Read a wish. Raises ``BadValue`` for a duration or a size that is none."""
    return Wish(
        target=target,
        owner=whoami() if owner is None else owner,
        priority=priority,
        ttl_s=seconds("ttl", ttl),
        wait_s=None if wait is None else seconds("wait", wait),
        wait_ready=wait_ready,
        ready_timeout_s=seconds("ready_timeout", ready_timeout),
        gpus=gpus,
        vram_mib=None if vram is None else mebibytes("vram", vram),
        gpu_class=gpu_class,
        pid=pid,
    )


def seconds(name: str, value: Duration) -> int:
    """Return whole seconds, rounded up: the interface counts in those."""
    if not isinstance(value, str):
        if not (math.isfinite(value) and value >= 0):
            raise BadValue(f"{name}: {value} is not a duration", "write seconds from 0, or a text: 90s, 5m, 1h30m")
        return math.ceil(value)
    try:
        return -(-parse_duration_ms(value) // 1000)
    except BadValue as error:
        raise BadValue(f"{name}: {error}", error.hint) from None


def mebibytes(name: str, value: str) -> int:
    """Return MiB, rounded up: read as the label ``gpu.vram`` is."""
    try:
        return parse_size_mib(str(value))
    except BadValue as error:
        raise BadValue(f"{name}: {error}", error.hint) from None
