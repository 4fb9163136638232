"""The real ``serve`` process for these tests, with the environment that a service manager gives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

READY_S = 20.0


class Serving:
    """One process. ``url`` and ``log`` fill as it speaks; ``entry`` is a program to run in place of the command."""

    def __init__(self, data_dir: Path, environment: dict[str, str], *flags: str, entry: str = "") -> None:
        python = [sys.executable, "-c", entry] if entry else [sys.executable, "-m", "supervisor.cli"]
        ours = {key: value for key, value in os.environ.items() if not key.startswith("GPU_SUPERVISOR_")}
        self.log: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [
                *(*python, "serve", "--config", os.devnull, "--port", "0", "--gpus", "sim:1x24576"),
                *("--data-dir", str(data_dir), *flags),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**ours, "PYTHONUNBUFFERED": "1", **environment},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line.rstrip())
            if found := re.search(r"ready: listening on (http://\S+?)[;,\s]", line):
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    def until_ready(self) -> None:
        if not self._ready.wait(READY_S) or not self.url:
            pytest.fail("the supervisor did not come up:\n" + "\n".join(self.log[-30:]))

    def get(self, path: str, **params: Any) -> httpx.Response:
        return httpx.get(self.url + path, params=params, timeout=20, trust_env=False)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, trust_env=False)

    def end(self, within_s: float = 10) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
