"""Signals as events. Until there is a command they end the wait; then they are the command's."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from supervisor.cli.hold.job import Job

#: What ends us while there is no command, so that what is held is given back before we go.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: What means nothing to us, and perhaps something to the command.
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


class Signals:
    """``first`` is the first one that ends; ``news`` is set when the command, or what it is to do, may have changed."""

    def __init__(self) -> None:
        self.first = 0
        self.news = asyncio.Event()
        self.stop_asked = False
        self.continued = False
        self._called = asyncio.Event()
        self._again = asyncio.Event()
        self._job: Job | None = None
        self._handled: list[signal.Signals] = []

    def __enter__(self) -> Signals:
        loop = asyncio.get_running_loop()
        handlers = {
            **dict.fromkeys(ENDING, self._end),
            **dict.fromkeys(PASSED_ON, self._pass_on),
            signal.SIGTSTP: self._stop,
            signal.SIGCONT: self._continue,
            signal.SIGCHLD: self._look,
        }
        for number, handler in handlers.items():
            # What we were started to ignore (nohup) we ignore, and so does the command. A shell without job control
            # has what it starts with & ignore SIGINT; but it is us whom somebody who sends it means.
            if signal.getsignal(number) is not signal.SIG_IGN or number in (signal.SIGCHLD, signal.SIGINT):
                loop.add_signal_handler(number, handler, number)
                self._handled.append(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._handled:
            asyncio.get_running_loop().remove_signal_handler(number)

    def forward_to(self, job: Job | None) -> None:
        """From here on signals are the command's: how it ends is its own business, and then we end as well."""
        self._job = job
        if job is not None and self.first:
            job.send(self.first)
        if job is not None and self.stop_asked:
            self.stop_asked = False
            job.send(signal.SIGTSTP)

    async def unless_any(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what ``work`` returns, or None once a signal ends or stops us (``first``, ``stop_asked``)."""
        try:
            return await _unless(self._called, work)
        finally:
            if not self.first:
                self._called.clear()

    async def unless_again(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what ``work`` returns, or None once a further signal ends us: somebody is impatient."""
        self._again.clear()
        return await _unless(self._again, work)

    def _end(self, number: signal.Signals) -> None:
        self.first = self.first or int(number)
        self._again.set()
        self._called.set()
        self._pass_on(number)

    def _pass_on(self, number: signal.Signals) -> None:
        if self._job is not None:
            self._job.send(number)

    def _stop(self, number: signal.Signals) -> None:
        if self._job is not None:
            self._job.send(number)  # we follow it when it has stopped
            return
        self.stop_asked = True
        self._called.set()

    def _continue(self, _: signal.Signals) -> None:
        self.continued = True
        self.news.set()

    def _look(self, _: signal.Signals) -> None:
        self.news.set()


async def _unless(called: asyncio.Event, work: Coroutine[Any, Any, Any]) -> Any:
    doing = asyncio.create_task(work)
    waiting = asyncio.create_task(called.wait())
    try:
        await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        waiting.cancel()
        doing.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await doing
