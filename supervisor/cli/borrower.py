"""One lease from its owner's side: ask, wait for the turn and for readiness, renew, give back.

The first request does not wait for its turn, so that a token is there soon: of a lease, or of a place in the queue.
What takes long is waited for with it. So a Ctrl-C can always give it back (by the request's key until the token is
there), and a server that is restarted meanwhile finds it again in its journal.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from supervisor.answers import Ahead
from supervisor.cli.connection import Line
from supervisor.cli.errors import LeaseLost, Refused, Unreachable
from supervisor.cli.output import clock_time
from supervisor.cli.progress import Progress, Waiting
from supervisor.core.errors import SupervisorError

#: One claim stays on the line for this long, then it is made again: a dead line is noticed by then.
CLAIM_S = 30
#: How much later than it said a server's answer may come. A bare lease is answered when room was made for it, and what
#: must stop for that may have minutes of grace.
LATE_S = 30.0
ROOM_S = 900.0
#: How often the place in the queue is looked at, and how soon something that failed is tried again.
LOOK_S = 1.0
#: How often a lease that is held is looked at between two renewals: whoever lost it must stop soon.
CHECK_S = 2.0
RETRY_S = 1.0
#: How long giving back is tried; the TTL does it otherwise.
GIVE_BACK_S = 5.0
ASK_TRIES = 3

#: Refusals that leave a ticket in the queue.
STILL_QUEUED = frozenset(
    {"gpu_busy", "scheduler_timeout", "engine_unavailable", "gpu_dirty", "storage_full", "shutting_down"}
)
#: Refusals that say what has become of a place while nobody was on the line for it.
PLACE_GONE = frozenset({"ticket_expired", "lease_ended", "lease_unknown"})
QUEUED = frozenset({"queued", "claimable"})


class Wish(Struct, frozen=True, kw_only=True):
    """What is asked for. ``target`` None is a bare lease; ``wait_s`` None waits as long as it takes.

    ``gpus``, ``vram_mib`` (on each of them) and ``gpu_class`` are only a bare lease's; None: not said. ``pid``: the
    process that a bare lease ends with; it has no TTL then.
    """

    target: str | None
    owner: str
    priority: int | None
    ttl_s: int
    wait_s: int | None
    wait_ready: bool
    ready_timeout_s: int
    gpus: int | None = None
    vram_mib: int | None = None
    gpu_class: str | None = None
    pid: int | None = None

    @property
    def name(self) -> str:
        return self.target or (f"{self.gpus} GPUs" if (self.gpus or 1) > 1 else "the GPU")

    @property
    def body(self) -> dict[str, Any]:
        """What is sent; what was not said is left to the server."""
        said = {
            "target": self.target,
            "owner": self.owner,
            "priority": self.priority,
            "ttl_seconds": self.ttl_s if self.pid is None else None,
            "wait_ready": self.wait_ready,
            "queue": self.wait_s != 0,
            "gpus": self.gpus,
            "vram_mib": self.vram_mib,
            "gpu_class": self.gpu_class,
            "pid": self.pid,
        }
        return {name: value for name, value in said.items() if value is not None}

    @property
    def waits_ready(self) -> bool:
        return self.wait_ready and self.target is not None


class Held(Struct, frozen=True):
    """A lease or a ticket as the server answers it; only the answer that hands it out has the token."""

    state: str
    token: str = ""
    id: str = ""
    fence: int | None = None
    gpus: tuple[str, ...] = ()
    cuda_visible_devices: str = ""
    ttl_seconds: float | None = None
    expires_at: str | None = None
    ends_at: str | None = None
    reason: str | None = None
    position: int | None = None
    ahead: tuple[Ahead, ...] = ()
    why: str | None = None
    until: str | None = None


class Renewed(Struct, frozen=True):
    ttl_seconds: float
    ends_at: str | None = None


class Answered(Struct, frozen=True):
    """An answer whose content does not matter."""


class Borrower:
    """``token`` is what is held, or None; ``answer`` the last answer that handed it out, word for word."""

    def __init__(self, line: Line, wish: Wish, progress: Progress) -> None:
        self.line = line
        self.wish = wish
        self.token: str | None = None
        self.answer: dict[str, Any] = {}
        self._progress = progress
        self._say = progress.say
        self._ttl_s = float(wish.ttl_s)
        self._ends_at: str | None = None
        self._deadline: float | None = None
        self._key = ""
        self._renewed_at = -math.inf

    def take_over(self, token: str) -> None:
        """Hold what another process has got, and may have held for a while."""
        self.token, self._renewed_at = token, -math.inf

    # ---- getting it

    async def obtain(self) -> Held:
        """Ask for the lease and wait for it as long as was wished.

        Cancelled, it leaves the line and keeps the place in the queue; called again, it takes that up.

        Raises:
            Refused: it cannot be had, or not in the time that was wished for it (``retryable``).
            Unreachable: no server answered the first question. Later ones are repeated.
        """
        if self._deadline is None:
            self._deadline = math.inf if self.wish.wait_s is None else time.monotonic() + self.wish.wait_s
        while True:
            taken_up = self.token is not None
            held = None if taken_up else await self._ask()
            try:
                if held is None or held.state in QUEUED or self.wish.waits_ready:
                    held = await self._wait(self._deadline)
            except Refused as refusal:
                # The line was cut for longer than a claim window. A place is not worth giving up for that.
                if refusal.code not in (PLACE_GONE if taken_up else {"ticket_expired"}):
                    raise
                self.token = None
                self._say("its turn came while nobody was on the line: queueing again")
            else:
                self._ttl_s = held.ttl_seconds or self._ttl_s
                self._renewed_at = time.monotonic()
                return held

    async def _ask(self) -> Held:
        """The same Idempotency-Key for every try: one whose answer was lost must not become a second lease."""
        for tries_left in reversed(range(ASK_TRIES)):
            asked_before = bool(self._key)
            self._key = self._key or str(uuid.uuid4())
            try:
                held = await self._ask_for(
                    "/v1/lease",
                    {**self.wish.body, "wait_ready": False},
                    answer_s=ROOM_S + LATE_S,
                    headers={"Idempotency-Key": self._key},
                )
            except Unreachable as error:
                if not (error.asked or asked_before):
                    self._key = ""  # nobody is there who could have got the request, or give anything back
                if not tries_left or not error.asked:
                    raise
                await asyncio.sleep(RETRY_S)
            except Refused as refusal:
                self._key = ""
                untied = self.wish.pid is not None and refusal.context.get("field") == "pid"
                if not tries_left or not (untied or (asked_before and refusal.code in PLACE_GONE)):
                    raise
                # The server cannot see our processes (a container's numbers differ): the TTL has to do.
                self.wish = msgspec.structs.replace(self.wish, pid=None) if untied else self.wish
            else:
                self.token, self._key = held.token, ""
                return held
        raise AssertionError("the last try returns or raises")

    async def _ask_for(
        self, path: str, body: dict[str, Any], *, answer_s: float, headers: dict[str, str] | None = None
    ) -> Held:
        raw = await self.line.ask_raw("POST", path, json=body, headers=headers, answer_s=answer_s)
        held = self.line.decoded(raw, Held)
        self.answer = msgspec.json.decode(raw, type=dict[str, Any])
        return held

    async def _wait(self, deadline: float) -> Held:
        announcing = asyncio.create_task(self._announce())
        try:
            return await self._claim(deadline)
        finally:
            announcing.cancel()
            self._progress.settled()

    async def _claim(self, deadline: float) -> Held:
        cut = False
        while True:
            asked_at = time.monotonic()
            wait_s = max(0, math.ceil(min(CLAIM_S, deadline - asked_at)))
            trouble: SupervisorError
            try:
                return await self._ask_for(
                    f"/v1/lease/{self.token}/claim",
                    {
                        "wait_seconds": wait_s,
                        "wait_ready": self.wish.wait_ready,
                        "ready_timeout_seconds": self.wish.ready_timeout_s,
                    },
                    answer_s=wait_s + ROOM_S + self.wish.ready_timeout_s + LATE_S,
                )
            except Refused as refusal:
                if refusal.code not in STILL_QUEUED:
                    raise
                trouble, cut = refusal, False
            except Unreachable as error:
                if not cut:
                    self._say(f"{error}; its place in the queue is kept, trying again")
                trouble, cut = error, True
            if time.monotonic() >= deadline:
                raise trouble
            # A refusal that comes at once (a server that shuts down) must not make us spin.
            await asyncio.sleep(max(0.0, RETRY_S - (time.monotonic() - asked_at)))

    async def _announce(self) -> None:
        """Show our place and what changes about it, while we wait. Trouble on the line is the claim's to report."""
        while True:
            with suppress(Refused, Unreachable):
                now = waiting(self.wish, await self.line.ask("GET", f"/v1/lease/{self.token}", Held))
                if now is not None:
                    self._progress.waiting(now)
            await asyncio.sleep(LOOK_S)

    # ---- having it

    async def keep(self) -> None:
        """Renew at a third of the TTL until cancelled, and look in between whether the lease still lives.

        A lease that is tied to a process has no TTL, and is only looked at. A server that is away is waited for: it
        hands out nothing meanwhile, and every lease gets a fresh TTL when it comes back.

        Raises:
            LeaseLost: the lease has ended: released by somebody else, expired, done, or its target is gone.
        """
        tied = self.wish.pid is not None
        cut, said = False, ""
        while True:
            due_s = math.inf if tied else max(0.0, self._renewed_at + self._ttl_s / 3 - time.monotonic())
            await asyncio.sleep(min(RETRY_S, self._ttl_s / 3) if cut else min(CHECK_S, due_s))
            due = not tied and (cut or due_s <= CHECK_S)
            try:
                line = await (self._renew() if due else self._look())
            except Unreachable as error:
                if not cut:
                    self._say(f"{error}; the lease is kept, trying again")
                cut = True
                continue
            if cut:
                self._say("the server answers again")
            cut = False
            if line and line != said:
                self._say(line)
            said = said if due else line

    async def check(self) -> None:
        """Renew now, and see whether the lease still lives. Trouble on the line is ``keep``'s to report.

        Raises:
            LeaseLost: as ``keep`` does.
        """
        with suppress(Unreachable, TimeoutError):
            async with asyncio.timeout(CHECK_S):
                await self._renew()

    async def _renew(self) -> str:
        try:
            renewed = await self.line.ask("POST", f"/v1/lease/{self.token}/renew", Renewed)
        except Refused as refusal:
            if not refusal.retryable:
                raise LeaseLost(self.wish.name, str(refusal), refusal.context.get("reason")) from None
        else:
            self._ttl_s = renewed.ttl_seconds
            self._tell_end(renewed.ends_at)
        self._renewed_at = time.monotonic()
        return ""

    def _tell_end(self, ends_at: str | None) -> None:
        """Say once that others wait, and when the lease ends because of that, however often it is renewed."""
        if ends_at is not None and ends_at != self._ends_at:
            self._say(f"others wait: the lease of {self.wish.name} ends at {clock_time(ends_at)} if they still do")
        self._ends_at = ends_at

    async def _look(self) -> str:
        """Return what changed about the lease that its owner should know."""
        try:
            held = await self.line.ask("GET", f"/v1/lease/{self.token}", Held)
        except Refused as refusal:
            if self.wish.pid is not None and not refusal.retryable:
                raise LeaseLost(self.wish.name, str(refusal), None) from None
            return ""  # forgotten, or a server in trouble: the next renewal says which
        if held.state == "ended":
            raise LeaseLost(self.wish.name, f"it has ended ({held.reason})", held.reason)
        self._tell_end(held.ends_at)
        return f"{self.wish.name} is down: {held.why}" if held.state == "down" else ""

    # ---- giving it back

    async def give_back(self) -> None:
        """End the lease or cancel the ticket, whether or not its token was ever heard.

        What cannot be told ends by its TTL; that is said.
        """
        token, self.token = self.token, None
        key, self._key = self._key, ""
        if token is None and not key:
            return
        path, headers = (f"/v1/lease/{token}", None) if token is not None else ("/v1/lease", {"Idempotency-Key": key})
        what = "release it" if token is not None else "take the request back"
        deadline = time.monotonic() + GIVE_BACK_S
        while True:
            try:
                await self.line.ask("DELETE", path, Answered, headers=headers)
            except (Unreachable, Refused) as error:
                final = isinstance(error, Refused) and not error.retryable  # as a server that cannot do it by key says
                if final or time.monotonic() >= deadline:
                    ends = f"within {self._ttl_s:g} s" if self.wish.pid is None else f"with process {self.wish.pid}"
                    self._say(f"could not {what} ({error}): it ends by itself {ends}")
                    return
                await asyncio.sleep(RETRY_S / 2)
            else:
                return


def waiting(wish: Wish, held: Held) -> Waiting | None:
    """Return what is waited for with a ticket, or with a lease that is not ready yet; None where there is nothing."""
    why = held.why or ""
    if held.state in QUEUED:
        place = "" if held.position is None else f" at place {held.position + 1}"
        line = f"waiting for {wish.name}{place}"
        reasons = [why, holder(held, why)]
    elif held.state == "starting":
        line, reasons = f"starting {wish.name}", [why]
    else:
        return None
    reason = "; ".join(filter(None, reasons))
    return Waiting(
        line=f"{line}: {reason}" if reason else line,
        until=held.until,
        state=held.state,
        position=held.position,
        why=why,
        ahead=held.ahead,
    )


def holder(held: Held, why: str) -> str:
    """Say who has the GPU while we wait, where the reason for waiting is another one; else ""."""
    for other in held.ahead[:1]:
        who = other.target or "a bare lease"
        if other.state not in QUEUED and f"{who} holds " not in why:
            return f"{who} holds the GPU (owner {other.owner})"
    return ""
