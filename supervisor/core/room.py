"""Where a newcomer has room, who goes for it, and why there is none. Pure, and reads only.

What it asks for is its wish (``wishes``); who is on the GPUs already (``occupants``) and what they take (``usage``)
decide where it fits.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.bare_use import claimants
from supervisor.core.errors import Refusal
from supervisor.core.model import Gpu, Lease
from supervisor.core.occupants import Occupant, leased, occupants
from supervisor.core.state import State
from supervisor.core.targets import spec_of
from supervisor.core.usage import (
    IDLE_MIB,
    called,
    closed,
    foreign_mib,
    is_whole,
    needed_on,
    takes,
    usable_mib,
    use_of,
    whose,
)
from supervisor.core.wishes import Wish, never, reach, wish_of

#: Residents among which the fewest to evict are searched for; of more, the least recently used go first.
SEARCHED_MAX = 12


class Placement(Struct, frozen=True):
    """Where a wish fits. ``evicts``: residents (by target) that go for it. ``joins``: whose room it shares."""

    gpus: tuple[str, ...]
    need_mib: int | None
    evicts: tuple[str, ...] = ()
    joins: str | None = None


class _Fit(Struct, frozen=True):
    """How a wish fits on one GPU: which residents go for it, and what is left then (None: nobody knows)."""

    gpu: Gpu
    evicts: tuple[str, ...]
    left_mib: int | None


def place(
    state: State, now_ms: int, wish: Wish, *, keep_off: Collection[str] = (), own_id: str = ""
) -> Placement | Refusal:
    """Choose the GPUs for a wish, and whom to evict for it; or say why it does not fit now.

    ``keep_off``: GPUs (UUIDs) that an earlier ticket could use. ``own_id``: the asker's own window, which is not in
    its way. A resident target stays where it is.
    """
    lead = state.lease_of(wish.target) if wish.target is not None else None
    if lead is not None:
        return _join(state, lead, keep_off, own_id)
    others = []
    for other in occupants(state):
        mine = other.id == own_id or (wish.target is not None and other.target == wish.target)
        if not mine:
            others.append(other)
        elif other.kind == "window" and own_id not in state.windows:
            return _held_by(state, other)
    within = reach(state, wish)
    fits: list[_Fit] = []
    refusals: list[Refusal] = []
    for gpu in wish.able:
        if gpu.uuid not in within:
            continue
        fit = _fit(state, now_ms, gpu, wish, [other for other in others if other.is_on(gpu)])
        if isinstance(fit, Refusal):
            refusals.append(fit)
        elif gpu.uuid in keep_off:
            refusals.append(_others_wait(state))
        else:
            fits.append(fit)
    wanted = max(wish.count, len(wish.pinned))
    if len(fits) < wanted:
        return _strongest(refusals) or never(state, wish) or Refusal("gpu_busy", "its GPU is not free")
    chosen = sorted(fits, key=lambda fit: _preference(state, fit))[:wanted]
    gpus = tuple(fit.gpu.uuid for fit in sorted(chosen, key=lambda fit: fit.gpu.index))
    # The whole of GPUs of several sizes is no one number.
    needs = {needed_on(state, fit.gpu, wish.need_mib) for fit in chosen}
    evicts = dict.fromkeys(target for fit in chosen for target in fit.evicts)
    return Placement(gpus, needs.pop() if len(needs) == 1 else wish.need_mib, tuple(evicts))


def _join(state: State, lead: Lease, keep_off: Collection[str], own_id: str) -> Placement | Refusal:
    """Let another caller into a target that is leased, if its labels allow so many; who may claim it counts. One after
    the other they could hold the GPU for ever, so those who wait for it come first.
    """
    spec = spec_of(state, lead.target or "")
    claimants = (id_ for id_ in state.windows if id_ != own_id)
    claims = sum(state.durable.tickets[id_].terms.target == lead.target for id_ in claimants)
    holders = len(state.leases_by_target[lead.target or ""]) + claims
    full = spec is None or holders >= spec.max_holders or spec.project != lead.project
    if full or lead.adopted or lead.id in state.observed.down_since:
        return _held_by(state, leased(state, lead))
    if not set(lead.gpus).isdisjoint(keep_off):
        return _others_wait(state)
    return Placement(lead.gpus, lead.vram_mib, joins=lead.id)


def _preference(state: State, fit: _Fit) -> tuple[int, int, int]:
    """Order the GPUs that fit: fewest evictions; then the fullest (pack) or the emptiest (spread)."""
    left = fit.left_mib if fit.left_mib is not None else 0
    return (len(fit.evicts), left if state.settings.placement == "pack" else -left, fit.gpu.index)


def _strongest(refusals: list[Refusal]) -> Refusal | None:
    """Return the reason that matters: that of a GPU that will come free before that of one that will not. Several that
    will come free are all in its sentence.
    """
    busy = [refusal for refusal in refusals if refusal.code == "gpu_busy"]
    if len(busy) > 1:
        return replace(busy[0], detail=", ".join(dict.fromkeys(refusal.detail for refusal in busy)))
    for code in ("gpu_busy", "gpu_dirty", "insufficient_vram"):
        for refusal in refusals:
            if refusal.code == code:
                return refusal
    return None


def _fit(state: State, now_ms: int, gpu: Gpu, wish: Wish, others: list[Occupant]) -> _Fit | Refusal:
    shut = closed(state, gpu)
    if shut:
        return Refusal("gpu_dirty", shut)
    strangers = _strangers(state, gpu, wish, others)
    young = [other for other in others if other.kind == "resident" and other.stays_until_ms > now_ms]
    for other in strangers:
        if other.kind != "resident":
            return _held_by(state, other)
    for other in strangers:
        if other in young:
            return _too_young(other)
    going = tuple(other.id for other in strangers)
    usable, foreign = usable_mib(state, gpu), foreign_mib(state, gpu)
    if usable is None:
        return _Fit(gpu, going, None)
    if is_whole(state, gpu, wish.need_mib):
        return _Fit(gpu, going, 0) if foreign <= IDLE_MIB else _crowded_out(state, gpu, wish, foreign)
    used = use_of(state, gpu)
    friends = [other for other in others if other not in strangers]
    held = [other for other in friends if other.kind != "resident"]
    spare = usable - foreign - (wish.need_mib or 0) - sum(takes(other, used) for other in held)
    if spare < 0:
        return _held_by(state, held[0]) if held else _crowded_out(state, gpu, wish, foreign)
    idle = [other for other in friends if other.kind == "resident"]
    sizes = {other.id: takes(other, used) for other in sorted(idle, key=_age) if other not in young}
    staying = [other for other in idle if other in young]
    more = fewest_to_evict(sizes, spare - sum(takes(other, used) for other in staying))
    if more is None:
        return _too_young(staying[0])
    left = spare - sum(takes(other, used) for other in idle if other.id not in more)
    return _Fit(gpu, (*going, *more), left)


def _strangers(state: State, gpu: Gpu, wish: Wish, others: list[Occupant]) -> list[Occupant]:
    """Return those with whom a GPU is not shared: one side does not want to, or needs all of it."""
    if is_whole(state, gpu, wish.need_mib):
        return others
    return [other for other in others if is_whole(state, gpu, other.need_mib) or not _agree(wish, other)]


def _agree(wish: Wish, other: Occupant) -> bool:
    return wish.sharing.accepts(other.target, other.groups) and other.sharing.accepts(wish.target, wish.groups)


# ---- who goes for it


def evictions(state: State, lease: Lease) -> list[str]:
    """Return the residents that go for a lease that was granted: those it does not share with, and what it takes to
    fit. Memory that is on its way back is not waited for here.
    """
    if not state.durable.residents:
        return []
    wish = replace(wish_of(state, lease.terms), need_mib=lease.vram_mib)
    everybody = [other for other in occupants(state) if other.id not in {lease.id, lease.target}]
    going: dict[str, None] = {}
    for gpu in state.observed.gpus:
        if gpu.uuid not in lease.gpus:
            continue
        others = [other for other in everybody if other.is_on(gpu)]
        strangers = _strangers(state, gpu, wish, others)
        going |= dict.fromkeys(other.id for other in strangers if other.kind == "resident")
        usable = usable_mib(state, gpu)
        friends = [other for other in others if other not in strangers]
        if usable is None or not friends:
            continue
        used = use_of(state, gpu)
        spare = usable - foreign_mib(state, gpu) - (lease.vram_mib or 0)
        spare -= sum(takes(other, used) for other in friends if other.kind != "resident")
        idle = sorted((other for other in friends if other.kind == "resident"), key=_age)
        sizes = {other.id: takes(other, used) for other in idle}
        more = fewest_to_evict(sizes, spare)
        going |= dict.fromkeys(sizes if more is None else more)
    return list(going)


def _age(other: Occupant) -> tuple[int, str]:
    return (other.since_ms, other.id)


def fewest_to_evict(sizes: dict[str, int], spare_mib: int) -> tuple[str, ...] | None:
    """Choose whom to evict so that the rest fits into ``spare_mib``: the fewest, then the least recently used.

    ``sizes`` says what each takes (MiB), the least recently used first. Returns None if it does not even fit when all
    of them go.
    """
    over = sum(sizes.values()) - spare_mib
    if over <= 0:
        return ()
    if spare_mib < 0:
        return None
    searched = list(sizes)[:SEARCHED_MAX]
    for number in range(1, len(searched) + 1):
        for group in combinations(searched, number):
            if sum(sizes[name] for name in group) >= over:
                return group
    return tuple(sizes)


def crowded_out(state: State, gpu: Gpu, lease: Lease) -> Refusal | None:
    """Return the refusal for a lease whose room is taken by processes that the supervisor may not stop; None if it is
    not they, but memory that nobody explains.
    """
    usable, foreign = usable_mib(state, gpu), use_of(state, gpu).get(None, 0)
    if usable is None:
        return None
    wish = replace(wish_of(state, lease.terms), need_mib=lease.vram_mib)
    whole = is_whole(state, gpu, lease.vram_mib)
    others = [other for other in occupants(state) if other.is_on(gpu) and other.id != lease.id]
    spare = usable - foreign - sum(takes(other, use_of(state, gpu)) for other in others)
    fits = foreign <= IDLE_MIB if whole else spare >= (lease.vram_mib or 0)
    return None if fits else _crowded_out(state, gpu, wish, foreign)


# ---- why not, in sentences


def _held_by(state: State, other: Occupant) -> Refusal:
    whose = other.target or "a bare lease"
    if other.kind == "window":
        detail = f"queued claimant pending: {whose} of {other.owner} may claim now"
        return Refusal("gpu_busy", detail, {"holder": None, "owner": other.owner})
    context = {"holder": other.target, "owner": other.owner, "lease": other.id}
    return Refusal("gpu_busy", f"{whose} holds {_what_it_holds(state, other)} (owner {other.owner})", context)


def _what_it_holds(state: State, other: Occupant) -> str:
    """Return the GPUs of a holder in words; where there is but one, it needs no number."""
    gpus = state.observed.gpus
    if len(gpus) == 1:
        return "the GPU"
    names = [str(gpu.index) for gpu in gpus if other.is_on(gpu)] or list(other.gpus)
    return f"GPU {names[0]}" if len(names) == 1 else f"GPUs {', '.join(names[:-1])} and {names[-1]}"


def _others_wait(state: State) -> Refusal:
    return Refusal("gpu_busy", f"{len(state.queue)} others wait in the queue", {"holder": None})


def _too_young(other: Occupant) -> Refusal:
    detail = f"{other.target} was started a moment ago, and is not evicted yet"
    return Refusal("gpu_busy", detail, {"holder": other.target, "evictable_at_ms": other.stays_until_ms})


def _crowded_out(state: State, gpu: Gpu, wish: Wish, foreign: int) -> Refusal:
    """What nobody may evict has the room: say who, and how much."""
    strangers = [
        process
        for process in gpu.processes or ()
        if process.container not in state.observed.containers and not claimants(state, gpu, process)
    ]
    need = f"{wish.need_mib} MiB" if wish.need_mib is not None else "all of it"
    strangers.sort(key=lambda process: -(process.used_mib or 0))
    users = [{"pid": one.pid, "used_mib": one.used_mib, **whose(state, one)} for one in strangers[:32]]
    who = f": {', '.join(called(state, one) for one in strangers[:8])}" if strangers else ""
    return Refusal(
        "insufficient_vram",
        f"{foreign} of {gpu.total_mib} MiB on GPU {gpu.uuid} are in use by what the supervisor may not stop{who}; "
        f"{wish.target or 'the lease'} needs {need}; end that first",
        {"needed_mib": wish.need_mib, "foreign_mib": foreign, "gpu": gpu.uuid, "processes": users},
    )
