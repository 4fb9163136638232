"""A supervisor in small: one GPU, leases and a queue over real HTTP, enough for the command line to be tried."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any


class Problem(Exception):
    def __init__(self, status: int, code: str, detail: str, *, retryable: bool = False, **context: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"title": code, "status": status, "detail": detail, "code": code, "retryable": retryable, **context}


class FakeServer:
    """Tests read and set the attributes; ``changed`` is notified whenever something happened.

    ``refusals``: what a target is refused with. ``starting``: what is granted does not become ready.
    ``holder_state``: what the holder's lease is said to be.
    ``silent``: who asks for a lease is not answered before what it got has ended; ``by_key``: keys that something was
    given back by. ``cut``: requests in flight are cut, new ones too. ``until_at``: until when the holder's lease lasts.
    ``happened``: events that streams are sent which are not in ``streams``. ``forecast``: the answer to a dry run.
    ``answers``: what "METHOD /path" is answered, whatever the rules; ``calls``: who asked for one, with what.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.holder: dict[str, Any] | None = None
        self.queue: list[dict[str, Any]] = []
        self.ended: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.silent = False
        self.by_key: list[str | None] = []
        self.authorizations: list[str | None] = []
        self.renewals = 0
        self.looks = 0
        self.ttl_s = 60.0
        self.refusals: dict[str | None, Problem] = {}
        self.answer_state = "ready"
        self.holder_state = "ready"
        self.starting = False
        self.start_failure: Problem | None = None
        self.cut = False
        self.documents: dict[str, Any] = {}
        self.answers: dict[str, dict[str, Any] | Problem] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.served: list[str] = []
        self.until_at: str | None = None
        self.forecast: dict[str, Any] = {}
        self.residents: set[str] = set()
        self.opens: dict[str, dict[str, Any]] = {}
        self.gpus: dict[str, Any] = {"gpus": ["SIM-0"], "cuda_visible_devices": "SIM-0"}
        self.ends_at: str | None = None
        self.happened: list[tuple[int, dict[str, Any]]] = []
        self.streams: list[list[tuple[int, dict[str, Any]]]] = []
        self.resumed_from: list[str | None] = []
        self.url = ""

        self.other: dict[str, Any] = {}

    # ---- for tests

    def until(self, condition: Any, within_s: float = 10.0) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, within_s), "it did not happen"

    def take(self, owner: str = "ann", target: str = "comfyui") -> None:
        """Somebody else holds the GPU."""
        with self.changed:
            self.holder = self.other = {"token": "t-other", "id": "l_other", "target": target, "owner": owner}

    def end(self, token: str, reason: str) -> None:
        """End a lease or a ticket from our side."""
        with self.changed:
            self._drop(token, reason)

    def happen(self, seq: int, event: dict[str, Any], documents: dict[str, Any]) -> None:
        """Change what is answered, and tell those who follow the events that something has happened."""
        with self.changed:
            self.documents |= documents
            self.happened.append((seq, event))
            self.changed.notify_all()

    def set_cut(self, cut: bool) -> None:
        with self.changed:
            self.cut = cut
            self.changed.notify_all()

    # ---- the rules

    def lease(self, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, Any]]:
        self.asked.append(body)
        self.keys.append(key)
        target = body.get("target")
        if body.get("dry_run"):
            return 200, self.forecast
        if target in self.refusals:
            raise self.refusals[target]
        number = len(self.asked)
        held = {"token": f"t-{number}", "id": f"l_{number}", "target": target, "owner": body["owner"]}
        if self.holder is None:
            granted = self._grant(held)
            self._keep_silent(held["token"])
            return 201, granted | {"state": "starting"}
        if not body.get("queue"):
            raise self._busy()
        self.queue.append(held)
        self.changed.notify_all()
        position = len(self.queue) - 1
        self._keep_silent(held["token"])
        return 202, {**held, "state": "queued", "position": position}

    def _keep_silent(self, token: str) -> None:
        if self.silent:
            self.changed.wait_for(lambda: self.cut or token in self.ended, 20)
            raise ConnectionAbortedError

    def claim(self, token: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        def mine_to_have() -> bool:
            if self.holder is None:
                return self.cut or token in self.ended or self.queue[0]["token"] == token
            return self.cut or token in self.ended or (self.holder["token"] == token and not self.starting)

        self.changed.wait_for(mine_to_have, body.get("wait_seconds", 0))
        if self.cut:
            raise ConnectionAbortedError
        if self.holder is not None and self.holder["token"] == token:
            if self.start_failure is not None:
                self._drop(token, "target_failed")
                raise self.start_failure
            return 201, self._grant(self.holder)
        if token in self.ended:
            reason = self.ended[token]
            raise Problem(409, "ticket_expired" if reason == "ticket_expired" else "lease_ended", f"ended: {reason}")
        if self.holder is not None:
            raise self._busy()
        return 201, self._grant(self.queue.pop(0))

    def renew(self, token: str) -> tuple[int, dict[str, Any]]:
        if self.holder is None or self.holder["token"] != token:
            reason = self.ended.get(token, "unknown")
            raise Problem(404, "lease_unknown", f"this lease has ended ({reason})", reason=reason)
        self.renewals += 1
        self.changed.notify_all()
        return 200, {
            "token": token,
            "ttl_seconds": self.ttl_s,
            "expires_at": "2001-01-02T03:09:05.000Z",
            **self._told(),
        }

    def _told(self) -> dict[str, Any]:
        return {"ends_at": self.ends_at} if self.ends_at else {}

    def look(self, token: str) -> tuple[int, dict[str, Any]]:
        self.looks += 1
        self.changed.notify_all()
        for position, ticket in enumerate(self.queue):
            if ticket["token"] == token:
                # Between an end and the next grant it is as it was told last.
                holder = self.holder or self.other
                why = f"{holder.get('target')} holds the GPU (owner {holder.get('owner')})"
                return 200, {"state": "queued", "position": position, "why": why, "until": self.until_at}
        if self.holder is not None and self.holder["token"] == token:
            state = "starting" if self.starting else self.holder_state
            return 200, {
                "state": state,
                "why": "room is being made" if self.starting else "it went down",
            } | self._told()
        if token in self.ended:
            return 200, {"state": "ended", "reason": self.ended[token]}
        raise Problem(404, "lease_unknown", "no such token")

    def delete(self, token: str) -> tuple[int, dict[str, Any]]:
        return 200, {"released": True} if self._drop(token, "released") else {"released": False, "reason": "unknown"}

    def delete_by_key(self, key: str | None) -> tuple[int, dict[str, Any]]:
        self.by_key.append(key)
        return self.delete(f"t-{self.keys.index(key) + 1}" if key in self.keys else "")

    def evict(self, target: str) -> tuple[int, dict[str, Any]]:
        if target in self.refusals:
            raise self.refusals[target]
        if target not in self.residents:
            return 200, {"evicted": False, "reason": "not_resident"}
        self.residents.remove(target)
        return 200, {"evicted": True}

    def open_gpu(self, uuid: str) -> tuple[int, dict[str, Any]]:
        if uuid not in self.opens:
            raise Problem(404, "not_found", f"there is no GPU {uuid}")
        return 200, self.opens[uuid]

    def force(self, target: str | None) -> tuple[int, dict[str, Any]]:
        if self.holder is None or target not in (None, self.holder["target"]):
            return 200, {"released": False, "state": {}}
        self._drop(self.holder["token"], "forced")
        return 200, {"released": True, "state": {}}

    def _grant(self, held: dict[str, Any]) -> dict[str, Any]:
        self.holder = held
        self.changed.notify_all()
        return {**held, "state": self.answer_state, "fence": 7, "ttl_seconds": self.ttl_s} | self.gpus

    def _busy(self) -> Problem:
        assert self.holder is not None
        return Problem(
            409,
            "gpu_busy",
            f"{self.holder['target']} holds the GPU (owner {self.holder['owner']})",
            retryable=True,
            expires_at="2001-01-02T03:09:05.000Z",
        )

    def _drop(self, token: str, reason: str) -> bool:
        known = [ticket for ticket in self.queue if ticket["token"] == token]
        for ticket in known:
            self.queue.remove(ticket)
        held = self.holder is not None and self.holder["token"] == token
        if held:
            self.holder = None
        self.ended[token] = reason
        self.changed.notify_all()
        return bool(known) or held


class Handler(BaseHTTPRequestHandler):
    """Routes, and nothing else."""

    protocol_version = "HTTP/1.1"
    fake: FakeServer

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_GET  # noqa: N815 - the standard library calls them by these names
    do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        self.fake.authorizations.append(self.headers.get("Authorization"))
        if self.headers.get("Accept") == "text/event-stream":
            return self._stream()
        fake = self.fake
        try:
            with fake.changed:
                status, document = self._route(body)
        except Problem as problem:
            status, document = problem.body["status"], problem.body
        except ConnectionAbortedError:
            self.close_connection = True
            return None
        kind = "application/problem+json" if status >= 400 else "application/json"
        return self._send(status, kind, json.dumps(document).encode())

    def _route(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        fake, path = self.fake, self.path.split("?")[0]
        if fake.cut:
            raise ConnectionAbortedError
        call = f"{self.command} {path}"
        if call in fake.answers:
            fake.calls.append((call, body))
            fake.changed.notify_all()
            found = fake.answers[call]
            if isinstance(found, Problem):
                raise found
            return 200, found
        match (self.command, *path.strip("/").split("/")):
            case ("POST", "v1", "lease"):
                return fake.lease(body, self.headers.get("Idempotency-Key"))
            case ("POST", "v1", "lease", token, "claim"):
                return fake.claim(token, body)
            case ("POST", "v1", "lease", token, "renew"):
                return fake.renew(token)
            case ("GET", "v1", "lease", token):
                return fake.look(token)
            case ("DELETE", "v1", "lease"):
                return fake.delete_by_key(self.headers.get("Idempotency-Key"))
            case ("DELETE", "v1", "lease", token):
                return fake.delete(token)
            case ("POST", "v1", "targets", target, "evict"):
                return fake.evict(target)
            case ("POST", "v1", "gpus", uuid, "open"):
                return fake.open_gpu(uuid)
            case ("POST", "release"):
                return fake.force(body.get("target"))
            case ("GET", *_) if path in fake.documents:
                document = fake.documents[path]
                fake.served.append(path)
                fake.changed.notify_all()
                if isinstance(document, Problem):
                    raise document
                return 200, document
        raise Problem(404, "not_found", f"no route {path}")

    def _stream(self) -> None:
        fake = self.fake
        with fake.changed:
            fake.resumed_from.append(self.headers.get("Last-Event-ID"))
            events = fake.streams.pop(0) if fake.streams else None
            fake.changed.notify_all()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for seq, event in events or ():
            self.wfile.write(f": a heartbeat\nid: {seq}\nevent: fact\ndata: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()
        sent = 0
        over = events is not None
        while not over:
            with fake.changed:
                while not fake.cut and len(fake.happened) == sent:
                    fake.changed.wait(20)
                fresh, sent, over = fake.happened[sent:], len(fake.happened), fake.cut
            for seq, event in fresh:
                self.wfile.write(f"id: {seq}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is the tests'."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hung up is what some tests are about."""


class _SocketServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        """Without the name and the port that HTTP's own wants to know."""
        TCPServer.server_bind(self)


@contextmanager
def running_fake(path: Path | None = None) -> Iterator[FakeServer]:
    """Over TCP, or on the unix socket ``path``."""
    fake = FakeServer()
    handler = type("Bound", (Handler,), {"fake": fake})
    if path is None:
        server = _Server(("127.0.0.1", 0), handler)
        fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    else:
        server = _SocketServer(str(path), handler)  # type: ignore[arg-type] - a path is where it listens
        fake.url = f"unix://{path}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.set_cut(True)
        server.shutdown()
        server.server_close()
        thread.join(5)
