"""A place in the queue whose owner is not on the line: looked at now and then, and claimed when its turn has come."""

from __future__ import annotations

import math

from msgspec.structs import replace

from supervisor.answers import EndedView, LeaseAnswer, LeaseView, TicketAnswer, TicketView
from supervisor.client import asks
from supervisor.client.flows import GIVE_BACK_S, Flow, Holding, asked, claimed, give_back, new_key
from supervisor.client.leases import AsyncLease, Lease, OnLost
from supervisor.client.lines import AsyncLine, Line, Settings
from supervisor.client.wishes import Duration, Wish, seconds


def take(wish: Wish, holding: Holding, settings: Settings) -> Flow[LeaseAnswer | TicketAnswer]:
    """Ask for a place in the queue; where the GPU is free the answer is a lease already."""
    return asked(wish, holding, settings.retries, new_key, queue=True)


def claiming(token: str, wish: Wish, settings: Settings) -> Flow[LeaseAnswer]:
    deadline_s = math.inf if wish.wait_s is None else settings.retries.clock() + wish.wait_s
    return claimed(token, wish, deadline_s, settings.retries)


class HeldTicket:
    """What a ticket says of itself. ``token`` is the proof of it, as of the lease that it becomes."""

    def __init__(self, wish: Wish, token: str, answer: LeaseAnswer | TicketAnswer | None) -> None:
        self.token = token
        self.id = answer.id if answer is not None else ""
        self._wish = wish

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self._wish.name}>"

    def _wish_with(self, wait: Duration | None) -> Wish:
        return replace(self._wish, wait_s=None if wait is None else seconds("wait", wait))


class Ticket(HeldTicket):
    """A place in the queue; made by ``Client.ticket``.

    >>> with client.lease("comfyui", owner="ann"):
    ...     ticket = client.ticket(owner="nightly")
    ...     ticket.look().why
    'comfyui holds the GPU (owner ann)'
    >>> with ticket.claim(wait="1m") as lease:
    ...     lease.state
    'ready'

    A turn that is not claimed within the claim window (10 s) lapses, so come back often, or with a ``wait``.
    """

    def __init__(self, line: Line, wish: Wish, token: str, answer: LeaseAnswer | TicketAnswer | None = None) -> None:
        super().__init__(wish, token, answer)
        self._line = line

    @classmethod
    def taken(cls, line: Line, wish: Wish) -> Ticket:
        """Take a place. Whatever goes wrong, nothing is left behind."""
        holding, retries = Holding(wish.name), line.settings.retries
        try:
            answer = line.run(take(wish, holding, line.settings))
        except BaseException:
            if (release := holding.let_go()) is not None:
                line.run(give_back(release, retries))
            raise
        return cls(line, wish, answer.token, answer)

    def look(self) -> TicketView | LeaseView | EndedView:
        """Return its place, who is ahead, why it waits; or what it has become."""
        return self._line.ask(asks.look(self.token))

    def claim(self, wait: Duration | None = 0, *, on_lost: OnLost | None = None) -> Lease:
        """Turn it into the lease, which is held from now on; use it as a ``with`` block, or ``release()`` it.

        Args:
            wait: How long to wait for the turn: seconds, or a text; None: as long as it takes.

        Raises:
            Refused: the turn has not come (``GpuBusy``, ``SchedulerTimeout``: the place is kept), or has passed
                (``TicketExpired``).
        """
        wish = self._wish_with(wait)
        lease = Lease(self._line, wish, on_lost)
        lease._take(self._line.run(claiming(self.token, wish, self._line.settings)))
        return lease

    def cancel(self) -> bool:
        """Give the place back. Returns whether a supervisor confirmed that it is gone."""
        return self._line.run(give_back(asks.release(self.token), self._line.settings.retries))


class AsyncTicket(HeldTicket):
    """A place in the queue, on asyncio or trio; made by ``AsyncClient.ticket``. As ``Ticket`` in everything else."""

    def __init__(
        self, line: AsyncLine, wish: Wish, token: str, answer: LeaseAnswer | TicketAnswer | None = None
    ) -> None:
        super().__init__(wish, token, answer)
        self._line = line

    @classmethod
    async def taken(cls, line: AsyncLine, wish: Wish) -> AsyncTicket:
        """Take a place. Whatever goes wrong, nothing is left behind; if cancelled, too."""
        holding, retries = Holding(wish.name), line.settings.retries
        try:
            answer = await line.run(take(wish, holding, line.settings))
        except BaseException:
            if (release := holding.let_go()) is not None:
                await line.run_whatever_happens(give_back(release, retries), GIVE_BACK_S)
            raise
        return cls(line, wish, answer.token, answer)

    async def look(self) -> TicketView | LeaseView | EndedView:
        """Return its place, who is ahead, why it waits; or what it has become."""
        return await self._line.ask(asks.look(self.token))

    async def claim(self, wait: Duration | None = 0, *, on_lost: OnLost | None = None) -> AsyncLease:
        """Turn it into the lease, as ``Ticket.claim`` does."""
        wish = self._wish_with(wait)
        lease = AsyncLease(self._line, wish, on_lost)
        lease._take(await self._line.run(claiming(self.token, wish, self._line.settings)))
        return lease

    async def cancel(self) -> bool:
        """Give the place back. Returns whether a supervisor confirmed that it is gone."""
        return await self._line.run(give_back(asks.release(self.token), self._line.settings.retries))
