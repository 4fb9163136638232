"""The stand-in for the driver's library (stub/nvml.c): built once, and one with a state of its own for each test."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.gpu.probe import NvmlGpus
from supervisor.gpu.reading import Limits, Reading

SOURCE = Path(__file__).parent / "stub" / "nvml.c"
LIBRARY = "libnvidia-ml.so.1"

#: index, UUID, total, used, reserved (MiB), utilisation, temperature, power (mW), MIG, name
BIG = "gpu 0 GPU-big 24576 1000 300 37 55 120500 0 NVIDIA Stub 24"
SMALL = "gpu 1 GPU-small 8192 0 100 0 30 9000 0 NVIDIA Stub 8"


class Call(NamedTuple):
    """One call that the library noted; ``gpu`` -1: of all."""

    pid: int
    function: str
    gpu: int


class Stub:
    """One library in a folder of its own."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        # A link, so that hundreds of these cost nothing; the library finds its state beside the name it was loaded by.
        os.link(library, folder / LIBRARY)
        self.environ = {"LD_LIBRARY_PATH": str(folder)}
        self.say()

    def say(self, *lines: str, gpus: tuple[str, ...] = (BIG, SMALL)) -> None:
        """Set the state: the GPUs, and lines as stub/nvml.c has them. It counts from the next call on."""
        new = self.folder / "state.new"
        new.write_text("\n".join(("driver 560.35.03", "cuda 12060", *gpus, *lines, "")))
        new.rename(self.folder / "state")

    def calls(self) -> list[Call]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Call(int(pid), function, int(gpu)) for pid, function, gpu in map(str.split, lines)]

    def forget_calls(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)

    def pids(self) -> list[int]:
        """The processes that called, in the order of their first calls."""
        return list(dict.fromkeys(call.pid for call in self.calls()))


def build(folder: Path, gcc: str, *defines: str) -> Path:
    """Compile the library, without what ``defines`` take away."""
    path = folder / "-".join(("nvml", *defines, "so"))
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *(f"-D{define}" for define in defines)]
    subprocess.run([gcc, *flags, "-o", str(path), str(SOURCE)], check=True)
    return path


def find_gcc() -> str | None:
    return shutil.which("gcc")


class Readings:
    """A probe, and what it reported."""

    def __init__(self, gpus: NvmlGpus) -> None:
        self.gpus = gpus
        self.reported: queue.Queue[Reading] = queue.Queue()

    def next(self, within_s: float = 25.0) -> Reading:
        return self.reported.get(timeout=within_s)

    def read(self, within_s: float = 25.0) -> Reading:
        """Ask for a reading and return the first that began after that."""
        asked_s = time.monotonic()
        self.gpus.read_soon()
        while (reading := self.next(within_s)).began_s < asked_s:
            pass
        return reading


@contextmanager
def reading(stub: Stub | None = None, **options: Any) -> Iterator[Readings]:
    """Run a probe on a stub, or on the machine's own driver, until the end of the block."""
    environ = options.pop("environ", stub.environ if stub else dict(os.environ))
    options.setdefault("in_container", False)
    readings = Readings(NvmlGpus(environ=environ, **options))
    readings.gpus.start(readings.reported.put)
    try:
        yield readings
    finally:
        readings.gpus.close()


#: For hangs: a machine that is busy with other tests must still make its calls in time.
PATIENCE_S = 1.0
QUICK = Limits(call_s=PATIENCE_S, slow_call_s=PATIENCE_S, pause_s=0.0, avoid_s=0.0)
