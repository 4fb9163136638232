"""Every way in which it goes wrong has a class, a sentence and a hint; and what people write is read strictly."""

from __future__ import annotations

import copy
import math
import pickle
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import supervisor.client
from supervisor.asking import Problem
from supervisor.client import REFUSALS, BadValue, Client, Refused, SupervisorError, Unreachable
from supervisor.client.refusals import refusal
from supervisor.client.wishes import wish_for
from supervisor.core.errors import CODES

# ---- problem codes


def test_every_problem_code_has_an_exception_class_and_every_class_a_code() -> None:
    assert REFUSALS.keys() == CODES.keys()


@pytest.mark.parametrize("code", CODES)
def test_a_problem_is_raised_as_the_class_of_its_code(code: str) -> None:
    status, retryable = CODES[code]
    kind = REFUSALS[code]
    fields = {"code": code, "detail": "so it is", "holder": "a", "type": "urn:x", "title": "x", "status": status}

    error = refusal(Problem("so it is", code, status, retryable, fields))

    assert type(error) is kind
    assert kind.__name__ == "".join(word.capitalize() for word in code.split("_"))
    assert getattr(supervisor.client, kind.__name__) is kind
    assert (error.code, error.detail, str(error), error.status) == (code, "so it is", "so it is", status)
    assert (error.retryable, error.context) == (retryable, {"holder": "a"})
    assert error.hint
    assert error.hint[0].islower() or error.hint.startswith(("`", "GPU"))
    assert not error.hint.endswith(".")
    assert kind.__doc__


def test_a_code_that_a_newer_server_has_is_a_refusal_like_others() -> None:
    error = refusal(Problem("the moon is full", "moon_full", 409, True, {}))

    assert (type(error), error.code, error.retryable) == (Refused, "moon_full", True)
    assert error.hint


def test_errors_travel_between_processes() -> None:
    error = refusal(Problem("busy", "gpu_busy", 409, True, {"owner": "ann"}))

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), again.args, again.context, again.hint) == (
            type(error),
            error.args,
            error.context,
            error.hint,
        )


def test_all_of_it_is_one_kind_of_error() -> None:
    for name in supervisor.client.__all__:
        value = getattr(supervisor.client, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, SupervisorError), name
    assert issubclass(BadValue, ValueError)


# ---- nobody, or somebody else, at the address


def test_what_answers_and_is_no_supervisor_is_said() -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<h1>It works!</h1>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.server_port}", retry_for=0)
        with pytest.raises(Unreachable, match=r"is no GPU supervisor \(HTTP 200, text/html\)") as caught:
            client.status()
        with pytest.raises(Unreachable, match="is no GPU supervisor"):
            next(client.events(after=0, reconnect_for=0))
        server.shutdown()
    assert "GPU_SUPERVISOR_URL" in caught.value.hint


def test_a_server_that_does_not_answer_in_time_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2, retry_for=0)
        with pytest.raises(Unreachable, match="did not answer in time") as caught:
            client.status()
    assert caught.value.asked


@pytest.mark.parametrize("url", ["ftp://here", "localhost:8080", "http://", "", "unix://relative"])
def test_an_address_that_is_none_is_said_before_anything_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadValue, match="is no address") as caught:
        Client(url)
    assert "unix:///path/to/socket" in caught.value.hint
    if url:
        monkeypatch.setenv("GPU_SUPERVISOR_URL", url)
        with pytest.raises(BadValue, match="GPU_SUPERVISOR_URL="):
            Client()


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_token_is_sent_as_bearer_and_shown_nowhere(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    class Noting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(401)
            self.send_header("Content-Type", "application/problem+json")
            self.end_headers()
            self.wfile.write(b'{"code": "unauthorized", "detail": "who are you", "status": 401, "retryable": false}')

        def log_message(self, *_: object) -> None:
            pass

    if how == "variable":
        monkeypatch.setenv("GPU_SUPERVISOR_TOKEN", "sesame")
    with HTTPServer(("127.0.0.1", 0), Noting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.server_port}", token="sesame" if how == "argument" else None)
        with pytest.raises(supervisor.client.Unauthorized, match="who are you") as caught:
            client.status()
        server.shutdown()

    assert seen == ["Bearer sesame"]
    assert "sesame" not in f"{client!r}{caught.value!r}{caught.value.hint}"
    assert "GPU_SUPERVISOR_TOKEN" in caught.value.hint


# ---- what people write


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"vram": "8"}, "vram: .* is not a size with its unit", id="a size without a unit"),
        pytest.param({"vram": 8}, "vram: .* is not a size with its unit", id="a number is no size"),
        pytest.param({"wait": "soon"}, "wait: .* is not a duration", id="no duration"),
        pytest.param({"wait": -1}, "wait: -1 is not a duration", id="before now"),
        pytest.param({"ttl": math.nan}, "ttl: nan is not a duration", id="not a number"),
        pytest.param({"ready_timeout": math.inf}, "ready_timeout: inf is not a duration", id="None says for ever"),
    ],
)
def test_a_value_that_cannot_be_read_is_said_at_once_with_what_to_write(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadValue, match=says) as caught:
        Client().lease(None, **options)
    assert caught.value.hint


def test_values_are_read_as_labels_are_and_rounded_up() -> None:
    wish = wish_for(None, ttl="1m30s", wait=0.2, ready_timeout="500ms", vram="1.5GiB", owner="ann")

    assert (wish.ttl_s, wish.wait_s, wish.ready_timeout_s, wish.vram_mib) == (90, 1, 1, 1_536)
    assert wish_for("a", wait=None).wait_s is None
    assert re.fullmatch(r".+@.+", wish_for("a").owner)


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="prio"):
        Client().lease("a", prio=5)  # type: ignore[call-arg]


# ---- the package


def test_only_what_it_is_for_is_listed() -> None:
    listed = dir(supervisor.client)

    assert listed == sorted(supervisor.client.__all__)
    assert all(hasattr(supervisor.client, name) for name in listed)


def test_it_loads_nothing_of_the_server_and_neither_trio_nor_docker() -> None:
    code = (
        "import sys, supervisor.client;"
        "print({'docker', 'starlette', 'uvicorn', 'uvloop', 'typer', 'trio', 'pynvml'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout == "set()\n"


def test_who_checks_types_strictly_is_told_them(tmp_path: Path) -> None:
    """``py.typed`` says so. reveal_type and wrong uses, in a project of one's own."""
    file = tmp_path / "mine.py"
    file.write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), file],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        cwd=tmp_path,
        env={"MYPYPATH": "", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(supervisor.__file__).parents[1])},
    )

    found = [re.sub(r"^mine\.py:\d+: ", "", line) for line in done.stdout.splitlines() if " error: " in line]
    assert found == [
        'error: Unexpected keyword argument "prio" for "lease" of "Client"  [call-arg]',
        'error: Argument 1 to "draw" has incompatible type "int"; expected "str"  [arg-type]',
    ], done.stdout + done.stderr


TYPED = """
from typing import assert_type
from supervisor.answers import Event, LeaseView, StatusView
from supervisor.client import AsyncClient, AsyncLease, Client, Lease, gpu

with Client() as client:
    assert_type(client.status(), StatusView)
    assert_type(client.status().leases, tuple[LeaseView, ...])
    with client.lease("comfyui", priority=5, wait=600) as lease:
        assert_type(lease, Lease)
        assert_type(lease.env(), dict[str, str])
    client.lease("comfyui", prio=5)
    for event in client.events():
        assert_type(event, Event)


@gpu("comfyui", wait="10m")
def draw(prompt: str) -> list[bytes]:
    return []


assert_type(draw("a cat"), list[bytes])
draw(1)


async def main(client: AsyncClient) -> None:
    async with client.lease("comfyui") as lease:
        assert_type(lease, AsyncLease)
    async for event in client.events():
        assert_type(event, Event)
"""
