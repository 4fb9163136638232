"""``gpu-supervisor audit`` and ``why``: what was decided, one sentence each, and what follows from it for somebody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from supervisor.answers import Event, Events, Why
from supervisor.asking import SILENCE_S, messages, timeout
from supervisor.cli.connection import Server, ask, ask_raw, checked, decoded, translated
from supervisor.cli.errors import OK, Refused, Unreachable
from supervisor.cli.names import did_you_mean
from supervisor.cli.output import answer, clock_time, say

#: A stream that ended is asked for again after this, for ever: the supervisor may be restarted.
AGAIN_S = 1.0


def show_why(name: str, *, as_json: bool) -> None:
    """Print why a container or target was stopped, and what to type.

    Raises:
        Refused: nothing is known by this name.
    """
    try:
        server, body = ask_raw("GET", f"/v1/why/{quote(name, safe='')}")
    except Refused as refusal:
        if refusal.code == "target_unknown":
            refusal.hint = did_you_mean(name, containers=True) or refusal.hint
        raise
    if as_json:
        print(body.decode())
        return
    why = decoded(server, body, Why)
    when = f"{clock_time(why.stopped.time)}  " if why.stopped is not None else ""
    answer(f"{when}{why.sentence}")
    if why.target is not None and why.target != name:
        answer(f"{name} belongs to {why.target}, which is {why.state}")
    if why.command:
        answer(f"{'once it is mended' if why.state == 'invalid' else 'to get the GPU'}: {why.command}")


def show_audit(target: str | None, limit: int, *, follow: bool, as_json: bool) -> int:
    """Print the newest decisions, the oldest of them first; with ``follow`` go on until Ctrl-C."""
    chosen = {"target": target} if target else {}
    page = newest(limit, chosen)
    _print(page.events, as_json=as_json)
    if target and not page.events:
        say(f"nothing was decided about {target}; {did_you_mean(target)}".rstrip("; "))
    if follow:
        try:
            for event in live(Server.find(), chosen, page.after):
                _print([event], as_json=as_json)
        except KeyboardInterrupt:
            pass
    return OK


def newest(limit: int, chosen: dict[str, Any]) -> Events:
    return ask("GET", "/v1/events", Events, params={"limit": limit, **chosen})


def _print(events: Iterable[Event], *, as_json: bool) -> None:
    for event in events:
        if as_json:
            print(msgspec.json.encode(event).decode(), flush=True)
        else:
            answer(f"{event.seq:>6}  {clock_time(event.time)}  {event.sentence}")


def live(server: Server, chosen: dict[str, Any], after: int, tell: Callable[[str], None] = say) -> Iterator[Event]:
    """Yield every event above ``after``, for ever, across restarts of the server, of which ``tell`` hears.

    Raises:
        Refused: it does not serve this.
    """
    cut = False
    while True:
        try:
            with translated(server), server.client() as client:
                for event in _stream(server, client, chosen, after):
                    if cut:
                        tell("the server answers again")
                    cut = False
                    after = max(after, event.seq)
                    yield event
        except Unreachable as error:
            if not cut:
                tell(f"{error}; trying again")
            cut = True
        time.sleep(AGAIN_S)


def _stream(server: Server, client: httpx.Client, chosen: dict[str, Any], after: int) -> Iterator[Event]:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    with client.stream("GET", "/v1/events", params=chosen, headers=headers, timeout=timeout(SILENCE_S)) as response:
        if not response.is_success:
            response.read()
            checked(server, response)
        for data in messages(response.iter_lines()):
            yield decoded(server, data.encode(), Event)
