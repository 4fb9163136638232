"""What a request asks of the GPUs: how many, of which, how much of each; and which could ever serve it.

Pure, and reads only. Whether there is room now is said in ``room``.
"""

from __future__ import annotations

from msgspec import Struct

from supervisor.core.errors import Refusal
from supervisor.core.model import Gpu, Sharing, Terms
from supervisor.core.occupants import ALONE
from supervisor.core.state import State
from supervisor.core.targets import is_named, spec_of
from supervisor.core.usage import seen_on, usable_mib


class Wish(Struct, frozen=True):
    """What a lease asks of the GPUs. ``need_mib`` on each of them; None: the whole.

    ``pinned``: it uses just these (UUIDs), all of them. Else any ``count`` of those that ``allowed`` names.
    ``missing``: what it is pinned to and no GPU here is, or two are.
    """

    target: str | None
    need_mib: int | None
    count: int = 1
    pinned: tuple[str, ...] = ()
    allowed: frozenset[str] = frozenset()
    sharing: Sharing = ALONE
    groups: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    gpu_class: str | None = None


def wish_of(state: State, terms: Terms) -> Wish:
    """Return what a request with ``terms`` asks of the GPUs as they are, by its own words or its target's labels."""
    gpus = state.observed.gpus
    if terms.target is None:
        sharing = ALONE if terms.vram_mib is None else Sharing(any=True)
        allowed = _of_class(state, terms.gpu_class)
        return Wish(None, terms.vram_mib, terms.gpus, (), allowed, sharing, gpu_class=terms.gpu_class)
    spec = spec_of(state, terms.target)
    if spec is None:
        return Wish(terms.target, None, allowed=frozenset(gpu.uuid for gpu in gpus))
    pinned = tuple(
        gpu.uuid for gpu in gpus if spec.all_devices or gpu.index < spec.device_count or is_named(gpu, spec.devices)
    )
    missing = [word for word in spec.devices if sum(is_named(gpu, (word,)) for gpu in gpus) != 1]
    missing += [str(index) for index in range(len(gpus), spec.device_count)]
    # What a target declares is for all of its GPUs together.
    need = None if spec.vram_mib is None else -(-spec.vram_mib // max(1, len(pinned)))
    allowed = _of_class(state, spec.gpu_class)
    count = max(1, len(pinned))
    return Wish(terms.target, need, count, pinned, allowed, spec.coexist, spec.groups, tuple(missing), spec.gpu_class)


def _of_class(state: State, name: str | None) -> frozenset[str]:
    """Return the GPUs of a class: those that the configuration names; else ``high`` and ``low`` go by size."""
    gpus = state.observed.gpus
    if name is None:
        return frozenset(gpu.uuid for gpu in gpus)
    words = state.settings.gpu_classes.get(name)
    if words is not None:
        return frozenset(gpu.uuid for gpu in gpus if is_named(gpu, words))
    sizes = [gpu.total_mib or 0 for gpu in gpus]
    if not gpus or name not in {"high", "low"}:
        return frozenset()
    size = max(sizes) if name == "high" else min(sizes)
    return frozenset(gpu.uuid for gpu in gpus if (gpu.total_mib or 0) == size)


def eligible(state: State, wish: Wish) -> list[Gpu]:
    """Return the GPUs that a wish could use at some time: of its class, its own if it is pinned, and large enough."""
    fitting = []
    for gpu in state.observed.gpus:
        usable = usable_mib(state, gpu)
        small = wish.need_mib is not None and usable is not None and wish.need_mib > usable
        mine = gpu.uuid in wish.pinned if wish.pinned else gpu.uuid in wish.allowed
        if mine and not small and gpu.state == "ok":
            fitting.append(gpu)
    return fitting


def reach(state: State, wish: Wish) -> set[str]:
    """Return the GPUs that a wish could use as things are: a target that is loaded stays where it is.

    Where nobody knows where that is, it is taken to be on the first: CUDA's, and Docker's, choice where none is made.
    """
    able = [gpu.uuid for gpu in eligible(state, wish)]
    lead, resident = state.lease_of(wish.target or ""), state.durable.residents.get(wish.target or "")
    if wish.pinned or (lead is None and resident is None):
        return set(able)
    known = lead.gpus if lead is not None else resident.gpus if resident is not None else ()
    home = known or seen_on(state, wish.target or "") or tuple(able[:1])
    return set(able) & set(home)


def never(state: State, wish: Wish) -> Refusal | None:
    """Return why a wish can never be granted on these GPUs, whoever leaves; None if it can."""
    if wish.missing:
        known = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in state.observed.gpus)
        words = ", ".join(wish.missing)
        detail = f"{wish.target} is pinned to {words}, which is not one GPU of this machine; it has {known}"
        return Refusal("gpu_unavailable", detail, {"devices": list(wish.missing)})
    if wish.gpu_class is not None and not wish.allowed:
        classes = ", ".join(sorted({*state.settings.gpu_classes, "high", "low"}))
        detail = f"no GPU is of the class {wish.gpu_class}; classes are {classes} (setting gpu_classes)"
        return Refusal("gpu_unavailable", detail, {"gpu_class": wish.gpu_class})
    able = eligible(state, wish)
    if len(able) >= max(wish.count, len(wish.pinned)):
        return None
    gpus = [gpu for gpu in state.observed.gpus if gpu.uuid in (wish.pinned or wish.allowed)]
    broken = [gpu.detail or f"GPU {gpu.uuid} is {gpu.state}" for gpu in gpus if gpu.state != "ok"]
    if broken and len(gpus) >= wish.count:
        return Refusal("gpu_unavailable", "; ".join(broken), {"gpus": [gpu.uuid for gpu in gpus if gpu.state != "ok"]})
    if len(gpus) < wish.count:
        detail = f"{wish.count} GPUs are asked for, and {len(gpus)} of the {len(state.observed.gpus)} here may be used"
        return Refusal("insufficient_vram", detail, {"gpus_asked": wish.count, "gpus_known": len(gpus)})
    largest = max((usable_mib(state, gpu) or 0 for gpu in gpus), default=0)
    declares = wish.target is not None
    asked, less = ("declared", "lower gpu.vram-mib if it is too high") if declares else ("asked for", "ask for less")
    return Refusal(
        "insufficient_vram",
        f"{wish.need_mib} MiB are {asked}, and the largest GPU has {largest} MiB; {less}",
        {"needed_mib": wish.need_mib, "largest_gpu_mib": largest},
    )
