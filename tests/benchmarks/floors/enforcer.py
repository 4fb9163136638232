"""The least that enforces: a thread that reads the engine's events and kills what starts, and that is all it knows.

python -m tests.benchmarks.floors.enforcer SOCKET LABEL THREADS     0 threads: the reader kills by itself
"""

from __future__ import annotations

import queue
import re
import socket
import sys
import threading
from urllib.parse import quote

START = re.compile(rb'\{"status":"start","id":"([0-9a-f]{64})"')


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    return sock


def kill(sock: socket.socket, id_: bytes) -> None:
    sock.sendall(b"POST /v1.41/containers/%b/kill HTTP/1.1\r\nHost: engine\r\nContent-Length: 0\r\n\r\n" % id_)
    sock.recv(1 << 16)


def work(path: str, starts: queue.SimpleQueue[bytes]) -> None:
    sock = connect(path)
    while True:
        kill(sock, starts.get())


def main(path: str, label: str, threads: int) -> None:
    starts: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for _ in range(threads):
        threading.Thread(target=work, args=(path, starts), daemon=True).start()
    own = connect(path)
    stream = connect(path)
    filters = quote(f'{{"type":["container"],"event":["start"],"label":["{label}"]}}')
    stream.sendall(f"GET /v1.41/events?filters={filters} HTTP/1.1\r\nHost: engine\r\n\r\n".encode())
    stream.recv(1 << 16)
    print("ready", flush=True)
    while data := stream.recv(1 << 16):
        for id_ in START.findall(data):
            if threads:
                starts.put(id_)
            else:
                kill(own, id_)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
