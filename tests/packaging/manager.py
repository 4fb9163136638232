"""A service manager as far as a service sees of it: a datagram socket that keeps what it was told, and when."""

from __future__ import annotations

import socket
import time
from types import TracebackType

from msgspec import Struct


class Told(Struct, frozen=True):
    """``at_s``: monotonic."""

    at_s: float
    lines: tuple[str, ...]

    @property
    def beats(self) -> bool:
        return "WATCHDOG=1" in self.lines


class Manager:
    """``address`` is bound at once: a path, or ``@name`` for an abstract socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.told: list[Told] = []

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._sock.close()

    def environment(self, watchdog_s: float | None = None, pid: int | None = None) -> dict[str, str]:
        period = {} if watchdog_s is None else {"WATCHDOG_USEC": str(round(watchdog_s * 1_000_000))}
        return {"NOTIFY_SOCKET": self.address, **period, **({} if pid is None else {"WATCHDOG_PID": str(pid)})}

    def next(self, within_s: float) -> Told | None:
        """Return the next datagram, or None if none comes in time."""
        self._sock.settimeout(max(0.001, within_s))
        try:
            message = self._sock.recv(65_536)
        except TimeoutError:
            return None
        self.told.append(Told(time.monotonic(), tuple(message.decode().splitlines())))
        return self.told[-1]

    def until(self, line: str, within_s: float) -> Told:
        """Return the next datagram that has a line which begins so."""
        deadline_s = time.monotonic() + within_s
        while (told := self.next(deadline_s - time.monotonic())) is not None:
            if any(found.startswith(line) for found in told.lines):
                return told
        raise AssertionError(f"never told {line} in {within_s} s, but {[item.lines for item in self.told]}")

    def heard(self, line: str, within_s: float) -> Told:
        """The same, where it may have been told already."""
        said = [told for told in self.told if any(found.startswith(line) for found in told.lines)]
        return said[0] if said else self.until(line, within_s)

    def drain(self) -> None:
        """Take what lies there already."""
        while self.next(0) is not None:
            pass
