"""What a figure was measured on: it means nothing without."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

from tests.benchmarks.wire import Line, request


class Machine(Struct, frozen=True, kw_only=True):
    """``load``: the load averages (1, 5, 15 min) at the start: others disturb. ``disk``: where data go."""

    date: str
    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    engine: str
    disk: str
    redis: str
    etcd: str
    load: tuple[float, float, float]

    @property
    def lines(self) -> list[str]:
        load = " ".join(f"{value:.2f}" for value in self.load)
        return [
            f"{self.date}; {self.cores} x {self.cpu}, {self.memory_gib:.0f} GiB; Linux {self.kernel}; load {load}",
            f"Python {self.python}; {self.engine}; data on {self.disk}; Redis {self.redis}; etcd {self.etcd}",
        ]


def machine(engine_socket: str, folder: Path) -> Machine:
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return Machine(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cpu=model[1] if model else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=int(memory[1]) / 2**20 if memory else 0,
        kernel=platform.release(),
        python=platform.python_version(),
        engine=_engine(engine_socket),
        disk=file_system(folder),
        redis=_version("redis-server", "--version", r"v=([\d.]+)"),
        etcd=_version("etcd", "--version", r"Version: ([\d.]+)"),
        load=os.getloadavg(),
    )


def file_system(folder: Path) -> str:
    """Return the type and the device of the file system that a folder is on."""
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    device, _, kind = max(inside, key=lambda mount: len(mount[1]))
    return f"{kind} ({device})"


def _engine(socket: str) -> str:
    line = Line(socket)
    try:
        version = line.ask(request("GET", "/version"))
    finally:
        line.close()
    return f"Docker Engine {version['Version']} (API {version['ApiVersion']})"


def _version(program: str, flag: str, pattern: str) -> str:
    path = shutil.which(program)
    if path is None:
        return "not installed"
    said = subprocess.run([path, flag], capture_output=True, text=True, timeout=20, check=False).stdout
    found = re.search(pattern, said)
    return found[1] if found else "of unknown version"
