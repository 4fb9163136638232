"""``gpu-supervisor move``: another place in the queue for a ticket."""

from __future__ import annotations

from urllib.parse import quote

from supervisor.answers import MovedAnswer
from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.output import answer
from supervisor.core.errors import SupervisorError

NOT_MOVED = {
    "granted": "it is a lease by now: there is nothing to move",
    "claimable": "its turn has come: it is served as it is",
    "unknown_or_ended": "no ticket has this id: it has ended, or never was",
}


def move_ticket(id_: str, priority: int, *, dry_run: bool, as_json: bool) -> None:
    """Give a ticket another priority, or only say where that would put it.

    Raises:
        SupervisorError: it does not wait.
    """
    body = {"priority": priority} | ({"dry_run": True} if dry_run else {})
    server, raw = ask_raw("POST", f"/v1/leases/{quote(id_, safe='')}/move", json=body)
    done = decoded(server, raw, MovedAnswer)
    reason = done.reason if isinstance(done.reason, str) else ""
    if not done.moved and reason != "dry_run":
        raise SupervisorError(f"{id_}: {NOT_MOVED.get(reason, reason)}", "see who waits with: gpu-supervisor queue")
    if as_json:
        print(raw.decode())
        return
    place = f" at place {done.position + 1}" if done.position is not None else ""
    answer(f"{id_} {'is' if done.moved else 'would be'}{place} with priority {priority}")
