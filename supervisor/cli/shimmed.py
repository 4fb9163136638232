"""What a shim runs (``python -m supervisor.cli.shimmed SHIM ARGUMENTS``): it leases for the real one, or becomes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from supervisor.cli.borrower import Wish
from supervisor.cli.commands.gpurun import READY_S, TTL
from supervisor.cli.errors import Unreachable
from supervisor.cli.gpurun import Manner, gpurun, outer_lease
from supervisor.cli.hold.job import become, cannot_run
from supervisor.cli.options import seconds
from supervisor.cli.output import complain, say
from supervisor.cli.shims import Terms, find_real, terms_of
from supervisor.core.errors import SupervisorError
from supervisor.whoami import whoami


def main(arguments: Sequence[str]) -> int:
    """Run the real program of a shim with ``arguments``. Returns the exit status."""
    shim = Path(arguments[0])
    real = find_real(shim.name, shim.parent, os.environ.get("PATH") or os.defpath)
    if real is None:
        say(f"{shim.name}: not found: its shim {shim} has no real one to run; remove it, or mend the PATH")
        return 127
    # By its whole path, and not as it was typed: some programs look for themselves by that name, and would find us.
    command = [real, *arguments[1:]]
    try:
        if outer_lease() is not None:
            return _become(command)
        terms = terms_of(shim)
        try:
            return gpurun(_wish(shim.name, terms), command, Manner(quiet=True))
        except Unreachable as down:
            # Only before it was asked for: after that the lease is waited for and kept, whoever restarts.
            if terms.when_down == "refuse":
                return complain(down)
            say(f"warning: {down}: {shim.name} runs without a lease (gpu-supervisor shim install --when-down refuse)")
            return _become(command)
    except SupervisorError as error:
        return complain(error)


def _wish(name: str, terms: Terms) -> Wish:
    return Wish(
        target=None,
        owner=f"{whoami()}:{name}",
        priority=terms.priority,
        ttl_s=seconds("--ttl", TTL),
        wait_s=terms.wait_s,
        wait_ready=True,
        ready_timeout_s=READY_S,
        gpus=terms.gpus,
        vram_mib=terms.vram_mib,
        gpu_class=terms.gpu_class,
    )


def _become(command: Sequence[str]) -> int:
    try:
        become(command)
    except OSError as error:
        status, why = cannot_run(command[0], error)
        say(why)
        return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
