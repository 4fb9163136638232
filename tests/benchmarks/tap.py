"""A tap between a client and the engine: passes bytes on, and notes when a start event and a kill request went by.

One loop, no threads: it must not add noise of its own, and what it adds, the floor pays as well. Every path is a tap of
its own; the notes say which one they are of.

    python -m tests.benchmarks.tap ENGINE_SOCKET PATH...      a line on stdin -> the notes since the last, as JSON
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time

from tests.benchmarks.measure import observe_at_once

START = re.compile(rb'\{"status":"start","id":"([0-9a-f]{64})"')
KILL = re.compile(rb"POST [^ ]*/containers/([0-9a-f]{64})/kill")


class Tap:
    """``notes``: [tap, "event" or "kill", container, ``time.monotonic_ns``]."""

    def __init__(self, engine: str, paths: list[str]) -> None:
        self.notes: list[list[object]] = []
        self._engine = engine
        self._selector = selectors.DefaultSelector()
        for number, path in enumerate(paths):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(path)
            listener.listen(256)
            self._selector.register(listener, selectors.EVENT_READ, ("accept", number, None))
        self._selector.register(sys.stdin, selectors.EVENT_READ, ("tell", 0, None))

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                what, number, other = key.data
                if what == "accept":
                    self._accept(key.fileobj, number)
                elif what == "tell":
                    if not sys.stdin.readline():
                        return
                    notes, self.notes = self.notes, []
                    print(json.dumps(notes), flush=True)
                else:
                    self._pass_on(what, number, key.fileobj, other)

    def _accept(self, listener: object, number: int) -> None:
        assert isinstance(listener, socket.socket)
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        far.connect(self._engine)
        self._selector.register(near, selectors.EVENT_READ, ("near", number, far))
        self._selector.register(far, selectors.EVENT_READ, ("far", number, near))

    def _pass_on(self, side: str, number: int, sock: object, other: socket.socket) -> None:
        assert isinstance(sock, socket.socket)
        try:
            data = sock.recv(1 << 18)
            now = time.monotonic_ns()
            if data:
                if side == "near" and (kill := KILL.match(data)):
                    self.notes.append([number, "kill", kill[1].decode(), now])
                elif side == "far":
                    self.notes += [[number, "event", id_.decode(), now] for id_ in START.findall(data)]
                other.sendall(data)
                return
        except OSError:
            pass
        for each in (sock, other):
            if each.fileno() >= 0:
                self._selector.unregister(each)
                each.close()


if __name__ == "__main__":
    observe_at_once()
    tap = Tap(sys.argv[1], sys.argv[2:])
    print("ready", flush=True)
    tap.run()
