"""The last log lines of a container: bounded in time and in size, whatever the container wrote.

Source: moby api "Attach to a container", stream format: frames of an 8-byte header (stream, 0, 0, 0, length as
big-endian 32 bits) and a payload; a container with a terminal has no frames.
"""

from __future__ import annotations

import struct
import time

from supervisor.engine.connection import Connection, decode
from supervisor.engine.errors import EngineTimeout, translated
from supervisor.engine.inspect import INSPECTED

#: One line may be as long as the container likes: what is kept, and what is read at most to get there.
KEPT_BYTES = 64 << 10
READ_BYTES = 8 << 20


def last_lines(connection: Connection, container_id: str, lines: int, timeout_s: float) -> str:
    """Return at most ``lines`` lines (and 64 KiB) of both streams as the engine recorded them.

    Bytes that are no UTF-8 become U+FFFD. Raises ``EngineError``, also if it takes longer than ``timeout_s``.
    """
    deadline_s = time.monotonic() + timeout_s
    seen = decode(connection.get(f"/containers/{container_id}/json", timeout_s=timeout_s), INSPECTED)
    raw = _read(connection, container_id, lines, deadline_s)
    text = (raw if seen.config.tty else payloads(raw))[-KEPT_BYTES:].decode(errors="replace")
    return "\n".join(text.replace("\r\n", "\n").removesuffix("\n").split("\n")[-lines:])


def _read(connection: Connection, container_id: str, lines: int, deadline_s: float) -> bytes:
    params: dict[str, str | int] = {"stdout": 1, "stderr": 1, "tail": lines}
    left_s = max(0.1, deadline_s - time.monotonic())
    read = bytearray()
    with connection.stream(f"/containers/{container_id}/logs", params, headers_s=left_s) as response, translated():
        for chunk in response.raw.stream(1 << 16):
            read += chunk
            if len(read) > READ_BYTES:
                break
            if time.monotonic() > deadline_s:
                raise EngineTimeout("the engine takes too long to send the log")
    return bytes(read)


def payloads(raw: bytes) -> bytes:
    """Take the frames' headers out. A frame that was cut off ends it; what is not framed at all is left as it is."""
    parts: list[bytes] = []
    at = 0
    while at + 8 <= len(raw):
        stream, zeros, length = struct.unpack_from(">B3sI", raw, at)
        if stream > 2 or zeros != b"\0\0\0":
            return raw if at == 0 else b"".join(parts)
        parts.append(raw[at + 8 : at + 8 + length])
        at += 8 + length
    return b"".join(parts)
