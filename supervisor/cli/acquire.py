"""``gpu-supervisor acquire``: hold a lease for as long as a person, or a command, needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from supervisor.cli.borrower import Borrower, Held, Wish
from supervisor.cli.connection import Line, Server
from supervisor.cli.errors import OK, LeaseLost
from supervisor.cli.hold import command as under_lease
from supervisor.cli.hold.command import COMPLETED, Parting, environment, pass_on_interrupt
from supervisor.cli.hold.job import Ended
from supervisor.cli.hold.signals import Signals
from supervisor.cli.output import answer, answer_json, clock_time
from supervisor.cli.progress import Progress, progress

#: Why a lease ends that is tied to a process: the word of the server.
PROCESS_ENDED = "process_ended"


def acquire(wish: Wish, command: Sequence[str], *, detach: bool, as_json: bool) -> int:
    """Get the lease, hold it while ``command`` runs (or until a signal), give it back. Returns the exit status.

    Raises:
        SupervisorError: it could not be had, or was lost.
    """
    with progress(as_json=as_json) as shown:
        ended = asyncio.run(_acquire(wish, command, shown, detach=detach, as_json=as_json))
    return pass_on_interrupt(ended)


async def _acquire(wish: Wish, command: Sequence[str], shown: Progress, *, detach: bool, as_json: bool) -> Ended:
    async with Line(Server.find()) as line:
        borrower = Borrower(line, wish, shown)
        with Signals() as signals:
            try:
                held = await under_lease.obtain(borrower, signals)
                if held is None:
                    shown.say(f"gave up waiting for {wish.name}")
                    return Ended(128 + signals.first)
                if detach and held.state != "ended":
                    return _leave(borrower, held, shown, as_json=as_json)
                return await _use(borrower, held, command, signals, shown)
            finally:
                await signals.unless_again(borrower.give_back())


def _leave(borrower: Borrower, held: Held, shown: Progress, *, as_json: bool) -> Ended:
    """Print the token, the only line on stdout, and leave the lease to whoever has it."""
    token, borrower.token = borrower.token, None
    if as_json:
        answer_json(borrower.answer)
        return Ended(OK)
    if borrower.wish.pid is not None:
        ends = f"it ends with process {borrower.wish.pid}, or sooner with: gpu-supervisor release TOKEN"
    else:
        expires = f" at {clock_time(held.expires_at)}" if held.expires_at else ""
        ends = f"it expires{expires} unless renewed: gpu-supervisor renew TOKEN"
    shown.say(f"{granted(borrower.wish, held)}; {ends}")
    answer(token or "")
    return Ended(OK)


async def _use(borrower: Borrower, held: Held, command: Sequence[str], signals: Signals, shown: Progress) -> Ended:
    if held.state == "ended":
        # A job that was over before its healthcheck saw it: there is nothing left to hold.
        borrower.token = None
        unused = "; the command is not run" if command else ""
        shown.say(f"{borrower.wish.name} is done ({held.reason or 'ended'}){unused}")
        return Ended(OK)
    # Not the token: we renew and release, and what goes to stdout is often logged.
    lease = {name: value for name, value in borrower.answer.items() if name != "token"}
    shown.granted(granted(borrower.wish, held), lease)
    if command:
        return await under_lease.run(borrower, command, environment(borrower.wish, held), signals, shown, Parting())
    pid = borrower.wish.pid
    shown.say("held until Ctrl-C" if pid is None else f"held until process {pid} ends, or Ctrl-C")
    try:
        await under_lease.hold(borrower, signals, shown)
    except LeaseLost as lost:
        if lost.reason not in {COMPLETED, PROCESS_ENDED}:
            raise
        borrower.token = None
        ended = f"{borrower.wish.name} is done" if pid is None else f"process {pid} has ended, and its lease with it"
        shown.say(ended)
        return Ended(OK)
    shown.say(f"releasing {borrower.wish.name}")
    return Ended(OK)


def granted(wish: Wish, held: Held) -> str:
    where = f" on {', '.join(held.gpus)}" if held.gpus else ""
    state = f"is {held.state}" if wish.target is not None else "are yours" if (wish.gpus or 1) > 1 else "is yours"
    return f"{wish.name} {state}: lease {held.id}{where}, fence {held.fence}"
