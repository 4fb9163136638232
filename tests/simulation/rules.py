"""The rules that always hold, checked at every step of a history and at everything that leaves the supervisor.

What was decided is kept in two books: ``decided`` has every fact, ``on_disk`` only those that a crash leaves.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from supervisor.core.apply import apply, freeze
from supervisor.core.facts import (
    AnyFact,
    LeaseEnded,
    LeaseGranted,
    LeaseRetimed,
    ResidencyEnded,
    RoomVerified,
    TicketEnded,
    TicketQueued,
    WindowOpened,
)
from supervisor.core.forecast import Forecast, forecast
from supervisor.core.inputs import (
    Acquire,
    CallerGone,
    Input,
    ProcessesSeen,
    Release,
    ReleaseByKey,
    Renew,
    SignalSent,
    Started,
    Tick,
)
from supervisor.core.model import RUNNING, Container, Now
from supervisor.core.plan import plan
from supervisor.core.replies import (
    Action,
    Granted,
    Queued,
    Refused,
    Released,
    Renewed,
    Reply,
    SignalProcess,
    StartContainer,
    StopContainer,
)
from supervisor.core.state import Hold, State
from supervisor.core.targets import gpus_of
from supervisor.core.usage import usable_mib
from supervisor.core.wishes import reach, wish_of
from tests.simulation import soundness
from tests.simulation.containers import SimContainer
from tests.simulation.incarnation import Box, Incarnation
from tests.simulation.ledger import Circumstances, Held, Ledger, require
from tests.simulation.process_rules import ProcessRules

#: A container without the right to run, that was started while all was well, is dead after this long (milliseconds).
LIFE_MS = 500
#: The same where the line to the engine loses events without a trace.
BLIND_LIFE_MS = 20_000
#: The same after the engine answers again, or the supervisor is back.
BACK_MS = 3_000
#: A ticket outlives its deadline by no more than this.
LATE_MS = 1_000
IDLE_MIB = 1_024


class Doomed(Struct):
    """A process that runs without the right to. ``since_ms``: since all that excuses it is over."""

    since_ms: int
    fresh: bool


class Rules:
    """Asks ``life`` what the supervisor knows, and the box what is true."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.life: Incarnation | None = None
        self.aging = box.settings.aging_per_minute
        self.decided = Ledger(self.aging, box.settings.affinity_points)
        self.on_disk = Ledger(self.aging, box.settings.affinity_points)
        self.shadow = State(box.settings)
        self.processes = ProcessRules(box)
        self.expected: dict[str, int] = {}
        self.gone: set[int] = set()
        self.answered: set[int] = set()
        self.asked: dict[int, Input] = {}
        self.deadlines: dict[int, int] = {}
        self.meant: dict[int, str] = {}
        self.doomed: dict[tuple[str, str], Doomed] = {}
        self.unwell_ms = self.blind_ms = 0
        self.waits_since_ms: dict[str, int] = {}
        self.foreseen: tuple[Acquire, Forecast] | None = None
        self.lives_ms: list[int] = []
        self.restarts = 0
        self.steps = 0
        self._holder: Hold | None = None
        self._was_dirty: frozenset[str] = frozenset()
        self._decided_facts = False

    @property
    def at_ms(self) -> int:
        return self.box.timeline.at_ms

    # ---- one life of the process begins and ends

    def begins(self, life: Incarnation) -> None:
        """A replay gives the very state that wrote the journal, and everything that was answered is in it."""
        replayed = freeze(life.kernel.state.durable)
        require(replayed == freeze(self.shadow.durable), "a replay gives the very state that wrote the journal")
        self.life = life
        self.decided = Ledger(self.aging, self.box.settings.affinity_points)
        for fact in self.box.disk.facts():
            self.decided.take(fact, Circumstances())
        self.processes.begins(self.decided)
        self.gone.clear()
        self.answered.clear()
        self.asked.clear()
        self.deadlines.clear()
        self.meant.clear()
        self.waits_since_ms = {}
        self.restarts += 1

    def ends(self) -> None:
        self.life = None

    def shut_down(self, on_the_line: set[int]) -> None:
        """The supervisor was asked to end a while ago, when these requests were on the line."""
        assert self.life is not None
        require(not on_the_line & self.life.waiting.keys(), "everybody on the line is answered before a shutdown")

    # ---- one step

    def stepping(self, now: Now, item: Input) -> None:
        assert self.life is not None
        observed = self.life.kernel.state.observed
        if isinstance(item, CallerGone):
            self._holder = observed.holds.get(item.request_id)
            self.gone.add(item.request_id)
        elif hasattr(item, "request_id"):
            self.asked[item.request_id] = item
            if isinstance(item, ReleaseByKey):
                self.meant[item.request_id] = self.life.kernel.state.ids_by_scope.get(item.scope, "")
            if isinstance(item, Acquire) and item.wait_ms:
                self.deadlines[item.request_id] = self.at_ms + item.wait_ms
        if isinstance(item, ProcessesSeen):
            self.processes.saw(item, now)
        if isinstance(item, Started):
            self._keep_promises(now)
        self.foreseen = None
        if isinstance(item, Acquire) and item.terms.scope is None:
            seen = forecast(self.life.kernel.state, now, item.terms, priority_given=item.priority_given)
            self.foreseen = (item, seen)

    def decide(self, facts: list[AnyFact]) -> None:
        """Look at what a step decided, before anything of it leaves."""
        assert self.life is not None
        state = self.life.kernel.state
        observed = state.observed
        if self.foreseen is not None:
            self._came_as_foreseen(*self.foreseen, facts)
        circumstances = Circumstances(
            synced=observed.synced,
            storage_full=observed.storage_full,
            safe_mode=bool(observed.safe_mode),
            stopping=observed.stopping,
            dirty=self._was_dirty & observed.dirty.keys(),
            usable_mib={gpu.uuid: usable_mib(state, gpu) or 0 for gpu in observed.gpus},
            wish=lambda terms: wish_of(state, terms),
            most_holders=lambda target: state.observed.specs[target].max_holders,
            able=lambda terms: reach(state, wish_of(state, terms)),
        )
        for fact in facts:
            require("hash of" not in getattr(fact, "detail", ""), "no token, nor its hash, is in what people read")
            self._look_at(fact)
            self.decided.take(fact, circumstances)
            self.processes.decide(fact, self.decided)
        self._was_dirty = frozenset(observed.dirty)
        self._decided_facts = bool(facts)

    def stepped(self, now: Now, item: Input) -> None:
        assert self.life is not None
        self.steps += 1
        timers = self.life.kernel.state.observed.timers
        if isinstance(item, CallerGone):
            self._hung_up(item)
        if not self.life.catching_up:
            self._check_deadlines()
        if isinstance(item, Tick) and timers.next_at_ms is not None:
            require(timers.next_at_ms > now.at_ms, "every timer that was due has fired")
        observed = self.life.kernel.state.observed
        self.processes.stepped(item, self.decided)
        self.processes.check_ties(excused=self.life.catching_up or bool(observed.safe_mode))
        if not isinstance(item, Renew):
            self._check_life()
            self._check_memory(now)
        if self._decided_facts or self.steps % 16 == 0:
            self._check_state(now)

    def _keep_promises(self, now: Now) -> None:
        """A restart gives every lease a whole TTL from now on, so what its holder was told before is true still.

        Where the wall clock was set back over a reboot, supervisor time may be less than when it was told.
        """
        assert self.life is not None
        held = self.life.kernel.state.durable.leases
        told = ((id_, at_ms) for id_, at_ms in self.expected.items() if id_ in held)
        self.expected = {id_: min(at_ms, now.at_ms + held[id_].terms.ttl_ms) for id_, at_ms in told}

    def _look_at(self, fact: AnyFact) -> None:
        """Compare a decision with the truth of the box, which the supervisor can only see late."""
        if isinstance(fact, LeaseEnded) and fact.reason == "expired":
            promised_ms = self.expected.get(fact.id, 0)
            require(fact.at_ms >= promised_ms, "a lease does not expire before the time its holder was told")
        elif isinstance(fact, TicketEnded) and fact.reason == "scheduler_timeout":
            require(fact.id not in self.decided.leases, "a lease does not time out in the queue")
        elif isinstance(fact, LeaseRetimed) and fact.id in self.expected:
            # Whoever asks for less expects no more, whether or not the answer comes through.
            self.expected[fact.id] = min(self.expected[fact.id], fact.at_ms + fact.ttl_ms)
        elif isinstance(fact, RoomVerified):
            self._check_room(fact)

    def _check_room(self, fact: RoomVerified) -> None:
        assert self.life is not None
        lease = self.decided.leases[fact.id]
        # What runs already has its memory. Events may be lost, so what is believed to run counts as well.
        shown = self.life.kernel.state.observed.containers.values()
        warm = any(container.runs and container.target == fact.target for container in shown)
        for container in self.box.engine.containers.values():
            if container.target is None or container.status not in RUNNING:
                continue
            seen_ms = self.life.watcher.inspected_ms.get(container.id, -1)
            # Where it is, only a reading tells.
            known = min(seen_ms, self.life.read_at_ms) > container.started_at_ms
            here = self._shows_on(container, lease.gpus)
            if container.target == fact.target:
                require(
                    lease.restarted or not lease.cold or not known or self.life.catching_up,
                    f"room for a cold start is verified only when nothing of the target runs: {container.name} does",
                )
                warm = True
            elif self.decided.may_run(container.target, container.shown.project) == "no" and here:
                # What waits in the inbox of a process that was stopped is not known yet.
                require(
                    not known or self.life.catching_up,
                    f"room is verified only when nothing else is known to run: {container.name} does",
                )
        for uuid in lease.gpus if not warm else ():
            self._check_memory_of(uuid, lease)

    def _shows_on(self, container: SimContainer, gpus: Collection[str]) -> bool:
        """Return whether a container is on one of ``gpus``, and anybody could tell.

        No reading of a silent driver says who is where: it is known by the right that it had, or as Docker put it.
        """
        assert self.life is not None
        share = self.box.gpu.held.get((container.id, container.run))
        if share is None or set(share.gpus).isdisjoint(gpus):
            return False
        state = self.life.kernel.state
        seen = state.observed.containers.get(container.id)
        return not self.box.gpu.silent or (seen is not None and not set(gpus).isdisjoint(gpus_of(state, seen)))

    def _check_memory_of(self, uuid: str, lease: Held) -> None:
        """What is left by the dead, what nobody may stop, and what is promised to others leaves enough."""
        assert self.life is not None
        state = self.life.kernel.state
        usable = next(usable_mib(state, gpu) or 0 for gpu in self.box.gpu.gpus if gpu.uuid == uuid)
        alive = {(one.id, one.run) for one in self.box.engine.containers.values() if one.alive}
        taken = self.box.gpu.left_by(alive, uuid) + self.box.gpu.foreign_mib(uuid)
        others = [
            other
            for other in self.decided.leases.values()
            if uuid in other.gpus and other.joins is None and lease not in self.decided.holders_of(other)
        ]
        homes = [home for home in self.decided.residents.values() if uuid in home.gpus]
        promised = sum(other.vram_mib or 0 for other in (*others, *homes))
        # Where nobody says who uses what, use may be a part of what is promised.
        taken = max(taken, promised) if self.box.gpu.silent else taken + promised
        need = lease.vram_mib or usable
        most = IDLE_MIB if need >= usable else usable - need
        require(taken <= most, f"room is verified by the GPU's own reading: {taken} MiB of {uuid} are taken")

    def _hung_up(self, gone: CallerGone) -> None:
        """Once a hang-up is noticed its caller is granted nothing, and a grant that raced it is taken back."""
        caller, self._holder = self._holder, None
        asked = self.asked.get(gone.request_id)
        id_ = caller.id if caller is not None and caller.owns else gone.lease_id
        if id_ is None or not isinstance(asked, Acquire) or asked.terms.scope is not None or asked.id != id_:
            return
        books = self.decided
        if (
            caller is None
            and id_ in books.leases
            and not any(isinstance(other, Acquire) and other.id == id_ for other in self.asked.values())
        ):
            return
        require(
            id_ not in books.tickets and id_ not in books.leases, "what a caller that hung up asked for is taken back"
        )

    def _check_deadlines(self) -> None:
        for request_id, deadline_ms in list(self.deadlines.items()):
            if self.at_ms <= deadline_ms + LATE_MS:
                continue
            asked = self.asked[request_id]
            assert isinstance(asked, Acquire)
            assert self.life is not None
            caller = self.life.kernel.state.observed.holds.get(request_id)
            waits = caller is not None and caller.id in self.decided.tickets
            require(not waits, "no ticket outlives its deadline by more than a second")
            del self.deadlines[request_id]

    # ---- what leaves

    def synced(self, facts: list[AnyFact]) -> None:
        for fact in facts:
            apply(self.shadow, fact)
            self.on_disk.take(fact, Circumstances())
        self.processes.synced(facts)

    def signalling(self, now: Now, signal: SignalProcess) -> None:
        self.processes.signalling(now, signal, self.decided)

    def signalled(self, sent: SignalSent) -> None:
        assert self.life is not None
        self.processes.signalled(sent, self.life.clock.now())

    def _came_as_foreseen(self, asked: Acquire, seen: Forecast, facts: list[AnyFact]) -> None:
        """A dry run says what the very next request gets."""
        assert self.life is not None
        state = self.life.kernel.state
        grants = [fact for fact in facts if isinstance(fact, LeaseGranted) and fact.id == asked.id]
        queued = any(isinstance(fact, TicketQueued) and fact.id == asked.id for fact in facts)
        # Whoever held the GPU past its limit loses it the moment somebody waits for it.
        if queued and any(isinstance(fact, LeaseEnded) and fact.reason == "max_hold" for fact in facts):
            return
        require(bool(grants) == (seen.would == "grant"), "who is told so by a dry run is granted at once, nobody else")
        may_queue = asked.wait_ms > 0 or asked.on_busy == "ticket"
        require(queued == (seen.would == "wait" and may_queue), "who is told so by a dry run is queued, nobody else")
        if queued:
            place = state.position(state.durable.tickets[asked.id])
            served = sum(isinstance(fact, LeaseGranted | TicketEnded) for fact in facts)
            assert seen.position is not None
            require(place <= seen.position <= place + served, "a dry run tells the place in the queue")
        for grant in grants:
            # Others who wait may be served in the same step, and evict for themselves; or have a window, for whose room
            # whoever makes room there evicts as well.
            evicted = {f.target for f in facts if isinstance(f, ResidencyEnded) and f.for_lease == grant.id}
            windows = {uuid for f in facts if isinstance(f, WindowOpened) for uuid in f.gpus}
            foreseen = evicted >= set(seen.evicts) if windows & set(grant.gpus) else evicted == set(seen.evicts)
            told = (seen.gpus, seen.vram_mib) == (grant.gpus, grant.vram_mib)
            require(told and foreseen, "a dry run tells the GPU, the size and the evictions")
            runs = any(c.runs and c.project == grant.project for c in state.containers_of(asked.terms.target or ""))
            warm = grant.warm and runs and not grant.needs_cold_start
            joined = grant.joins is not None
            require((seen.start == "joined") == joined, "a dry run tells whether a target is shared with who has it")
            require((seen.start == "warm") == (warm and not joined), "a dry run tells whether a target runs already")

    def replying(self, now: Now, reply: Reply) -> None:
        id_ = reply.request_id
        require(id_ in self.asked, "only what was asked is answered")
        require(id_ not in self.answered, "a request is answered once")
        require(id_ not in self.gone, "a caller whose hang-up was noticed is answered nothing")
        self.answered.add(id_)
        asked = self.asked[id_]
        match reply:
            case Granted():
                self._granted(reply)
            case Queued():
                require(reply.ticket_id in self.on_disk.queued, "a ticket is on disk before its caller hears of it")
            case Released() if reply.released and isinstance(asked, Release):
                ended = asked.token_hash.removeprefix("hash of ") in self.on_disk.ended
                require(ended, "a release is on disk before its caller hears of it")
            case Released() if isinstance(asked, ReleaseByKey):
                meant = self.meant[id_]
                require(reply.released == bool(meant), "what a key stands for is given back, and nothing else")
                require(not meant or meant in self.on_disk.ended, "a release is on disk before its caller hears of it")
            case Renewed():
                assert isinstance(asked, Renew)
                full_ms = now.at_ms + reply.ttl_ms
                require(reply.expires_at_ms in {None, full_ms}, "a renewal gives a whole TTL from now on")
                if self._hears(id_):
                    self._promise(asked.token_hash.removeprefix("hash of "), reply.expires_at_ms)
            case Refused():
                told = f"{reply.refusal.detail} {reply.refusal.context}"
                require("hash of" not in told, "no token, nor its hash, is in what people read")
            case _:
                pass

    def _granted(self, reply: Granted) -> None:
        books, id_ = self.on_disk, reply.lease.id
        require(id_ in books.granted, "a grant is on disk before its caller hears of it")
        if reply.state == "ready":
            require(id_ in books.ready, "readiness is on disk before a caller hears of it")
        if self._hears(reply.request_id):
            self.processes.hears(id_)
            self._promise(id_, reply.expires_at_ms)

    def _promise(self, lease_id: str, expires_at_ms: int | None) -> None:
        # A refresh may ask for a shorter time than before: the last word counts.
        if expires_at_ms is not None:
            self.expected[lease_id] = expires_at_ms

    def _hears(self, request_id: int) -> bool:
        assert self.life is not None
        waiting = self.life.waiting.get(request_id)
        return waiting is not None and not waiting.left

    def acting(self, now: Now, action: Action) -> None:
        assert self.life is not None
        state = self.life.kernel.state
        shown = state.observed.containers.get(action.id) or state.observed.unlabelled.get(action.id)
        require(shown is not None, "only containers that were seen are called about")
        assert shown is not None
        true_target = self.box.engine.containers[action.id].target if action.id in self.box.engine.containers else None
        if isinstance(action, StartContainer):
            starting = [lease for lease in self.on_disk.leases.values() if lease.phase == "starting"]
            require(starting, "a start leaves after its lease and room are on disk")
            ours = shown.target is None or any(
                shown.target == lease.target and shown.project == lease.project for lease in starting
            )
            require(ours, "only the leased target and what it needs is started")
            require(not shown.one_off, "a one-off container is never started")
            require(state.observed.synced, "nothing is started while not in sync")
            self._check_intruders(shown, starting)
            return
        require(shown.target is not None, "a container without a target is never stopped")
        if action.id in self.box.engine.containers:
            require(true_target == shown.target, "a container's target is read from its own labels")
        verdict = self.decided.may_run(shown.target or "", shown.project)
        require(verdict != "yes", "nothing that has the right to run is stopped")
        if action.kind == "stop":
            verdict = self.on_disk.may_run(shown.target or "", shown.project)
            require(verdict != "yes", "a stop leaves after the end of the right to run is on disk")
            require(shown.status in RUNNING, "only what runs is stopped")

    def tripping(self, container_id: str) -> None:
        """A container is killed before it runs: on top of what holds for every kill, nobody waits for it to start."""
        assert self.life is not None
        shown = self.life.kernel.state.observed.containers.get(container_id)
        require(shown is not None, "the tripwire hits only what was seen, with a target of its own")
        assert shown is not None
        require(
            self.box.engine.containers[container_id].target == shown.target, "its target is read from its own labels"
        )
        require(self.box.settings.mode == "stop", "the tripwire hits nothing in the other modes")
        ours = isinstance(self.life.calls.get(container_id), StartContainer)
        require(not ours, "the tripwire hits nothing that the supervisor itself is starting")
        verdict = self.decided.may_run(shown.target or "", shown.project)
        require(verdict != "yes", "nothing that has the right to run is kept from it")
        verdict = self.on_disk.may_run(shown.target or "", shown.project)
        require(verdict != "yes", "nothing whose right to run is written is kept from it, though its end is decided")

    def _check_intruders(self, started: Container, starting: list[Held]) -> None:
        """Between "room verified" and "ready" nothing else may load: a start waits until what is known to is gone."""
        assert self.life is not None
        gpus = {uuid for lease in starting if started.target in {None, lease.target} for uuid in lease.gpus}
        for container in self.box.engine.containers.values():
            if container.target is None or not container.alive or self.box.settings.mode != "stop":
                continue
            known = self.life.watcher.inspected_ms.get(container.id, -1) > container.started_at_ms
            here = started.target is not None and self._shows_on(container, gpus)
            intrudes = here and self.decided.may_run(container.target, container.shown.project) == "no"
            require(not known or not intrudes or self.life.catching_up, "nothing is started beside what may not run")

    # ---- enforcement

    def started(self, container: SimContainer) -> None:
        """A process began. Whether it has the right to run is asked again at every step."""
        if container.target is not None:
            self.doomed[container.id, container.run] = Doomed(self.at_ms, fresh=True)

    def died(self, container: SimContainer) -> None:
        doomed = self.doomed.pop((container.id, container.run), None)
        if (
            doomed is None
            or not doomed.fresh
            or self.life is None
            or doomed.since_ms <= max(self.unwell_ms, self.blind_ms)
        ):
            return
        if container.id in self.decided.refused and container.id not in self.life.troubled_until_ms:
            self.lives_ms.append(self.at_ms - doomed.since_ms)

    def unwell(self) -> None:
        """Something excuses enforcement now: it is measured from the last such moment on."""
        self.unwell_ms = self.at_ms

    def blinded(self, for_ms: int) -> None:
        """What starts until then may be seen by the next list only."""
        self.blind_ms = max(self.blind_ms, self.at_ms + for_ms)

    def _check_life(self) -> None:
        assert self.life is not None
        state, box = self.life.kernel.state, self.box
        well = state.observed.synced and box.engine.power == "up" and box.settings.mode == "stop"
        if not well or self.life.stopped or self.life.catching_up:
            self.unwell_ms = self.at_ms
        if box.noise.lost:
            self.blinded(0)
        if not self.doomed:
            return
        for key in list(self.doomed):
            container = box.engine.containers.get(key[0])
            if container is None or container.run != key[1] or not container.alive:
                del self.doomed[key]
                continue
            verdict = self.decided.may_run(container.target or "", container.shown.project)
            if verdict != "no" or container.unkillable:
                # It may lose its right again: from then on it is stopped gently, which takes its grace.
                self.doomed[key] = Doomed(self.at_ms, fresh=False)
                continue
            self._check_doomed(container, self.doomed[key])

    def _check_doomed(self, container: SimContainer, doomed: Doomed) -> None:
        assert self.life is not None
        box = self.box
        # Containers of one target stop one after the other: trouble with one holds up the others.
        siblings = (one.id for one in box.engine.containers.values() if one.target == container.target)
        troubles = [self.life.troubled_until_ms.get(id_, 0) for id_ in siblings]
        since_ms = max(doomed.since_ms, *troubles)
        limit_ms = LIFE_MS
        if self.unwell_ms + BACK_MS > since_ms:
            since_ms, limit_ms = max(since_ms, self.unwell_ms), BACK_MS + LIFE_MS
        if since_ms <= self.blind_ms:
            limit_ms = BLIND_LIFE_MS
        if not doomed.fresh or limit_ms > LIFE_MS:
            # An older run is asked to stop, after those that depend on it; its end waits for the disk.
            limit_ms += 25_000 + box.trouble.sync_ms * 3
        asked = self.life.calls.get(container.id)
        if isinstance(asked, StopContainer):
            limit_ms += asked.grace_s * 1000  # it left for an earlier run, and the engine is at it still
        lived_ms = self.at_ms - since_ms
        require(lived_ms <= limit_ms, f"{container.name} has no right to run and lives for more than {limit_ms} ms")

    def _check_memory(self, now: Now) -> None:
        """Memory that does not come back is said out loud: the GPU is dirty."""
        assert self.life is not None
        observed = self.life.kernel.state.observed
        books = self.decided.leases
        waits = {id_ for id_ in observed.room if id_ in books and observed.dirty.keys().isdisjoint(books[id_].gpus)}
        if not observed.synced or self.life.catching_up:
            waits = set()
        # What a step decided may have set something going for a moment: the wait begins anew.
        anew = {id_ for id_ in waits if self._decided_facts and observed.room[id_].since_ms == now.at_ms}
        self.waits_since_ms = {id_: self.waits_since_ms.get(id_, self.at_ms) for id_ in waits - anew}
        most_ms = self.box.settings.vram_return_ms + LATE_MS
        late = [id_ for id_, since_ms in self.waits_since_ms.items() if self.at_ms - since_ms > most_ms]
        require(not late, f"memory that does not come back is said out loud: {late}")

    # ---- the state as a whole

    def _check_state(self, now: Now) -> None:
        assert self.life is not None
        kernel = self.life.kernel
        soundness.check(kernel.state, self.decided, now)
        observed = kernel.state.observed
        require(observed.calls.keys() == self.life.calls.keys(), "every call under way is known, and no other")
        waits = observed.timers.next_at_ms is not None and observed.timers.next_at_ms <= now.at_ms
        if kernel.durable_seq == kernel.state.durable.fact_seq and not waits:
            require(plan(kernel.state, now) == [], "a full plan finds nothing that the incremental one missed")

    def compare_replay(self, state: State) -> None:
        require(freeze(state.durable) == freeze(self.shadow.durable), "memory is what the facts on disk give")
