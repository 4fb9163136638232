"""The real process on the real engine, spoken to over HTTP as a client would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

READY_S = 20.0


class Server:
    """One `gpu-supervisor serve` with a data directory of its own. ``url`` changes with every start."""

    def __init__(self, data_dir: Path, engine_url: str, prefix: str) -> None:
        self.data_dir, self.engine_url, self.prefix = data_dir, engine_url, prefix
        self.log: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self._clients: list[httpx.Client] = []

    def command(self, *flags: str) -> list[str]:
        return [
            *(sys.executable, "-m", "supervisor.cli", "serve", "--port", "0", "--gpus", "sim:1x24576"),
            *("--data-dir", str(self.data_dir), "--docker-host", self.engine_url, *flags),
        ]

    def environment(self) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("GPU_SUPERVISOR_")}
        return {**ours, "GPU_SUPERVISOR_LABEL_PREFIX": self.prefix, "PYTHONUNBUFFERED": "1"}

    def start(self, *flags: str, synced: bool = True) -> None:
        """Start it and wait for its ready line (and, with ``synced``, until it can grant)."""
        self.process = subprocess.Popen(
            self.command(*flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
        )
        ready = threading.Event()
        threading.Thread(target=self._read, args=(self.process, ready), daemon=True).start()
        if not ready.wait(READY_S) or not self.url:
            pytest.fail("the supervisor did not come up:\n" + "\n".join(self.log[-30:]))
        self._clients.append(httpx.Client(base_url=self.url, timeout=60))
        if synced:
            self.until_synced()

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.log.append(line.rstrip())
            found = re.search(r"ready: listening on (http://\S+?)[;,\s]", line)
            if found:
                self.url = found[1]
                ready.set()
        ready.set()

    def until_synced(self) -> None:
        pace = threading.Event()
        for _ in range(400):
            if self.http.get("/readyz").status_code == 200:
                return
            pace.wait(0.05)
        pytest.fail("never in sync: " + self.http.get("/readyz").text)

    @property
    def http(self) -> httpx.Client:
        return self._clients[-1]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self, how: signal.Signals = signal.SIGTERM, within_s: float = 10) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(within_s)
        self.process = None
        return status

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    # ---- what clients do

    def acquire(self, target: str, **body: Any) -> httpx.Response:
        return self.http.post("/acquire", json={"target": target, "owner": "test", **body})

    def lease(self, target: str | None, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        named = {} if target is None else {"target": target}
        return self.http.post("/v1/lease", json={"owner": "test", **named, **body}, headers=headers)

    def target_state(self, target: str) -> str:
        return str(self.http.get("/status").json()["services"].get(target, {}).get("state"))

    def audit(self, target: str | None = None) -> list[dict[str, Any]]:
        events = self.http.get(
            "/v1/events", params={"after": 0, "limit": 1000, **({"target": target} if target else {})}
        )
        return list(events.json()["events"])


@pytest.fixture
def make_server(tmp_path: Path, engine_url: str, label_prefix: str) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(
        *flags: str, url: str = engine_url, data_dir: Path | None = None, start: bool = True, synced: bool = True
    ) -> Server:
        server = Server(data_dir or tmp_path / f"data{len(made)}", url, label_prefix)
        made.append(server)
        if start:
            server.start(*flags, synced=synced)
        return server

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()
