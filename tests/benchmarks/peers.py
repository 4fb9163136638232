"""Redis and etcd, where they are installed: on free ports, with data of their own, each synced as it promises to."""

from __future__ import annotations

import base64
import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.wire import Line, Refused, request

ANSWERS_S = 20.0
ADDRESS = "127.0.0.1"


def _free_port() -> int:
    with socket.create_server((ADDRESS, 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[int | None]:
    """Run a Redis that syncs every write; yields its port, None where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    port = _free_port()
    command = [program, "--port", str(port), "--bind", ADDRESS, "--dir", str(folder), "--save", ""]
    with _running([*command, "--appendonly", "yes", "--appendfsync", "always"], folder / "log", port):
        yield port


@contextlib.contextmanager
def etcd(folder: Path) -> Iterator[str | None]:
    """Run an etcd of one member; yields the URL of its HTTP gateway, None where it is not installed."""
    program = shutil.which("etcd")
    if program is None:
        yield None
        return
    port, peer = _free_port(), _free_port()
    url = f"http://{ADDRESS}:{port}"
    command = [program, "--data-dir", str(folder / "data"), "--log-level", "error", "--logger", "zap"]
    command += ["--listen-client-urls", url, "--advertise-client-urls", url, "--name", "one"]
    command += [
        "--listen-peer-urls",
        f"http://{ADDRESS}:{peer}",
        "--initial-advertise-peer-urls",
        f"http://{ADDRESS}:{peer}",
    ]
    command += ["--initial-cluster", f"one=http://{ADDRESS}:{peer}"]
    with _running(command, folder / "log", port):
        line = Line((ADDRESS, port))
        pace = threading.Event()
        for _ in range(int(ANSWERS_S / 0.05)):
            line.send(put("ready", "yes"))
            if line.receive()[0] == 200:
                break
            pace.wait(0.05)
        line.close()
        yield url


@contextlib.contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        pace = threading.Event()
        for _ in range(int(ANSWERS_S / 0.02)):
            with contextlib.suppress(OSError), socket.create_connection((ADDRESS, port)):
                break
            if process.poll() is not None:
                raise Refused(f"{command[0]} ended:\n{log.read_text()[-1000:]}")
            pace.wait(0.02)
        else:
            raise Refused(f"{command[0]} did not answer in {ANSWERS_S:g} s")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


# ---- etcd's gateway: bytes are base64, 64-bit numbers are strings


def text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def put(key: str, value: str) -> bytes:
    return request("POST", "/v3/kv/put", {"key": text(key), "value": text(value)})


def take_and_give() -> list[bytes]:
    """Two transactions on one key, as a lock of one's own making would be: create it if it is not there, delete it."""
    key = text("own")
    free = {"key": key, "result": "EQUAL", "target": "CREATE", "create_revision": "0"}
    create = {"compare": [free], "success": [{"request_put": {"key": key, "value": text("x" * 100)}}]}
    delete = {"success": [{"request_delete_range": {"key": key}}]}
    return [request("POST", "/v3/kv/txn", create), request("POST", "/v3/kv/txn", delete)]


def keep_alive(lease: str) -> bytes:
    return request("POST", "/v3/lease/keepalive", {"ID": lease})


def grant(line: Line, ttl_s: int = 3600) -> str:
    """Return the id of a new etcd lease."""
    return str(line.ask(request("POST", "/v3/lease/grant", {"TTL": str(ttl_s)}))["ID"])


def lock(lease: str) -> bytes:
    return request("POST", "/v3/lock/lock", {"name": text("gpu"), "lease": lease})


def unlock(key: str) -> bytes:
    return request("POST", "/v3/lock/unlock", {"key": key})
