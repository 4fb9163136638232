"""``gpu-supervisor acquire``: hold a lease for as long as a person, or a command, needs it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from supervisor.cli.borrower import Borrower, Held, Wish
from supervisor.cli.connection import Line, Server
from supervisor.cli.errors import FAILED, OK, LeaseLost
from supervisor.cli.output import answer, answer_json, clock_time
from supervisor.cli.progress import Progress, progress

#: A command whose lease was lost is asked to end, and after this time killed: somebody else has the GPU.
COMMAND_GRACE_S = 10.0
#: Why a lease ends that has served its purpose: the words of the server.
COMPLETED = "target_completed"
PROCESS_ENDED = "process_ended"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def acquire(wish: Wish, command: Sequence[str], *, detach: bool, as_json: bool) -> int:
    """Get the lease, hold it while ``command`` runs (or until a signal), give it back. Returns the exit status.

    Raises:
        SupervisorError: it could not be had, or was lost.
    """
    with progress(as_json=as_json) as shown:
        return asyncio.run(_acquire(wish, command, shown, detach=detach, as_json=as_json))


async def _acquire(wish: Wish, command: Sequence[str], shown: Progress, *, detach: bool, as_json: bool) -> int:
    async with Line(Server.find()) as line:
        borrower = Borrower(line, wish, shown)
        with Signals() as signals:
            try:
                held = await signals.unless_any(borrower.obtain())
                if held is None:
                    shown.say(f"gave up waiting for {wish.name}")
                    return 128 + signals.first
                if detach and held.state != "ended":
                    return _leave(borrower, held, shown, as_json=as_json)
                return await _use(borrower, held, command, signals, shown)
            finally:
                await borrower.give_back()


def _leave(borrower: Borrower, held: Held, shown: Progress, *, as_json: bool) -> int:
    """Print the token, the only line on stdout, and leave the lease to whoever has it."""
    token, borrower.token = borrower.token, None
    if as_json:
        answer_json(borrower.answer)
        return OK
    expires = f"it expires at {clock_time(held.expires_at)} unless renewed: gpu-supervisor renew TOKEN"
    if borrower.wish.pid is not None:
        expires = f"it ends with process {borrower.wish.pid}, or sooner with: gpu-supervisor release TOKEN"
    shown.say(f"{granted(borrower.wish, held)}; {expires}")
    answer(token or "")
    return OK


async def _use(borrower: Borrower, held: Held, command: Sequence[str], signals: Signals, shown: Progress) -> int:
    if held.state == "ended":
        # A job that was over before its healthcheck saw it: there is nothing left to hold.
        borrower.token = None
        unused = "; the command is not run" if command else ""
        shown.say(f"{borrower.wish.name} is done ({held.reason or 'ended'}){unused}")
        return OK
    # Not the token: we renew and release, and what goes to stdout is often logged.
    lease = {name: value for name, value in borrower.answer.items() if name != "token"}
    shown.granted(granted(borrower.wish, held), lease)
    if command:
        return await _run(borrower, command, environment(borrower.wish, held), signals, shown)
    pid = borrower.wish.pid
    shown.say("held until Ctrl-C" if pid is None else f"held until process {pid} ends, or Ctrl-C")
    try:
        await signals.unless_any(borrower.keep())
    except LeaseLost as lost:
        if lost.reason not in {COMPLETED, PROCESS_ENDED}:
            raise
        borrower.token = None
        ended = f"{borrower.wish.name} is done" if pid is None else f"process {pid} has ended, and its lease with it"
        shown.say(ended)
        return OK
    shown.say(f"releasing {borrower.wish.name}")
    return OK


def granted(wish: Wish, held: Held) -> str:
    where = f" on {', '.join(held.gpus)}" if held.gpus else ""
    state = f"is {held.state}" if wish.target is not None else "are yours" if (wish.gpus or 1) > 1 else "is yours"
    return f"{wish.name} {state}: lease {held.id}{where}, fence {held.fence}"


def environment(wish: Wish, held: Held) -> dict[str, str] | None:
    """Return the environment of the command: under a bare lease CUDA sees the GPUs of the lease, and no others.

    None: as it is. UUIDs mean the same in every order; who counts within them counts as the supervisor does.
    """
    if wish.target is not None or not held.cuda_visible_devices:
        return None
    seen = {"CUDA_VISIBLE_DEVICES": held.cuda_visible_devices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**os.environ, **seen}


async def _run(
    borrower: Borrower, command: Sequence[str], environ: dict[str, str] | None, signals: Signals, shown: Progress
) -> int:
    """Run the command under the lease and return its status as a shell would; end it if the lease is lost.

    A target that has completed ends its lease, and takes nothing away from the command: ``docker compose up`` of a job
    is about to end by itself then.
    """
    if signals.first:
        return 128 + signals.first
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environ)
    except OSError as error:
        shown.say(f"error: {command[0]}: {(error.strerror or str(error)).lower()}")
        return 127 if isinstance(error, FileNotFoundError) else 126
    ended = asyncio.create_task(process.wait())
    keeping = asyncio.create_task(borrower.keep())
    signals.forward_to(process)
    try:
        await asyncio.wait((ended, keeping), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done() and _completed(keeping):
            borrower.token = None
            shown.say(f"{borrower.wish.name} is done, and its lease has ended; the command goes on")
            await ended
        if not ended.done():
            await _end(process)
            keeping.result()
        status = ended.result() if ended.done() else FAILED
        return 128 - status if status < 0 else status
    finally:
        signals.forward_to(None)
        keeping.cancel()


def _completed(keeping: asyncio.Task[None]) -> bool:
    error = keeping.exception()
    return isinstance(error, LeaseLost) and error.reason == COMPLETED


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(COMMAND_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class Signals:
    """SIGINT, SIGTERM and SIGHUP as events, so that what is held is given back before we go."""

    def __init__(self) -> None:
        self.first = 0
        self._any = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    def __enter__(self) -> Signals:
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._received, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def forward_to(self, process: asyncio.subprocess.Process | None) -> None:
        """From here on signals are the command's: how it ends is its own business, and then we end as well."""
        self._process = process
        if process is not None and self.first:
            process.send_signal(self.first)

    async def unless_any(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what ``work`` returns, or None once a signal has come (``first`` says which)."""
        doing = asyncio.create_task(work)
        waiting = asyncio.create_task(self._any.wait())
        try:
            await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            waiting.cancel()
            doing.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await doing

    def _received(self, number: signal.Signals) -> None:
        self.first = self.first or int(number)
        self._any.set()
        # A Ctrl-C at a terminal goes to the whole foreground group: the command has had it already.
        if self._process is not None and not (number == signal.SIGINT and _in_foreground()):
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
