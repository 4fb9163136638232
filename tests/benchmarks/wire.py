"""Requests as bytes, one at a time on one connection, and the load generator as a function."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from tests.benchmarks.measure import percentile

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ANSWER_S = 120.0
GENERATOR = Path(__file__).with_name("load.py")


class Refused(Exception):
    """A request of a benchmark was answered with an error: what it measured would be something else."""


def request(method: str, path: str, body: object = None) -> bytes:
    content = b"" if body is None else msgspec.json.encode(body)
    kind = "Content-Type: application/json\r\n" if content else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Line:
    """One keep-alive connection, blocking. ``send`` and ``receive`` apart, for a caller who stays on the line."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        """``address``: host and port, or the path of a unix socket."""
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(ANSWER_S)

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def receive(self) -> tuple[int, bytes]:
        """Return status and body of the next answer."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        status = int(data[9:12])
        head, body = data[: end + 2], data[end + 4 :]
        if length := LENGTH.search(head):
            while len(body) < int(length[1]):
                body += self._more()
        elif b"chunked" in head:
            while not body.endswith(b"0\r\n\r\n"):
                body += self._more()
            body = b"".join(re.split(rb"\r\n", body)[1::2])
        return status, body

    def ask(self, raw: bytes) -> Any:
        """Send a request; return its decoded answer.

        Raises:
            Refused: it was answered with 400 or above.
        """
        self.send(raw)
        return self.answer()

    def answer(self) -> Any:
        status, body = self.receive()
        if status >= 400:
            raise Refused(f"{status}: {body.decode(errors='replace')[:500]}")
        return msgspec.json.decode(body) if body else None

    def close(self) -> None:
        self.sock.close()

    def _more(self) -> bytes:
        data = self.sock.recv(1 << 18)
        if not data:
            raise ConnectionResetError("the server hung up in the middle of an answer")
        return data


class Load(Struct, frozen=True):
    """What the generator saw. ``took_us``: for each step, the time of each answer."""

    seconds: float
    took_us: list[list[float]]

    @property
    def rate(self) -> float:
        """Answers per second, all steps together."""
        return sum(map(len, self.took_us)) / self.seconds

    def p50_ms(self, step: int = 0) -> float:
        return percentile(self.took_us[step], 50) / 1000


def load(url: str, steps: list[bytes], *, connections: int, seconds: float, token: str = "") -> Load:
    """Drive ``url`` for a while.

    Raises:
        Refused: an answer was an error.
    """
    parts = urlsplit(url)
    plan = {
        "address": [parts.hostname, parts.port],
        "steps": [step.decode() for step in steps],
        "connections": connections,
        "seconds": seconds,
        "token": token,
    }
    # -I -S: no site packages to be looked through, it needs none.
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(GENERATOR)],
        input=json.dumps(plan).encode(),
        capture_output=True,
        timeout=seconds + ANSWER_S,
        check=False,
    )
    if done.returncode:
        raise Refused(f"the load generator failed:\n{done.stderr.decode()[-2000:]}")
    seen = msgspec.json.decode(done.stdout)
    if seen["refused"]:
        raise Refused(f"{seen['refused']} requests were refused, the first with:\n{seen['first_refused']}")
    return Load(seen["seconds"], seen["took_us"])


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
