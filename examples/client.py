#!/usr/bin/env python3
"""Hold a lease on the GPU from Python, with nothing but the standard library. Copy this file beside your script.

    from client import Lease

    with Lease("ollama", owner="nightly") as lease:    # waits for its turn, and until the target is healthy
        work()                                         # lease.lost is set if the GPU was taken away meanwhile

or, around a command:

    python3 client.py ollama -- python3 summarize.py

The supervisor is found at GPU_SUPERVISOR_URL: http://HOST:PORT, or unix:///path/to/socket.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8080"
#: How much later than it promised an answer may come, and how long a line that was cut is tried again.
LATE_S = 30.0
CUT_S = 120.0
RETRY_S = 1.0
#: How long a command may take to end once its lease is lost.
GRACE_S = 10.0


class Refused(Exception):
    """The supervisor said no. ``code`` is stable; ``retryable`` says whether the same request may succeed later."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail") or f"HTTP {status}")
        self.status = status
        self.code = str(problem.get("code", ""))
        self.retryable = bool(problem.get("retryable"))


class Lease:
    """The GPU for ``target`` (None: for a process of your own), from ``__enter__`` to ``__exit__``.

    Args:
        wait_s: How long to wait in the queue. The place is kept while the line is cut for less than a claim window.
        ready_s: How long the target may take to become healthy.
        on_lost: Called once, from another thread, if the lease ends while it is held: stop using the GPU then.
        key: Where the supervisor asks for one; else that of GPU_SUPERVISOR_TOKEN.

    Raises:
        Refused: it cannot be had, or not within ``wait_s``.
        OSError: no supervisor answers.
    """

    def __init__(
        self,
        target: str | None,
        *,
        owner: str | None = None,
        priority: int | None = None,
        ttl_s: int = 60,
        wait_s: int = 3600,
        ready_s: int = 900,
        on_lost: Callable[[], None] | None = None,
        url: str | None = None,
        key: str | None = None,
    ) -> None:
        self.url = url or os.environ.get("GPU_SUPERVISOR_URL") or DEFAULT_URL
        self._key = key or os.environ.get("GPU_SUPERVISOR_TOKEN")
        self.answer: dict[str, Any] = {}
        self.lost = threading.Event()
        self._wish = {
            "target": target,
            "owner": owner or f"{os.environ.get('USER', 'somebody')}@{socket.gethostname()}",
            "priority": priority,
            "ttl_seconds": ttl_s,
            "wait_seconds": wait_s,
            "ready_timeout_seconds": ready_s,
        }
        self._patience_s = wait_s + ready_s + LATE_S
        self.on_lost = on_lost
        self._over = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="gpu lease", daemon=True)

    @property
    def token(self) -> str:
        """The proof of the lease. Whoever has it can end it: keep it out of logs."""
        return str(self.answer["token"])

    @property
    def fence(self) -> int:
        """A number that grows with every lease: give it to what must tell a late writer from the present one."""
        return int(self.answer["fence"])

    def __enter__(self) -> Lease:
        # One key for every try: a request whose answer was lost must not become a second lease.
        key = {"Idempotency-Key": str(uuid.uuid4())}
        try:
            self._obtain(key)
        except (KeyboardInterrupt, SystemExit):
            # Without an answer there is no token, but the key says what is meant.
            with contextlib.suppress(OSError, http.client.HTTPException, Refused):
                self._ask("DELETE", "/v1/lease", headers=key)
            raise
        self._renewing.start()
        return self

    def _obtain(self, key: dict[str, str]) -> None:
        body = {name: value for name, value in self._wish.items() if value is not None}
        try_until = 0.0
        while not self.answer:
            try:
                self.answer = self._ask("POST", "/v1/lease", body, headers=key, patience_s=self._patience_s)
            except (OSError, http.client.HTTPException, Refused) as error:
                # A line that was cut, or a supervisor that is restarted: the key finds our place in the queue again.
                gone = isinstance(error, Refused) and error.code != "shutting_down"
                never_there = not try_until and isinstance(error, ConnectionRefusedError | FileNotFoundError)
                try_until = try_until or time.monotonic() + CUT_S
                if gone or never_there or time.monotonic() > try_until:
                    raise
                time.sleep(RETRY_S)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._renewing.join()
        with contextlib.suppress(OSError, http.client.HTTPException, Refused):  # then it ends by its TTL
            self._ask("DELETE", f"/v1/lease/{self.token}")

    # ---- inside

    def _renew(self) -> None:
        """Renew at a third of the TTL. A supervisor that is away hands out nothing meanwhile, so it is waited for."""
        pause_s = float(self.answer["ttl_seconds"]) / 3
        while not self._over.wait(pause_s):
            try:
                renewed = self._ask("POST", f"/v1/lease/{self.token}/renew")
                pause_s = float(renewed["ttl_seconds"]) / 3
            except Refused as refusal:
                if refusal.retryable:
                    continue
                self.lost.set()
                if self.on_lost is not None:
                    self.on_lost()
                return
            except (OSError, http.client.HTTPException):
                pause_s = RETRY_S

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        headers: dict[str, str] | None = None,
        patience_s: float = 10.0,
    ) -> dict[str, Any]:
        line = _Line(self.url, patience_s)
        try:
            content = None if body is None else json.dumps(body)
            kind = {} if body is None else {"Content-Type": "application/json"}
            who = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            line.request(method, path, content, {**kind, **who, **(headers or {})})
            response = line.getresponse()
            answer = json.loads(response.read())
        finally:
            line.close()
        if response.status >= 400:
            raise Refused(response.status, answer)
        return dict(answer)


class _Line(http.client.HTTPConnection):
    """One connection to the supervisor: over TCP, or over a unix socket."""

    def __init__(self, url: str, patience_s: float) -> None:
        parts = urllib.parse.urlsplit(url)
        super().__init__(parts.hostname or "localhost", parts.port or 80, timeout=patience_s)
        self._path = parts.path if parts.scheme == "unix" else ""

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def run(command: list[str], lease: Lease) -> int:
    """Run a command; ask it to end if the lease is lost, and make it end if it does not. Returns its status."""
    process = subprocess.Popen(command)  # noqa: S603 - a list, no shell: what was typed

    def end() -> None:
        process.terminate()
        killing = threading.Timer(GRACE_S, process.kill)
        killing.daemon = True
        killing.start()

    lease.on_lost = end
    if lease.lost.is_set():
        end()
    # How it ends is the command's business, and the lease ends after it. A terminal sends Ctrl-C to both of us.
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    signal.signal(signal.SIGINT, lambda *_: None)
    return process.wait()


def main() -> int:
    """Run a command while the lease is held; end it if the lease is lost. Returns its status."""
    parser = argparse.ArgumentParser(description="Run a command while the GPU is leased for TARGET.")
    parser.add_argument("target")
    parser.add_argument("command", nargs="+", help="after --")
    parser.add_argument("--owner")
    parser.add_argument("--wait", type=int, default=3600, metavar="SECONDS", help="how long to wait for the turn")
    parser.add_argument("--ttl", type=int, default=60, metavar="SECONDS", help="how long the lease outlives this")
    asked = parser.parse_args()
    try:
        with Lease(asked.target, owner=asked.owner, wait_s=asked.wait, ttl_s=asked.ttl) as lease:
            print(f"{asked.target} is {lease.answer['state']}, fence {lease.fence}", file=sys.stderr)
            status = run(asked.command, lease)
    except Refused as refusal:
        print(f"{'busy' if refusal.retryable else 'refused'}: {refusal} [{refusal.code}]", file=sys.stderr)
        return 3 if refusal.retryable else 1
    except OSError as error:
        print(f"no supervisor answers: {error}", file=sys.stderr)
        return 4
    if lease.lost.is_set():
        print("the lease was lost: somebody else may use the GPU now", file=sys.stderr)
        return 5
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
