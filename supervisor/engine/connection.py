"""One negotiated connection to an engine: the SDK's HTTP session, with a time limit on everything.

Only the requests of ``ENDPOINTS`` are ever made; a test with a recording proxy holds us to it. The answers are decoded
from their bytes with a type, so the SDK's own dictionaries are not used.
"""

from __future__ import annotations

from typing import TypeVar

import docker
import msgspec
import requests
from docker.constants import MINIMUM_DOCKER_API_VERSION
from msgspec import Struct

from supervisor.engine.errors import EngineRefused, refused, translated

READ_ENDPOINTS = (
    "GET /_ping",
    "GET /version",
    "GET /events",
    "GET /containers/json",
    "GET /containers/{id}/json",
    "GET /containers/{id}/logs",
)
WRITE_ENDPOINTS = (
    "POST /containers/{id}/start",
    "POST /containers/{id}/stop",
    "POST /containers/{id}/kill",
)
#: Everything that the supervisor asks of an engine: what a least-privilege socket proxy has to let through.
ENDPOINTS = READ_ENDPOINTS + WRITE_ENDPOINTS

CONNECT_S = 2.0
#: A container that is being started holds a lock that its inspect waits for, so an answer may take as long as a start.
READ_S = 5
POOL = 32

T = TypeVar("T")


class _Component(Struct):
    name: str = msgspec.field(name="Name", default="")


class Version(Struct):
    """``GET /version``. Docker and Podman differ in their first component's name."""

    api: str = msgspec.field(name="ApiVersion")
    version: str = msgspec.field(name="Version", default="")
    components: tuple[_Component, ...] | None = msgspec.field(name="Components", default=())

    def __str__(self) -> str:
        podman = any("podman" in component.name.lower() for component in self.components or ())
        return f"{'Podman' if podman else 'Docker Engine'} {self.version} (API {self.api})"


_VERSION = msgspec.json.Decoder(Version)


class Connection:
    """Reads from one engine. Threads may share it; every call raises ``EngineError`` in a bounded time."""

    def __init__(self, url: str) -> None:
        """Connect and agree on a version.

        A new connection is made after every loss, because an upgraded engine may no longer speak the old version.
        ``GET /version`` is asked here and not by the SDK (``version="auto"``), so that its time is limited too.
        """
        with translated():
            anonymous = docker.APIClient(base_url=url, version=MINIMUM_DOCKER_API_VERSION, timeout=2)
        try:
            answer = _checked(anonymous, f"{anonymous.base_url}/version", timeout_s=CONNECT_S)
            self.version = decode(answer, _VERSION)
        finally:
            anonymous.close()
        self._api = client(url, self.version.api, timeout_s=READ_S)

    def get(self, path: str, params: dict[str, str | int] | None = None, *, timeout_s: float = READ_S) -> bytes:
        return _checked(self._api, self._address(path), params, timeout_s=timeout_s)

    def stream(self, path: str, params: dict[str, str | int], *, headers_s: float = READ_S) -> requests.Response:
        """Open an answer that is read bit by bit; ``headers_s`` is also the limit between two bits."""
        with translated():
            response = self._api.get(self._address(path), params=params, stream=True, timeout=(CONNECT_S, headers_s))
            if response.status_code != 200:
                with response:
                    raise refused(response.status_code, response.raw.read(4096, decode_content=True))
        return response

    def ping(self, *, timeout_s: float) -> None:
        """``GET /_ping`` without a version, as load balancers and socket proxies expect it."""
        _checked(self._api, f"{self._api.base_url}/_ping", timeout_s=timeout_s)

    def close(self) -> None:
        self._api.close()

    def _address(self, path: str) -> str:
        return f"{self._api.base_url}/v{self.version.api}{path}"


def client(url: str, version: str, *, timeout_s: int) -> docker.APIClient:
    with translated():
        return docker.APIClient(base_url=url, version=version, timeout=timeout_s, max_pool_size=POOL)


def decode(answer: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode an answer, or raise ``EngineRefused``: an answer of another shape is of no use either.

    The decoder is one that was made before there were threads: msgspec finds out what a Struct is like at its first
    use, and a thread that meets what another one has half found out crashes the process (seen with 0.22).
    """
    try:
        return decoder.decode(answer)
    except msgspec.DecodeError as error:
        raise EngineRefused(200, f"the engine's answer is not understood: {error}") from error


def _checked(
    api: docker.APIClient, address: str, params: dict[str, str | int] | None = None, *, timeout_s: float
) -> bytes:
    with translated():
        response = api.get(address, params=params, timeout=(min(CONNECT_S, timeout_s), timeout_s))
    if response.status_code != 200:
        raise refused(response.status_code, response.content)
    return response.content
