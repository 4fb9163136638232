"""Why the engine's socket cannot be used, in words: the system says no more than "Permission denied"."""

from __future__ import annotations

import grp
import os
from pathlib import Path


def socket_denial(url: str) -> str | None:
    """Say which group this process lacks for a ``unix://`` engine that is there; None where that is not the trouble."""
    path = Path(url.removeprefix("unix://"))
    try:
        if not url.startswith("unix://") or os.access(path, os.W_OK):
            return None
        gid = path.stat().st_gid
    except OSError:
        return None
    return (
        f"this process (uid {os.geteuid()}) may not use {path}, which is for the group {_group(gid)}: docker run "
        f'--group-add {gid}, group_add: ["{gid}"] in a compose file, SupplementaryGroups= in a systemd unit, or '
        "usermod --append --groups for a user"
    )


def _group(gid: int) -> str:
    try:
        return f"{gid} ({grp.getgrgid(gid).gr_name})"
    except KeyError:
        return str(gid)
