"""Callers of the simulated supervisor: each a short story with its own character, told by one seed.

``Line`` is what lies between them and the supervisor: requests and answers take a moment, connections break, and a
hang-up is noticed within a second. While the box is ``calm`` nobody begins anything new, and holders give back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from supervisor.core.inputs import (
    Acquire,
    Claim,
    Evict,
    ForceEnd,
    ForceRelease,
    Move,
    Release,
    ReleaseByKey,
    Renew,
    Request,
)
from supervisor.core.model import Terms
from supervisor.core.replies import Granted, Queued, Refused, Released, Renewed, Reply
from tests.simulation.incarnation import Incarnation
from tests.simulation.ledger import require
from tests.simulation.processes import Processes, SimProcess
from tests.simulation.timeline import Script, Timeline

NOTICE_MS = 1_000
TARGETS_NOBODY_HAS = ("comfyiu", "")
#: The share of histories in which callers give up before they have heard of a token.
WITH_GIVING_UP = 0.19


class Site(Protocol):
    """Where the callers live: the supervisor of the moment, if there is one, and whether they should come to an end."""

    seed: int
    timeline: Timeline
    rng: random.Random
    calm: bool

    @property
    def life(self) -> Incarnation | None: ...
    @property
    def targets(self) -> list[str]: ...
    @property
    def processes(self) -> Processes: ...


def _by_token(token: str) -> Callable[[int], Request]:
    return lambda request_id: Release(request_id, token)


class Callers:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._rng = site.rng
        self._proposed = 0
        # Of their own luck: a history without them is what it was before there were any.
        self._luck = random.Random(f"those who give up in {site.seed}")
        self._some_give_up = self._luck.random() < WITH_GIVING_UP

    # ---- the line

    def _ask(self, make: Callable[[int], Request], patience_ms: int | None = None) -> Callable[..., None]:
        """Ask, and hang up when patience is over. The result is the reply, or None if there was none."""

        def begin(resume: Callable[[Reply | None], object]) -> None:
            life = self._site.life
            if life is None:
                resume(None)
                return
            answered = False

            def arrive(reply: Reply | None) -> None:
                nonlocal answered
                if not answered:
                    answered = True
                    resume(reply)

            request_id = life.ask(make, arrive)
            if patience_ms is not None:
                notice_ms = self._rng.randint(0, NOTICE_MS)
                self._site.timeline.after(patience_ms, lambda: None if answered else life.leave(request_id, notice_ms))

        return begin

    def _lose(self, make: Callable[[int], Request]) -> Callable[..., None]:
        """Ask, and lose the answer on the wire: the server hears of it when it cannot hand it over."""

        def begin(resume: Callable[[None], object]) -> None:
            life = self._site.life
            if life is None:
                resume(None)
                return

            life.ask(make, lambda _: None, left=True)
            resume(None)

        return begin

    def _target(self) -> str | None:
        luck = self._rng.random()
        if luck < 0.08:
            return None
        if luck < 0.1:
            return "comfyiu"
        return self._rng.choice(self._site.targets)

    def _terms(self, target: str | None, key: str | None = None) -> Terms:
        rng = self._rng
        return Terms(
            target=target,
            owner=f"caller-{rng.randint(1, 5)}",
            priority=rng.choice((-5, 0, 0, 0, 1, 20)),
            ttl_ms=rng.choice((1_000, 5_000, 20_000, 45_000)),
            wait_ready=rng.random() < 0.7,
            ready_timeout_ms=rng.choice((5_000, 20_000, 40_000)),
            scope=key,
            body=key and f"body of {key}",
        )

    def _acquire(
        self,
        terms: Terms,
        *,
        wait_ms: int = 0,
        ticket: bool = False,
        patience_ms: int | None = None,
        loses: bool = False,
    ) -> Callable[..., None]:
        self._proposed += 1
        id_ = f"l{self._proposed}"

        def make(request_id: int) -> Acquire:
            return Acquire(
                request_id=request_id,
                id=id_,
                token_hash=f"hash of {id_}",
                terms=terms,
                priority_given=bool(terms.priority),
                wait_ms=wait_ms,
                on_busy="ticket" if ticket else "refuse",
            )

        return self._lose(make) if loses else self._ask(make, patience_ms)

    # ---- what every holder does

    def _hold(self, granted: Granted) -> Script:
        """Use the GPU for a while, renewing or refreshing; then give it back, or die without a word."""
        rng, token = self._rng, granted.lease.token_hash
        if granted.state == "ended":
            return
        target, ttl_ms = granted.lease.target, granted.lease.terms.ttl_ms
        until_ms = self._site.timeline.at_ms + rng.choice((0, 1_000, 6_000, 25_000))
        dies = rng.random() < 0.25
        refreshes = rng.random() < 0.3
        while self._site.timeline.at_ms < until_ms and not self._site.calm:
            yield min(ttl_ms // 3, 10_000)
            if refreshes:
                new_ttl_ms = rng.choice((None, 15_000, 30_000))
                reply = yield self._ask(self._claim(token, refresh=True, target=target, ttl_ms=new_ttl_ms), 60_000)
            else:
                reply = yield self._ask(lambda request_id: Renew(request_id, token))
            if isinstance(reply, Refused):
                return
        if not dies or self._site.calm:
            yield from self._give_back(_by_token(token))

    def _give_back(self, make: Callable[[int], Request]) -> Script:
        for _ in range(20):
            reply = yield self._ask(make)
            if reply is not None:
                require(isinstance(reply, Released | Refused), "a release is answered as one")
                return
            yield 500

    @staticmethod
    def _claim(token: str, **values: object) -> Callable[[int], Claim]:
        return lambda request_id: Claim(request_id=request_id, token_hash=token, **values)  # type: ignore[arg-type]

    # ---- the characters

    def plain(self) -> Script:
        """The plain contract: acquire, poll with the token where it is busy, refresh, release."""
        target = self._target()
        granted = yield self._acquire(self._terms(target), ticket=self._rng.random() < 0.7, patience_ms=120_000)
        if isinstance(granted, Queued):
            granted = yield from self._poll(granted, target)
        if isinstance(granted, Granted):
            yield from self._hold(granted)

    def _poll(self, queued: Queued, target: str | None) -> Script:
        """Come back with a ticket until its turn comes; some lose interest, with or without saying so."""
        token = f"hash of {queued.ticket_id}"
        every_ms = self._rng.choice((500, 2_000, 2_500, 15_000))
        for _ in range(self._rng.choice((2, 30, 60))):
            yield every_ms
            if self._site.calm:
                break
            wait_ready = self._rng.choice((None, False))
            claim = self._claim(token, refresh=True, target=target, wait_ready=wait_ready)
            reply = yield self._ask(claim, self._rng.choice((2_000, 120_000)))
            if isinstance(reply, Granted) or (isinstance(reply, Refused) and not reply.refusal.retryable):
                return reply
        if self._rng.random() < 0.8:
            yield from self._give_back(_by_token(token))
        return None

    def waiter(self) -> Script:
        """Stay on the line until the GPU is granted; some hang up at any moment."""
        wait_ms = self._rng.choice((500, 5_000, 30_000, 60_000))
        patience_ms = self._rng.choice((None, None, self._rng.randint(1, 40_000), self._rng.randint(1, 2_000)))
        reply = yield self._acquire(
            self._terms(self._target()), wait_ms=wait_ms, ticket=self._rng.random() < 0.3, patience_ms=patience_ms
        )
        if isinstance(reply, Queued):
            reply = yield from self._claim_on_the_line(f"hash of {reply.ticket_id}")
        if isinstance(reply, Granted):
            yield from self._hold(reply)

    def _claim_on_the_line(self, token: str) -> Script:
        wait_ms = self._rng.choice((0, 2_000, 20_000))
        patience_ms = self._rng.choice((None, self._rng.randint(1, 20_000)))
        for _ in range(3):
            wait_ready = self._rng.choice((None, None, False, True))
            reply = yield self._ask(self._claim(token, wait_ms=wait_ms, wait_ready=wait_ready), patience_ms)
            if isinstance(reply, Granted) or self._site.calm:
                return reply
            yield 2_000
        if self._rng.random() < 0.8:
            yield from self._give_back(_by_token(token))
        return None

    def ticket(self) -> Script:
        """Take a ticket at once, and claim it on the line later."""
        reply = yield self._acquire(self._terms(self._target()), ticket=True)
        if isinstance(reply, Queued):
            yield self._rng.randint(0, 5_000)
            reply = yield from self._claim_on_the_line(f"hash of {reply.ticket_id}")
        if isinstance(reply, Granted):
            yield from self._hold(reply)

    def keyed(self) -> Script:
        """Try again with the same idempotency key until there is an answer: never a second lease."""
        self._proposed += 1
        key = f"key-{self._proposed}"
        terms = self._terms(self._target(), key)
        wait_ms = self._rng.choice((0, 3_000, 20_000))
        for _ in range(4):
            patience_ms = self._rng.choice((None, self._rng.randint(1, 10_000)))
            reply = yield self._acquire(terms, wait_ms=wait_ms, ticket=True, patience_ms=patience_ms)
            if isinstance(reply, Queued) and self._rng.random() < 0.7:
                reply = yield from self._claim_on_the_line(f"hash of {reply.ticket_id}")
            if isinstance(reply, Granted):
                yield from self._ask_again(terms, reply)
                yield from self._hold(reply)
                return
            if self._site.calm:
                return
            yield self._rng.randint(0, 3_000)

    def _ask_again(self, terms: Terms, granted: Granted) -> Script:
        """The answer came, and was lost in the caller's own hands."""
        if self._rng.random() < 0.5:
            return
        yield self._rng.choice((0, 100, 20_000))
        reply = yield self._acquire(terms, wait_ms=self._rng.choice((0, 2_000)), ticket=True, patience_ms=60_000)
        life = self._site.life
        if life is None or life.clock.now().at_ms - granted.lease.granted_at_ms > life.box.settings.keys_ms:
            return  # the wall clock was set over a reboot: by supervisor time the key is forgotten
        same = not isinstance(reply, Granted) or reply.lease.id == granted.lease.id
        require(same and not isinstance(reply, Queued), "a retry with a key gets the same lease, never a second one")

    def giving_up(self) -> Script:
        """Ask with a key, and give back by it: after a hang-up, a lost answer, or while the request is on the line."""
        rng = self._luck
        self._proposed += 1
        key = f"key-{self._proposed}"
        terms = self._terms(self._target(), key)
        wait_ms, ticket = rng.choice((0, 5_000, 60_000)), rng.random() < 0.7
        how = rng.choice(("hangs up", "loses the answer", "stays"))
        if how == "stays":
            self._site.timeline.drive(self._give_back_by_key(key, rng.choice((0, 1, 500, 10_000))))
            reply = yield self._acquire(terms, wait_ms=wait_ms, ticket=ticket)
            if isinstance(reply, Granted) and reply.state != "ended":
                yield from self._hold(reply)
            return
        hangs_up = self._acquire(terms, wait_ms=wait_ms, ticket=ticket, patience_ms=rng.randint(0, 3_000))
        yield hangs_up if how == "hangs up" else self._acquire(terms, wait_ms=wait_ms, ticket=ticket, loses=True)
        yield from self._give_back_by_key(key, rng.choice((0, 0, 300, 15_000)))

    def _give_back_by_key(self, key: str, after_ms: int) -> Script:
        yield after_ms
        yield from self._give_back(lambda request_id: ReleaseByKey(request_id, key))

    def operator(self) -> Script:
        """Force-release, end by id, evict and move, whoever it hits."""
        target = self._target()
        life = self._site.life
        waiting = list(life.kernel.state.durable.tickets) if life is not None else []
        what = self._rng.choice(("release", "end", "evict", *("move" for _ in waiting[:3])))
        if what == "move":
            id_, priority = self._rng.choice(waiting), self._rng.choice((-1000, 0, 1, 1000))
            yield self._ask(lambda request_id: Move(request_id, id_, priority))
        elif what == "release":
            yield self._ask(lambda request_id: ForceRelease(request_id, target))
        elif what == "end":
            known = [*life.kernel.state.durable.leases, *waiting] if life is not None else []
            id_ = self._rng.choice(known) if known else "nobody's"
            only = self._rng.choice((None, "lease", "ticket"))
            yield self._ask(lambda request_id: ForceEnd(request_id, id_, only))
        else:
            yield self._ask(lambda request_id: Evict(request_id, target or "nobody"))

    def end_adopted(self) -> Script:
        """Whoever works in mode adopt gives the GPU back by hand when others wait for it."""
        while True:
            life = self._site.life
            if life is not None and any(lease.adopted for lease in life.kernel.state.durable.leases.values()):
                yield self._ask(lambda request_id: ForceRelease(request_id, None))
            yield 5_000

    def stranger(self) -> Script:
        """Come with a token that nobody gave out."""
        for request in (Renew, Release):
            reply = yield self._ask(lambda request_id, request=request: request(request_id, "hash of none"))  # type: ignore[misc]
            require(not isinstance(reply, Renewed | Granted), "a token that nobody gave out is no good")
        yield self._ask(self._claim("hash of none", refresh=True))

    def companion(self) -> Script:
        """Join somebody who has a target."""
        life = self._site.life
        leased = [lease.target for lease in life.kernel.state.durable.leases.values()] if life is not None else []
        if not any(leased):
            return
        terms = self._terms(self._rng.choice([target for target in leased if target is not None]))
        reply = yield self._acquire(terms, wait_ms=self._rng.choice((0, 3_000)), ticket=False, patience_ms=60_000)
        if isinstance(reply, Granted):
            yield from self._hold(reply)

    # ---- those who are processes themselves, or send one to a GPU

    def tied(self) -> Script:
        """A job on the host: a bare lease for as long as it lives, whether or not it says when it is done."""
        rng, processes = self._site.processes.rng, self._site.processes
        job = processes.start(lives_ms=rng.choice((0, 500, 5_000, 30_000, 90_000)))
        if job is None:
            return
        yield rng.choice((0, 0, 0, 1_000))
        self._proposed += 1
        key = rng.choice((None, f"key-{self._proposed}"))
        terms = Terms(
            target=None,
            owner="job",
            priority=rng.choice((0, 0, 5)),
            ttl_ms=5_000,
            scope=key,
            body=key and f"body of {key}",
            vram_mib=rng.choice((None, 2_000, 2_000)),
            tie=job.tie,
        )
        patience_ms = rng.choice((None, None, rng.randint(1, 3_000)))
        wait_ms, ticket = rng.choice((0, 5_000, 60_000)), rng.random() < 0.5
        reply = yield self._acquire(terms, wait_ms=wait_ms, ticket=ticket, patience_ms=patience_ms)
        if key is not None and rng.random() < 0.5:
            yield rng.choice((0, 2_000))
            again = yield self._acquire(terms, wait_ms=wait_ms, ticket=ticket, loses=rng.random() < 0.5)
            reply = again or reply
        if isinstance(reply, Queued):
            reply = yield from self._claim_on_the_line(f"hash of {reply.ticket_id}")
        if isinstance(reply, Granted):
            yield from self._work(job, reply)

    def _work(self, job: SimProcess, granted: Granted) -> Script:
        """The job's child loads something; then both end, with or without a word."""
        rng, processes = self._site.processes.rng, self._site.processes
        child = None
        if job.alive:
            child = processes.start(gpus=granted.lease.gpus, mib=50, parent=job, lives_ms=60_000)
        token, says = granted.lease.token_hash, rng.random() < 0.4
        for _ in range(rng.choice((0, 2, 10))):
            if not job.alive or self._site.calm:
                break
            yield 4_000
            yield self._ask(lambda request_id: Renew(request_id, token))
        if child is not None and rng.random() < 0.8:
            processes.end(child)
        if says:
            yield from self._give_back(_by_token(token))
        yield rng.choice((0, 10_000))
        processes.end(job)

    def anybody(self) -> Script:
        characters = (
            self.companion,
            self.plain,
            self.plain,
            self.waiter,
            self.waiter,
            self.ticket,
            self.keyed,
            self.keyed,
        )
        processes = self._site.processes
        if processes.enabled and processes.rng.random() < 0.25:
            return self.tied()
        if self._some_give_up and self._luck.random() < 0.2:
            return self.giving_up()
        rare = (self.operator, self.stranger)
        return self._rng.choice(rare if self._rng.random() < 0.06 else characters)()
