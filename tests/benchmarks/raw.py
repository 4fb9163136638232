"""The engine over its socket with next to nothing in between: what is measured is the engine, and a little Python.

Containers that are made here carry our labels only, have no network, and are removed with the ``Fleet`` that made them.
"""

from __future__ import annotations

import abc
import json
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from msgspec import Struct

from tests.benchmarks.measure import observe_at_once
from tests.benchmarks.wire import Line, Refused, request

API = "/v1.41"
IMAGE = "local/busybox:1"
#: Ends on SIGTERM at once, as process 1, which has no default for it.
POLITE = "trap 'exit 0' TERM; sleep 3600 & wait"


class Event(Struct, frozen=True):
    """``heard_s``: when its bytes were here, ``time.perf_counter``. ``action`` as the engine wrote it."""

    action: str
    id: str
    heard_s: float


class Events:
    """The events of some containers, heard in a thread. ``filters`` as the engine takes them."""

    def __init__(self, socket: str, filters: dict[str, list[str]]) -> None:
        self._heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._line = Line(socket)
        self._line.sock.settimeout(None)
        path = f"{API}/events?filters={quote(json.dumps(filters))}"
        self._line.send(f"GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n".encode())
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self, wanted: Callable[[Event], bool], within_s: float = 60.0) -> Event:
        """Return the next event that is wanted; those before it are passed over."""
        until = time.monotonic() + within_s
        while True:
            try:
                event = self._heard.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise Refused(f"an event of the engine did not come in {within_s:g} s") from None
            if wanted(event):
                return event

    def forget(self) -> None:
        """Pass over what was heard so far."""
        while not self._heard.empty():
            self._heard.get()

    def close(self) -> None:
        self._line.sock.shutdown(2)

    def _listen(self) -> None:
        for line, heard_s in _lines(self._line):
            said = json.loads(line)
            self._heard.put(Event(said["Action"], said["Actor"]["ID"], heard_s))


def _lines(line: Line) -> Iterator[tuple[bytes, float]]:
    """Yield the JSON lines of a chunked answer; sizes of chunks stand on lines of their own."""
    rest = b""
    while data := line.sock.recv(1 << 16):
        now = time.perf_counter()
        *whole, rest = (rest + data).split(b"\n")
        for each in whole:
            if each.startswith(b"{"):
                yield each, now


def call(action: str, id_: str, query: str = "") -> bytes:
    return request("POST", f"{API}/containers/{id_}/{action}{query}")


def ask(line: Line, raw: bytes) -> None:
    """Make a call of which nothing but its end is wanted. 304 (it is so already) and 409 are no errors."""
    line.send(raw)
    status, body = line.receive()
    if status >= 400 and status != 409:
        raise Refused(f"the engine says {status}: {body.decode(errors='replace')}")


class Fleet:
    """Containers of a row, made at once and removed at its end."""

    def __init__(self, socket: str, name: str) -> None:
        self.socket, self._name = socket, name
        self.ids: list[str] = []
        self.line = Line(socket)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        line = Line(self.socket)  # the other may be in the middle of an answer
        for id_ in self.ids:
            line.send(request("DELETE", f"{API}/containers/{id_}?force=1"))
            line.receive()
        line.close()
        self.line.close()

    def make(
        self, script: str, *, labels: dict[str, str] | None = None, probe_s: float = 0, folder: Path | None = None
    ) -> str:
        """Create a container and return its id. ``probe_s``: how often its health is probed; 0: not at all.

        ``folder`` is seen inside as /beat.
        """
        probe = {"Test": ["CMD", "true"], "Interval": int(probe_s * 1e9)} if probe_s else None
        made = self.line.ask(
            request(
                "POST",
                f"{API}/containers/create?name={self._name}-{len(self.ids)}",
                {
                    "Image": IMAGE,
                    "Cmd": ["sh", "-c", script],
                    "Labels": labels or {},
                    "NetworkDisabled": True,
                    "Healthcheck": probe,
                    "HostConfig": {"NetworkMode": "none", "Binds": [f"{folder}:/beat"] if folder else []},
                },
            )
        )
        self.ids.append(made["Id"])
        return str(made["Id"])


class Pipes(abc.ABC):
    """When containers began and ended to run, told by the kernel: each holds a pipe open, and its death closes it.

    No call of the engine is needed, which would stand in the way of what is measured. The script of a container is
    ``script(name)``, and the folder of the pipes is its /beat. Until it dies it writes every 5 ms: the time at which
    its pipe changed is that of its last beat, to a tick of the kernel's clock. (A process that was killed has to get a
    processor once more to be dead, and so has whoever is told; what it does by itself ends before.)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._poll = select.epoll()
        self._names: dict[int, str] = {}
        self._closed = False
        os.mkfifo(folder / "nothing")
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @staticmethod
    def script(name: str) -> str:
        return f"exec 9>/beat/{name} 8<>/beat/nothing; while echo >&9; do read -t 0.005 x <&8; done"

    def open(self, name: str) -> int:
        """Make the pipe of a container, and return the end that is listened to."""
        os.mkfifo(self.folder / name)
        pipe = os.open(self.folder / name, os.O_RDONLY | os.O_NONBLOCK)
        self._names[pipe] = name
        self._poll.register(pipe, select.EPOLLIN | select.EPOLLHUP | select.EPOLLET)
        return pipe

    def close(self) -> None:
        self._closed = True
        self._thread.join()
        for pipe in self._names:
            os.close(pipe)
        self._poll.close()

    @abc.abstractmethod
    def _heard(self, name: str, pipe: int, what: int) -> None:
        """``what``: of EPOLLIN, that what was written has to be read; EPOLLHUP, that who wrote is dead."""

    def _listen(self) -> None:
        observe_at_once()
        while not self._closed:
            for pipe, what in self._poll.poll(0.1):
                self._heard(self._names[pipe], pipe, what)


class Beats(Pipes):
    """Containers that are each started once: when they died."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.died_ns: dict[str, int] = {}
        super().__init__(folder)
        self._pipes = {name: self.open(name) for name in names}

    def last_ns(self, name: str) -> int:
        """Return when it last wrote, in ``time.monotonic_ns``."""
        return os.fstat(self._pipes[name]).st_mtime_ns - (time.time_ns() - time.monotonic_ns())

    def _heard(self, name: str, pipe: int, what: int) -> None:
        now_ns = time.monotonic_ns()
        if what & select.EPOLLIN:
            os.read(pipe, 65_536)
        if what & select.EPOLLHUP:
            self.died_ns[name] = now_ns
