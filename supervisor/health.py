"""Is a supervisor alive here? For container healthchecks, which run all day: ``python3 -I -S supervisor/health.py``.

Exit status 0 where ``GET /healthz`` answers 200, else 1 with a sentence. Loads nothing but ``socket``: a start of the
whole command costs thirty times as much, every few seconds. So nothing of the project may be imported here.
"""

import os
import socket
import sys

LIMIT_S = 2.0
ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where it listens, asked from inside


def where(environ: dict[str, str]) -> str | tuple[str, int]:
    """Return the path of a unix socket, or host and port: GPU_SUPERVISOR_URL, else _HOST and _PORT.

    Raises:
        ValueError: it is neither.
    """
    url = environ.get("GPU_SUPERVISOR_URL", "")
    if url.startswith("unix:///"):
        return url.removeprefix("unix://")
    if not url:
        host = environ.get("GPU_SUPERVISOR_HOST", "")
        return ANYWHERE.get(host, host), int(environ.get("GPU_SUPERVISOR_PORT") or 8080)
    if not url.startswith("http://"):
        raise ValueError(f"{url} is neither http:// nor unix://")
    host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
    return (host.strip("[]"), int(port)) if host else (port, 80)


def answer(address: str | tuple[str, int]) -> str:
    """Ask for ``/healthz`` and return the first line of what comes back."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT_S)
        sock.connect(address)
    else:
        sock = socket.create_connection(address, LIMIT_S)
    with sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return sock.recv(4096).partition(b"\r\n")[0].decode("latin-1")


def main() -> int:
    try:
        address = where(dict(os.environ))
        line = answer(address)
    except (OSError, ValueError) as error:
        print(f"no supervisor answers: {error}")
        return 1
    if " 200 " not in f"{line} ":
        print(f"what answers at {address} is not well: {line}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
