"""What fits where: the GPUs, what is on them, and where a newcomer has room. Pure, and reads only.

Three numbers of a target are never mixed: what it *declares* (labels), what is *reserved* for it (written with its
grant, and kept while it is resident), and what it *uses* (read from the GPU). All are MiB on one GPU.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.errors import Refusal
from supervisor.core.model import Gpu, Lease, Resident, Sharing, Terms, Ticket
from supervisor.core.state import State
from supervisor.core.targets import is_named, spec_of

#: Memory that an idle driver or desktop keeps: a GPU with less in use counts as free for whoever needs all of it.
IDLE_MIB = 1_024
#: Residents among which the fewest to evict are searched for; of more, the least recently used go first.
SEARCHED_MAX = 12
ALONE = Sharing()
Limit = Literal["min_residency_ms", "idle_timeout_ms", "max_hold_ms"]


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


class Occupant(Struct, frozen=True):
    """Somebody who has room reserved: a lease, an open claim window, or a resident (which may be evicted).

    ``gpus`` empty: nobody knows where it is, so it counts everywhere. ``since_ms``: since when it is idle.
    ``stays_until_ms``: a resident that has only just been started is not evicted before.
    """

    kind: Literal["lease", "window", "resident"]
    id: str
    target: str | None
    owner: str
    gpus: tuple[str, ...]
    need_mib: int | None
    sharing: Sharing
    groups: tuple[str, ...]
    since_ms: int = 0
    stays_until_ms: int = 0

    def is_on(self, gpu: Gpu) -> bool:
        return not self.gpus or gpu.uuid in self.gpus


class Placement(Struct, frozen=True):
    """Where a wish fits. ``evicts``: residents (by target) that go for it. ``joins``: whose room it shares."""

    gpus: tuple[str, ...]
    need_mib: int | None
    evicts: tuple[str, ...] = ()
    joins: str | None = None


# ---- what is asked for


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


def usable_mib(state: State, gpu: Gpu) -> int | None:
    """Return what leases can have of a GPU: all but what the driver keeps and the headroom; None if nobody knows."""
    if gpu.total_mib is None:
        return None
    return gpu.total_mib - (gpu.reserved_mib or 0) - state.settings.headroom_mib


def needed_on(state: State, gpu: Gpu, need_mib: int | None) -> int | None:
    """Return what a lease takes of ``gpu``: what was declared, else the whole; None if nobody knows its size."""
    return need_mib if need_mib is not None else usable_mib(state, gpu)


def is_whole(state: State, gpu: Gpu, need_mib: int | None) -> bool:
    usable = usable_mib(state, gpu)
    return need_mib is None or usable is None or need_mib >= usable


# ---- who is there


def occupants(state: State) -> list[Occupant]:
    """Return everybody who has room reserved, each target once: holders of one target have its room together, and who
    may claim it has what it has already.
    """
    durable = state.durable
    leases = [_lease(state, lease) for lease in durable.leases.values() if state.leads(lease)]
    tickets = [durable.tickets[id_] for id_ in state.windows]
    windows: dict[str, Occupant] = {}
    for ticket in tickets:
        if ticket.terms.target not in state.leases_by_target:
            windows.setdefault(ticket.terms.target or ticket.id, _window(state, ticket))
    homes = [home for home in durable.residents.values() if home.target not in windows or not home.gpus]
    residents = [_resident(state, home) for home in homes]
    return [*leases, *windows.values(), *residents]


def _says(state: State, target: str | None, *, sized: bool) -> tuple[Sharing, tuple[str, ...]]:
    """Return with whom a target shares and its groups, as far as its containers are there to say so."""
    if target is None:
        return (Sharing(any=True) if sized else ALONE), ()
    spec = spec_of(state, target)
    return (spec.coexist, spec.groups) if spec is not None else (ALONE, ())


def _lease(state: State, lease: Lease) -> Occupant:
    sized = lease.target is not None or lease.terms.vram_mib is not None
    sharing, groups = _says(state, lease.target, sized=sized)
    return Occupant("lease", lease.id, lease.target, lease.terms.owner, lease.gpus, lease.vram_mib, sharing, groups)


def _window(state: State, ticket: Ticket) -> Occupant:
    sharing, groups = _says(state, ticket.terms.target, sized=ticket.terms.vram_mib is not None)
    return Occupant(
        "window",
        ticket.id,
        ticket.terms.target,
        ticket.terms.owner,
        ticket.window_gpus,
        ticket.window_mib,
        sharing,
        groups,
    )


def _resident(state: State, resident: Resident) -> Occupant:
    sharing, groups = _says(state, resident.target, sized=True)
    return Occupant(
        "resident",
        resident.target,
        resident.target,
        "",
        resident.gpus,
        resident.vram_mib,
        sharing,
        groups,
        resident.since_ms,
        stays_until_ms(state, resident),
    )


def stays_until_ms(state: State, resident: Resident) -> int:
    """Return until when a resident is not evicted because it has only just been loaded; 0 if nobody knows when."""
    if not resident.loaded_at_ms:
        return 0
    return resident.loaded_at_ms + limit_ms(state, resident.target, "min_residency_ms")


def limit_ms(state: State, target: str | None, name: Limit) -> int:
    """Return a limit of a target in milliseconds, as its labels or else the configuration say; 0: there is none."""
    spec = spec_of(state, target) if target is not None else None
    own: int | None = getattr(spec, name) if spec is not None else None
    default: int = getattr(state.settings, name)
    return default if own is None else own


def _agree(wish: Wish, other: Occupant) -> bool:
    return wish.sharing.accepts(other.target, other.groups) and other.sharing.accepts(wish.target, wish.groups)


# ---- what is in use


def use_of(state: State, gpu: Gpu) -> dict[str | None, int]:
    """Return what is used on a GPU by target; None: by processes that belong to none. Unexplained use is not in it."""
    used: dict[str | None, int] = {}
    for process in gpu.processes or ():
        container = state.observed.containers.get(process.container or "")
        target = container.target if container is not None else None
        used[target] = used.get(target, 0) + (process.used_mib or 0)
    return used


def unexplained_mib(state: State, gpu: Gpu) -> int:
    """Return how much is in use that no process explains. Where the driver does not say what each uses, what is
    reserved explains as much as it can.
    """
    if gpu.used_mib is None:
        return 0
    known = sum(process.used_mib or 0 for process in gpu.processes or ())
    if is_silent(gpu):
        known = max(known, sum(other.need_mib or 0 for other in occupants(state) if other.is_on(gpu)))
    return max(0, gpu.used_mib - known)


def is_silent(gpu: Gpu) -> bool:
    """Return whether the driver does not say who uses how much of a GPU."""
    return gpu.processes is None or any(process.used_mib is None for process in gpu.processes)


def free_mib(state: State, gpu: Gpu, without: Collection[str] = ()) -> int | None:
    """Return what is free for a grant on a GPU, as it was last read; None if nobody can read it.

    ``total - used - sum(max(0, reserved_i - used_i)) - headroom``: foreign use and loads still to come both count.
    ``without``: ids of occupants whose own room is not kept from them (whoever asks).
    """
    usable = usable_mib(state, gpu)
    if usable is None or gpu.used_mib is None:
        return None
    return usable - gpu.used_mib - _still_to_come(state, gpu, without)


def _still_to_come(state: State, gpu: Gpu, without: Collection[str]) -> int:
    used = use_of(state, gpu)
    here = [other for other in occupants(state) if other.is_on(gpu) and other.id not in without]
    if is_silent(gpu) and gpu.used_mib is not None:
        return max(0, sum(needed_on(state, gpu, other.need_mib) or 0 for other in here) - gpu.used_mib)
    return sum(max(0, (needed_on(state, gpu, other.need_mib) or 0) - used.get(_user(other), 0)) for other in here)


def _user(other: Occupant) -> str:
    return other.target if other.target is not None else other.id


def has_room(state: State, gpu: Gpu, need_mib: int | None, without: Collection[str]) -> bool:
    """Return whether ``gpu``, as it was last read, has the room that ``without`` needs beside all others."""
    free = free_mib(state, gpu, without)
    if free is None:
        return True
    if is_whole(state, gpu, need_mib):
        return (gpu.used_mib or 0) <= IDLE_MIB
    return free >= (need_mib or 0)


# ---- where a newcomer fits


def closed(state: State, gpu: Gpu) -> str:
    """Return why nothing new is granted on a GPU, in a sentence; "" if it is open."""
    if gpu.state != "ok":
        return gpu.detail or f"GPU {gpu.uuid} is {gpu.state}"
    dirty = state.observed.dirty.get(gpu.uuid)
    return dirty.detail if dirty is not None else ""


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


def seen_on(state: State, target: str) -> tuple[str, ...]:
    """Return the GPUs on which processes of a target are seen."""
    seen = (state.observed.seen_on.get(container.id, ()) for container in state.containers_of(target))
    return tuple(dict.fromkeys(uuid for gpus in seen for uuid in gpus))


def who_is_where(gpus: tuple[Gpu, ...]) -> dict[str, tuple[str, ...]]:
    """Return the GPUs of each container that has a process on one."""
    found: dict[str, tuple[str, ...]] = {}
    for gpu in gpus:
        for container in {process.container for process in gpu.processes or () if process.container}:
            found[container] = (*found.get(container, ()), gpu.uuid)
    return found


def never(state: State, wish: Wish) -> Refusal | None:
    """Return why a wish can never be granted on these GPUs, whoever leaves; None if it can."""
    known = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in state.observed.gpus)
    if wish.missing:
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
    return Refusal(
        "insufficient_vram",
        f"{wish.need_mib} MiB are declared, and the largest GPU has {largest} MiB; "
        "lower gpu.vram-mib if it is too high",
        {"needed_mib": wish.need_mib, "largest_gpu_mib": largest},
    )


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
            return _held_by(other)
    within = reach(state, wish)
    fits: list[_Fit] = []
    refusals: list[Refusal] = []
    for gpu in eligible(state, wish):
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
        return _held_by(_lease(state, lead))
    if not set(lead.gpus).isdisjoint(keep_off):
        return _others_wait(state)
    return Placement(lead.gpus, lead.vram_mib, joins=lead.id)


def _preference(state: State, fit: _Fit) -> tuple[int, int, int]:
    """Order the GPUs that fit: fewest evictions; then the fullest (pack) or the emptiest (spread)."""
    left = fit.left_mib if fit.left_mib is not None else 0
    return (len(fit.evicts), left if state.settings.placement == "pack" else -left, fit.gpu.index)


def _strongest(refusals: list[Refusal]) -> Refusal | None:
    """Return the reason that matters: that of a GPU that will come free before that of one that will not."""
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
            return _held_by(other)
    for other in strangers:
        if other in young:
            return _too_young(other)
    going = tuple(other.id for other in strangers)
    usable, foreign = usable_mib(state, gpu), foreign_mib(state, now_ms, gpu)
    if usable is None:
        return _Fit(gpu, going, None)
    if is_whole(state, gpu, wish.need_mib):
        return _Fit(gpu, going, 0) if foreign <= IDLE_MIB else _crowded_out(state, gpu, wish, foreign)
    used = use_of(state, gpu)
    friends = [other for other in others if other not in strangers]
    held = [other for other in friends if other.kind != "resident"]
    spare = usable - foreign - (wish.need_mib or 0) - sum(_takes(other, used) for other in held)
    if spare < 0:
        return _held_by(held[0]) if held else _crowded_out(state, gpu, wish, foreign)
    idle = [other for other in friends if other.kind == "resident"]
    sizes = {other.id: _takes(other, used) for other in sorted(idle, key=_age) if other not in young}
    staying = [other for other in idle if other in young]
    more = fewest_to_evict(sizes, spare - sum(_takes(other, used) for other in staying))
    if more is None:
        return _too_young(staying[0])
    left = spare - sum(_takes(other, used) for other in idle if other.id not in more)
    return _Fit(gpu, (*going, *more), left)


def _strangers(state: State, gpu: Gpu, wish: Wish, others: list[Occupant]) -> list[Occupant]:
    """Return those with whom a GPU is not shared: one side does not want to, or needs all of it."""
    if is_whole(state, gpu, wish.need_mib):
        return others
    return [other for other in others if is_whole(state, gpu, other.need_mib) or not _agree(wish, other)]


def evictions(state: State, now_ms: int, lease: Lease) -> list[str]:
    """Return the residents that go for a lease that was granted: those it does not share with, and what it takes to
    fit. Memory that is on its way back is not waited for here.
    """
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
        spare = usable - foreign_mib(state, now_ms, gpu) - (lease.vram_mib or 0)
        spare -= sum(_takes(other, used) for other in friends if other.kind != "resident")
        idle = sorted((other for other in friends if other.kind == "resident"), key=_age)
        sizes = {other.id: _takes(other, used) for other in idle}
        more = fewest_to_evict(sizes, spare)
        going |= dict.fromkeys(sizes if more is None else more)
    return list(going)


def _age(other: Occupant) -> tuple[int, str]:
    return (other.since_ms, other.id)


def _takes(other: Occupant, used: dict[str | None, int]) -> int:
    """Return what an occupant of known size takes: what is reserved for it, or what it uses where that is more."""
    return max(other.need_mib or 0, used.get(_user(other), 0))


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


def foreign_mib(state: State, now_ms: int, gpu: Gpu) -> int:
    """Return what is in use on a GPU by none of ours: a game, a desktop, another user's process.

    What no process explains counts only once things are at rest: memory comes back some time after its process.
    """
    foreign = use_of(state, gpu).get(None, 0)
    at_rest = now_ms - state.observed.stirred_ms >= state.settings.vram_return_ms
    return foreign + (unexplained_mib(state, gpu) if at_rest else 0)


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
    spare = usable - foreign - sum(_takes(other, use_of(state, gpu)) for other in others)
    fits = foreign <= IDLE_MIB if whole else spare >= (lease.vram_mib or 0)
    return None if fits else _crowded_out(state, gpu, wish, foreign)


# ---- why not, in sentences


def _held_by(other: Occupant) -> Refusal:
    whose = other.target or "a bare lease"
    if other.kind == "window":
        detail = f"queued claimant pending: {whose} of {other.owner} may claim now"
        return Refusal("gpu_busy", detail, {"holder": None, "owner": other.owner})
    context = {"holder": other.target, "owner": other.owner, "lease": other.id}
    return Refusal("gpu_busy", f"{whose} holds the GPU (owner {other.owner})", context)


def _others_wait(state: State) -> Refusal:
    return Refusal("gpu_busy", f"{len(state.queue)} others wait in the queue", {"holder": None})


def _too_young(other: Occupant) -> Refusal:
    detail = f"{other.target} was started a moment ago, and is not evicted yet"
    return Refusal("gpu_busy", detail, {"holder": other.target, "evictable_at_ms": other.stays_until_ms})


def _crowded_out(state: State, gpu: Gpu, wish: Wish, foreign: int) -> Refusal:
    """What nobody may evict has the room: say who, and how much."""
    users = [
        {"pid": process.pid, "used_mib": process.used_mib, "container": process.container}
        for process in gpu.processes or ()
        if process.container not in state.observed.containers
    ]
    need = f"{wish.need_mib} MiB" if wish.need_mib is not None else "all of it"
    who = f" (pids {', '.join(str(user['pid']) for user in users[:8])})" if users else ""
    return Refusal(
        "insufficient_vram",
        f"{foreign} of {gpu.total_mib} MiB on GPU {gpu.uuid} are in use by what the supervisor may not stop{who}, and "
        f"{wish.target or 'the lease'} needs {need}; end that first",
        {"needed_mib": wish.need_mib, "foreign_mib": foreign, "gpu": gpu.uuid, "processes": users[:32]},
    )
