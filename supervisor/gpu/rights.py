"""What this process may not learn of other users' processes, or do to them: looked up at the start, so that it is said.

A user without capabilities reads of anybody's process its user, command line, cgroup, parents and start, but not which
program it runs, and signals its own processes alone. Tried on 6.18; proc(5), ``ptrace_may_access`` and kill(2) say why.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

#: include/uapi/linux/capability.h
_CAP_KILL, _CAP_SYS_PTRACE = 5, 19


class Rights(Struct, frozen=True):
    """``others``: it may read what other users' processes are; ``programs``: and which program they run; ``signals``:
    it may signal them.
    """

    uid: int
    others: bool
    programs: bool
    signals: bool


def own_rights(proc: Path = Path("/proc")) -> Rights:
    held = _capabilities(proc)
    ptrace = bool(held >> _CAP_SYS_PTRACE & 1)
    return Rights(os.geteuid(), _may_read_others(proc), ptrace, bool(held >> _CAP_KILL & 1))


def _capabilities(proc: Path) -> int:
    for line in (proc / "self/status").read_text(errors="surrogateescape").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16)
    return 0


def _may_read_others(proc: Path) -> bool:
    """Return whether /proc shows pid 1, which is another user's unless we are root: with ``hidepid`` it does not."""
    try:
        (proc / "1/stat").read_bytes()
    except OSError:
        return False
    return True


def limits(rights: Rights, *, terminates: bool, allows_programs: bool) -> tuple[str, ...]:
    """Say in whole sentences what is lacking for what is configured.

    Args:
        terminates: processes without a right are to be ended.
        allows_programs: some are allowed by the program that they run.
    """
    who = f"the supervisor (uid {rights.uid})"
    said = []
    if not rights.others:
        said.append(
            f"{who} may not read whose process is whose, because /proc is mounted with hidepid: they are known by pid "
            "alone; run it as root, or mount /proc with the gid of its group"
        )
    if allows_programs and not rights.programs:
        said.append(
            f"{who} may not read which program another user's process runs: exe= in processes_allow matches none of "
            "them; give it CAP_SYS_PTRACE, or allow them by user= or cgroup="
        )
    if terminates and not rights.signals:
        said.append(
            f"{who} may not signal another user's processes: processes = terminate ends none of them; give it CAP_KILL"
        )
    return tuple(said)
