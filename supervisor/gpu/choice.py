"""Which GPUs there are, as the setting ``gpus`` says it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from supervisor.core.model import Gpu
from supervisor.core.values import BadValue, parse_int, parse_mib, shown

GPUS_MAX = 64
HINT = "write auto, nvml, or simulated GPUs as count x MiB: sim:1x24576 or sim:2x24576,1x8192"


class GpuChoice(Struct, frozen=True):
    """``auto`` and ``nvml``: those that the driver lists; only ``sim`` has ``simulated`` ones, ``SIM-0`` and so on."""

    kind: Literal["auto", "nvml", "sim"]
    simulated: tuple[Gpu, ...] = ()


def parse_gpus(text: str) -> GpuChoice:
    """Read ``auto``, ``nvml``, or simulated GPUs: ``sim:1x24576``, count x MiB, several groups with commas.

    Raises:
        BadValue: it is none of them, or there are more than 64.
    """
    if text == "auto":
        return GpuChoice("auto")
    if text == "nvml":
        return GpuChoice("nvml")
    if not text.startswith("sim:"):
        raise BadValue(f'"{shown(text)}" names no GPUs', HINT)
    sizes_mib: list[int] = []
    for group in text.removeprefix("sim:").split(","):
        count, x, size = group.strip().partition("x")
        if not x:
            raise BadValue(f'"{shown(group)}" is not count x MiB', HINT)
        sizes_mib += [parse_mib(size)] * parse_int(count, 1, GPUS_MAX)
        if len(sizes_mib) > GPUS_MAX:
            raise BadValue(f"more than {GPUS_MAX} simulated GPUs", HINT)
    return GpuChoice(
        "sim",
        tuple(
            Gpu(f"SIM-{index}", index=index, name="simulated", total_mib=mib, used_mib=0)
            for index, mib in enumerate(sizes_mib)
        ),
    )
