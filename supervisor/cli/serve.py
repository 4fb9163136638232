"""``gpu-supervisor serve``: settings, the log, and the server itself."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from supervisor.config import load


def serve(flags: Mapping[str, str | None], file: Path | None) -> int:
    """Run the server until a signal. Raises ``SupervisorError`` where it cannot start, or must end."""
    config = load(flags, os.environ, file=file)
    # A wrong setting is said without loading the server.
    from supervisor.log import set_up_log  # noqa: PLC0415
    from supervisor.server import serve as run  # noqa: PLC0415

    set_up_log(config.log_format, config.log_level, sys.stderr)
    spare_the_collector()
    return run(config)


def spare_the_collector() -> None:
    """Let the garbage collector look seldom, and never at what was imported: a request makes hundreds of objects and no
    circles, and by default it was looked through for them several times a second. Worth a sixth of all operations.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
