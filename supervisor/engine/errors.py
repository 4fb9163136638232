"""What can go wrong between us and an engine, told apart by what the caller must believe afterwards.

EngineError
├── ContainerMissing    the engine has no such container (404)
├── EngineRefused       the engine answered an error: nothing happened
├── EngineTimeout       no answer in time: it may still happen
└── EngineUnreachable   no connection, or it broke: it probably did not happen
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import msgspec
import requests
import urllib3

from supervisor.core.errors import SupervisorError

#: Of an answer that is no JSON, perhaps a proxy's page, so much is quoted.
QUOTED = 500


class EngineError(SupervisorError):
    code = "engine_unavailable"


class EngineRefused(EngineError):
    """The engine's own words, and its HTTP ``status``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ContainerMissing(EngineRefused):
    pass


class EngineTimeout(EngineError):
    pass


class EngineUnreachable(EngineError):
    pass


def refusal(status: int, words: str) -> EngineRefused:
    """Tell a missing container from every other 404: of a start the network may be missing, and then the container is
    still there; and what is no engine at all answers 404 to everything.
    """
    missing = status == 404 and "no such container" in words.lower()
    return (ContainerMissing if missing else EngineRefused)(status, words)


class _Message(msgspec.Struct):
    message: str = ""


# Made before there are threads: see ``decode`` in connection.py.
_MESSAGE = msgspec.json.Decoder(_Message)


def refused(status: int, body: bytes) -> EngineRefused:
    """Return the refusal that an answer is: with the engine's words, or those of whoever answered in its place."""
    try:
        words = _MESSAGE.decode(body).message
    except msgspec.DecodeError:
        words = body.decode(errors="replace").strip()[:QUOTED]
    return refusal(status, words or f"HTTP {status}")


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the SDK, requests, urllib3 and the socket raise into the four above.

    The order matters: ``APIError`` is a ``requests.HTTPError``, that is an ``OSError``, and ``ConnectTimeout`` is both
    a ``Timeout`` (of a call that was never sent) and a ``ConnectionError``.
    """
    try:
        yield
    except docker.errors.APIError as error:
        raise refusal(error.status_code or 0, str(error.explanation or error)) from error
    except requests.ConnectTimeout as error:
        raise EngineUnreachable("the engine accepts no connection in time") from error
    except (requests.Timeout, urllib3.exceptions.ReadTimeoutError) as error:
        raise EngineTimeout("the engine did not answer in time") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, docker.errors.DockerException, OSError) as error:
        raise EngineUnreachable(f"the engine cannot be reached: {_innermost(error)}") from error


def _innermost(error: BaseException) -> str:
    """The operating system's words, which requests and urllib3 wrap up to four times."""
    seen = error
    for _ in range(8):
        inner = seen.__cause__ or seen.__context__
        if inner is None:
            break
        seen = inner
    return (isinstance(seen, OSError) and seen.strerror) or str(seen) or type(seen).__name__
