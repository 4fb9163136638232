"""The real process: its hooks and its log from its start to its end, and what neither of them says."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from supervisor.api.tokens import digest
from tests.packaging.serving import Serving

#: There is no engine: a start, refusals and an end are facts enough, and nothing is waited for.
NO_ENGINE = "unix:///nonexistent/docker.sock"


class Sink(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[dict[str, object]] = []
        self.hang = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Sink)
        if self.path == "/hang":
            self.server.hang.wait(30)
            return
        self.server.got.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """It has nothing to say."""


@pytest.fixture
def sink() -> Iterator[Sink]:
    server = Sink()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.hang.set()
    server.shutdown()
    server.server_close()


def test_hooks_hear_of_start_and_end_a_hanging_one_delays_neither_and_every_line_of_the_log_is_json(tmp_path, sink):
    hooks = [
        {"name": name, "url": f"http://127.0.0.1:{sink.server_port}{path}", "facts": ["all"]}
        for name, path in (("ops", "/T0/HIDDEN"), ("stuck", "/hang"))
    ]
    environment = {"GPU_SUPERVISOR_HOOKS": json.dumps(hooks)}
    flags = ("--docker-host", NO_ENGINE, "--log-format", "json", "--log-level", "debug")
    process = Serving(tmp_path / "data", environment, *flags)
    try:
        process.until_ready()
        token = "Lc7BoRCvm8q4EnO0vrJsdTzpvY9vMAE4DAD_xZM1_M8"
        process.get(f"/v1/lease/{token}")
        process.post("/release", lease_token=token)
        metrics = process.get("/metrics").text
        began = time.monotonic()
        status = process.end()
        took_s = time.monotonic() - began
    finally:
        process.close()

    assert (status, took_s < 5) == (0, True), took_s
    assert [one["type"] for one in sink.got] == ["SupervisorStarted", "SupervisorStopped"]
    lines = [json.loads(line) for line in process.log if "ready: listening on" not in line]
    assert len(process.log) == len(lines) + 1
    assert [line["type"] for line in lines if "seq" in line] == ["SupervisorStarted", "SupervisorStopped"]
    assert lines[-1]["message"] == "hook stuck: 2 facts were not delivered (seq 1 to 2)"
    said = "\n".join([*process.log, metrics])
    assert not [secret for secret in (token, digest(token), "HIDDEN") if secret in said]


def test_it_does_not_start_without_a_secret_that_it_was_told_to_use(tmp_path):
    hook = {"name": "ops", "url": "https://ops.example/HIDDEN", "facts": ["all"], "secret_file": "/nonexistent/secret"}
    options = ("--port", "0", "--data-dir", str(tmp_path), "--docker-host", NO_ENGINE)
    ended = subprocess.run(
        [sys.executable, "-m", "supervisor.cli", "serve", "--config", os.devnull, *options],
        env={**os.environ, "GPU_SUPERVISOR_HOOKS": json.dumps([hook])},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert ended.returncode == 1
    assert "error: hook ops: secret_file /nonexistent/secret cannot be read: no such file or directory" in ended.stderr
    assert "HIDDEN" not in ended.stderr
