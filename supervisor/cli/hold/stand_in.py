"""Who renews while we are stopped: a process of its own, for just as long. A stopped process does nothing by itself.

It is not of our group or session, so that what stops us does not stop it. It goes when we go on, or are gone, because
the pipe from us is closed then. When there is something for us to do, it wakes us: the lease was lost, or the stopped
command was killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress

import msgspec
from msgspec import Struct

from supervisor.cli.borrower import Borrower, Wish
from supervisor.cli.connection import Line, Server
from supervisor.cli.progress import Silence

#: How often we are woken until we wake: a SIGCONT that comes before the stop is lost.
WAKE_S = 0.5


class Order(Struct, frozen=True):
    """What the stand-in is told, on its stdin: where nobody else can read the token."""

    token: str
    wish: Wish
    holder: int
    command: int | None


class StandIn:
    """Used as a context around being stopped."""

    def __init__(self, borrower: Borrower, command: int | None) -> None:
        assert borrower.token is not None, "there is something to renew"
        self._order = Order(borrower.token, borrower.wish, os.getpid(), command)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> StandIn:
        """Raises ``OSError``: it cannot be started."""
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(self._order) + b"\n")
        self._process.stdin.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    asyncio.run(_stand_in(order))


async def _stand_in(order: Order) -> None:
    loop = asyncio.get_running_loop()
    relieved, over = asyncio.Event(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), relieved.set)
    if order.command is not None:
        with suppress(OSError, AttributeError):  # an old kernel: its end is seen when we go on
            pidfd = os.pidfd_open(order.command)

            def ended() -> None:
                over.set()
                loop.remove_reader(pidfd)

            loop.add_reader(pidfd, ended)
    async with Line(Server.find()) as line:
        borrower = Borrower(line, order.wish, Silence())
        borrower.take_over(order.token)
        tasks = [asyncio.create_task(work) for work in (relieved.wait(), over.wait(), borrower.keep())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    while not relieved.is_set():
        with suppress(ProcessLookupError):
            os.kill(order.holder, signal.SIGCONT)
        with suppress(TimeoutError):
            async with asyncio.timeout(WAKE_S):
                await relieved.wait()


if __name__ == "__main__":
    main()
