"""The socket proxies of examples/supervisor.yml, as a real haproxy before a real engine: what gets through."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from supervisor.engine import READ_ENDPOINTS, WRITE_ENDPOINTS
from tests.conftest import IMAGE, Stack, until
from tests.packaging.conftest import Proxy, proxies_for
from tests.packaging.serving import Serving

EXAMPLES = Path(__file__).parents[2] / "examples"
NOBODY = "0" * 64
FORBIDDEN = 403


def ask(url: str, request: str, body: bytes = b"", *, chunked: bool = False) -> tuple[int, str]:
    """Send ``METHOD /path`` exactly as it is written, and return the status and the body of the answer."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    kind = "Content-Type: application/json\r\n" if body else ""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(url.removeprefix("unix://"))
        sock.sendall(f"{request} HTTP/1.1\r\nHost: docker\r\n{kind}{length}\r\n\r\n".encode() + sent)
        response = http.client.HTTPResponse(sock, method=request.partition(" ")[0])
        response.begin()
        return response.status, "" if "/events" in request else response.read().decode(errors="replace")


@pytest.fixture(scope="module")
def proxies(haproxy: str, engine_url: str) -> Iterator[dict[str, Proxy]]:
    """Both, for tests that leave them as they are."""
    with proxies_for(haproxy) as make:
        yield {half: make(half, engine_url) for half in ("read", "write")}


@pytest.fixture
def victim(api: docker.APIClient, unique: str) -> str:
    """A created container that nobody has started."""
    host = api.create_host_config(network_mode="none")
    return str(api.create_container(IMAGE, ["sleep", "60"], name=f"{unique}-victim", host_config=host)["Id"])


# ---- the list


@pytest.mark.parametrize("version", ["", "/v1.41"])
@pytest.mark.parametrize("endpoint", READ_ENDPOINTS)
def test_the_reading_proxy_lets_through_what_the_supervisor_reads(
    proxies: dict[str, Proxy], victim: str, endpoint: str, version: str
):
    method, path = endpoint.replace("{id}", victim).split(" ")
    query = "?stdout=1&tail=20" if path.endswith("/logs") else ""
    assert ask(proxies["read"].url, f"{method} {version}{path}{query}")[0] == 200
    assert ask(proxies["write"].url, f"{method} {version}{path}{query}")[0] == FORBIDDEN


@pytest.mark.parametrize("endpoint", WRITE_ENDPOINTS)
def test_the_writing_proxy_lets_through_what_the_supervisor_does(proxies: dict[str, Proxy], endpoint: str):
    request = f"POST /v1.41{endpoint.removeprefix('POST ').replace('{id}', NOBODY)}"
    status, body = ask(proxies["write"].url, request)
    assert (status, f"No such container: {NOBODY}" in json.loads(body)["message"]) == (404, True)
    assert ask(proxies["read"].url, request)[0] == FORBIDDEN


@pytest.mark.parametrize("half", ["read", "write"])
@pytest.mark.parametrize(
    "request_",
    [
        "POST /v1.41/containers/create",
        "POST /containers/create?name=x",
        f"DELETE /v1.41/containers/{NOBODY}",
        f"POST /v1.41/containers/{NOBODY}/exec",
        f"POST /v1.41/exec/{NOBODY}/start",
        f"POST /v1.41/containers/{NOBODY}/update",
        f"POST /v1.41/containers/{NOBODY}/rename?name=x",
        f"POST /v1.41/containers/{NOBODY}/restart",
        f"POST /v1.41/containers/{NOBODY}/pause",
        f"POST /v1.41/containers/{NOBODY}/attach?stream=1",
        f"GET /v1.41/containers/{NOBODY}/attach/ws",
        f"PUT /v1.41/containers/{NOBODY}/archive?path=/",
        f"GET /v1.41/containers/{NOBODY}/archive?path=/etc/passwd",
        f"GET /v1.41/containers/{NOBODY}/export",
        f"GET /v1.41/containers/{NOBODY}/top",
        f"HEAD /v1.41/containers/{NOBODY}/json",
        "GET /v1.41/images/json",
        "POST /v1.41/images/create?fromImage=x",
        "POST /v1.41/build",
        "GET /v1.41/info",
        "GET /v1.41/volumes",
        "POST /v1.41/volumes/create",
        "GET /v1.41/networks",
        "GET /v1.41/secrets",
        "POST /v1.41/swarm/init",
        "GET /v1.41/plugins",
        "POST /session",
        "POST /grpc",
        # What the engine's router might read as something that is allowed, or the other way round.
        f"POST /v1.41/containers/{NOBODY}/start/../exec",
        f"POST /v1.41/containers/{NOBODY}%2fstart",
        "POST /v1.41/containers/a-name/start",
        f"POST //v1.41/containers/{NOBODY}/start",
        f"POST /v1.41/containers/{NOBODY}/start?checkpoint=x&checkpoint-dir=/",
        f"POST /v1.41/containers/{NOBODY}/kill?signal=STOP",
        f"POST /v1.41/containers/{NOBODY}/stop?t=1&signal=9",
        f"GET /v1.41/containers/{NOBODY}/start",
        f"POST /containers/{NOBODY}/start",
        "GET /v1.41/containers/../images/json",
        "GET /v1.41/containers/json/../../images/json",
        "POST /v1.41/events",
        "GET /",
    ],
)
def test_everything_else_is_refused_by_both(proxies: dict[str, Proxy], half: str, request_: str):
    assert ask(proxies[half].url, request_)[0] == FORBIDDEN


def test_a_refusal_says_who_refused_and_is_logged(proxies: dict[str, Proxy]):
    _, body = ask(proxies["read"].url, "GET /v1.41/images/json")
    assert "socket proxy" in json.loads(body)["message"]
    until(lambda: "403 GET /v1.41/images/json" in proxies["read"].log, 5, "the log line")


# ---- a body

#: A folder of the host in the container; "Privileged" is taken in the same way.
MOUNTS = json.dumps({"Binds": ["/usr:/taken:ro"], "NetworkMode": "none"}).encode()


def mounts(api: docker.APIClient, container_id: str) -> list[str]:
    return list(api.inspect_container(container_id)["HostConfig"]["Binds"] or [])


def test_an_old_start_takes_the_containers_mounts_from_its_body(api: docker.APIClient, engine_url: str, victim: str):
    """The fact that the next test guards against; newer engines speak no version that old."""
    oldest = tuple(map(int, api.version()["MinAPIVersion"].split(".")))
    status, _ = ask(engine_url, f"POST /v1.23/containers/{victim}/start", MOUNTS)
    expected = (204, ["/usr:/taken:ro"]) if oldest < (1, 24) else (400, [])
    assert (status, mounts(api, victim)) == expected


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
@pytest.mark.parametrize("version", ["1.23", "1.41"])
def test_the_writing_proxy_takes_no_body_in_any_version(
    proxies: dict[str, Proxy], api: docker.APIClient, victim: str, version: str, chunked: bool
):
    request = f"POST /v{version}/containers/{victim}/start"
    assert ask(proxies["write"].url, request, MOUNTS, chunked=chunked)[0] == FORBIDDEN
    assert (state_of(api, victim)["Status"], mounts(api, victim)) == ("created", [])


# ---- the supervisor behind them


def behind(make_serving: Callable[..., Serving], proxies: dict[str, Proxy], prefix: str) -> Serving:
    flags = ("--docker-write-host", proxies["write"].url, "--label-prefix", prefix)
    serving = make_serving({}, *flags, engine=proxies["read"].url)
    serving.until_ready()
    until(lambda: serving.get("/readyz").status_code == 200, 20, "being in sync")
    return serving


def refusals(proxies: dict[str, Proxy]) -> list[str]:
    return [line for half in proxies.values() for line in half.log if line.startswith("403")]


def state_of(api: docker.APIClient, container_id: str) -> dict[str, Any]:
    return dict(api.inspect_container(container_id)["State"])


def test_the_supervisor_leases_enforces_and_reads_logs_through_the_proxies(
    proxies: dict[str, Proxy],
    api: docker.APIClient,
    make_serving: Callable[..., Serving],
    make_stack: Callable[..., Stack],
    label_prefix: str,
):
    refused_before = refusals(proxies)
    leased, other = make_stack("single"), make_stack("single")
    serving = behind(make_serving, proxies, label_prefix)
    until(lambda: {leased.target, other.target} <= serving.get("/status").json()["services"].keys(), 10, "the targets")

    answer = serving.post("/acquire", target=leased.target, owner="ann")
    assert answer.status_code == 200, answer.text
    model = leased.compose("ps --all --no-trunc --quiet").split()[0]
    assert state_of(api, model)["Status"] == "running"
    assert "logs_tail" in serving.get("/status").json()["service"]

    intruder = other.compose("ps --all --no-trunc --quiet").split()[0]
    api.start(intruder)
    until(lambda: state_of(api, intruder)["Status"] == "exited", 10, "the end of what started without a lease")
    assert state_of(api, intruder)["ExitCode"] == 137

    serving.post("/release", lease_token=answer.json()["lease_token"])
    handed_over = serving.post("/acquire", target=other.target, owner="bob")
    assert handed_over.status_code == 200, handed_over.text
    assert state_of(api, model)["Status"] == "exited"
    assert refusals(proxies) == refused_before


def test_a_quiet_event_stream_is_cut_by_no_time_limit_of_the_proxy(haproxy: str):
    """The watchdog pings every 2 s on a connection of its own; the stream may be silent for days."""
    text = (EXAMPLES / "proxies" / "read.cfg").read_text()
    limits = dict(line.split()[1:3] for line in text.splitlines() if line.strip().startswith("timeout "))
    assert limits["client"] == limits["server"] == "24d"


def test_a_proxy_without_an_engine_ends_the_connection_and_answers_nothing_in_its_name(
    make_proxy: Callable[[str, str], Proxy], make_serving: Callable[..., Serving], tmp_path: Path
):
    proxy = make_proxy("read", f"unix://{tmp_path}/nothing.sock")
    serving = make_serving({}, engine=proxy.url)
    serving.until_ready()
    assert "the engine cannot be reached" in serving.get("/readyz").text


def test_a_supervisor_survives_its_reading_proxy(
    make_proxy: Callable[[str, str], Proxy], engine_url: str, make_serving: Callable[..., Serving], label_prefix: str
):
    proxies = {half: make_proxy(half, engine_url) for half in ("read", "write")}
    serving = behind(make_serving, proxies, label_prefix)
    proxies["read"].close()
    until(lambda: serving.get("/readyz").status_code == 503, 10, "noticing the loss")
    make_proxy("read", engine_url)
    until(lambda: serving.get("/readyz").status_code == 200, 20, "being in sync again")


def test_stopping_a_proxy_does_not_wait_for_the_event_stream(
    make_proxy: Callable[[str, str], Proxy], engine_url: str, make_serving: Callable[..., Serving], label_prefix: str
):
    proxies = {half: make_proxy(half, engine_url) for half in ("read", "write")}
    behind(make_serving, proxies, label_prefix)
    proxies["read"].process.terminate()
    proxies["read"].process.wait(3)


# ---- the compose file


def config(**environment: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "compose", "-f", str(EXAMPLES / "supervisor.yml"), "config", "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_compose_understands_the_file_and_nothing_in_it_has_more_than_it_needs(engine_url: str):
    done = config(DOCKER_GID="998")
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    for service in services.values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert not any(label.startswith("gpu.") for label in service.get("labels", {}))
    mounted = {name: {volume["source"] for volume in service["volumes"]} for name, service in services.items()}
    assert mounted["supervisor"] == {"data", "read-proxy", "write-proxy"}
    for half in ("read", "write"):
        proxy = f"{half}-proxy"
        assert mounted[proxy] == {str(EXAMPLES / f"proxies/{half}.cfg"), "/var/run/docker.sock", proxy}
        assert services[proxy]["network_mode"] == "none"


def test_without_the_sockets_group_compose_says_how_to_find_it(engine_url: str):
    done = config(DOCKER_GID="")
    assert done.returncode != 0
    assert "stat -c %g" in done.stderr
