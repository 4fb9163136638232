"""The image's healthcheck: where it looks, what it says, and how little it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import health
from tests.packaging.serving import Serving


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, ("127.0.0.1", 8080), id="where serve listens by default"),
        pytest.param({"PORT": "9000"}, ("127.0.0.1", 9000), id="the port that serve takes from the same variable"),
        pytest.param({"HOST": "0.0.0.0"}, ("127.0.0.1", 8080), id="everywhere is here too"),
        pytest.param({"HOST": "::"}, ("::1", 8080), id="everywhere over IPv6"),
        pytest.param({"HOST": "10.0.0.7"}, ("10.0.0.7", 8080), id="one address only"),
        pytest.param({"URL": "http://127.0.0.1:9000/", "PORT": "1"}, ("127.0.0.1", 9000), id="the URL is stronger"),
        pytest.param({"URL": "http://[::1]:9000"}, ("::1", 9000), id="IPv6 in a URL"),
        pytest.param({"URL": "http://localhost"}, ("localhost", 80), id="a URL without a port"),
        pytest.param({"URL": "unix:///run/socket"}, "/run/socket", id="a unix socket"),
    ],
)
def test_it_looks_where_serve_listens(environment: dict[str, str], expected: str | tuple[str, int]):
    assert health.where({f"GPU_SUPERVISOR_{key}": value for key, value in environment.items()}) == expected


@pytest.mark.parametrize(
    "environment", [{"URL": "https://box:443"}, {"URL": "http://box:port"}, {"PORT": "none"}], ids=str
)
def test_what_it_cannot_ask_is_no_health(environment: dict[str, str]):
    status, said = checked({f"GPU_SUPERVISOR_{key}": value for key, value in environment.items()})
    assert (status, said.startswith("no supervisor answers: ")) == (1, True)


def checked(environment: dict[str, str]) -> tuple[int, str]:
    command = [sys.executable, "-I", "-S", str(Path(health.__file__))]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_it_tells_a_supervisor_from_none_over_tcp_and_over_a_unix_socket(
    make_serving: Callable[..., Serving], tmp_path: Path
):
    path = tmp_path / "socket"
    serving = make_serving({}, "--socket", str(path))
    serving.until_ready()
    assert checked({"GPU_SUPERVISOR_URL": serving.url}) == (0, "")
    assert checked({"GPU_SUPERVISOR_URL": f"unix://{path}"}) == (0, "")
    assert serving.end() == 0
    assert checked({"GPU_SUPERVISOR_URL": serving.url})[0] == 1


def test_it_loads_nothing_of_the_project_and_nothing_heavy():
    script = f"import runpy, sys; runpy.run_path({health.__file__!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "socket" in loaded
    assert not {"supervisor", "asyncio", "http", "urllib", "json", "ssl"} & loaded
