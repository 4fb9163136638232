"""A kill that leaves at once: a connection of its own and one write, from wherever it was decided.

Through the SDK a kill leaves a millisecond or two later: a thread has to wake up, and then builds a session's request.
Everything else about it is as it was: who waits for the answer is a thread of the pool, for as long as the SDK would.
A kept connection would save 30 us, and could turn out to be dead only after the kill was believed to be sent.
"""

from __future__ import annotations

import http.client
import socket
import threading

from supervisor.engine.errors import EngineTimeout, EngineUnreachable, refused

UNIX = "unix://"
#: Kills that are under way at a time; more go through the pool, and wait there.
AT_ONCE = 32
ANSWER_MAX_BYTES = 64 * 1024


class QuickKills:
    """Kills over the unix socket of an engine. ``send`` never blocks; ``finish`` does, and belongs into a thread."""

    def __init__(self, url: str) -> None:
        """``url``: of an engine that is reached in another way, no kill is sent."""
        self._path = url.removeprefix(UNIX) if url.startswith(UNIX) else ""
        self._version = ""
        self._free = threading.BoundedSemaphore(AT_ONCE)

    def connected(self, api_version: str) -> None:
        self._version = api_version

    def close(self) -> None:
        """Send no more."""
        self._path = ""

    def send(self, container_id: str) -> socket.socket | None:
        """Send the request and return where its answer will come; None if it did not leave, and has to go another way.

        The engine that has not taken a request whole has not acted on it: its head is incomplete.
        """
        if not self._path or not self._version or not self._free.acquire(blocking=False):
            return None
        head = f"POST /v{self._version}/containers/{container_id}/kill HTTP/1.1\r\n"
        request = f"{head}Host: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A full backlog, or a full buffer, is an error then, and not a wait: this may be the owner's own thread.
            line.settimeout(0)
            line.connect(self._path)
            if line.send(request) == len(request):
                return line
        except OSError:
            pass
        line.close()
        self._free.release()
        return None

    def finish(self, line: socket.socket, limit_s: float) -> None:
        """Wait for the answer to what ``send`` sent.

        Raises:
            EngineRefused: the engine answered an error; ``ContainerMissing`` where there is no such container.
            EngineTimeout: no answer in time: it may still happen.
            EngineUnreachable: the connection broke: it probably did not happen.
        """
        try:
            with line:
                line.settimeout(limit_s)
                answer = http.client.HTTPResponse(line, method="POST")
                answer.begin()
                body = answer.read(ANSWER_MAX_BYTES)
        except TimeoutError as error:
            raise EngineTimeout("the engine did not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise EngineUnreachable(f"the engine cannot be reached: {error or type(error).__name__}") from error
        finally:
            self._free.release()
        if answer.status >= 400:
            raise refused(answer.status, body)
