"""Which GPUs a container uses: what its label names, or what Docker was asked for.

Pure. GPUs are named as people and Docker name them: by index (``0``), by UUID or the beginning of one
(``GPU-5e2f1c3a``), by ``SIM-0`` where they are simulated. Which GPU that is, only a reading of the GPUs can tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

from supervisor.core.values import LIST_MAX, BadValue, parse_list, shown

INDEX_MAX = 255
COUNT_MAX = 256

_INDEX = re.compile(r"0|[1-9][0-9]{0,2}")
_SIMULATED = re.compile(r"SIM-(?:0|[1-9][0-9]{0,2})")
_UUID = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
#: Of a UUID less than this is no name: by mistake it fits a second GPU.
_UUID_LEAST = 8

#: What moby's drivers for NVIDIA GPUs are called, and the capabilities by which it finds one that a request does not
#: name. Source: moby daemon/nvidia_linux.go, later daemon/devices_nvidia_linux.go.
_DRIVERS = frozenset({"nvidia", "nvidia.cdi", "nvidia.runtime-hook"})
_CAPABILITIES = frozenset({"gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display"})
_CDI_KIND = "nvidia.com/gpu"


class Devices(Struct, frozen=True):
    """The GPUs of one container: all, the first ``count`` by index, and those in ``ids``; with none of these, any one.

    ``unreadable`` are words of Docker's from which nobody can tell a GPU: MIG devices, typing errors.
    """

    ids: tuple[str, ...] = ()
    every: bool = False
    count: int = 0
    unreadable: tuple[str, ...] = ()


NONE = Devices()


class Request(Struct, frozen=True, kw_only=True):
    """One device request, of Docker's or of a compose file. ``count`` -1: all."""

    driver: str = ""
    ids: tuple[str, ...] = ()
    count: int = 0
    capabilities: frozenset[str] = frozenset()


def in_order(ids: Iterable[str]) -> tuple[str, ...]:
    """Return each once, indices first and by number."""
    return tuple(sorted(set(ids), key=lambda device: (len(device), device)))


def parse_devices(text: str) -> Devices:
    """Read ``all``, or GPUs between commas.

    Raises:
        BadValue: one of them is no GPU's index or UUID, ``all`` stands beside others, or there is none.
    """
    hint = "write all, or GPUs as nvidia-smi -L shows them: 0,1 or GPU-5e2f1c3a"
    words = parse_list(text)
    if words == ("all",):
        return Devices(every=True)
    if not words:
        raise BadValue(f'"{shown(text)}" is an empty list', hint)
    if len(words) > LIST_MAX:
        raise BadValue(f'"{shown(text)}" has {len(words)} items', f"write at most {LIST_MAX}")
    found = [_device(word) for word in words]
    for word, device in zip(words, found, strict=True):
        if word == "all":
            raise BadValue(f'"{shown(text)}" has all beside other GPUs', "write all alone, or GPUs only")
        if device is None:
            raise BadValue(f'"{shown(word)}" is not a GPU', _suggest(word) or hint)
    return Devices(ids=in_order(device for device in found if device))


def _device(word: str) -> str | None:
    if _INDEX.fullmatch(word):
        return word if int(word) <= INDEX_MAX else None
    if _SIMULATED.fullmatch(word):
        return word
    digits = word[4:].lower()
    if not word.startswith("GPU-") or not _UUID_LEAST <= len(digits) <= len(_UUID):
        return None
    fits = all(a == b if b == "-" else a in "0123456789abcdef" for a, b in zip(digits, _UUID, strict=False))
    return f"GPU-{digits}" if fits else None


def _suggest(word: str) -> str | None:
    if word.startswith("MIG-"):
        return "name the whole GPU: the parts that MIG makes of one are not leased"
    near = next((name for name in (f"GPU-{word}", f"GPU-{word[4:]}", word.upper()) if _device(name)), None)
    if near is not None:
        return f"did you mean {near}?"
    return f"write at least {_UUID_LEAST} digits of it" if word.startswith("GPU-") else None


# ---- what Docker was asked for


def asked_for(requests: Iterable[Request], runtime: str = "", visible: str | None = None) -> Devices:
    """Return the GPUs that Docker was asked for.

    Docker hands a request for ``count`` GPUs the first ones by index, whatever runs on them. ``runtime`` counts where
    no request names an NVIDIA GPU: NVIDIA's own then reads ``visible``, the environment's ``NVIDIA_VISIBLE_DEVICES``
    (each request sets it anew, and a CDI device to ``void``). CUDA's images set it to ``all``.

    Source: moby daemon/nvidia_linux.go, ``setNvidiaGPUs`` and ``countToDevices``; NVIDIA container toolkit,
    "Specialized Configurations with Docker".
    """
    ours = [request for request in requests if _is_ours(request)]
    if not ours and runtime.startswith("nvidia") and visible:
        ours = [Request(driver="nvidia", ids=(visible,))]
    # Ids and a count in one request: the engine refuses to start that, so either will do.
    counted = [request.count for request in ours if not request.ids]
    words = [word for request in ours for word in _named(request.ids)]
    read = {word: _device(word) for word in words if word != "all"}
    return Devices(
        ids=in_order(device for device in read.values() if device)[:COUNT_MAX],
        every="all" in words or any(count < 0 for count in counted),
        count=min(max([0, *counted]), COUNT_MAX),
        unreadable=tuple(sorted(word for word, device in read.items() if device is None)),
    )


def _is_ours(request: Request) -> bool:
    if request.driver == "cdi":
        return any(word.startswith(f"{_CDI_KIND}=") for word in request.ids)
    return request.driver in _DRIVERS or (not request.driver and not _CAPABILITIES.isdisjoint(request.capabilities))


def _named(ids: Iterable[str]) -> Iterator[str]:
    """Yield the GPUs in the ids of a request: commas within one part it in two, and CDI names devices of every kind."""
    for word in ",".join(ids).split(","):
        kind, equals, name = (part.strip() for part in word.partition("="))
        if not equals:
            name = kind
        elif kind != _CDI_KIND:
            continue
        if name not in {"", "none", "void"}:
            yield name
