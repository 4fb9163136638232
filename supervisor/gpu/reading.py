"""What one look at the GPUs gave, and the limits it keeps."""

from __future__ import annotations

from msgspec import Struct

from supervisor.core.model import FinishedUse, Gpu


class Reading(Struct, frozen=True, kw_only=True):
    """All GPUs at one time.

    ``problem`` says in whole sentences why there are none, or which are not well and what is limited; "" if all is
    well. ``began_s`` is ``time.monotonic()`` before the first call of this reading: what ended before is in it.
    ``finished``: processes that have ended since earlier readings, by the driver's accounts; each is told once.
    ``driver`` and ``cuda`` are versions (``560.35.03``, ``12.6``), "" while unknown.
    """

    gpus: tuple[Gpu, ...]
    problem: str = ""
    began_s: float
    took_s: float
    finished: tuple[FinishedUse, ...] = ()
    driver: str = ""
    cuda: str = ""


class Limits(Struct, frozen=True, kw_only=True):
    """How long things may take, in seconds, and how often what failed is tried again.

    ``call_s``: one call of the driver's library. ``slow_call_s``: one that may have to wake the driver
    (``SLOW_CALLS``). ``reading_s``: a whole reading, however many GPUs there are. ``start_s``: the start of a child
    that makes the calls. ``end_s``: how long the end of a killed one is waited for; then it is left alone, and while
    there are ``stuck_max`` of those no further one is started. ``off_s``: what a GPU does not support or permit is
    asked again after this. ``accounts_s``: how often the driver's accounts of ended processes are looked at.
    ``refresh_s``: how often the library is set up anew while a GPU is lost or none is listed.
    ``avoid_s``: how long a GPU is left out after it hung; it doubles up to ``avoid_max_s``. ``pause_s``: the first
    pause before another child is started; it doubles up to ``pause_max_s``.
    """

    call_s: float = 2.0
    slow_call_s: float = 15.0
    reading_s: float = 60.0
    start_s: float = 15.0
    end_s: float = 0.2
    stuck_max: int = 3
    off_s: float = 300.0
    accounts_s: float = 5.0
    refresh_s: float = 30.0
    avoid_s: float = 30.0
    avoid_max_s: float = 600.0
    pause_s: float = 1.0
    pause_max_s: float = 60.0

    def of_call(self, call: str) -> float:
        """Return how long one call may take."""
        return self.slow_call_s if call in SLOW_CALLS else self.call_s


#: Without the persistence mode the first user of a GPU waits until the driver has set it up, seconds on some machines.
SLOW_CALLS = frozenset({"nvmlInitWithFlags", "nvmlDeviceGetHandleByIndex", "nvmlShutdown"})
