"""A scripted engine on a unix socket, for what a real one does too seldom: errors, slowness, noise, floods.

It speaks just enough of the API: containers are raw inspect answers, events are raw lines.
"""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from supervisor.core.inputs import EngineSnapshot

Answer = tuple[int, bytes]


def container(
    number: int, *, labels: dict[str, str] | None = None, status: str = "running", **state: Any
) -> dict[str, Any]:
    """An inspect answer; the id is the number, 64 digits long."""
    return {
        "Id": f"{number:064x}",
        "Name": f"/box-{number}",
        "Created": "2026-01-01T00:00:00Z",
        "State": {"Status": status, "StartedAt": "2026-01-01T00:00:01.5Z", **state},
        "Config": {"Labels": {"gpu.target": "box"} if labels is None else labels},
        "HostConfig": {"RestartPolicy": {"Name": "no"}},
        "NetworkSettings": {"Ports": {}},
    }


def ids(snapshot: EngineSnapshot) -> set[int]:
    """The numbers of the containers in a snapshot."""
    return {int(found.id, 16) for found in snapshot.containers}


class FakeEngine:
    """``answers`` overrides single requests: "METHOD /path" (a regular expression, without the version) -> function.

    ``queries`` has the last query of each request.
    """

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.containers: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Callable[[], Answer]] = {}
        self.requests: list[str] = []
        self.queries: dict[str, dict[str, str]] = {}
        self.streams = 0
        self.says_close = False
        self._lines: list[bytes] = []
        self._changed = threading.Condition()
        self._closed = False
        self._cut = 0
        self._server = _Server(str(path), self._handler())
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def put(self, *containers: dict[str, Any]) -> None:
        self.containers.update({made["Id"]: made for made in containers})

    def event(self, action: str, container_id: str, at_ns: int = 0, **attributes: str) -> None:
        line = {"Type": "container", "Action": action, "Actor": {"ID": container_id, "Attributes": attributes}}
        self.line(json.dumps({**line, "timeNano": at_ns}).encode() + b"\n")

    def line(self, raw: bytes) -> None:
        with self._changed:
            self._lines.append(raw)
            self._changed.notify_all()

    def cut_streams(self) -> None:
        """End every event stream that is open."""
        with self._changed:
            self._cut += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def asked(self, request: str) -> int:
        """How often a request was made."""
        return sum(1 for made in self.requests if re.fullmatch(request, made))

    # ---- the server

    def _answer(self, request: str) -> Answer:
        for pattern, answer in self.answers.items():
            if re.fullmatch(pattern, request):
                return answer()
        if request == "GET /version":
            return 200, json.dumps({"Version": "fake", "ApiVersion": "1.41", "Components": None}).encode()
        if request == "GET /_ping":
            return 200, b"OK"
        if request == "GET /containers/json":
            rows = [{"Id": id_, "Labels": made["Config"]["Labels"]} for id_, made in self.containers.items()]
            return 200, json.dumps(rows).encode()
        if found := re.fullmatch(r"GET /containers/([0-9a-f]+)/json", request):
            made = self.containers.get(found[1])
            return (200, json.dumps(made).encode()) if made else (404, b'{"message": "No such container"}')
        return 204, b""

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        if self.says_close:
            handler.send_header("Connection", "close")
        handler.end_headers()
        with self._changed:
            cut, at = self._cut, len(self._lines)
            self.streams += 1
        while True:
            with self._changed:
                self._changed.wait_for(lambda at=at: self._closed or self._cut != cut or len(self._lines) > at)
                if self._closed or self._cut != cut:
                    handler.close_connection = True
                    return
                new, at = b"".join(self._lines[at:]), len(self._lines)
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(new), new))

    def _handler(engine) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - "self" is the handler's, below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self) -> None:
                path = re.sub(r"^/v[0-9.]+", "", self.path.partition("?")[0])
                request = f"{self.command} {path}"
                engine.requests.append(request)
                engine.queries[request] = dict(parse_qsl(self.path.partition("?")[2]))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if request == "GET /events" and "GET /events" not in engine.answers:
                    engine._stream(self)
                    return
                status, body = engine._answer(request)
                self.send_response(status)
                if status not in (204, 304):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if status not in (204, 304):
                    self.wfile.write(body)

            do_GET = do_POST = handle_request  # noqa: N815 - the base class asks for these names

            def address_string(self) -> str:
                return "fake"

            def log_message(self, *_: object) -> None:
                """Tests read ``requests`` instead."""

        return Handler


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that goes away in the middle is what many tests are about."""
