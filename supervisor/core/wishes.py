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

    ``pinned``: it uses just these (UUIDs), all of them. Else any ``count`` of ``mine``, which are of its class.
    ``able``: those of its own that are well and large enough, so that it could use them at some time.
    ``missing``: what it is pinned to and no GPU here is, or two are.
    """

    target: str | None
    need_mib: int | None
    count: int = 1
    pinned: tuple[str, ...] = ()
    mine: tuple[Gpu, ...] = ()
    able: tuple[Gpu, ...] = ()
    sharing: Sharing = ALONE
    groups: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    gpu_class: str | None = None


def wish_of(state: State, terms: Terms) -> Wish:
    """Return what a request with ``terms`` asks of the GPUs as they are, by its own words or its target's labels."""
    gpus = state.observed.gpus
    if terms.target is None:
        sharing = ALONE if terms.vram_mib is None else Sharing(any=True)
        mine = _of_class(state, terms.gpu_class)
        able = _able(state, mine, terms.vram_mib)
        return Wish(None, terms.vram_mib, terms.gpus, (), mine, able, sharing, gpu_class=terms.gpu_class)
    spec = spec_of(state, terms.target)
    if spec is None:
        return Wish(terms.target, None, mine=gpus, able=_able(state, gpus, None))
    pinned = tuple(
        gpu.uuid for gpu in gpus if spec.all_devices or gpu.index < spec.device_count or is_named(gpu, spec.devices)
    )
    missing = [word for word in spec.devices if sum(is_named(gpu, (word,)) for gpu in gpus) != 1]
    missing += [str(index) for index in range(len(gpus), spec.device_count)]
    # What a target declares is for all of its GPUs together.
    need = None if spec.vram_mib is None else -(-spec.vram_mib // max(1, len(pinned)))
    mine = _of_class(state, spec.gpu_class)
    if mine and pinned:
        mine = tuple(gpu for gpu in gpus if gpu.uuid in pinned)
    able, count = _able(state, mine, need), max(1, len(pinned))
    return Wish(
        terms.target, need, count, pinned, mine, able, spec.coexist, spec.groups, tuple(missing), spec.gpu_class
    )


def _of_class(state: State, name: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs of a class: those that the configuration names; else ``high`` and ``low`` go by size."""
    gpus = state.observed.gpus
    if name is None:
        return gpus
    words = state.settings.gpu_classes.get(name)
    if words is not None:
        return tuple(gpu for gpu in gpus if is_named(gpu, words))
    sizes = [gpu.total_mib or 0 for gpu in gpus]
    if not gpus or name not in {"high", "low"}:
        return ()
    size = max(sizes) if name == "high" else min(sizes)
    return tuple(gpu for gpu in gpus if (gpu.total_mib or 0) == size)


def _able(state: State, gpus: tuple[Gpu, ...], need_mib: int | None) -> tuple[Gpu, ...]:
    fitting = []
    for gpu in gpus:
        usable = usable_mib(state, gpu)
        small = need_mib is not None and usable is not None and need_mib > usable
        if not small and gpu.state == "ok":
            fitting.append(gpu)
    return tuple(fitting)


def reach(state: State, wish: Wish) -> set[str]:
    """Return the GPUs that a wish could use as things are: a target that is loaded stays where it is.

    Where nobody knows where that is, it is taken to be on the first: CUDA's, and Docker's, choice where none is made.
    """
    able = [gpu.uuid for gpu in wish.able]
    if wish.pinned or wish.target is None:
        return set(able)
    lead, resident = state.lease_of(wish.target), state.durable.residents.get(wish.target)
    if lead is None and resident is None:
        return set(able)
    known = lead.gpus if lead is not None else resident.gpus if resident is not None else ()
    home = known or seen_on(state, wish.target) or tuple(able[:1])
    return set(able) & set(home)


def never(state: State, wish: Wish) -> Refusal | None:
    """Return why a wish can never be granted on these GPUs, whoever leaves; None if it can."""
    if wish.missing:
        known = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in state.observed.gpus)
        words = ", ".join(wish.missing)
        detail = f"{wish.target} is pinned to {words}, which is not one GPU of this machine; it has {known}"
        return Refusal("gpu_unavailable", detail, {"devices": list(wish.missing)})
    if wish.gpu_class is not None and not wish.mine:
        classes = ", ".join(sorted({*state.settings.gpu_classes, "high", "low"}))
        detail = f"no GPU is of the class {wish.gpu_class}; classes are {classes} (setting gpu_classes)"
        return Refusal("gpu_unavailable", detail, {"gpu_class": wish.gpu_class})
    if len(wish.able) >= max(wish.count, len(wish.pinned)):
        return None
    gpus = wish.mine
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
