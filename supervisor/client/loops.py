"""The client for event loops: asyncio's and trio's. What its calls do is said at ``threads``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Unpack

from supervisor.answers import (
    EndedView,
    Event,
    Events,
    EvictAnswer,
    ForecastAnswer,
    LeaseView,
    OpenedAnswer,
    ProcessesView,
    ReleasedAnswer,
    RenewAnswer,
    StatusView,
    TargetsView,
    TargetView,
    TicketView,
    Why,
)
from supervisor.asking import ANSWER_S
from supervisor.client import asks
from supervisor.client.following import follow_async
from supervisor.client.leases import AsyncLease, OnLost
from supervisor.client.lines import AsyncLine, Settings
from supervisor.client.threads import EVENTS_AT_ONCE, RECONNECT_S, RETRY_S
from supervisor.client.tickets import AsyncTicket
from supervisor.client.wishes import LeaseOptions, wish_for


class AsyncClient:
    """``Client`` for asyncio and trio: the same calls, to be awaited. It may be shared by the tasks of one loop.

    Used in another loop, one after the other, or in a forked child, it opens connections anew.

    >>> async def main():
    ...     async with AsyncClient() as client:
    ...         return (await client.status()).mode
    >>> asyncio.run(main())
    'stop'

    Every request is safe to repeat and is repeated for ``retry_for`` seconds while the supervisor is away: a restart
    goes unnoticed. One that never answered so far is not waited for.

    Args:
        url: ``http://HOST:PORT`` or ``unix:///PATH``; else GPU_SUPERVISOR_URL; else http://127.0.0.1:8080.
        token: An API token; else GPU_SUPERVISOR_TOKEN; else none.
        timeout: How long an answer may take that nobody has to wait for, in seconds. Waits for a lease come on top.
        retry_for: For how long a request is tried again while the supervisor is away, in seconds; 0: not at all.

    Raises:
        BadValue: the address is none.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = ANSWER_S,
        retry_for: float = RETRY_S,
    ) -> None:
        self._line = AsyncLine(Settings(url, token, timeout=timeout, retry_for=retry_for))

    @property
    def url(self) -> str:
        """Where it asks."""
        return self._line.settings.address.url

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.url}>"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Leases that are held go on, and the next request opens a new one."""
        await self._line.close()

    # ---- leases

    def lease(
        self, target: str | None = None, *, on_lost: OnLost | None = None, **options: Unpack[LeaseOptions]
    ) -> AsyncLease:
        """Return a lease, to be acquired by ``async with`` or by ``acquire()``.

        Args:
            target: Which stack (``gpu.target``); None: a bare lease, for a process of one's own.
            on_lost: Called once, on the event loop, if the lease ends while it is held: stop using the GPU then.
            options: ``owner``, ``priority``, ``ttl`` (60 s), ``wait`` (3600 s; 0: not at all; None: as long as it
                takes), ``wait_ready``, ``ready_timeout`` (900 s); for a bare lease ``gpus``, ``vram`` ("8GiB", on
                each), ``gpu_class`` and ``pid``. Durations are seconds, or texts: "10m". See ``LeaseOptions``.

        Raises:
            BadValue: a duration or a size cannot be read.
        """
        return AsyncLease(self._line, wish_for(target, **options), on_lost)

    async def ticket(self, target: str | None = None, **options: Unpack[LeaseOptions]) -> AsyncTicket:
        """Take a place in the queue, and return at once; see ``AsyncTicket``. ``options`` are those of ``lease``.

        Where the GPU is free the ticket is a lease already, whose TTL runs: claim it soon.
        """
        return await AsyncTicket.taken(self._line, wish_for(target, **options))

    def ticket_of(self, token: str) -> AsyncTicket:
        """Return the ticket, or lease, that a token stands for, to be claimed here: one that another process left."""
        return AsyncTicket(self._line, wish_for(None), token)

    async def forecast(self, target: str | None = None, **options: Unpack[LeaseOptions]) -> ForecastAnswer:
        """Say what ``lease`` with these ``options`` would do now, and change nothing."""
        return await self._line.ask(asks.forecast(wish_for(target, **options)))

    async def look(self, token: str) -> LeaseView | TicketView | EndedView:
        """Return what a token stands for.

        Raises:
            LeaseUnknown: for nothing that is remembered."""
        return await self._line.ask(asks.look(token))

    async def renew(self, token: str) -> RenewAnswer:
        """Give a lease its whole TTL again, once; ``async with client.lease(...)`` does so by itself.

        Raises:
            LeaseUnknown: it is no lease (any more)."""
        return await self._line.ask(asks.renew(token))

    async def release(self, token: str) -> ReleasedAnswer:
        """Give a lease back, or cancel a ticket. One that is gone already is no error (``released`` is false)."""
        return await self._line.ask(asks.release(token))

    # ---- what there is

    async def status(self) -> StatusView:
        """Return everything at once: GPUs, leases, the queue with reasons, targets, problems."""
        return await self._line.ask(asks.status())

    async def targets(self) -> TargetsView:
        """Return every target in full."""
        return await self._line.ask(asks.targets())

    async def target(self, name: str) -> TargetView:
        """Return one target."""
        return await self._line.ask(asks.target(name))

    async def evict(self, target: str) -> EvictAnswer:
        """Stop a resident target now.

        Raises:
            TargetLeased: it has a lease."""
        return await self._line.ask(asks.evict(target))

    async def open_gpu(self, uuid: str) -> OpenedAnswer:
        """Say that a GPU whose memory did not come back is clean."""
        return await self._line.ask(asks.open_gpu(uuid))

    async def processes(self) -> ProcessesView:
        """Return who is on the GPUs, and by what right."""
        return await self._line.ask(asks.processes())

    async def why(self, name: str) -> Why:
        """Say who stopped a target or a container, for whom, and what to type to get the GPU."""
        return await self._line.ask(asks.why(name))

    # ---- the audit

    async def audit(
        self, *, after: int | None = None, target: str | None = None, limit: int = EVENTS_AT_ONCE
    ) -> Events:
        """Return up to 1000 decisions, the oldest first: those above the number ``after``, or else the newest ones."""
        return await self._line.ask(asks.audit(after=after, target=target, limit=limit))

    def events(
        self, *, after: int | None = None, target: str | None = None, reconnect_for: float | None = RECONNECT_S
    ) -> AsyncGenerator[Event, None]:
        """Follow the audit: yield every decision from now on, or above the number ``after``, without an end.

        A line that is cut is taken up again behind the last event, so none is missing and none comes twice. Where it is
        left before its end, close it: ``async with contextlib.aclosing(client.events()) as events``.

        Args:
            reconnect_for: For how many seconds a supervisor that is away is waited for; None: for ever.

        Raises:
            Unreachable: it was away for longer.
        """
        return follow_async(self._line, after, target, reconnect_for)
