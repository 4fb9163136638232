"""What ``acquire`` and ``gpurun`` say while they work, always on stderr: for a terminal, for a pipe, or for a program.

A line that was said stays. What is waited for is a state: on a terminal one line that is rewritten in place, in a
pipe a line each time something about it has changed, for a program a JSON object on a line.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.live import Live
from rich.text import Text

from supervisor.answers import Ahead
from supervisor.cli.output import clean, clock_time, say

#: How often the line on a terminal is drawn again: its seconds count.
DRAWN_PER_S = 2


class Waiting(Struct, frozen=True, kw_only=True):
    """What is waited for. ``line`` says it without times; ``until`` is when it changes at the latest (RFC 3339)."""

    line: str
    until: str | None = None
    state: str = ""
    position: int | None = None
    why: str = ""
    ahead: tuple[Ahead, ...] = ()

    @property
    def shown(self) -> str:
        if not self.until:
            return self.line
        # Whoever has the GPU may renew; a start that takes longer has failed.
        how = "at the latest" if self.state in ("starting", "claimable") else "unless renewed"
        return f"{self.line}, until {clock_time(self.until)} {how}"


@contextmanager
def heard_or_not() -> Iterator[None]:
    """Around what is said while something is held: that nobody can read it any more is no reason to let go of that.

    What is to be said from then on goes nowhere, or its rest would make us end with a status of Python's own (120).
    """
    try:
        yield
    except OSError:  # a pipe whose reader is gone, a terminal that was hung up, a disk that is full
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the rest of our life


class Progress(Protocol):
    """Used as a context around what may take long; behind it the terminal is as it was."""

    def say(self, text: str) -> None: ...
    def waiting(self, now: Waiting) -> None: ...
    def settled(self) -> None:
        """There is nothing to wait for any more."""

    def granted(self, text: str, lease: dict[str, Any]) -> None: ...
    def tell(self, event: str, text: str, **fields: object) -> None:
        """Say something that a program may want to act on: ``text`` ("": nothing) for people, the rest for it."""

    def __enter__(self) -> Progress: ...
    def __exit__(self, *error: object) -> None: ...


def progress(*, as_json: bool, prefix: str = "", stdout_is_ours: bool = True) -> Progress:
    """``prefix``: where a command's own words are between ours. Without ``stdout_is_ours`` all goes to stderr."""
    if as_json:
        return Records(stdout_is_ours=stdout_is_ours)
    console = Console(stderr=True, highlight=False)
    return Screen(console, prefix) if sys.stderr.isatty() and not console.is_dumb_terminal else Lines(prefix)


class Lines:
    """For a pipe: nothing is said twice."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._said = ""

    def say(self, text: str) -> None:
        with heard_or_not():
            say(f"{self._prefix}{text}")

    def waiting(self, now: Waiting) -> None:
        # Not ``until``: it moves with each renewal of somebody else's lease, and that is no news.
        if now.line != self._said:
            self.say(now.shown)
        self._said = now.line

    def settled(self) -> None:
        self._said = ""

    def granted(self, text: str, lease: dict[str, Any]) -> None:  # noqa: ARG002 - for programs
        self.say(text)

    def tell(self, event: str, text: str, **fields: object) -> None:  # noqa: ARG002 - for programs
        if text:
            self.say(text)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Screen(Lines):
    """For a terminal: one line, kept up to date by a thread of rich's, with how long it has been waited.

    In the background somebody else draws there: then it is what goes into a pipe.
    """

    def __init__(self, console: Console, prefix: str = "") -> None:
        super().__init__(prefix)
        self._console = console
        self._now: Waiting | None = None
        self._since = 0.0
        self._live: Live | None = None

    def say(self, text: str) -> None:
        with heard_or_not():
            self._console.print(Text(clean(f"{self._prefix}{text}")), soft_wrap=True)

    def waiting(self, now: Waiting) -> None:
        if _behind():
            self.settled()
            super().waiting(now)
        elif self._live is None:
            self._since = time.monotonic()
            self._now = now
            self._live = Live(
                console=self._console, get_renderable=self._line, refresh_per_second=DRAWN_PER_S, transient=True
            )
            with heard_or_not():
                self._live.start()
        elif now != self._now:
            self._now = now
            with heard_or_not():
                self._live.refresh()

    def settled(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with heard_or_not():
                live.stop()

    def __exit__(self, *_: object) -> None:
        self.settled()

    def _line(self) -> Text:
        waited_s = int(time.monotonic() - self._since)
        shown = clean(self._now.shown) if self._now is not None else ""
        return Text.assemble(self._prefix, shown, " ", (f"({waited_s // 60}:{waited_s % 60:02d})", "cyan"))


class Records:
    """For a program: JSON lines on stderr; the lease, when it is granted, is a line on stdout where that is ours."""

    def __init__(self, *, stdout_is_ours: bool) -> None:
        self._stdout_is_ours = stdout_is_ours
        self._said: Waiting | None = None

    def say(self, text: str) -> None:
        _record({"event": "message", "message": text})

    def waiting(self, now: Waiting) -> None:
        if now != self._said:
            _record({"event": "waiting", "message": now.line, **_fields(now)})
        self._said = now

    def settled(self) -> None:
        self._said = None

    def granted(self, text: str, lease: dict[str, Any]) -> None:
        if self._stdout_is_ours:
            print(msgspec.json.encode(lease).decode(), flush=True)
        else:
            self.tell("granted", text, lease=lease)

    def tell(self, event: str, text: str, **fields: object) -> None:
        _record({"event": event, "message": text, **fields})

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Silence(Lines):
    """For nobody."""

    def say(self, text: str) -> None:
        pass


def _behind() -> bool:
    """Whether another process group has the terminal. One that is not our own is nobody's."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) != os.getpgrp()
    except (OSError, ValueError):
        return False


def _fields(now: Waiting) -> dict[str, Any]:
    return {"state": now.state, "position": now.position, "why": now.why, "until": now.until, "ahead": now.ahead}


def _record(document: dict[str, Any]) -> None:
    with heard_or_not():
        print(msgspec.json.encode(document).decode(), file=sys.stderr, flush=True)
