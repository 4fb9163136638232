"""A lease from its owner's side: held from ``acquire`` to ``release``, renewed by a thread in between.

A thread, for event loops too: a loop that computes answers nobody, and cells of a notebook are tasks of their own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import TypeVar

import anyio

from supervisor.answers import EndedView, LeaseAnswer, ReleasedAnswer
from supervisor.client import asks
from supervisor.client.asks import Ask
from supervisor.client.errors import LeaseLost, NotHeld
from supervisor.client.flows import GIVE_BACK_S, Flow, Holding, give_back, keep, new_key, obtain
from supervisor.client.homes import Home, home_here
from supervisor.client.lines import AsyncLine, Line, Settings
from supervisor.client.wishes import Wish

T = TypeVar("T")
OnLost = Callable[[LeaseLost], object]


class _Stopped(Exception):
    """The lease is given back: nobody has to keep it any more."""


class Keeper:
    """The thread that renews one lease. ``over`` is set when the lease is lost, before ``told`` is called."""

    def __init__(self, settings: Settings, holding: Holding, told: OnLost) -> None:
        self.over = threading.Event()
        self._stop = threading.Event()
        self._settings, self._holding, self._told = settings, holding, told
        self._thread = threading.Thread(target=self._run, name=f"lease of {holding.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Renew no more. A request that is on its way is not waited for, and what comes of it tells nobody."""
        self._stop.set()

    def _run(self) -> None:
        line = Line(self._settings)  # its own: whoever closes the client has not given the lease back
        try:
            lost = line.run(keep(self._holding, self._settings.retries), self._pause)
        except _Stopped:
            return
        finally:
            line.close()
        if not self._stop.is_set():
            self.over.set()
            self._told(lost)

    def _pause(self, pause_s: float) -> None:
        if self._stop.wait(pause_s):
            raise _Stopped


class HeldLease:
    """What a lease says of itself, in threads and on event loops alike."""

    def __init__(self, settings: Settings, wish: Wish, on_lost: OnLost | None) -> None:
        if iscoroutinefunction(on_lost):
            raise TypeError("on_lost is called, not awaited: give it a plain function")
        self._settings, self._wish, self._on_lost = settings, wish, on_lost
        self._holding = Holding(wish.name)
        self._keeper: Keeper | None = None
        self._pid = 0
        self._told = False

    def __repr__(self) -> str:
        state = "lost" if self._holding.lost is not None else self._holding.state if self.held else "not held"
        return f"<{type(self).__name__} of {self._wish.name}: {state}>"

    # ---- what it is

    @property
    def held(self) -> bool:
        """Whether it was acquired and not yet given back. A lease that was lost is held until then, too."""
        return self._keeper is not None

    @property
    def answer(self) -> LeaseAnswer:
        """What the supervisor answered, also after the end. It has the token, so it does not belong in a log.

        Raises:
            NotHeld: it was not acquired yet.
        """
        if self._holding.answer is None:
            raise self._not_held()
        return self._holding.answer

    def _not_held(self) -> NotHeld:
        return NotHeld(f"the lease of {self._wish.name} is not held", "use it inside its with, or acquire() it")

    @property
    def token(self) -> str:
        """The proof of the lease. Whoever has it can end it: keep it out of logs."""
        return self.answer.token

    @property
    def id(self) -> str:
        """Its public name, as the status and the audit show it."""
        return self.answer.id

    @property
    def fence(self) -> int:
        """A number that grows with every lease: give it to what must tell a late writer from the present one."""
        return self.answer.fence

    @property
    def target(self) -> str | None:
        """The target, or None: a bare lease."""
        return self._wish.target

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of its GPUs."""
        return self.answer.gpus

    @property
    def vram_mib(self) -> int | None:
        """Memory that was promised, in MiB; None: all of it."""
        return self.answer.vram_mib

    @property
    def state(self) -> str:
        """How the target is, as last heard: ``starting``, ``ready``, ``down``; ``ended`` when its job was done."""
        return self._holding.state

    @property
    def ttl_s(self) -> float:
        """How long it outlives this process, in seconds, as the server clamped it."""
        return self._holding.ttl_s

    @property
    def expires_at(self) -> str | None:
        """When it ends unless it is renewed (RFC 3339), as of the last renewal; None: it has no TTL."""
        return self._holding.expires_at

    @property
    def ends_at(self) -> str | None:
        """When it ends however often it is renewed (RFC 3339), because others wait; None: nobody does."""
        return self._holding.ends_at

    def env(self) -> dict[str, str]:
        """Return the variables by which CUDA sees the GPUs of this lease and no others, for a process of one's own.

        UUIDs mean the same in every order; who counts within them counts as the supervisor does.
        """
        return {"CUDA_VISIBLE_DEVICES": self.answer.cuda_visible_devices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    # ---- whether it still is

    @property
    def lost(self) -> LeaseLost | None:
        """How the lease was lost; None as long as it is ours, or not held. Asks nobody, so a forked child sees None."""
        if not self.held or self._pid != os.getpid():
            return None
        return self._holding.overdue(self._settings.retries.clock())

    def check(self) -> None:
        """Return if the lease is still ours; cheap enough for every step of a loop.

        In a forked child, which renews nothing, this asks the supervisor.

        Raises:
            LeaseLost: it has ended, and somebody else may use the GPU now.
            NotHeld: it was not acquired yet, or it was given back.
        """
        self._kept()
        if self._pid != os.getpid():
            self._ask_for_the_parent(self.token)
        elif (lost := self.lost) is not None:
            self._told = True
            raise lost

    def _ask_for_the_parent(self, token: str) -> None:
        line = Line(self._settings)
        try:
            seen = line.ask(asks.look(token))
        finally:
            line.close()
        if isinstance(seen, EndedView):
            raise LeaseLost(self._wish.name, f"it has ended ({seen.reason})", seen.reason)

    # ---- how it comes and goes

    def _obtain(self) -> Flow[LeaseAnswer]:
        if self.held:
            raise NotHeld(f"the lease of {self._wish.name} is held already", "make another one with client.lease()")
        self._holding = Holding(self._wish.name)
        self._pid = os.getpid()
        self._told = False
        return obtain(self._wish, self._holding, self._settings.retries, new_key)

    def _take(self, answer: LeaseAnswer) -> None:
        """Hold what a ticket was turned into."""
        self._holding.granted(answer, self._settings.retries.clock())
        self._hold()

    def _hold(self) -> None:
        self._pid = os.getpid()
        self._keeper = Keeper(self._settings, self._holding, self._lost_now)
        if self._holding.lost is None:
            self._keeper.start()
        else:
            # A job that was over before its healthcheck saw it: there is nothing left to keep.
            self._keeper.over.set()

    def _lost_now(self, lost: LeaseLost) -> None:
        """Called in the keeper's thread."""
        if self._on_lost is not None:
            self._told = True
            self._on_lost(lost)

    def _let_go(self) -> Ask[ReleasedAnswer] | None:
        """Stop keeping it; return what gives back what there may be of it, if this process has to."""
        holding, keeper = self._holding, self._keeper
        release = holding.let_go()
        self._keeper = None
        if keeper is not None:
            keeper.stop()
        if self._pid != os.getpid():
            return None  # a fork's copy: the lease, or the request for it, is its parent's
        if holding.lost is not None and holding.lost.reason is not None:
            return None  # the server has said so
        return release

    def _kept(self) -> Keeper:
        """Raises ``NotHeld`` unless it is held."""
        if self._keeper is None:
            raise self._not_held()
        return self._keeper

    def _untold(self, error: BaseException | None) -> LeaseLost | None:
        """Return the loss that nobody has heard of, where leaving the block is the last chance to."""
        lost = self.lost
        return lost if lost is not None and error is None and not self._told and not lost.completed else None


class Lease(HeldLease):
    """A lease, held while its ``with`` block runs; made by ``Client.lease``.

    It waits for its turn and for the target's health, is renewed by a thread at a third of its TTL, and is given back
    at the end of the block, whatever ends it. Where the lease is lost meanwhile ``on_lost`` is called, ``check()``
    raises ``LeaseLost``, and, if neither has told it, so does the end of the block.

    >>> with client.lease("comfyui", wait="10m") as lease:
    ...     for image in ["a cat", "a dog"]:
    ...         lease.check()
    ...         print(f"{lease.target} is {lease.state}: {image}")
    comfyui is ready: a cat
    comfyui is ready: a dog
    >>> lease
    <Lease of comfyui: not held>

    In a notebook, where the block would be one cell, ``acquire`` and ``release`` do the same:

    >>> lease = client.lease(vram="8GiB").acquire()
    >>> lease.env()["CUDA_DEVICE_ORDER"]
    'PCI_BUS_ID'
    >>> lease.release()
    True

    After a fork the lease is the parent's: a child renews nothing, gives nothing back, and its ``check()`` asks the
    supervisor. Leases may be nested; a second one of the same target waits for the first, unless the target takes
    several holders.
    """

    def __init__(self, line: Line, wish: Wish, on_lost: OnLost | None) -> None:
        super().__init__(line.settings, wish, on_lost)
        self._line = line

    def acquire(self) -> Lease:
        """Wait for the lease, and hold it until ``release``. Whatever goes wrong, nothing is left behind: what was
        asked for is given back though its answer never came.

        Raises:
            Refused: it cannot be had, or not within the ``wait`` (``GpuBusy``, ``SchedulerTimeout``).
            Unreachable: no supervisor answers.
            NotHeld: this very lease is held already.
        """
        flow = self._obtain()
        try:
            self._line.run(flow)
        except BaseException:
            self.release()
            raise
        self._hold()
        return self

    def release(self) -> bool:
        """Give it back. Returns whether a supervisor confirmed that it is gone; otherwise its TTL ends it."""
        release = self._let_go()
        return release is None or self._line.run(give_back(release, self._settings.retries))

    def wait_ended(self, timeout: float | None = None) -> LeaseLost | None:
        """Wait until the lease has ended, as that of a training job does when it is done (``completed``).

        Args:
            timeout: Seconds; None: as long as it takes.

        Returns:
            How it ended, or None: the time is over, and it goes on.
        """
        self._kept().over.wait(timeout)
        self._told = self._told or self.lost is not None
        return self.lost

    def __enter__(self) -> Lease:
        return self if self.held else self.acquire()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        untold = self._untold(error)
        self.release()
        if untold is not None:
            raise untold


class AsyncLease(HeldLease):
    """A lease, held while its ``async with`` block runs, on asyncio or trio; made by ``AsyncClient.lease``.

    As ``Lease`` in everything else. ``on_lost`` is called on the event loop. The renewals come from a thread, so a
    block that computes for long without an ``await`` loses nothing.

    >>> async def main():
    ...     async with AsyncClient() as client:
    ...         async with client.lease("comfyui", wait="10m") as lease:
    ...             lease.check()
    ...             return lease.state
    >>> asyncio.run(main())
    'ready'
    """

    def __init__(self, line: AsyncLine, wish: Wish, on_lost: OnLost | None) -> None:
        super().__init__(line.settings, wish, on_lost)
        self._line = line
        self._home: Home | None = None
        self._over: anyio.Event | None = None

    async def acquire(self) -> AsyncLease:
        """Wait for the lease, and hold it until ``release``, as ``Lease.acquire`` does; if cancelled, too."""
        flow = self._obtain()
        try:
            await self._line.run(flow)
        except BaseException:
            await self.release()
            raise
        self._hold()
        return self

    def _hold(self) -> None:
        self._home, self._over = home_here(), anyio.Event()
        super()._hold()
        if self._holding.lost is not None:
            self._over.set()

    def _lost_now(self, lost: LeaseLost) -> None:
        home, over = self._home, self._over
        assert home is not None
        assert over is not None

        def on_the_loop() -> None:
            over.set()
            super(AsyncLease, self)._lost_now(lost)

        home.tell(on_the_loop)

    async def release(self) -> bool:
        """Give it back, though we are cancelled. Returns whether a supervisor confirmed that it is gone."""
        if (release := self._let_go()) is None:
            return True
        return bool(await self._line.run_whatever_happens(give_back(release, self._settings.retries), GIVE_BACK_S))

    async def wait_ended(self) -> LeaseLost:
        """Wait until the lease has ended, and return how; ``completed`` if the target's job is done."""
        self._kept()
        assert self._over is not None
        await self._over.wait()
        self._told = True
        lost = self.lost
        assert lost is not None
        return lost

    async def __aenter__(self) -> AsyncLease:
        return self if self.held else await self.acquire()

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        untold = self._untold(error)
        await self.release()
        if untold is not None:
            raise untold
