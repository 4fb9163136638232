"""What the keys do: each the request that it is, the question that is asked first, and what its answer means. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from msgspec import Struct

from supervisor.answers import GpuView, LeaseView, QueueEntry, StatusView, TargetView
from supervisor.cli.moving import NOT_MOVED
from supervisor.cli.output import clean
from supervisor.cli.top.model import named
from supervisor.cli.top.words import size

NOT_DONE = {
    **NOT_MOVED,
    "unknown_or_ended": "it has ended already",
    "granted": "it was granted meanwhile: it is a lease",
    "no_lease": "it has ended already",
    "queued": "it is a ticket, not a lease",
    "not_resident": "it is not resident: there is nothing to stop",
    "not_closed": "it was not closed: there was nothing to open",
}


class Deed(Struct, frozen=True, kw_only=True):
    """``says``: what will happen, line by line. ``did``: the field of the answer that says whether it has.

    ``instead``: the same for a server that has no such path.
    """

    question: str
    says: tuple[str, ...]
    method: str
    path: str
    did: str
    done: str
    params: dict[str, str] = {}
    body: dict[str, Any] | None = None
    instead: Deed | None = None


def release(lease: LeaseView, status: StatusView) -> Deed:
    """End a lease by force, and nobody else's."""
    name = named(lease.target)
    where = f" on {gpu_names(lease.gpus, status)}" if lease.gpus else ""
    says = [f"The lease {clean(lease.id)} of {clean(lease.owner)}{where} ends now; its owner is told when it renews."]
    if lease.target is None:
        says.append("What its process still uses stays in use until the process ends.")
    elif lease.joined:
        says.append(f"Others hold {name} too, and go on.")
    elif lease.state == "ready":
        says.append(f"{name} goes on running as a resident until something needs its room.")
    else:
        says.append(f"{name} is not ready yet: what runs of it is stopped.")
    says.append(next_in_line(lease, status))
    return Deed(
        question=f"Release {name}?",
        says=tuple(says),
        method="DELETE",
        path=f"/v1/leases/{quote(lease.id, safe='')}",
        params={"only": "lease"},
        did="released",
        done=f"released {name}",
        instead=_by_target(lease) if lease.target is not None and not lease.joined else None,
    )


def _by_target(lease: LeaseView) -> Deed:
    return Deed(
        question=f"Release {named(lease.target)}?",
        says=(),
        method="POST",
        path="/release",
        body={"force": True, "target": lease.target},
        did="released",
        done=f"released {named(lease.target)}",
    )


def next_in_line(lease: LeaseView, status: StatusView) -> str:
    """Say who is first in the queue. Whether it fits is the server's decision."""
    waiting = [ticket for ticket in status.queue if ticket.state == "queued"]
    if not waiting:
        return "Nobody waits."
    first = waiting[0]
    more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    same = " again" if first.target is not None and first.target == lease.target else ""
    return f"First in the queue: {named(first.target)}{same} for {clean(first.owner)}{more}."


def cancel(ticket: QueueEntry) -> Deed:
    return Deed(
        question=f"Cancel the ticket of {clean(ticket.owner)} for {named(ticket.target)}?",
        says=(
            f"Place {ticket.position + 1} in the queue ({clean(ticket.id)}) is given up, and its caller is told.",
            "If it was granted meanwhile, the lease is spared.",
        ),
        method="DELETE",
        path=f"/v1/leases/{quote(ticket.id, safe='')}",
        params={"only": "ticket"},
        did="released",
        done=f"cancelled the ticket of {clean(ticket.owner)} for {named(ticket.target)}",
    )


def move(ticket: QueueEntry, priority: int, *, dry_run: bool = False) -> Deed:
    return Deed(
        question=f"Move the ticket of {clean(ticket.owner)} for {named(ticket.target)}",
        says=(),
        method="POST",
        path=f"/v1/leases/{quote(ticket.id, safe='')}/move",
        body={"priority": priority, **({"dry_run": True} if dry_run else {})},
        did="moved",
        done=f"the ticket of {clean(ticket.owner)} for {named(ticket.target)} has priority {priority}",
    )


def evict(target: TargetView) -> Deed:
    name = clean(target.name)
    running = [clean(one.name) for one in target.containers if one.status == "running"]
    says = [f"Stopped, each with its own grace: {', '.join(running[:6]) or 'nothing runs of it'}."]
    if len(running) > 6:
        says.append(f"... and {len(running) - 6} more")
    if target.seen_mib is not None:
        says.append(f"It was seen to use {size(target.seen_mib)}. The next lease of it starts cold.")
    return Deed(
        question=f"Evict {name}?",
        says=tuple(says),
        method="POST",
        path=f"/v1/targets/{quote(target.name, safe='')}/evict",
        did="evicted",
        done=f"{name} is being stopped",
    )


def open_gpu(gpu: GpuView) -> Deed:
    return Deed(
        question=f"Say that GPU {gpu.index} is clean?",
        says=(clean(gpu.problem), "It opens now; what is really free still decides over each grant."),
        method="POST",
        path=f"/v1/gpus/{quote(gpu.uuid, safe='')}/open",
        did="opened",
        done=f"GPU {gpu.index} is open again",
    )


def gpu_names(uuids: tuple[str, ...], status: StatusView) -> str:
    index = {gpu.uuid: f"GPU {gpu.index}" for gpu in status.gpus}
    return ", ".join(index.get(uuid, clean(uuid)) for uuid in uuids)


def not_done(deed: Deed, answer: dict[str, Any]) -> str:
    """Return why an answer says that nothing was done, or "" if it was."""
    if answer.get(deed.did):
        return ""
    reason = str(answer.get("reason") or "")
    return clean(NOT_DONE.get(reason, reason or "the server says that nothing was done"))


# ---- what a key may be pressed for


def why_not_evicted(target: TargetView) -> str:
    """Return why a target is not to be evicted, and what to press instead; "" if it may be."""
    if target.lease is not None:
        return f"{clean(target.name)} is leased: release its lease first (r)"
    if target.state not in ("resident", "stopping"):
        return f"{clean(target.name)} is {target.state}: only a resident target is evicted"
    return ""


def why_not_moved(ticket: QueueEntry) -> str:
    return NOT_MOVED["claimable"] if ticket.state == "claimable" else ""
