"""``gpurun``: one command under a bare lease, for people, scripts and agents who only want a GPU for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from msgspec import Struct, structs

from supervisor.cli.acquire import granted
from supervisor.cli.borrower import Borrower, Wish
from supervisor.cli.connection import Line, Server, ask
from supervisor.cli.errors import Refused, Unreachable, Usage
from supervisor.cli.hold import command as under_lease
from supervisor.cli.hold.command import LEASE_VARIABLE, Parting, environment, pass_on_interrupt
from supervisor.cli.hold.job import Ended, become, cannot_run
from supervisor.cli.hold.signals import Signals
from supervisor.cli.progress import Progress, progress


class Outer(Struct, frozen=True):
    """A lease that somebody around us holds. ``gpus``: empty where nobody could say."""

    id: str
    gpus: tuple[str, ...] = ()


class _Leases(Struct, frozen=True):
    leases: tuple[Outer, ...]


class Manner(Struct, frozen=True):
    """How it is run. ``quiet``: nothing is said of a lease that is had at once and given back."""

    parting: Parting = Parting()
    as_json: bool = False
    quiet: bool = False


def gpurun(wish: Wish, command: Sequence[str], manner: Manner) -> int:
    """Wait for the GPUs, run the command with them, give them back. Returns the exit status.

    Inside another gpurun the lease of that one is used: a second one would wait for the first to end.

    Raises:
        SupervisorError: they could not be had, or were lost.
    """
    server = Server.find()
    with progress(as_json=manner.as_json, prefix="gpurun: ", stdout_is_ours=False) as shown:
        outer = outer_lease()
        if outer is not None:
            return _join(outer, wish, command, shown, manner)
        if server.socket:  # over it the server can see us end, however we do
            wish = structs.replace(wish, pid=os.getpid())
        ended = asyncio.run(_gpurun(server, wish, command, shown, manner))
    return pass_on_interrupt(ended)


def outer_lease() -> Outer | None:
    """Return the lease that we run under already, if it lives: the variable may have outlived it (a tmux, a daemon).

    Where no server says, it is believed.
    """
    id_ = os.environ.get(LEASE_VARIABLE)
    if not id_:
        return None
    try:
        leases = ask("GET", "/v1/status", _Leases).leases
    except (Refused, Unreachable):
        return Outer(id_)
    return next((lease for lease in leases if lease.id == id_), None)


def _join(outer: Outer, wish: Wish, command: Sequence[str], shown: Progress, manner: Manner) -> int:
    wanted, has = wish.gpus or 1, len(outer.gpus)
    if has and wanted > has:
        raise Usage(
            f"{wanted} GPUs are asked for inside a gpurun that has {has}: its lease {outer.id} is the one that is used",
            f"ask for all of them at the outer one: gpurun -n {wanted}",
        )
    line = "" if manner.quiet else f"runs under lease {outer.id} of the gpurun around it"
    shown.tell("joined", line, lease=outer.id)
    try:
        become(command)
    except OSError as error:
        status, why = cannot_run(command[0], error)
        shown.say(why)
        return status


async def _gpurun(server: Server, wish: Wish, command: Sequence[str], shown: Progress, manner: Manner) -> Ended:
    async with Line(server) as line:
        borrower = Borrower(line, wish, shown)
        with Signals() as signals:
            try:
                held = await under_lease.obtain(borrower, signals)
                if held is None:
                    shown.say(f"gave up waiting for {wish.name}")
                    return Ended(128 + signals.first, signals.first)
                lease = {name: value for name, value in borrower.answer.items() if name != "token"}
                shown.tell("granted", "" if manner.quiet else granted(borrower.wish, held), lease=lease)
                environ = environment(wish, held)
                ended = await under_lease.run(borrower, command, environ, signals, shown, manner.parting)
            finally:
                await signals.unless_again(borrower.give_back())
        shown.tell("ended", "", exit_status=ended.status, signal=ended.signal or None)
        return ended
