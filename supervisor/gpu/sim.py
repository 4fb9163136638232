"""GPUs without hardware: their memory follows the labelled containers that run."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from supervisor.core.model import Gpu


class SimulatedGpus:
    """Simulated GPUs (and those of unknown size, which are never read).

    Every running target uses what it declares, on the first GPU that is large enough for it; one that declares
    nothing uses the whole.
    """

    def __init__(self, gpus: tuple[Gpu, ...]) -> None:
        self.gpus = gpus

    def read(self, running: Iterable[int | None]) -> tuple[Gpu, ...]:
        """Return the GPUs as they are in use by targets of the given declared sizes (MiB, None: undeclared)."""
        used = [0 for _ in self.gpus]
        for declared_mib in running:
            for index, gpu in enumerate(self.gpus):
                if gpu.total_mib is not None and (declared_mib is None or declared_mib <= gpu.total_mib):
                    used[index] += gpu.total_mib if declared_mib is None else declared_mib
                    break
        return tuple(
            gpu if gpu.total_mib is None else replace(gpu, used_mib=min(mib, gpu.total_mib))
            for gpu, mib in zip(self.gpus, used, strict=True)
        )
