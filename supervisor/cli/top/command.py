"""``gpu-supervisor top``: the way to the screen, or the reason why there is none."""

from __future__ import annotations

import sys

from supervisor.cli.connection import Server
from supervisor.cli.errors import Usage
from supervisor.cli.status import read_status
from supervisor.cli.top.app import Top


def show_top() -> None:
    """Show the screen until it is left.

    Raises:
        SupervisorError: this is no terminal, or no server answers to begin with.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Usage("top needs a terminal", "for a pipe there is: gpu-supervisor status --watch")
    server = Server.find()
    read_status()
    Top(server).run()
