"""``gpu-supervisor serve``: settings, the log, and the server itself."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from supervisor.cli.output import clean
from supervisor.config import load


def serve(flags: Mapping[str, str | None], file: Path | None) -> int:
    """Run the server until a signal. Raises ``SupervisorError`` where it cannot start, or must end."""
    config = load(flags, os.environ, file=file)
    set_up_log()
    from supervisor.server import serve as run  # noqa: PLC0415 - a wrong setting is said without loading the server

    spare_the_collector()
    return run(config)


def spare_the_collector() -> None:
    """Let the garbage collector look seldom, and never at what was imported: a request makes hundreds of objects and no
    circles, and by default it was looked through for them several times a second. Worth a sixth of all operations.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def set_up_log() -> None:
    """One line per decision on stderr; stdout has the ready line alone, for whoever starts us."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Nothing of theirs is a decision of ours, and paths of requests hold tokens.
    for chatty in ("uvicorn.access", "uvicorn.error", "urllib3", "docker", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Looked up for each line, and shown in none of ours.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class OneLine(logging.Formatter):
    """``2026-11-21T14:32:10.123Z warning ...``, with what does not print escaped: names in it are anybody's."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        line = f"{when}.{int(record.msecs):03d}Z {level}{clean(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
