"""The load generator: keep-alive connections, each of which sends its next request when it has its answer.

One loop over epoll and prebuilt bytes, the same for the supervisor, its floors and its peers; the row ``generator``
says how much it can drive. It runs as a process of its own, and imports next to nothing.

A connection repeats its steps. ``{token}`` in a step is the token of the connection's last answer that had one, so a
step may hand back what the one before it was given. A connection ends at the end of its steps, so nothing stays behind.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import time

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
TOKEN = re.compile(rb'"token": ?"([^"]+)"')
STALLED_S = 30.0
#: A large body is counted, not kept: what we look for stands at its beginning.
KEPT_BYTES = 4096


class Connection:
    """One client. ``missing`` is how many bytes of its answer are still to come; None: nobody said."""

    __slots__ = ("answer", "missing", "sent_at", "sock", "step", "token")

    def __init__(self, address: tuple[str, int], token: bytes) -> None:
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.token = token
        self.step = 0
        self.sent_at = 0.0
        self.answer = b""
        self.missing: int | None = None

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.sock.sendall(request.replace(b"{token}", self.token) if b"{token}" in request else request)

    def whole(self, data: bytes) -> bool:
        """Take in what came; return whether the answer is there to its last byte."""
        if len(self.answer) < KEPT_BYTES:
            self.answer += data
        if self.missing is not None:
            self.missing -= len(data)
            return self.missing <= 0
        length = LENGTH.search(self.answer)
        if length is None:
            return self.answer.endswith(b"0\r\n\r\n")  # chunked: etcd's gateway
        end = self.answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        self.missing = end + 4 + int(length[1]) - len(self.answer)
        return self.missing <= 0


def drive(
    address: tuple[str, int], steps: list[bytes], connections: int, seconds: float, token: bytes = b""
) -> dict[str, object]:
    """Return how many answers came in how many seconds, each step's times in microseconds, and what was refused."""
    poll = select.epoll()
    by_fd: dict[int, Connection] = {}
    for _ in range(connections):
        made = Connection(address, token)
        by_fd[made.sock.fileno()] = made
        poll.register(made.sock.fileno(), select.EPOLLIN)
    took: list[list[float]] = [[] for _ in steps]
    refused = 0
    first_refused = b""
    begun = time.perf_counter()
    until = begun + seconds
    ended = begun
    for connection in by_fd.values():
        connection.send(steps[0])
    while by_fd:
        ready = poll.poll(STALLED_S)
        if not ready:
            raise TimeoutError(f"{len(by_fd)} connections got no answer for {STALLED_S:g} s")
        for fd, _ in ready:
            connection = by_fd[fd]
            data = connection.sock.recv(1 << 18)
            if not data:
                raise ConnectionResetError(f"the server hung up after {connection.answer[:200]!r}")
            if not connection.whole(data):
                continue
            now = time.perf_counter()
            if now <= until or not took[connection.step]:
                took[connection.step].append((now - connection.sent_at) * 1e6)
                ended = now
            answer = connection.answer
            if answer[9:10] >= b"4":
                refused += 1
                first_refused = first_refused or answer
            found = TOKEN.search(answer)
            if found is not None:
                connection.token = found[1]
            connection.answer, connection.missing = b"", None
            connection.step = (connection.step + 1) % len(steps)
            if now > until and connection.step == 0:
                poll.unregister(fd)
                connection.sock.close()
                del by_fd[fd]
            else:
                connection.send(steps[connection.step])
    return {
        "seconds": ended - begun,
        "took_us": took,
        "refused": refused,
        "first_refused": first_refused[:600].decode(errors="replace"),
    }


if __name__ == "__main__":
    # Left to the scheduler, it and the server now and then share one core for a whole repetition.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    plan = json.load(sys.stdin)
    host, port = plan["address"]
    steps = [step.encode() for step in plan["steps"]]
    json.dump(drive((host, port), steps, plan["connections"], plan["seconds"], plan["token"].encode()), sys.stdout)
