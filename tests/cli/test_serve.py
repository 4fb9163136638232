"""``serve`` as a process: one that cannot serve anybody touches nothing."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


def test_who_cannot_listen_never_speaks_to_the_engine(spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as engine, socket.create_server(("127.0.0.1", 0)) as other:
        engine.bind(str(tmp_path / "docker.sock"))
        engine.listen()
        engine.setblocking(False)
        port = other.getsockname()[1]
        flags = ["--port", str(port), "--docker-host", f"unix://{tmp_path}/docker.sock", "--gpus", "sim:1x24576"]
        process = spawn(["serve", *flags, "--data-dir", str(tmp_path / "data")])
        out, err = process.communicate(timeout=30)

        assert (process.returncode, out) == (1, "")
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in err
        with pytest.raises(BlockingIOError):
            engine.accept()
