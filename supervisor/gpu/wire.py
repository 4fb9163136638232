"""What the supervisor and the child that calls the driver's library say to each other: one line of JSON each.

``Request`` goes to the child. Back come ``Started`` once, then for each request: a ``Calling`` before every call (so
that the one which hangs has a name), a ``Seen`` for every GPU, and at the end ``Done`` or ``Broken``.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from supervisor.core.model import Accounting

LINE_MAX = 4 * 2**20
"""Bytes. Ten thousand processes on one GPU are a quarter of that."""


class Request(Struct, frozen=True, kw_only=True):
    """Read all GPUs but those with the indices ``skip``; the others as in ``Limits``."""

    skip: tuple[int, ...] = ()
    off_s: float
    refresh_s: float
    accounts_s: float


class Trouble(Struct, frozen=True):
    """A call that failed: NVML's code (-1: it failed in Python) and what the driver, or Python, says to it."""

    call: str
    code: int
    text: str


class Failed(Exception):
    """A call of the library did not succeed."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.text)
        self.trouble = trouble


class User(Struct, frozen=True, kw_only=True):
    """A process on a GPU, by its pid on the host; ``used_b`` in bytes, None where the driver does not say.

    ``graphics``: it draws, whether it computes as well or not. ``started``: field 22 of /proc/PID/stat, 0 if unread.
    """

    pid: int
    used_b: int | None
    graphics: bool
    started: int


class Account(Struct, frozen=True, kw_only=True):
    """A process that used a GPU and has ended, as the driver's accounts have it.

    ``started_us``: the wall clock (Unix microseconds) when it began to use the GPU; ``ran_ms``: for how long it did.
    ``peak_b``: the most memory that it had, in bytes. The percentages are of that time. None: the driver does not say.
    """

    pid: int
    started_us: int
    ran_ms: int
    peak_b: int | None
    gpu_percent: int | None
    memory_percent: int | None


class Accounts(Struct, frozen=True, kw_only=True):
    """What came of asking for a GPU's accounts.

    ``ended`` None: they were not looked at this time. ``whole``: no account was left for the next look.
    """

    state: Accounting
    ended: tuple[Account, ...] | None = None
    whole: bool = True


class Started(Struct, frozen=True, tag="started"):
    """The child is up and has loaded what it needs, but for the driver's library."""


class Calling(Struct, frozen=True, tag="calling"):
    """The next thing that the child does is this call; ``gpu`` is an index, None for what concerns no single GPU."""

    call: str
    gpu: int | None = None


class Seen(Struct, frozen=True, kw_only=True, tag="seen"):
    """One GPU as the library describes it, in its units: bytes, per cent, degrees Celsius, milliwatts.

    ``users`` None: the driver does not say who uses it. ``accounts`` None: they could not be asked for.
    ``ended``: the call that failed so that no more was asked. ``troubles``: calls that failed without that; what the
    hardware does not support is in neither.
    """

    index: int
    uuid: str | None = None
    name: str = ""
    total_b: int | None = None
    used_b: int | None = None
    reserved_b: int | None = None
    free_b: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_mw: int | None = None
    mig: bool = False
    users: tuple[User, ...] | None = None
    accounts: Accounts | None = None
    ended: Trouble | None = None
    troubles: tuple[Trouble, ...] = ()


class Done(Struct, frozen=True, kw_only=True, tag="done"):
    """The reading is complete. ``cuda`` as NVML has it: 1000 * major + 10 * minor, 0 where it does not say."""

    driver: str
    cuda: int


class Broken(Struct, frozen=True, tag="broken"):
    """The reading ended here: what failed concerns all GPUs."""

    trouble: Trouble


Message = Started | Calling | Seen | Done | Broken

encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_message: Callable[[bytes], Message] = msgspec.json.Decoder(Message).decode
