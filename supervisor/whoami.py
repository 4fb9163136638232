"""Who asks, where nobody says it."""

from __future__ import annotations

import getpass
import os
import platform


def whoami() -> str:
    """Return ``USER@HOST``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in many containers
        user = str(os.getuid())
    return f"{user}@{platform.node()}"
