"""The ``gpu-supervisor`` command: the same HTTP interface that everybody else uses, for people at a terminal.

Nothing in here decides anything about leases.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. The heavy modules load here, not at import."""
    from supervisor.cli.app import run  # noqa: PLC0415 - `import supervisor.cli` stays cheap

    return run(list(sys.argv[1:] if arguments is None else arguments))
