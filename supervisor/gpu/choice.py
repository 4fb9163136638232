"""Which GPUs there are, as the setting ``gpus`` says it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.model import Gpu
from supervisor.core.values import VRAM_MAX_MIB, BadValue, parse_duration_ms, parse_int, parse_mib, shown

GPUS_MAX = 64
HINT = "write auto, nvml, or simulated GPUs as count x MiB: sim:1x24576 or sim:2x24576,1x8192"
LIES_HINT = "simulated GPUs lie with late=1500ms, late=never and foreign=6000: sim:1x24576,late=1500ms"


class Lies(Struct, frozen=True):
    """How simulated GPUs misbehave.

    ``late_ms``: memory comes back so long after its container stopped (None: never). ``foreign_mib``: what a process
    of nobody's uses on each of them.
    """

    late_ms: int | None = 0
    foreign_mib: int = 0


HONEST = Lies()


class GpuChoice(Struct, frozen=True):
    """``auto`` and ``nvml``: those that the driver lists; only ``sim`` has ``simulated`` ones, ``SIM-0`` and so on."""

    kind: Literal["auto", "nvml", "sim"]
    simulated: tuple[Gpu, ...] = ()
    lies: Lies = HONEST


def parse_gpus(text: str) -> GpuChoice:
    """Read ``auto``, ``nvml``, or simulated GPUs: ``sim:1x24576``, count x MiB, several groups with commas, lies too.

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
    lies = HONEST
    for word in text.removeprefix("sim:").split(","):
        if "=" in word:
            lies = _add_lie(lies, word.strip())
            continue
        count, x, size = word.strip().partition("x")
        if not x:
            raise BadValue(f'"{shown(word)}" is not count x MiB', HINT)
        sizes_mib += [parse_mib(size)] * parse_int(count, 1, GPUS_MAX)
        if len(sizes_mib) > GPUS_MAX:
            raise BadValue(f"more than {GPUS_MAX} simulated GPUs", HINT)
    if not sizes_mib:
        raise BadValue(f'"{shown(text)}" has no GPU in it', HINT)
    simulated = (
        Gpu(f"SIM-{index}", index=index, name="simulated", total_mib=mib, used_mib=0)
        for index, mib in enumerate(sizes_mib)
    )
    return GpuChoice("sim", tuple(simulated), lies)


def _add_lie(lies: Lies, word: str) -> Lies:
    name, _, value = word.partition("=")
    if name == "late":
        return replace(lies, late_ms=None if value == "never" else parse_duration_ms(value))
    if name == "foreign":
        return replace(lies, foreign_mib=parse_int(value, 0, VRAM_MAX_MIB))
    raise BadValue(f'"{shown(word)}" is no lie that simulated GPUs know', LIES_HINT)
