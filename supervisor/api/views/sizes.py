"""What a target was seen to use beside what it declares, and the label that would say it. Pure, and reads only."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core.model import Problem, Terms
from supervisor.core.state import State
from supervisor.core.targets import spec_of
from supervisor.core.usage import usable_mib
from supervisor.core.wishes import wish_of

#: A suggestion has this much room above what was seen, and is a multiple of ``STEP_MIB``: the next run is a bit larger.
SPARE_PERCENT = 5
STEP_MIB = 256


def suggested_label(state: State, target: str) -> str | None:
    """Return the label that fits what the target was seen to use, ``gpu.vram: 9.25GiB``.

    None where nothing was seen, where what is declared is enough, where it takes the whole of its GPUs (that is what a
    target without the label gets), and where there is no container to read a label from.
    """
    seen_mib = state.durable.peaks.get(target)
    declared_mib = _declared_mib(state, target)
    if spec_of(state, target) is None or seen_mib is None or (declared_mib is not None and seen_mib <= declared_mib):
        return None
    size_mib = _rounded_mib(seen_mib)
    most_mib = _most_mib(state, target)
    if most_mib is not None and size_mib > most_mib:
        return None
    return f"{state.settings.label_prefix}vram: {spelled_size(size_mib)}"


def uses_more_than_declared(state: State, target: str) -> Problem | None:
    """Return the warning for a target that was seen to use more than it declares: others were granted what it took."""
    seen_mib = state.durable.peaks.get(target)
    declared_mib = _declared_mib(state, target)
    if seen_mib is None or declared_mib is None or seen_mib <= declared_mib:
        return None
    prefix = state.settings.label_prefix
    label = suggested_label(state, target)
    leave = f"leave {prefix}vram-mib and {prefix}vram out: it needs its GPUs whole"
    return Problem(
        "uses_more_than_declared",
        f"{target} was seen to use {seen_mib} MiB, and declares {declared_mib} MiB: the rest is missing for others",
        f"declare what it uses, {label}" if label is not None else leave,
        severity="warning",
        target=target,
        label=f"{prefix}vram",
    )


def spelled_size(size_mib: int) -> str:
    """Spell a size in the way that labels are read: ``9GiB``, ``9.25GiB``, ``700MiB``."""
    return f"{size_mib / 1024:g}GiB" if size_mib >= 1024 and size_mib % STEP_MIB == 0 else f"{size_mib}MiB"


def _rounded_mib(seen_mib: int) -> int:
    spared = -(-seen_mib * (100 + SPARE_PERCENT) // 100)
    return -(-spared // STEP_MIB) * STEP_MIB


def _declared_mib(state: State, target: str) -> int | None:
    spec = spec_of(state, target)
    return spec.vram_mib if spec is not None else None


def _most_mib(state: State, target: str) -> int | None:
    """Return the most that a target could declare, on all its GPUs together; None if nobody knows their sizes."""
    wish = replace(wish_of(state, Terms(target=target, owner="", priority=0, ttl_ms=0)), need_mib=None)
    sizes = [usable_mib(state, gpu) for gpu in wish.able]
    known = sorted((size for size in sizes if size is not None), reverse=True)
    return sum(known[: wish.count]) if len(known) == len(sizes) and known else None
