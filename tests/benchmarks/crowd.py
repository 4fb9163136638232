"""Waiters: held requests on as many connections, until stdin ends. Prints when all of them are sent.

python -m tests.benchmarks.crowd HOST PORT PATH COUNT
"""

from __future__ import annotations

import socket
import sys

from tests.benchmarks.bench import raise_file_limit
from tests.benchmarks.wire import request


def main(host: str, port: int, path: str, count: int) -> None:
    raise_file_limit()
    print("ready", flush=True)
    sys.stdin.readline()
    held = []
    for number in range(count):
        sock = socket.create_connection((host, port), timeout=60)
        sock.sendall(request("POST", path, {"owner": f"waiter-{number}", "wait_seconds": 3600}))
        held.append(sock)
    print("sent", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
