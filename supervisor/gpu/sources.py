"""The GPUs that a choice means, behind the one protocol (``readings.GpuPort``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from supervisor.gpu.choice import GpuChoice
from supervisor.gpu.load import Load
from supervisor.gpu.located import Locator
from supervisor.gpu.probe import NvmlGpus
from supervisor.gpu.reading import Reading
from supervisor.gpu.sim import SimulatedGpus


class DriverGpus:
    """The GPUs as the driver sees them. It sees for itself who uses them, so it is told of no loads."""

    def __init__(self, probe: NvmlGpus, locator: Locator | None = None) -> None:
        self._probe, self._locator = probe, locator or Locator()

    def start(self, report: Callable[[Reading], None]) -> None:
        self._probe.start(lambda reading: report(self._locator.locate(reading)))

    def read_soon(self, _loads: Sequence[Load]) -> None:
        self._probe.read_soon()

    def close(self) -> None:
        self._probe.close()


def open_gpus(choice: GpuChoice) -> SimulatedGpus | DriverGpus:
    """Return the GPUs of a choice; nothing is read before they are started."""
    if choice.kind == "sim":
        return SimulatedGpus(choice.simulated, choice.lies)
    return DriverGpus(NvmlGpus())
