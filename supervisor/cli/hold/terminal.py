"""The controlling terminal: which process group it listens to, and how we stop so that the shell sees it.

Source: tcsetpgrp(3), credentials(7), kernel/signal.c (get_signal: an orphaned group is not stopped).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from msgspec import Struct

#: What stops a process group that uses the terminal from behind.
FROM_BEHIND = frozenset({signal.SIGTTIN, signal.SIGTTOU})


class Terminal(Struct):
    """``descriptor`` None: there is none, and nobody who would continue what stops."""

    descriptor: int | None

    @classmethod
    def open(cls) -> Terminal:
        try:
            return cls(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
        except OSError:
            return cls(None)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    @property
    def group(self) -> int:
        """The group in the foreground, or 0."""
        if self.descriptor is None:
            return 0
        try:
            return os.tcgetpgrp(self.descriptor)
        except OSError:  # it was hung up
            return 0

    @property
    def ours(self) -> bool:
        return self.group == os.getpgrp()

    @property
    def alone(self) -> bool:
        """Whether both ends are the terminal, so that no pager beside us may need it (``gpurun x | less``)."""
        return self.descriptor is not None and os.isatty(0) and os.isatty(1)

    def give_to(self, group: int) -> None:
        """Put a group of this session into the foreground; nothing where that group or the terminal is gone."""
        if self.descriptor is not None:
            with suppress(OSError), _blocked(signal.SIGTTOU):  # it stops who does this from behind
                os.tcsetpgrp(self.descriptor, group)

    def take_from(self, group: int) -> None:
        """Take it back from our own command, and from nobody else: the shell may have it by now."""
        if group and self.group == group:
            self.give_to(os.getpgrp())


def stop_ourselves(number: signal.Signals, *, group: bool) -> bool:
    """Stop until somebody continues us, with our whole ``group`` (a script around us) where the terminal has not told
    it. Returns whether we were stopped.

    An orphaned group is not: there is no shell that could continue it. With SIGCONT blocked the one that continues us
    stays to be seen (a stop discards an earlier one).
    """
    with _blocked(signal.SIGCONT):
        handler = signal.signal(number, signal.SIG_DFL)
        try:
            if group:
                os.killpg(os.getpgrp(), number)
            else:
                os.kill(os.getpid(), number)
            return signal.sigtimedwait([signal.SIGCONT], 0) is not None
        finally:
            signal.signal(number, handler)
            signal.siginterrupt(number, False)  # noqa: FBT003 - it has no keyword


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
