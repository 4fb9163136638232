"""What the driver's answers mean: a ``Gpu`` with its state, and a sentence for everything that is not well.

Pure. Each sentence says what is wrong, why, and what to do about it. A GPU that was seen once is never forgotten: it
stays in the list with its name and size, closed, for as long as the supervisor runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from supervisor.core.model import Gpu, GpuProcess, GpuState
from supervisor.gpu.nvml_codes import LOST, NO_PERMISSION, NOT_IN_PYNVML
from supervisor.gpu.wire import Seen, Trouble, User

MIB = 2**20
#: The first release of nvidia-ml-py that lists processes with every driver: 12.535 has no version 2 of the lists, and
#: drivers before 510 have no other.
PYNVML_ENOUGH = "12.550.52"

_RELOADED = (
    'the driver answers "Unknown Error", as it does in a container that lost its GPU devices: a `systemctl '
    "daemon-reload` on the host takes them from running containers; recreate this container, or run the supervisor on "
    "the host (NVIDIA/nvidia-container-toolkit#48)"
)
_UPGRADED = (
    "the NVIDIA driver was upgraded while its kernel module was loaded: the library and the module do not fit; "
    "reboot, or end everything that uses a GPU and reload the modules (rmmod nvidia_uvm nvidia_drm nvidia_modeset "
    "nvidia; modprobe nvidia)"
)
_LOST: Mapping[int, str] = {
    15: "has fallen off the bus: look for NVRM and Xid in `dmesg`, check its power and its seat, and reboot",
    16: "needs a reset before it can be used again: end what uses it and run `nvidia-smi --gpu-reset`, or reboot",
    28: "is no longer found by the driver: look for NVRM and Xid in `dmesg`, and reboot",
}
_LOOK = "look for NVRM and Xid in `dmesg`"


# ---- sentences about all GPUs


def why_no_reading(trouble: Trouble, *, in_container: bool) -> str:
    """Say why no GPU can be read at all."""
    match trouble.code:
        case 12 if in_container:
            return (
                "no NVIDIA driver is in this container: libnvidia-ml.so.1 is missing; give it the GPUs with the NVIDIA "
                "Container Toolkit (`gpus: all`, and `utility` in NVIDIA_DRIVER_CAPABILITIES)"
            )
        case 12:
            return "no NVIDIA driver is installed: libnvidia-ml.so.1 is missing; install the driver's package"
        case 9:
            return (
                "the NVIDIA driver is installed but not loaded: load it (`modprobe nvidia`); if it does not load, "
                f"{_LOOK}, or reboot after an upgrade of the kernel"
            )
        case 18:
            return _UPGRADED
        case 4:
            return (
                "the NVIDIA driver permits this user nothing: its devices /dev/nvidia* must be readable and writable; "
                "run the supervisor as root, or as a member of the group that owns them"
            )
        case 999 if in_container:
            return _RELOADED
    return f"the NVIDIA driver fails: {_words(trouble)}; {_LOOK}; reboot if it stays"


def none_listed() -> str:
    return (
        "the NVIDIA driver is loaded and lists no GPU: look for NVRM in `dmesg` and for the card in `lspci`, and in a "
        "container for what NVIDIA_VISIBLE_DEVICES hides"
    )


def _words(trouble: Trouble) -> str:
    return f'{trouble.call} says "{trouble.text}" (code {trouble.code})'


def sentences(gpus: Iterable[Gpu]) -> str:
    """Return everything that the GPUs' details say, each sentence once."""
    return ". ".join(dict.fromkeys(gpu.detail for gpu in gpus if gpu.detail))


# ---- one GPU


def title(gpu: Gpu) -> str:
    """Name a GPU for people."""
    known = ", ".join(part for part in (gpu.name, "" if is_nameless(gpu) else gpu.uuid) if part)
    return f"GPU {gpu.index}" + (f" ({known})" if known else "")


def nameless(index: int) -> Gpu:
    """Stand for a GPU that has never told its UUID."""
    return Gpu(f"unknown-{index}", index=index)


def is_nameless(gpu: Gpu) -> bool:
    return gpu.uuid == f"unknown-{gpu.index}"


def closed(gpu: Gpu, state: GpuState, why: str) -> Gpu:
    """Return a GPU of which no more is known than who it is. ``why`` goes on after its title."""
    return Gpu(
        gpu.uuid,
        index=gpu.index,
        name=gpu.name,
        total_mib=gpu.total_mib,
        state=state,
        accounting="unknown",
        detail=f"{title(gpu)} {why}",
    )


def judged(seen: Seen, known: Gpu | None, *, in_container: bool) -> Gpu:
    """Return the GPU that was seen; ``known`` is how it was seen earlier, for what it could not be asked now."""
    if seen.ended is not None:
        return _ended(seen, seen.ended, known, in_container=in_container)
    assert seen.uuid is not None, "what did not end has told its UUID"
    gpu = Gpu(
        seen.uuid,
        index=seen.index,
        name=seen.name,
        total_mib=_floor(seen.total_b),
        used_mib=_ceiling(seen.used_b),
        reserved_mib=_ceiling(seen.reserved_b),
        free_mib=_floor(seen.free_b),
        utilization_percent=seen.utilization_percent,
        temperature_c=seen.temperature_c,
        power_w=None if seen.power_mw is None else round(seen.power_mw / 1000),
        processes=None if seen.users is None else tuple(_process(user) for user in seen.users),
        accounting=seen.accounts.state if seen.accounts is not None else "unknown",
    )
    if seen.mig:
        why = (
            "is partitioned (MIG), and its partitions are not leased: turn MIG off (`nvidia-smi -i "
            f"{seen.index} -mig 0`, then reset it) to lease it whole"
        )
        return replace(gpu, state="mig", detail=f"{title(gpu)} {why}")
    return replace(gpu, detail=". ".join(_limit(gpu, trouble) for trouble in seen.troubles))


def _ended(seen: Seen, trouble: Trouble, known: Gpu | None, *, in_container: bool) -> Gpu:
    who = known or (Gpu(seen.uuid) if seen.uuid is not None else nameless(seen.index))
    who = replace(who, index=seen.index, name=seen.name or who.name)
    if trouble.code in LOST:
        return closed(who, "lost", _LOST[trouble.code])
    if trouble.code == 999 and in_container:
        return closed(who, "unreadable", f"cannot be read: {_RELOADED}")
    if trouble.code == 4:
        return closed(
            who,
            "unreadable",
            f"may not be read by this user: {_words(trouble)}; run the supervisor as root, or as a member of the group "
            "that owns /dev/nvidia*",
        )
    return closed(who, "unreadable", f"cannot be read: {_words(trouble)}; {_LOOK}; reset it or reboot if it stays")


def _limit(gpu: Gpu, trouble: Trouble) -> str:
    what = f"{title(gpu)} does not tell everything"
    if trouble.code == NOT_IN_PYNVML:
        return f"{what}: this release of nvidia-ml-py has no {trouble.call}; install {PYNVML_ENOUGH} or newer"
    advice = "run the supervisor as root to have it" if trouble.code == NO_PERMISSION else f"{_LOOK} if it stays"
    return f"{what}: {_words(trouble)}; {advice}"


def _process(user: User) -> GpuProcess:
    return GpuProcess(
        pid=user.pid,
        used_mib=_ceiling(user.used_b),
        kind="graphics" if user.graphics else "compute",
        started=user.started,
    )


def _floor(size_b: int | None) -> int | None:
    return None if size_b is None else size_b // MIB


def _ceiling(size_b: int | None) -> int | None:
    """Round up: what is in use must never look smaller than it is."""
    return None if size_b is None else -(-size_b // MIB)


# ---- all GPUs that were ever seen


def unseen(known: Gpu) -> Gpu:
    """Return a GPU that the driver listed once and does not list any more."""
    return closed(known, "lost", "is no longer listed by the driver: look for NVRM and Xid in `dmesg`, and reboot")


def known_at(index: int, known: Mapping[str, Gpu], taken: Iterable[str]) -> Gpu | None:
    """Return who a GPU is that did not say: the one that had its index and is not among ``taken`` (UUIDs)."""
    others = set(taken)
    return next((gpu for gpu in known.values() if gpu.index == index and gpu.uuid not in others), None)


def complete(
    seen: Iterable[Seen], avoided: Mapping[int, str], known: Mapping[str, Gpu], *, in_container: bool
) -> tuple[Gpu, ...]:
    """Return all GPUs, in the order of their indices: the seen ones, those left out, and those that are missing.

    ``avoided``: index -> why it was not asked (goes on after its title). ``known``: UUID -> how it was last seen.
    """
    seen = tuple(seen)
    told = {one.uuid for one in seen if one.uuid is not None}
    gpus: dict[str, Gpu] = {}
    for one in seen:
        who = known.get(one.uuid) if one.uuid is not None else known_at(one.index, known, told)
        gpu = judged(one, who, in_container=in_container)
        gpus[gpu.uuid] = gpu
    for index, why in avoided.items():
        who = known_at(index, known, gpus) or nameless(index)
        gpus[who.uuid] = closed(who, "unreadable", why)
    for uuid, gpu in known.items():
        if uuid not in gpus:
            gpus[uuid] = unseen(gpu)
    return tuple(sorted(gpus.values(), key=lambda gpu: (gpu.index, gpu.state != "ok", gpu.uuid)))
