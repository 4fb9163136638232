"""Readiness and liveness for a service manager: systemd's notification protocol, and nothing of it where none asks.

One datagram to the socket that ``NOTIFY_SOCKET`` names (``@`` in front: an abstract one) for each of: ``READY=1`` once
it listens, ``STATUS=`` when the way to the engine is lost or back, ``WATCHDOG=1`` while the task that owns the state
goes on taking turns, ``STOPPING=1`` when it ends.

The watchdog's beat is nobody's but that task's: a timer or a thread beside it would live on while leases stand still.

Source: sd_notify(3), sd_watchdog_enabled(3). No library: the well-known ones swallow every error or need a compiler.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

#: A manager that does not read would hold us up: a datagram waits this long for room in its socket.
SEND_LIMIT_S = 0.1
#: Beats within one period. sd_watchdog_enabled(3) asks for two; one more leaves a slow machine half the period.
BEATS = 3


class ServiceManager:
    """Whoever started us and wants to know how we are; all methods do nothing where nobody does.

    ``address`` is NOTIFY_SOCKET's value, ``period_s`` the time in which the watchdog wants a beat (None: never).
    A datagram that cannot be sent is logged once and costs nothing else: the manager has time-outs of its own.
    """

    def __init__(self, address: str = "", period_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._beat_every_s = period_s / BEATS if address and period_s else math.inf
        self._beat_due_at_s = -math.inf
        self._complained = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> ServiceManager:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. What cannot be used is said in the log, and not used."""
        address = environ.get("NOTIFY_SOCKET", "")
        if address and (address[0] not in "/@" or len(address) == 1):
            log.warning('NOTIFY_SOCKET="%s" is no unix socket: the service manager is told nothing', address)
            address = ""
        return cls(address, _period_s(environ))

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for people, in ``systemctl status``."""
        self._send("STATUS=" + text.replace("\n", " "))

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def beat(self, now_s: float) -> float:
        """Say that the owner of the state is alive, if that is due. Returns when it is due next (infinity: never).

        ``now_s``: any clock that only grows.
        """
        if now_s >= self._beat_due_at_s and self._beat_every_s < math.inf:
            self._send("WATCHDOG=1")
            self._beat_due_at_s = now_s + self._beat_every_s
        return self._beat_due_at_s if self._beat_every_s < math.inf else math.inf

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(SEND_LIMIT_S)
                sock.sendto(message.encode(), self._address)
        except OSError as error:
            if not self._complained:
                log.warning("the service manager cannot be told %s: %s", message.partition("=")[0], error)
            self._complained = True


def _period_s(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog's period, or None where it is off or meant for another process."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    if not usec:
        return None
    if not usec.isascii() or not usec.isdigit() or int(usec) == 0:
        log.warning('WATCHDOG_USEC="%s" is no number of microseconds: the watchdog is not told anything', usec)
        return None
    return int(usec) / 1_000_000
