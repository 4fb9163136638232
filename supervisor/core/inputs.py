"""Everything that can happen to the supervisor. The edges only translate the world into these.

Requests carry a ``request_id`` that is unique within this process: the reply names it again. They carry
digests of tokens, never tokens. ``caller``: who asks, as the edge knows it; for the audit.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from supervisor.core.model import Bystander, Container, Enforcing, FinishedUse, Gpu, Terms, Tie
from supervisor.core.processes import SeenProcess

# ---- requests


class Acquire(Struct, frozen=True, kw_only=True):
    """Ask for a lease. ``id`` and ``token_hash`` are proposed by the edge for what may be created.

    ``terms.priority`` counts only where ``priority_given``; else the target's label does.
    ``wait_ms``: how long to stay in the queue on the line (0: not at all). ``on_busy``: what the caller gets
    when it cannot have the GPU in that time.
    """

    request_id: int
    id: str
    token_hash: str
    terms: Terms
    priority_given: bool = False
    wait_ms: int = 0
    on_busy: Literal["refuse", "ticket"] = "refuse"


class Claim(Struct, frozen=True, kw_only=True):
    """Come back with a token: claim a ticket's turn, or refresh a lease (``refresh``: the plain /acquire).

    ``wait_ms``: stay on the line until the turn comes. ``target`` None is not checked.
    ``ttl_ms`` None leaves it as it is.
    """

    request_id: int
    token_hash: str
    wait_ms: int = 0
    refresh: bool = False
    target: str | None = None
    ttl_ms: int | None = None
    wait_ready: bool | None = None
    ready_timeout_ms: int | None = None


class Renew(Struct, frozen=True):
    request_id: int
    token_hash: str


class Release(Struct, frozen=True):
    """End a lease or cancel a ticket by its token."""

    request_id: int
    token_hash: str
    caller: str = ""


class ReleaseByKey(Struct, frozen=True):
    """End or cancel what was asked for with an idempotency key: its caller was cut off before it heard of a token.

    ``scope``: as in ``Terms``, so that nobody reaches what another caller asked for.
    """

    request_id: int
    scope: str
    caller: str = ""


class ForceRelease(Struct, frozen=True):
    """An operator ends a lease without its token. ``target`` None: the only lease there is."""

    request_id: int
    target: str | None
    caller: str = ""


class ForceEnd(Struct, frozen=True):
    """An operator ends one lease, or cancels one ticket, by its public id.

    ``only``: whether it may be nothing else by now. A ticket that was granted meanwhile keeps its id.
    """

    request_id: int
    id: str
    only: Literal["lease", "ticket"] | None = None
    caller: str = ""


class Evict(Struct, frozen=True):
    request_id: int
    target: str
    caller: str = ""


class Move(Struct, frozen=True):
    """An operator gives a ticket, by its id, another priority. ``only_look``: say where that would put it."""

    request_id: int
    id: str
    priority: int
    only_look: bool = False
    caller: str = ""


class OpenGpu(Struct, frozen=True):
    """An operator says that a GPU which was closed because memory did not come back is clean."""

    request_id: int
    uuid: str
    caller: str = ""


class CallerGone(Struct, frozen=True):
    """The caller of a request hung up. ``lease_id``: what a reply granted that could not be handed over."""

    request_id: int
    lease_id: str | None = None


# ---- the engine


class EngineSnapshot(Struct, frozen=True):
    """Everything labelled (and what it depends on), just listed and inspected with the event stream up.

    ``others``: what else was in the list.
    """

    containers: tuple[Container, ...]
    others: tuple[Bystander, ...] = ()


class ContainerSeen(Struct, frozen=True):
    container: Container


class ContainerGone(Struct, frozen=True):
    id: str


class ContainerRenamed(Struct, frozen=True):
    """An event says what a container is called now. The inspect that says it too waits for its start to be over.

    Compose renames what it creates anew right before it starts it (``<12 digits of the old id>_NAME`` until then).
    """

    id: str
    name: str


class StartHinted(Struct, frozen=True):
    """An event says that a container started which was inspected before: it is judged at once.

    ``run`` only has to differ from the last run's name; the inspect that follows brings the truth.
    """

    id: str
    run: str
    wall_ms: int


class EngineLost(Struct, frozen=True):
    """The stream broke, a ping timed out, or a list failed. Not in sync until the next snapshot."""

    reason: str


class EngineContact(Struct, frozen=True):
    """The engine answered a ping; nothing else is known to have changed."""


class StartPrevented(Struct, frozen=True):
    """A container without a right to run was killed while it was being started: most likely it never ran."""

    container_id: str


class EnforcingChanged(Struct, frozen=True):
    """The ways in which what may not run can be ended here are others than before."""

    enforcing: Enforcing


ActionKind = Literal["start", "stop", "kill"]
#: done; gone (404); refused (the engine answered an error: final for a start); failed (no answer: unreachable);
#: timeout (no answer in time: it may still happen)
Outcome = Literal["done", "gone", "refused", "failed", "timeout"]


class ActionDone(Struct, frozen=True):
    """A call that ``plan`` asked for has come back."""

    container_id: str
    kind: ActionKind
    outcome: Outcome
    message: str = ""


# ---- everything else


class ProcessesSeen(Struct, frozen=True):
    """The processes on the GPUs were looked at: all of them, those that are gone by now left out.

    ``finished``: those that have ended, by the driver's accounts; all looks that could have seen them are over.
    ``limited``: what whoever looked may not see or do, in whole sentences.
    """

    processes: tuple[SeenProcess, ...]
    finished: tuple[FinishedUse, ...] = ()
    limited: tuple[str, ...] = ()


#: What came of a signal; ``other_process``: the pid was used again; ``withdrawn``: not tried, because by now it stands
#: by something, or has left the GPU.
Sent = Literal["sent", "gone", "other_process", "forbidden", "unsupported", "withdrawn"]


class SignalSent(Struct, frozen=True):
    """A signal that ``step`` asked for was sent, or not."""

    pid: int
    started: int
    signal: int
    outcome: Sent


class VramRead(Struct, frozen=True):
    """The GPUs were read. ``began_ms``: when the reading began, in supervisor time (None: just now).

    ``problem``: in whole sentences, why there are none, or what is not well with them; "" if all is well.
    """

    gpus: tuple[Gpu, ...]
    began_ms: int | None = None
    problem: str = ""


class ProcessEnded(Struct, frozen=True):
    """The process that leases or tickets are tied to has ended, or had ended before anybody looked."""

    tie: Tie


class StorageFull(Struct, frozen=True):
    """Whether the journal's reserve could be had (``full`` False: it can again)."""

    full: bool


class Started(Struct, frozen=True):
    """The supervisor has replayed its journal. ``first``: there was none. ``safe_mode``: it is damaged, and why."""

    boot_id: str
    boot_ms: int
    version: str
    first: bool
    safe_mode: str = ""


class ShutDown(Struct, frozen=True):
    reason: str


class Tick(Struct, frozen=True):
    """Time has passed."""


Request = Acquire | Claim | Renew | Release | ReleaseByKey | ForceRelease | ForceEnd | Evict | OpenGpu | Move
Input = (
    Request
    | CallerGone
    | EngineSnapshot
    | ContainerSeen
    | ContainerGone
    | ContainerRenamed
    | StartHinted
    | EngineLost
    | EngineContact
    | EnforcingChanged
    | StartPrevented
    | ActionDone
    | VramRead
    | ProcessEnded
    | ProcessesSeen
    | SignalSent
    | StorageFull
    | Started
    | ShutDown
    | Tick
)
