"""The Containerfile, built without a network; and what it makes, beside a real engine, alone and behind the proxies.

On an engine of its own, which has no bridge: the containers use the host's network, as the Containerfile says.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from docker.utils.build import exclude_paths

from supervisor import __version__
from tests.conftest import IMAGE, PrivateEngine, Stack, until
from tests.packaging import images

ROOT = Path(__file__).parents[2]
BASE = "local/python:1"
#: The names in examples/supervisor.yml; on the private engine they are ours to give.
SUPERVISOR = "gpu-supervisor:latest"
HAPROXY = "haproxy:3.2-alpine"
#: As the official image: its user and its command.
HAPROXY_IMAGE_CHANGES = [
    "USER 99:99",
    'CMD ["/usr/sbin/haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]',
]
USER = 10001
SECOND_NS = 1_000_000_000

# The first test builds the image: an interpreter's files, thirty wheels, a virtual environment.
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def image(private_daemon: PrivateEngine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, built from what .dockerignore lets through of the checkout, and wheels of what is installed here."""
    context = tmp_path_factory.mktemp("context")
    for name in ("Containerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, context / name)
    shutil.copytree(ROOT / "supervisor", context / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
    images.wheels(context / "wheels", "gpu-supervisor", "setuptools")
    with private_daemon.api(timeout=180) as api:
        images.python_base(api, IMAGE, BASE)
        images.build(api, context, SUPERVISOR, base=BASE)
    return SUPERVISOR


@pytest.fixture
def engine(private_engine: PrivateEngine, image: str) -> Iterator[docker.APIClient]:
    with private_engine.api(timeout=60) as api:
        yield api


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Contained:
    """A container of the image with the engine's socket mounted, on a port of its own."""

    def __init__(
        self, api: docker.APIClient, engine: PrivateEngine, prefix: str, *, in_group: bool, **more: Any
    ) -> None:
        self.api, port = api, free_port()
        path = engine.url.removeprefix("unix://")
        gid = Path(path).stat().st_gid
        environment = {
            "GPU_SUPERVISOR_PORT": str(port),
            "GPU_SUPERVISOR_LABEL_PREFIX": prefix,
            "GPU_SUPERVISOR_GPUS": "sim:1x24576",
        }
        host = api.create_host_config(
            network_mode="host",
            pid_mode="host",
            binds=[f"{path}:/var/run/docker.sock"],
            group_add=[str(gid)] if in_group else [],
            read_only=True,
            cap_drop=["ALL"],
        )
        # Its own test of health, only more often.
        often = {"interval": SECOND_NS // 2, "timeout": 3 * SECOND_NS, "retries": 3}
        self.id = api.create_container(
            SUPERVISOR, host_config=host, environment=environment, healthcheck=often, **more
        )["Id"]
        api.start(self.id)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        until(self.answers, 30, f"an answer of the container: {self.log()}")

    def answers(self) -> bool:
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        return bytes(self.api.logs(self.id)).decode()

    def state(self) -> dict[str, Any]:
        return dict(self.api.inspect_container(self.id)["State"])

    def run(self, *command: str) -> tuple[int, str]:
        made = self.api.exec_create(self.id, list(command))["Id"]
        said = bytes(self.api.exec_start(made)).decode()
        return int(self.api.exec_inspect(made)["ExitCode"]), said

    def healthy(self) -> None:
        until(lambda: self.state()["Health"]["Status"] == "healthy", 20, f"health ({self.state()['Health']})")

    def in_sync(self) -> None:
        until(lambda: self.http.get("/readyz").status_code == 200, 20, f"being in sync: {self.log()}")


@pytest.fixture
def make_contained(
    engine: docker.APIClient, private_engine: PrivateEngine, label_prefix: str
) -> Iterator[Callable[..., Contained]]:
    made: list[Contained] = []

    def make(*, in_group: bool = True, **more: Any) -> Contained:
        made.append(Contained(engine, private_engine, label_prefix, in_group=in_group, **more))
        return made[-1]

    yield make
    for contained in made:
        contained.http.close()
        with contextlib.suppress(docker.errors.NotFound):
            engine.remove_container(contained.id, force=True, v=True)


@pytest.fixture
def target(private_engine: PrivateEngine, make_stack: Callable[..., Stack]) -> Stack:
    return make_stack("single", url=private_engine.url)


def container_of(stack: Stack) -> str:
    return stack.id("model")


def test_only_what_the_containerfile_copies_is_sent_to_the_builder():
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    sent = {Path(path) for path in exclude_paths(str(ROOT), patterns)}
    folders = {path.parts[0] for path in sent} - {".dockerignore", "wheels"}
    assert folders == {"LICENSE", "README.md", "pyproject.toml", "supervisor"}
    assert not any("__pycache__" in path.parts for path in sent)


# ---- alone


def test_the_image_becomes_healthy_leases_enforces_and_ends_in_time(
    make_contained: Callable[..., Contained], engine: docker.APIClient, target: Stack, make_stack: Callable[..., Stack]
):
    other = make_stack("single", url=target.url)
    supervisor = make_contained()
    supervisor.healthy()
    supervisor.in_sync()
    log = supervisor.log()
    assert f"gpu-supervisor {__version__} ready" in log
    assert "data in /var/lib/gpu-supervisor;" in log
    assert f"running in the container {supervisor.id[:12]}" in log
    status = Path(f"/proc/{supervisor.state()['Pid']}/status").read_text().splitlines()
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in status

    known = supervisor.http.get("/status").json()["services"]
    assert {target.target, other.target} <= known.keys()
    leased = supervisor.http.post("/acquire", json={"target": target.target, "owner": "ann"})
    assert leased.status_code == 200, leased.text
    intruder = container_of(other)
    engine.start(intruder)
    until(lambda: engine.inspect_container(intruder)["State"]["Status"] == "exited", 10, "the intruder's end")
    assert engine.inspect_container(container_of(target))["State"]["Status"] == "running"

    before = time.monotonic()
    engine.stop(supervisor.id, timeout=10)
    assert time.monotonic() - before < 2.0
    assert supervisor.state()["ExitCode"] == 0
    # What it promised lies in the volume, and its containers run on.
    engine.start(supervisor.id)
    until(supervisor.answers, 30, "an answer after the restart")
    supervisor.in_sync()
    token = leased.json()["lease_token"]
    assert supervisor.http.post("/release", json={"lease_token": token}).status_code == 200
    assert engine.inspect_container(container_of(target))["State"]["Status"] == "running"


def test_without_the_sockets_group_it_says_which_and_grants_nothing(make_contained: Callable[..., Contained]):
    supervisor = make_contained(in_group=False)
    assert supervisor.http.get("/readyz").status_code == 503
    until(lambda: "Permission denied" in supervisor.log(), 10, "the reason")
    assert f"this process (uid {USER}) may not use /var/run/docker.sock" in supervisor.log()
    # It is alive, and nothing that starts it again would help.
    supervisor.healthy()


def test_its_own_container_is_neither_judged_nor_a_target_that_it_stops(
    make_contained: Callable[..., Contained], label_prefix: str
):
    supervisor = make_contained(labels={f"{label_prefix}target": "itself"})
    supervisor.in_sync()
    until(lambda: 'labelled as part of the target "itself"' in supervisor.log(), 10, "the warning")
    assert supervisor.state()["Status"] == "running"


def test_the_healthcheck_costs_little_and_tells_a_supervisor_from_none(make_contained: Callable[..., Contained]):
    supervisor = make_contained()
    config = supervisor.api.inspect_container(supervisor.id)["Config"]
    kind, *command = config["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert supervisor.run(*command) == (0, "")
    status, said = supervisor.run("env", "GPU_SUPERVISOR_URL=http://127.0.0.1:1", *command)
    assert (status, "no supervisor answers" in said) == (1, True)


def test_the_image_has_the_base_and_little_more(engine: docker.APIClient, image: str):
    made = engine.inspect_image(image)
    assert images.size_mib(engine, image) - images.size_mib(engine, BASE) < 100
    assert made["Config"]["User"] == f"{USER}:{USER}"
    # Nothing runs through a shell: the base may have none.
    assert made["Config"]["Entrypoint"] == ["gpu-supervisor"]
    assert made["Config"]["Cmd"] == ["serve"]


# ---- examples/supervisor.yml


def test_the_gpu_of_the_compose_file_is_one_line_to_uncomment(
    private_engine: PrivateEngine, unique: str, tmp_path: Path
):
    text = (ROOT / "examples" / "supervisor.yml").read_text()
    (line,) = (line for line in text.splitlines() if line.strip().startswith("# deploy: "))
    file = tmp_path / "supervisor.yml"
    file.write_text(f"services:\n  supervisor:\n{line.replace('# ', '', 1)}\n")

    made = json.loads(compose(private_engine, unique, file, "config", "--format", "json"))

    (device,) = made["services"]["supervisor"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", -1, ["gpu"])


def compose(engine: PrivateEngine, project: str, override: Path, *arguments: str) -> str:
    path = engine.url.removeprefix("unix://")
    surroundings = {"DOCKER_HOST": engine.url, "DOCKER_SOCKET": path, "DOCKER_GID": str(Path(path).stat().st_gid)}
    files = ("-f", str(ROOT / "examples" / "supervisor.yml"), "-f", str(override))
    done = subprocess.run(
        ["docker", "compose", "--ansi", "never", "-p", project, *files, *arguments],
        env={**os.environ, **surroundings},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_compose_file_runs_it_behind_the_two_proxies(
    engine: docker.APIClient,
    private_engine: PrivateEngine,
    haproxy: str,
    unique: str,
    label_prefix: str,
    target: Stack,
    make_stack: Callable[..., Stack],
    tmp_path: Path,
):
    other = make_stack("single", url=target.url)
    images.program(engine, IMAGE, HAPROXY, Path(haproxy), HAPROXY_IMAGE_CHANGES)
    port, override = free_port(), tmp_path / "override.yml"
    ours = {
        "GPU_SUPERVISOR_PORT": str(port),
        "GPU_SUPERVISOR_LABEL_PREFIX": label_prefix,
        "GPU_SUPERVISOR_GPUS": "sim:1x24576",
    }
    # JSON is YAML. Only what keeps this test out of other tests' way, and its patience short.
    often = {"interval": "500ms"}
    override.write_text(json.dumps({"services": {"supervisor": {"environment": ours, "healthcheck": often}}}))
    try:
        compose(private_engine, unique, override, "up", "--detach", "--no-build", "--wait")
        ids = compose(private_engine, unique, override, "ps", "--quiet", "--no-trunc").split()
        seen = {
            item["Config"]["Labels"]["com.docker.compose.service"]: item for item in map(engine.inspect_container, ids)
        }
        assert {mount["Destination"] for mount in seen["supervisor"]["Mounts"]} == {
            "/var/lib/gpu-supervisor",
            "/run/read-proxy",
            "/run/write-proxy",
        }
        assert seen["supervisor"]["HostConfig"]["PidMode"] == "host", "pids of the driver are the host's"
        assert not seen["supervisor"]["HostConfig"]["DeviceRequests"], "it starts where there is no NVIDIA GPU"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            until(lambda: http.get("/readyz").status_code == 200, 20, "being in sync")
            leased = http.post("/acquire", json={"target": target.target, "owner": "ann"})
            assert leased.status_code == 200, leased.text
            intruder = container_of(other)
            engine.start(intruder)
            until(lambda: engine.inspect_container(intruder)["State"]["Status"] == "exited", 10, "the intruder's end")
        before = time.monotonic()
        compose(private_engine, unique, override, "stop")
        assert time.monotonic() - before < 8
        ended = {service: engine.inspect_container(item["Id"])["State"]["ExitCode"] for service, item in seen.items()}
        assert ended["supervisor"] == 0
        assert 137 not in ended.values()
    finally:
        compose(private_engine, unique, override, "down", "--volumes", "--timeout", "1")
