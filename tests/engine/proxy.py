"""A recording proxy in front of a real engine, as a least-privilege socket proxy would stand there."""

from __future__ import annotations

import re
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

_ID = re.compile(r"/containers/[0-9a-f]{64}(?=/)")


class Proxy:
    """Passes bytes on, and notes every request that goes by; ``allow`` may refuse one with 403.

    It looks at the head of each request on a connection. The supervisor sends no bodies, so a head is a request.
    """

    def __init__(self, path: Path, upstream: str, allow: Callable[[str], bool] = lambda _: True) -> None:
        self.url = f"unix://{path}"
        self.requests: list[str] = []
        self._upstream, self._allow = urlsplit(upstream).path, allow
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoints(self) -> set[str]:
        """The requests in the form of ``supervisor.engine.ENDPOINTS``."""
        return {_ID.sub("/containers/{id}", request) for request in self.requests}

    def cut(self) -> None:
        """Break every connection."""
        with self._lock:
            for each in self._open:
                _shut(each)

    def close(self) -> None:
        _shut(self._listener)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with near, far:
            try:
                far.connect(self._upstream)
                with self._lock:
                    self._open |= {near, far}
                self._pass_on(near, far)
            except OSError:
                return
            finally:
                with self._lock:
                    self._open -= {near, far}

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        while True:
            for ready in select.select([near, far], [], [])[0]:
                data = ready.recv(1 << 16)
                if not data:
                    return
                if ready is far:
                    near.sendall(data)
                elif self._note(data):
                    far.sendall(data)
                else:
                    near.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\n\r\nno such endpoint\n")

    def _note(self, head: bytes) -> bool:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        request = f"{method} {re.sub(r'^/v[0-9.]+', '', target.partition('?')[0])}"
        self.requests.append(request)
        return self._allow(request)


def _shut(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
