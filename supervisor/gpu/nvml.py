"""The calls of NVML, through pynvml, that make up one reading. Runs in the child only: any of them may block for ever.

Nothing is judged here: errors are passed on with their codes. What a GPU does not support or permit is turned off and
asked again now and then; what newer drivers offer is tried first, then what older ones have.

Sources: nvml.h; https://docs.nvidia.com/deploy/nvml-api; pynvml.py of nvidia-ml-py 13.615.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
from msgspec import Struct

from supervisor.gpu.accountant import Accountant
from supervisor.gpu.nvml_codes import (
    ALL_GPUS,
    FUNCTION_NOT_FOUND,
    INSUFFICIENT_SIZE,
    LOST,
    NO_PERMISSION,
    NOT_CALLED,
    NOT_IN_PYNVML,
    NOT_SUPPORTED,
    VERSION_MISMATCH,
)
from supervisor.gpu.proc_files import stat_of
from supervisor.gpu.wire import Broken, Calling, Done, Failed, Message, Request, Seen, Trouble, User

#: Version 1 counts what the driver keeps for itself as used; version 2 needs driver 510.
MEMORY = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo")
COMPUTE = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
GRAPHICS = ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2")
MPS = ("nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2")
#: Processes come between the call that counts them and the one that lists them, more than pynvml leaves room for.
LIST_TRIES = 5
GPU_TEMPERATURE_SENSOR = 0
TEXT_MAX = 200


class Off(Struct, frozen=True):
    """A query that is not made for now; ``trouble`` is told in every reading, None: there is nothing to tell."""

    until_s: float
    trouble: Trouble | None


class Nvml:
    """The library, set up when it is first needed, and anew when it has to be. ``announce`` hears of calls first."""

    def __init__(self, announce: Callable[[Calling], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._announce, self._clock = announce, clock
        self._up = False
        self._up_since_s = 0.0
        self._gpus_missing = False
        self._absent: set[str] = set()
        self._off: dict[tuple[int, str], Off] = {}
        self._accountant = Accountant(self._call, clock)

    def read(self, request: Request) -> Iterator[Message]:
        """Yield what is seen of every GPU, then ``Done`` or ``Broken``."""
        try:
            self._set_up(request.refresh_s)
            driver = str(self._call("nvmlSystemGetDriverVersion"))
            cuda = self._cuda()
            count = int(self._call("nvmlDeviceGetCount"))
            self._gpus_missing = count == 0
            for index in range(count):
                if index not in request.skip:
                    yield self._gpu(index, request)
            yield Done(driver=driver, cuda=cuda)
        except Failed as failed:
            self._shut_down()
            yield Broken(failed.trouble)

    # ---- the library

    def _set_up(self, refresh_s: float) -> None:
        # The library lists the GPUs when it is set up: one that was reset, or came late, is seen by a new list only.
        if self._up and self._gpus_missing and self._clock() - self._up_since_s >= refresh_s:
            self._shut_down()
        if not self._up:
            self._absent.clear()
            self._off.clear()
            self._accountant.forget()
            self._call("nvmlInitWithFlags", None, 0)
            self._up, self._up_since_s = True, self._clock()

    def _shut_down(self) -> None:
        if self._up:
            self._up = False
            try:
                self._call("nvmlShutdown")
            except Failed:
                return  # that it is broken is known, and setting it up anew will say how

    def _cuda(self) -> int:
        try:
            return int(self._call("nvmlSystemGetCudaDriverVersion_v2"))
        except Failed as failed:
            if failed.trouble.code in ALL_GPUS:
                raise
            return 0

    def _call(self, name: str, gpu: int | None = None, *arguments: Any) -> Any:
        """Announce and make one call.

        Raises:
            Failed: the library, or Python on the way to it, did not do it.
        """
        self._announce(Calling(name, gpu))
        function = OWN.get(name) or getattr(pynvml, name, None)
        if function is None:
            raise Failed(Trouble(name, NOT_IN_PYNVML, "not in this release of nvidia-ml-py"))
        try:
            return function(*arguments)
        except pynvml.NVMLError as error:
            raise Failed(Trouble(name, error.value, str(error)[:TEXT_MAX])) from None
        except Exception as error:
            # A name that is no UTF-8, say: pynvml decodes what the driver hands out.
            raise Failed(Trouble(name, NOT_CALLED, repr(error)[:TEXT_MAX])) from None

    def _first_of(self, names: tuple[str, ...], gpu: int, handle: Any) -> Any:
        """Call the first of these functions that the library has; the last one has the last word."""
        *newer, oldest = names
        for name in newer:
            if name not in self._absent:
                try:
                    return self._call(name, gpu, handle)
                except Failed as failed:
                    if failed.trouble.code not in {FUNCTION_NOT_FOUND, VERSION_MISMATCH, NOT_IN_PYNVML}:
                        raise
                    self._absent.add(name)
        return self._call(oldest, gpu, handle)

    # ---- one GPU

    def _gpu(self, index: int, request: Request) -> Seen:
        """Describe one GPU as far as it can be; without its UUID or its memory there is no point in going on.

        Raises:
            Failed: with one of ``ALL_GPUS``.
        """
        seen: dict[str, Any] = {}
        troubles: list[Trouble] = []

        def ask(what: str, call: Callable[..., Any], *arguments: Any, needed: bool = False) -> Any:
            """Return what ``call(*arguments)`` answers, or None where that cannot be had now."""
            off = self._off.get((index, what))
            if off is not None and self._clock() < off.until_s:
                troubles.extend([off.trouble] if off.trouble else [])
                return None
            try:
                return call(*arguments)
            except Failed as failed:
                trouble = failed.trouble
            if trouble.code in LOST | ALL_GPUS:
                raise Failed(trouble)
            told = trouble.code not in {NOT_SUPPORTED, FUNCTION_NOT_FOUND}
            if needed and told and trouble.code != NO_PERMISSION:
                raise Failed(trouble)
            if not told or trouble.code in {NO_PERMISSION, NOT_IN_PYNVML}:
                self._off[index, what] = Off(self._clock() + request.off_s, trouble if told else None)
            troubles.extend([trouble] if told else [])
            return None

        try:
            handle = self._call("nvmlDeviceGetHandleByIndex", index, index)
            seen["uuid"] = str(self._call("nvmlDeviceGetUUID", index, handle))
            seen["name"] = ask("name", self._call, "nvmlDeviceGetName", index, handle) or ""
            mig = ask("mig", self._call, "nvmlDeviceGetMigMode", index, handle)
            seen["mig"] = bool(mig and mig[0])
            memory = ask("memory", self._first_of, MEMORY, index, handle, needed=True)
            if memory is not None:
                seen |= {"total_b": memory.total, "used_b": memory.used, "free_b": memory.free}
                seen["reserved_b"] = getattr(memory, "reserved", None)
            rates = ask("utilisation", self._call, "nvmlDeviceGetUtilizationRates", index, handle)
            seen["utilization_percent"] = rates and rates.gpu
            seen["temperature_c"] = ask(
                "temperature", self._call, "nvmlDeviceGetTemperature", index, handle, GPU_TEMPERATURE_SENSOR
            )
            seen["power_mw"] = ask("power", self._call, "nvmlDeviceGetPowerUsage", index, handle)
            lists = [ask(names[0], self._listed, names, index, handle) for names in (COMPUTE, GRAPHICS, MPS)]
            seen["accounts"] = ask("accounts", self._accountant.look, index, handle, request)
            # Where only those that draw are told, a list of them would say that nobody else is there.
            if lists[0] is not None:
                seen["users"] = merge(*([(entry.pid, entry.usedGpuMemory) for entry in found or ()] for found in lists))
        except Failed as failed:
            if failed.trouble.code in ALL_GPUS:
                raise
            self._gpus_missing = self._gpus_missing or failed.trouble.code in LOST
            seen["ended"] = failed.trouble
        return Seen(index=index, troubles=tuple(troubles), **seen)

    def _listed(self, names: tuple[str, ...], index: int, handle: Any) -> Any:
        for left in reversed(range(LIST_TRIES)):
            try:
                return self._first_of(names, index, handle)
            except Failed as failed:
                if failed.trouble.code != INSUFFICIENT_SIZE or not left:
                    raise
        raise AssertionError("the last try returns or raises")


def _memory_v2(handle: Any) -> Any:
    return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)


def _accounting_stats(handle: Any, pid: int) -> Any:
    """As pynvml's, which raises TypeError where the driver does not say how much memory was used: it puts None into a
    field of a C structure (13.615).
    """
    stats = pynvml.c_nvmlAccountingStats_t()
    function = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetAccountingStats")
    pynvml._nvmlCheckReturn(function(handle, ctypes.c_uint(pid), ctypes.byref(stats)))
    return stats


#: What is called in place of pynvml's function of that name.
OWN: dict[str, Callable[..., Any]] = {MEMORY[0]: _memory_v2, "nvmlDeviceGetAccountingStats": _accounting_stats}


Listed = list[tuple[int, int | None]]


def merge(compute: Listed, graphics: Listed, mps: Listed) -> tuple[User, ...]:
    """Return the processes of all three lists, each once: the same memory is told in every list that it is in.

    One that computes and draws counts as graphics: a desktop or a game is more easily ended than mended.
    """
    drawing = {pid for pid, _ in graphics}
    used_b: dict[int, int | None] = {}
    for pid, size_b in (*compute, *graphics, *mps):
        known_b = used_b.get(pid)
        used_b[pid] = size_b if known_b is None else max(known_b, size_b or 0)
    return tuple(
        User(pid=pid, used_b=size_b, graphics=pid in drawing, started=started_of(pid))
        for pid, size_b in sorted(used_b.items())
    )


def started_of(pid: int, proc: Path = Path("/proc")) -> int:
    """Return when a process started, in clock ticks since the boot; 0 if it is gone, or may not be read."""
    stat = stat_of(pid, proc)
    return 0 if stat is None else stat.started
