"""The kill through the cgroup: tried out on a process of our own at the start, and used only where that went well."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supervisor.cgroups.ending import GONE, end_all, thaw_doomed
from supervisor.cgroups.places import DRIVERS, Driver, Places
from supervisor.cgroups.trees import Tree, mounted_trees
from supervisor.gpu.proc_files import sees_host

log = logging.getLogger(__name__)

#: include/linux/proc_ns.h, PROC_CGROUP_INIT_INO: the namespace in which paths are the host's.
HOST_NAMESPACE = f"cgroup:[{0xEFFFFFFB}]"
#: From the kill of our own process to its end.
TRIAL_S = 2.0
TRIAL_NAME = "gpu_supervisor_trial"
#: A container without a cgroup in a known place is mostly one that is gone already: no walk for each of a burst.
LOOK_ROUND_S = 1.0


class Below:
    """Kills containers through their cgroups in one hierarchy, as far as these ``drivers`` made them."""

    def __init__(self, tree: Tree, drivers: Collection[Driver] = DRIVERS) -> None:
        self.tree = tree
        self.places = Places(tree.root, drivers)
        self._looked_s = -LOOK_ROUND_S

    def take_up(self) -> None:
        """Learn from the containers that run, and free those that an earlier supervisor was interrupted in killing."""
        for cgroup in self.places.search():
            with suppress(OSError):
                thaw_doomed(self.tree, cgroup)

    def kill(self, container_id: str) -> bool:
        """Kill everything in the container's cgroup. Never raises; takes tenths of a millisecond.

        Returns whether it was done. If not, the container has no cgroup where one is looked for, or nothing is in it,
        or this very process.
        """
        cgroup = self.places.find(container_id)
        if cgroup is None:
            return False
        try:
            return end_all(self.tree, cgroup)
        except OSError as error:
            if error.errno not in GONE:  # else it went by itself
                log.warning("container %s was not killed through its cgroup: %s", container_id[:12], error)
            return False

    def learn(self, cgroup_parent: str) -> None:
        self.places.learn(cgroup_parent)

    def look_round(self) -> None:
        """Learn from the containers that run where engines put cgroups here, now and then. Blocks for milliseconds."""
        if time.monotonic() - self._looked_s >= LOOK_ROUND_S:
            self._looked_s = time.monotonic()
            self.places.search()


def find_below(mountinfo: Path = Path("/proc/self/mountinfo"), proc: Path = Path("/proc")) -> tuple[Below | None, str]:
    """Return the way below the engine that works here, and in words which it is; or None, and why there is none."""
    if os.geteuid() != 0:
        return None, "it needs root on the host"
    try:
        if str((proc / "self/ns/cgroup").readlink()) != HOST_NAMESPACE:
            return None, "this cgroup namespace is not the host's (a container needs cgroup: host)"
        trees = mounted_trees(mountinfo.read_text())
    except OSError as error:
        return None, f"cgroups cannot be looked at: {error}"
    if not sees_host(proc):
        return None, "this pid namespace is not the host's (a container needs pid: host)"
    reasons = []
    for tree in trees:
        wrong = {driver: trial(Below(tree, (driver,)), driver) for driver in DRIVERS}
        reasons += [f"{tree.words} with {driver}: {reason}" for driver, reason in wrong.items() if reason]
        works = [driver for driver in DRIVERS if not wrong[driver]]
        if works:
            below = Below(tree, works)
            below.take_up()
            return below, "; ".join([f"{tree.words} with {' and '.join(works)}", *(f"not {each}" for each in reasons)])
    return None, "; ".join(reasons) or "no cgroup hierarchy is mounted here as a whole"


def trial(below: Below, driver: Driver) -> str:
    """Kill a process of our own as a container of this driver's would be. Returns what went wrong, or ""."""
    id_ = secrets.token_hex(32)
    try:
        with _own_cgroup(below.tree.root, id_, driver) as cgroup, _own_process() as process:
            if below.tree.version == 2 and not (cgroup / "cgroup.kill").exists():
                return "this kernel has no cgroup.kill (Linux 5.14)"
            (cgroup / "cgroup.procs").write_text(str(process.pid))
            below.look_round()
            if not below.kill(id_):
                return "a process of our own was not found through its cgroup"
            process.wait(TRIAL_S)
    except OSError as error:
        return f"no cgroup can be made and used in {below.tree.root}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"a process of our own lived on for {TRIAL_S:g} s"
    return ""


@contextmanager
def _own_cgroup(root: Path, id_: str, driver: Driver) -> Iterator[Path]:
    systemd = driver == "systemd"
    parent = root / f"{TRIAL_NAME}_{id_[:12]}{'.slice' if systemd else ''}"
    cgroup = parent / (f"docker-{id_}.scope" if systemd else id_)
    parent.mkdir()
    try:
        cgroup.mkdir()
        try:
            yield cgroup
        finally:
            cgroup.rmdir()
    finally:
        parent.rmdir()


@contextmanager
def _own_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for the end of its input, and so ends with us whatever happens."""
    cat = shutil.which("cat")
    command = [cat] if cat else [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:  # noqa: S603 - ours
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait(TRIAL_S)
