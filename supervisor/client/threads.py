"""The client for threads, scripts and notebooks."""

from __future__ import annotations

from collections.abc import Generator
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
from supervisor.client.following import follow
from supervisor.client.leases import Lease, OnLost
from supervisor.client.lines import Line, Settings
from supervisor.client.tickets import Ticket
from supervisor.client.wishes import LeaseOptions, wish_for

#: For how long a request is tried again while the supervisor is away, and an event stream waits for it.
RETRY_S = 15.0
RECONNECT_S = 300.0
EVENTS_AT_ONCE = 100


class Client:
    """Speaks to one supervisor. Threads may share it, and a forked child may use it. Close it, or use it as a block.

    >>> with Client() as client:
    ...     client.status().mode
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
        self._line = Line(Settings(url, token, timeout=timeout, retry_for=retry_for))

    @property
    def url(self) -> str:
        """Where it asks."""
        return self._line.settings.address.url

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Leases that are held go on, and the next request opens a new one."""
        self._line.close()

    # ---- leases

    def lease(
        self, target: str | None = None, *, on_lost: OnLost | None = None, **options: Unpack[LeaseOptions]
    ) -> Lease:
        """Return a lease, to be acquired by ``with`` or by ``acquire()``.

        >>> with client.lease("comfyui", priority=5, wait=600) as lease:
        ...     lease.gpus
        ('SIM-0',)
        >>> with client.lease(gpus=1, vram="8GiB") as lease:
        ...     lease.vram_mib
        8192

        Args:
            target: Which stack (``gpu.target``); None: a bare lease, for a process of one's own.
            on_lost: Called once, in another thread, if the lease ends while it is held: stop using the GPU then.
            options: ``owner``, ``priority``, ``ttl`` (60 s), ``wait`` (3600 s; 0: not at all; None: as long as it
                takes), ``wait_ready``, ``ready_timeout`` (900 s); for a bare lease ``gpus``, ``vram`` ("8GiB", on
                each), ``gpu_class`` and ``pid``. Durations are seconds, or texts: "10m". See ``LeaseOptions``.

        Raises:
            BadValue: a duration or a size cannot be read.
        """
        return Lease(self._line, wish_for(target, **options), on_lost)

    def ticket(self, target: str | None = None, **options: Unpack[LeaseOptions]) -> Ticket:
        """Take a place in the queue, and return at once; see ``Ticket``. ``options`` are those of ``lease``.

        Where the GPU is free the ticket is a lease already, whose TTL runs: claim it soon.
        """
        return Ticket.taken(self._line, wish_for(target, **options))

    def ticket_of(self, token: str) -> Ticket:
        """Return the ticket, or lease, that a token stands for, to be claimed here: one that another process left."""
        return Ticket(self._line, wish_for(None), token)

    def forecast(self, target: str | None = None, **options: Unpack[LeaseOptions]) -> ForecastAnswer:
        """Say what ``lease`` with these ``options`` would do now, and change nothing.

        >>> client.forecast("comfyui").would
        'grant'
        """
        return self._line.ask(asks.forecast(wish_for(target, **options)))

    def look(self, token: str) -> LeaseView | TicketView | EndedView:
        """Return what a token stands for.

        Raises:
            LeaseUnknown: for nothing that is remembered.
        """
        return self._line.ask(asks.look(token))

    def renew(self, token: str) -> RenewAnswer:
        """Give a lease its whole TTL again, once; ``with client.lease(...)`` does so by itself.

        Raises:
            LeaseUnknown: it is no lease (any more).
        """
        return self._line.ask(asks.renew(token))

    def release(self, token: str) -> ReleasedAnswer:
        """Give a lease back, or cancel a ticket. One that is gone already is no error (``released`` is false)."""
        return self._line.ask(asks.release(token))

    # ---- what there is

    def status(self) -> StatusView:
        """Return everything at once: GPUs, leases, the queue with reasons, targets, problems.

        >>> [gpu.name for gpu in client.status().gpus]
        ['simulated']
        """
        return self._line.ask(asks.status())

    def targets(self) -> TargetsView:
        """Return every target in full.

        >>> [(target.name, target.vram_mib) for target in client.targets().targets]
        [('comfyui', None)]
        """
        return self._line.ask(asks.targets())

    def target(self, name: str) -> TargetView:
        """Return one target.

        >>> client.target("comfy")
        Traceback (most recent call last):
        ...
        supervisor.client.refusals.TargetUnknown: no container is labelled gpu.target=comfy; did you mean comfyui?
        """
        return self._line.ask(asks.target(name))

    def evict(self, target: str) -> EvictAnswer:
        """Stop a resident target now.

        Raises:
            TargetLeased: it has a lease.
        """
        return self._line.ask(asks.evict(target))

    def open_gpu(self, uuid: str) -> OpenedAnswer:
        """Say that a GPU whose memory did not come back is clean."""
        return self._line.ask(asks.open_gpu(uuid))

    def processes(self) -> ProcessesView:
        """Return who is on the GPUs, and by what right."""
        return self._line.ask(asks.processes())

    def why(self, name: str) -> Why:
        """Say who stopped a target or a container, for whom, and what to type to get the GPU.

        >>> client.why("comfyui").command
        'gpu-supervisor acquire comfyui'
        """
        return self._line.ask(asks.why(name))

    # ---- the audit

    def audit(self, *, after: int | None = None, target: str | None = None, limit: int = EVENTS_AT_ONCE) -> Events:
        """Return up to 1000 decisions, the oldest first: those above the number ``after``, or else the newest ones.

        >>> client.audit(target="comfyui", limit=1).events[0].target
        'comfyui'
        """
        return self._line.ask(asks.audit(after=after, target=target, limit=limit))

    def events(
        self, *, after: int | None = None, target: str | None = None, reconnect_for: float | None = RECONNECT_S
    ) -> Generator[Event, None, None]:
        """Follow the audit: yield every decision from now on, or above the number ``after``, without an end.

        A line that is cut is taken up again behind the last event, so none is missing and none comes twice.

        >>> for event in client.events(after=0):
        ...     print(event.seq, event.type)
        ...     break
        1 SupervisorStarted

        Args:
            reconnect_for: For how many seconds a supervisor that is away is waited for; None: for ever.

        Raises:
            Unreachable: it was away for longer.
        """
        return follow(self._line, after, target, reconnect_for)
