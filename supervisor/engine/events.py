"""The engine's event stream, read by ourselves, and one line of it as a hint.

The SDK's own ``events()`` turns every error into the end of the loop, a 403 of a socket proxy too
(``CancellableStream.__next__`` in docker-py ``types/daemon.py``). So the stream is read over the SDK's HTTP session,
and its status is checked.

From an event only the action, the id and the name are taken: a container's own labels overwrite the other attributes (a
label ``exitCode=0`` masks a real exit code). That is also why the labels among the attributes can be believed, but they
only ever decide that an event is none of our business. The name is put over a label of that name (moby
daemon/events.go, LogContainerEventWithAttributes).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from supervisor.engine.connection import Connection
from supervisor.engine.errors import EngineError, EngineTimeout, EngineUnreachable, translated

#: What changes something that inspect shows. ``stop`` alone is all that a stop in ``restarting`` emits; ``remove`` is
#: Podman's ``destroy``. Left out: ``exec_*``, which a healthcheck emits at every probe, ``top``, ``attach``, ``kill``.
ACTIONS = (
    "create",
    "start",
    "die",
    "stop",
    "pause",
    "unpause",
    "rename",
    "update",
    "oom",
    "destroy",
    "remove",
    "health_status",
)
#: ``health_status`` among them makes the engine match every action by prefix (moby daemon/events/filter.go).
FILTERS = msgspec.json.encode({"type": ["container"], "event": ACTIONS}).decode()

LINE_MAX_BYTES = 16 << 20


class _Actor(Struct):
    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] = msgspec.field(name="Attributes", default_factory=dict)


class _Line(Struct):
    action: str = msgspec.field(name="Action", default="")
    actor: _Actor = msgspec.field(name="Actor", default_factory=_Actor)
    at_ns: int = msgspec.field(name="timeNano", default=0)


class EventHint(Struct, frozen=True):
    """Something happened to a container. ``at_ns``: the engine's wall clock, Unix nanoseconds."""

    id: str
    action: str
    at_ns: int
    attributes: dict[str, str]

    @property
    def name(self) -> str:
        """What the container is called, without a slash; "" where the engine does not say."""
        return self.attributes.get("name", "").lstrip("/")


_DECODER = msgspec.json.Decoder(_Line)


def translate(line: bytes) -> EventHint | None:
    """Turn one line of the stream into a hint, or None if it is noise (an engine may ignore our filters).

    Raises:
        msgspec.DecodeError: the engine changed the shape of its events.

    Source: moby daemon/events.go, LogContainerEventWithAttributes; API 1.52 drops ``status``, ``id`` and ``from``.
    """
    decoded = _DECODER.decode(line)
    action = decoded.action.partition(":")[0]
    if action not in ACTIONS or not decoded.actor.id:
        return None
    return EventHint(decoded.actor.id, action, decoded.at_ns, decoded.actor.attributes)


class EventStream:
    """The lines of ``GET /events``, from one thread; ``shut`` may be called from any."""

    def __init__(self, connection: Connection, *, since_ns: int) -> None:
        """Open the stream.

        Args:
            since_ns: Unix nanoseconds. The engine flushes its headers *before* it subscribes, so what happens in
                between is only seen by asking for the past again. As a string: a float rounds away the newest event.
        """
        since = f"{since_ns // 10**9}.{since_ns % 10**9:09d}"
        self._response = connection.stream("/events", {"since": since, "filters": FILTERS})
        # A second handle: shutting it down wakes the reader, whoever closes what first.
        self._handle = socket.socket(fileno=os.dup(self._response.raw.fileno()))
        self._reason = ""
        self._lock = threading.Lock()
        live = getattr(self._response.raw.connection, "sock", None)
        if live is not None:
            # A quiet stream is not a broken one, the watchdog's pings tell them apart. (Behind a proxy that says
            # "Connection: close" the socket is out of our sight: then a quiet stream times out and is opened again.)
            live.settimeout(None)

    def lines(self) -> Iterator[bytes]:
        """Yield lines until the stream breaks; raises ``EngineError`` then, with the reason given to ``shut``."""
        rest = b""
        try:
            with translated():
                for chunk in self._response.raw.stream(1 << 16):
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from whole
                    if len(rest) > LINE_MAX_BYTES:
                        raise EngineUnreachable("the engine sends an event without an end")
        except EngineTimeout as error:
            raise EngineUnreachable(self._reason or "the event stream was quiet, and is opened again") from error
        except EngineError as error:
            raise EngineUnreachable(self._reason or f"the event stream broke: {error}") from error
        raise EngineUnreachable(self._reason or "the engine closed the event stream")

    def shut(self, reason: str) -> None:
        """End the stream: the reader raises at once, even where the engine hangs."""
        with self._lock:
            self._reason = self._reason or reason
            if self._handle.fileno() >= 0:
                try:
                    self._handle.shutdown(socket.SHUT_RDWR)
                except OSError:
                    return  # The engine was faster: the reader knows already.

    def close(self) -> None:
        with self._lock:
            self._handle.close()
            self._response.close()
