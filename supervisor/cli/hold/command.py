"""A command under a lease: it runs, the lease is renewed; one of the two ends, and the other is told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

from msgspec import Struct

from supervisor.cli.borrower import Borrower, Held, Wish
from supervisor.cli.errors import LeaseLost
from supervisor.cli.hold.job import Ended, Job, Stopped, cannot_run
from supervisor.cli.hold.signals import Signals
from supervisor.cli.hold.stand_in import StandIn
from supervisor.cli.hold.terminal import FROM_BEHIND, Terminal, stop_ourselves
from supervisor.cli.progress import Progress

#: Why a lease ends whose target is done: the word of the server.
COMPLETED = "target_completed"
#: Says to what runs under a lease which one it is, by its public id.
LEASE_VARIABLE = "GPURUN_LEASE"
#: How long it takes until a command that cannot have the terminal is let try again.
BEHIND_S = 1.0


class Parting(Struct, frozen=True):
    """How a command is told that its lease was lost: a signal, and SIGKILL for what is left of it ``grace_s`` later."""

    signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0


def environment(wish: Wish, held: Held) -> dict[str, str] | None:
    """Return the environment of the command: under a bare lease CUDA sees the GPUs of the lease, and no others.

    None: as it is. UUIDs mean the same in every order; who counts within them counts as the supervisor does.
    """
    if wish.target is not None or not held.cuda_visible_devices:
        return None
    seen = {"CUDA_VISIBLE_DEVICES": held.cuda_visible_devices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**os.environ, **seen, LEASE_VARIABLE: held.id}


async def obtain(borrower: Borrower, signals: Signals) -> Held | None:
    """Get what was wished for, or None where a signal came first.

    Stopped meanwhile (Ctrl-Z), we are not on the line, and nothing is granted to somebody who would not use it: the
    place in the queue is kept, and passed over if its turn comes.
    """
    while True:
        held: Held | None = await signals.unless_any(borrower.obtain())
        if held is not None or signals.first:
            return held
        signals.stop_asked = False
        stop_ourselves(signal.SIGTSTP, group=False)


async def hold(borrower: Borrower, signals: Signals, shown: Progress) -> None:
    """Hold the lease until a signal ends it. Raises ``LeaseLost``."""
    while not signals.first:
        await signals.unless_any(borrower.keep())
        if signals.stop_asked:
            signals.stop_asked = False
            _stop(borrower, None, signal.SIGTSTP, shown)
            await borrower.check()


async def run(
    borrower: Borrower,
    command: Sequence[str],
    environ: Mapping[str, str] | None,
    signals: Signals,
    shown: Progress,
    parting: Parting,
) -> Ended:
    """Run the command, and return how it has ended.

    A target that has completed ends its lease, and takes nothing away from the command: ``docker compose up`` of a job
    is about to end by itself then. A bare lease, which is the command's own, takes it along when we are killed.

    Raises:
        LeaseLost: the lease was lost, and the command told, or killed.
    """
    if signals.first:
        return Ended(128 + signals.first, signals.first)
    terminal = Terminal.open()
    # Whoever has the terminal may have it stop what writes from behind (stty tostop): what we say is no reason to stop.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        return await _run(borrower, command, environ, terminal, signals, shown, parting)
    finally:
        signal.signal(signal.SIGTTOU, before)
        terminal.close()


async def _run(
    borrower: Borrower,
    command: Sequence[str],
    environ: Mapping[str, str] | None,
    terminal: Terminal,
    signals: Signals,
    shown: Progress,
    parting: Parting,
) -> Ended:
    try:
        job = Job.start(command, environ, terminal, parting.signal if borrower.wish.target is None else 0)
    except OSError as error:
        status, why = cannot_run(command[0], error)
        shown.say(why)
        return Ended(status)
    signals.forward_to(job)
    running = _Running(borrower, job, terminal, signals, shown, parting)
    try:
        return await running.until_ended()
    except Exception:
        # Nobody renews from here on, so the command hears of it as if we had been killed.
        if borrower.wish.target is None:
            job.send(parting.signal)
        raise
    finally:
        signals.forward_to(None)
        job.close()


class _Running:
    """A command and the renewals of its lease, side by side."""

    def __init__(
        self, borrower: Borrower, job: Job, terminal: Terminal, signals: Signals, shown: Progress, parting: Parting
    ) -> None:
        self._borrower, self._job, self._terminal = borrower, job, terminal
        self._signals, self._shown, self._parting = signals, shown, parting
        self._keeping: asyncio.Task[None] | None = None

    async def until_ended(self) -> Ended:
        self._keep()
        try:
            while True:
                self._signals.news.clear()  # before the look: what comes between the two is seen after it
                match self._job.change():
                    case Ended() as ended:
                        return ended
                    case Stopped(number):
                        await self._follow(number)
                    case None:
                        self._see_lease()
                        await self._news()
        except LeaseLost as lost:
            await self._part(lost)
            raise
        finally:
            self._pause()

    async def _news(self) -> None:
        """Wait until something may have changed: of the command, of the lease, or somebody continues us."""
        if self._signals.continued:
            self._signals.continued = False
            self._job.resume()
        news = asyncio.create_task(self._signals.news.wait())
        keeping = {self._keeping} if self._keeping is not None else set()
        try:
            await asyncio.wait({news, *keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    def _see_lease(self) -> None:
        """Raises ``LeaseLost``."""
        if self._keeping is None or not self._keeping.done():
            return
        try:
            self._keeping.result()
        except LeaseLost as lost:
            self._see_end(lost)

    def _see_end(self, lost: LeaseLost) -> None:
        if lost.reason != COMPLETED:
            raise lost
        self._keeping = self._borrower.token = None
        self._shown.say(f"{self._borrower.wish.name} is done, and its lease has ended; the command goes on")

    async def _follow(self, number: signal.Signals) -> None:
        """The command was stopped: stop as well, so that the shell sees it, and go on when we are continued."""
        if self._terminal.descriptor is None:
            return  # no shell watches us: whoever stopped the command continues it, and we renew
        behind = number in FROM_BEHIND
        if behind and self._terminal.ours:
            self._job.resume(needs_terminal=True)
            return
        self._job.step_back()
        self._pause()
        stopped = _stop(self._borrower, self._job.pid, number if behind else signal.SIGTSTP, self._shown)
        if self._borrower.token is not None:
            try:
                await self._borrower.check()
                self._keep()
            except LeaseLost as lost:
                self._see_end(lost)
        if behind and not stopped:
            await asyncio.sleep(BEHIND_S)  # nobody will ever give it the terminal: it must not spin on that
        self._job.resume(needs_terminal=behind)

    def _keep(self) -> None:
        self._keeping = asyncio.create_task(self._borrower.keep())

    def _pause(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None

    async def _part(self, lost: LeaseLost) -> None:
        """Tell the command, wait for as long as it may take, and kill what is left: somebody else has the GPU."""
        parting = self._parting
        name = signal.Signals(parting.signal).name
        grace = f", and SIGKILL in {parting.grace_s:g} s" if parting.grace_s else ""
        self._shown.tell(
            "lost",
            f"the lease was lost ({lost.reason or 'it has ended'}): the command gets {name}{grace}",
            reason=lost.reason,
            signal=name,
            grace_s=parting.grace_s,
        )
        self._job.send(parting.signal)
        self._job.send(signal.SIGCONT)  # one that is stopped sees no signal
        with suppress(TimeoutError):
            async with asyncio.timeout(parting.grace_s):
                await self._end()
        self._job.send(signal.SIGKILL)
        await self._end()

    async def _end(self) -> None:
        while True:
            self._signals.news.clear()
            if isinstance(self._job.change(), Ended):
                return
            await self._signals.news.wait()


def _stop(borrower: Borrower, command: int | None, number: signal.Signals, shown: Progress) -> bool:
    """Stop ourselves while somebody else renews. Returns whether we were stopped."""
    group = command is not None  # a Ctrl-Z that the command got has reached nobody else
    if borrower.token is None:
        return stop_ourselves(number, group=group)
    shown.tell("stopped", "stopped; the lease is held and renewed until it goes on (fg) or is ended (kill)")
    try:
        with StandIn(borrower, command):
            stopped = stop_ourselves(number, group=group)
    except OSError as error:
        shown.say(f"nobody renews the lease meanwhile ({error}): it ends by its TTL")
        stopped = stop_ourselves(number, group=group)
    if stopped:
        shown.tell("continued", "")
    return stopped


def pass_on_interrupt(ended: Ended) -> int:
    """Return the exit status of a command, as a shell says it.

    A Ctrl-C went to the command's group alone. Where the command died of it, it would have ended the script around us
    too: that waits for us, and goes by how we end.
    """
    if ended.interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.killpg(os.getpgrp(), signal.SIGINT)
    return ended.status
