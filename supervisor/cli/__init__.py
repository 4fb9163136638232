"""The ``gpu-supervisor`` and ``gpurun`` commands: the same HTTP interface that everybody uses, for people at terminals.

Nothing in here decides anything about leases.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. The heavy modules load here, not at import."""
    from supervisor.cli.app import run  # noqa: PLC0415 - `import supervisor.cli` stays cheap

    return run(list(sys.argv[1:] if arguments is None else arguments))


def gpurun_main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line of ``gpurun`` and return the exit status."""
    from supervisor.cli.app import run_gpurun  # noqa: PLC0415

    return run_gpurun(list(sys.argv[1:] if arguments is None else arguments))
