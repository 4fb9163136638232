"""The API on the wire: uvicorn on a TCP address and, where told a path, on a unix socket too, at the same time.

Signals belong to whoever calls: uvicorn would take them over, and raise them again at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from supervisor.api.protocol import BoundedProtocol, Limits, bounded
from supervisor.core.errors import SupervisorError

__all__ = ["Limits", "serve_http"]

log = logging.getLogger(__name__)

BACKLOG = 4096
#: Answers that are under way when the end is called get this long.
END_S = 1
TICK_S = 1.0
SOCKET_MODE = 0o660


class AddressUnusable(SupervisorError):
    """It cannot listen where it was told to."""

    code = "address_unusable"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], stop: asyncio.Event) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def main_loop(self) -> None:
        """Wait for the end, for which uvicorn looks ten times a second. Its tick renews the Date of answers."""
        while not self._stop.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._stop.wait()


async def serve_http(
    app: ASGIApp,
    sockets: list[socket.socket],
    *,
    limits: Limits,
    on_ready: Callable[[list[str]], None],
    on_refusal: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    """Serve until ``stop`` is set; then take no more connections, end the answers under way, and return.

    Args:
        sockets: Where to listen, as ``listening`` opens them.
        on_ready: Called once, with the addresses as URLs, when connections are accepted.
        on_refusal: Told the code of what is refused before it is a request: too slow, too large, one too many.
    """
    addresses = [_address(sock) for sock in sockets]
    server = _Server(_config(app, bounded(limits, on_refusal)), lambda: on_ready(addresses), stop)
    sweeping = asyncio.create_task(_sweep(server, limits.sweep_s))
    try:
        await server.serve(sockets=sockets)
    finally:
        sweeping.cancel()


def _config(app: ASGIApp, protocol: type[BoundedProtocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # what clients get wrong is theirs to know, and must not fill our log
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=protocol.limits.idle_s,
        timeout_graceful_shutdown=END_S,
    )


async def _sweep(server: uvicorn.Server, every_s: float) -> None:
    """Look at every connection's deadlines, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(every_s)
        for connection in list(server.server_state.connections):
            assert isinstance(connection, BoundedProtocol)
            connection.sweep(loop.time())


# ---- sockets


@contextlib.contextmanager
def listening(host: str, port: int, unix_socket: Path | None) -> Iterator[list[socket.socket]]:
    """Listen on an address, and on a unix socket where one is wanted; who connects is served later. Port 0: a free one.

    Raises:
        AddressUnusable: an address is taken, is not ours, or the socket's place cannot be used.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_tcp(host, port))]
        if unix_socket is not None:
            sockets.append(stack.enter_context(_unix(unix_socket)))
        yield sockets


@contextlib.contextmanager
def _tcp(host: str, port: int) -> Iterator[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressUnusable(f"{host} is no address to listen on: {error.strerror}", "see --host") from error
    family, kind, proto, _, address = found[0]
    with socket.socket(family, kind, proto) as sock:
        try:
            # A restart must not wait for connections of the last run to time out.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            message = f"cannot listen on {host}:{port}: {error.strerror}"
            hint = "choose another --port" if error.errno == errno.EADDRINUSE else "see --host and --port"
            raise AddressUnusable(message, hint) from error
        yield sock


@contextlib.contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    """Listen on a unix socket for its owner and group. One that a dead server left behind is removed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _remove_stale(path)
            # Bound under a mask, so that it is at no time open to others.
            mask = os.umask(0o777 & ~SOCKET_MODE)
            try:
                sock.bind(str(path))
            finally:
                os.umask(mask)
            sock.listen(BACKLOG)
        except OSError as error:
            message = f"cannot listen on {path}: {error.strerror or error}"
            raise AddressUnusable(message, "choose another --socket") from error
        try:
            yield sock
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressUnusable(f"{path} is there and is no socket", "choose another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            log.info("removed the socket %s, which a server left behind", path)
            return
    raise AddressUnusable(f"another server listens on {path}", "stop it, or choose another --socket")


def _address(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix://{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
