"""``gpu-supervisor status --watch``: the status again whenever something was decided.

The event stream says that something has changed, and the status is asked for what it is now: so nothing is asked while
nothing happens, and a burst of events is one look. Times that run, memory in use and renewals are no events, and an
engine that is away is none either: for them there is a slow look now and then.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from supervisor.answers import StatusView
from supervisor.cli.audit import live, newest
from supervisor.cli.connection import Server
from supervisor.cli.errors import OK, Unreachable
from supervisor.cli.output import clean, framed, plain, say
from supervisor.cli.status import read_status, status_blocks
from supervisor.core.errors import SupervisorError

#: The slow look, and the first one after the server went away.
REFRESH_S = 10.0
RETRY_S = 1.0
#: Events within this time of a look wait for the next one.
BURST_S = 0.1


def watch_status(*, as_json: bool) -> int:
    """Show the status until Ctrl-C.

    Raises:
        SupervisorError: there is no server to begin with, or it does not serve this.
    """
    try:
        # Before the first look, so that what happens right behind it is not missed.
        events = Events(Server.find(), newest(1, {}).after)
        body, status = read_status()
        with _view(as_json=as_json) as view:
            view.show(body, status)
            _follow(view, events)
    except KeyboardInterrupt:
        pass
    return OK


def _follow(view: View, events: Events) -> None:
    events.start()
    cut = False
    while True:
        events.wait(RETRY_S if cut else REFRESH_S)
        try:
            body, status = read_status()
        except Unreachable as error:
            if not cut:
                view.tell(f"{error}; trying again")
            cut = True
        else:
            if cut:
                view.tell("the server answers again")
            cut = False
            view.show(body, status)


class Events(threading.Thread):
    """The event stream, read beside the view: all that is wanted of it is that something happened."""

    def __init__(self, server: Server, after: int) -> None:
        super().__init__(daemon=True)
        self._server, self._after = server, after
        self._happened = threading.Event()
        self._refused: SupervisorError | None = None

    def run(self) -> None:
        try:
            for _ in live(self._server, {}, self._after, tell=lambda _: None):
                self._happened.set()
        except SupervisorError as error:
            self._refused = error
            self._happened.set()

    def wait(self, at_most_s: float) -> None:
        """Return when something has happened, or the time is over. Raises what the stream was refused with."""
        if self._happened.wait(at_most_s):
            time.sleep(BURST_S)
            self._happened.clear()
        if self._refused is not None:
            raise self._refused


# ---- where it is shown


class View(Protocol):
    def show(self, body: bytes, status: StatusView) -> None: ...
    def tell(self, text: str) -> None: ...
    def __enter__(self) -> View: ...
    def __exit__(self, *error: object) -> None: ...


def _view(*, as_json: bool) -> View:
    if as_json:
        return Blocks(lambda body, _status: body.decode())
    if sys.stdout.isatty():
        return Screen()
    return Blocks(lambda _body, status: plain(status_blocks(status)) + "\n")


class Blocks:
    """For a pipe: a block (for a program a line) whenever something that matters is another than before."""

    def __init__(self, render: Callable[[bytes, StatusView], str]) -> None:
        self._render = render
        self._shown: object = None

    def show(self, body: bytes, status: StatusView) -> None:
        now = gist(status)
        if now != self._shown:
            print(self._render(body, status), flush=True)
        self._shown = now

    def tell(self, text: str) -> None:
        say(text)

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Screen:
    """For a terminal: the same place, drawn anew. What was seen last stays there afterwards."""

    def __init__(self) -> None:
        self._live = Live(console=Console(highlight=False), auto_refresh=False)

    def show(self, _body: bytes, status: StatusView) -> None:
        blocks = [*status_blocks(status), "it follows what happens; Ctrl-C ends it"]
        self._live.update(framed(blocks, low=True), refresh=True)

    def tell(self, text: str) -> None:
        self._live.console.print(Text(clean(text)), soft_wrap=True)

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def gist(status: StatusView) -> object:
    """Return what is news if it changes: not ages, not memory in use, and no lease that was renewed."""
    return (
        status.version,
        status.mode,
        (status.engine.synced, status.engine.reason),
        status.journal,
        [(gpu.uuid, gpu.lease, gpu.problem) for gpu in status.gpus],
        [(lease.id, lease.state, lease.why) for lease in status.leases],
        [(ticket.id, ticket.state, ticket.position, ticket.why) for ticket in status.queue],
        status.targets,
        status.problems,
    )
