"""The README is typed by a reader: every command of it, on a real engine, and what it shows has the promised shape.

What stands for a GPU machine is in ``conftest`` (stand-in images) and in ``OVERRIDE``; the text itself is changed
nowhere but by each session's ``rewrites``.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from supervisor.check import check_files
from tests.conftest import IMAGE, PROJECT_LABEL, PrivateEngine
from tests.documents.conftest import python_mounts
from tests.documents.reader import Reader
from tests.documents.snippets import Snippet, snippets

ROOT = Path(__file__).parents[2]
SNIPPETS = snippets((ROOT / "README.md").read_text(encoding="utf-8"))

#: Blocks that no test runs, each by its name in the README.
NOT_RUN = {
    "the two commands": "this is one of them, and tests/cli/test_quickstart.py runs the other",
    "install": "a package registry would be asked; tests/documents/test_documents.py builds and looks into the wheel",
    "the unit": "it installs into the machine; tests/packaging holds the unit to systemd's own reading",
    "the image": "a build asks a registry for Python; tests/packaging builds and runs it without a network",
    "the proxies": "the same, and HAProxy's image; tests/packaging runs the supervisor behind both configurations",
    "a bare lease around a training script": "train.py is the reader's; tests/cli/test_acquire.py does the same",
    "what readyz says of it": "it depends on the machine; tests/e2e/test_how_it_kills.py asks where it can be armed",
    "the lines for root": "systemd reads them; tests/cgroups/test_ending.py kills with these two capabilities alone",
    "a scrape": "it is Prometheus's own configuration; tests/metrics reads the page as Prometheus does",
    "a hook": "its receiver is the reader's; tests/hooks reads it as settings, and delivers to real receivers",
    "gpurun around a training script": "the same; tests/gpurun runs it in a real shell and against a real supervisor",
    "a shim": "it installs into the reader's home; tests/gpurun/test_shim.py does it in another",
    "labels for a service of yours": "the service is the reader's; `check` reads its labels in a test below",
}

#: Compose merges this by itself: no GPU is asked for, no port is opened, and a probe comes sooner.
OVERRIDE = """\
services:
  {service}:
    network_mode: none
    ports: !reset []
    deploy: !reset null
    healthcheck: {{ interval: 200ms }}
"""
#: The same for a client: an image without Python gets this machine's.
WORKER = """\
services:
  worker:
    image: local/busybox:1
    volumes: [{mounts}]
    environment:
      PATH: {prefix}/bin:/bin
      LD_LIBRARY_PATH: {prefix}/lib
    {network}
"""


def session(name: str) -> list[Snippet]:
    return [
        it
        for it in SNIPPETS
        if it.session == name and it.language != "text" and it.role not in {"not run", "healthcheck"}
    ]


def stacks_of_the_guide(folder: Path, *services: str) -> None:
    for service in services:
        (folder / service).mkdir(parents=True, exist_ok=True)
        (folder / service / "compose.override.yaml").write_text(OVERRIDE.format(service=service))
    shutil.copy(ROOT / "examples" / "client.py", folder)


def worker(folder: Path, network: str = "") -> None:
    (folder / "worker").mkdir()
    mounts = ", ".join(f'"{mount}"' for mount in python_mounts())
    text = WORKER.format(mounts=mounts, prefix=sys.base_prefix, network=network)
    (folder / "worker" / "compose.override.yaml").write_text(text)


# ---- nothing is passed over


def test_every_block_is_run_checked_or_listed_with_the_reason_why_it_is_not() -> None:
    fences = (ROOT / "README.md").read_text(encoding="utf-8").count("```")
    kinds = {
        "run": [it for name in SESSIONS for it in session(name)],
        "healthcheck": [it for it in SNIPPETS if it.role == "healthcheck"],
        "not run": [it for it in SNIPPETS if it.role == "not run"],
        "picture": [it for it in SNIPPETS if it.language == "text"],
    }

    assert sum(len(found) for found in kinds.values()) == len(SNIPPETS) == fences / 2
    assert sorted(it.name for it in kinds["not run"]) == sorted(NOT_RUN)
    assert len(kinds["run"]) >= 25


def test_the_labels_in_it_are_labels(tmp_path: Path):
    (block,) = (it for it in SNIPPETS if it.name == "labels for a service of yours")
    service = f"image: {IMAGE}\nhealthcheck: {{ test: [CMD, 'true'] }}\n{block.text}"
    file = tmp_path / "compose.yaml"
    file.write_text("services:\n  whisper:\n" + textwrap.indent(service, "    "))

    report = check_files([file])

    assert ([target.name for target in report.targets], report.ok) == (["whisper"], True), report.problems


SESSIONS = ("guide", "socket", "host name", "keys")


# ---- the sessions


@pytest.mark.engine
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("curl")
def test_the_guide_and_the_api_by_example_show_what_they_promise(
    stocked_engine: PrivateEngine, folder: Path, free_port: Callable[[], int]
) -> None:
    stacks_of_the_guide(folder, "ollama", "whisper")
    port = free_port()
    environment = {
        "DOCKER_HOST": stocked_engine.url,
        "GPU_SUPERVISOR_PORT": str(port),
        "GPU_SUPERVISOR_URL": f"http://127.0.0.1:{port}",
        "GPU_SUPERVISOR_DATA_DIR": str(folder / ".data"),
        "GPU_SUPERVISOR_GPUS": "sim:1x24576",
    }
    with Reader(folder, environment, rewrites=[("localhost:8080", f"localhost:{port}")]) as reader:
        for snippet in session("guide"):
            reader.follow(snippet)


@pytest.mark.engine
def test_a_container_is_a_client_over_the_mounted_socket(
    stocked_engine: PrivateEngine, folder: Path, free_port: Callable[[], int]
) -> None:
    stacks_of_the_guide(folder, "ollama")
    worker(folder, network="network_mode: none")
    environment = {
        "DOCKER_HOST": stocked_engine.url,
        "GPU_SUPERVISOR_PORT": str(free_port()),
        "GPU_SUPERVISOR_DATA_DIR": str(folder / ".data"),
        "GPU_SUPERVISOR_GPUS": "sim:1x24576",
    }
    with Reader(folder, environment, rewrites=[("/run/gpu-supervisor", str(folder / "run"))]) as reader:
        reader.follow(next(it for it in SNIPPETS if it.name == "ollama/compose.yaml"))
        assert reader.type("(cd ollama && docker compose create)")[0] == 0
        for snippet in session("socket"):
            reader.follow(snippet)


@pytest.mark.engine
@pytest.mark.usefixtures("curl")
def test_keys_close_the_supervisor_and_open_it_to_who_has_one(
    private_engine: PrivateEngine, folder: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    environment = {
        "DOCKER_HOST": private_engine.url,
        "GPU_SUPERVISOR_PORT": str(port),
        "GPU_SUPERVISOR_DATA_DIR": str(folder / ".data"),
        "GPU_SUPERVISOR_GPUS": "sim:1x24576",
    }
    with Reader(folder, environment, rewrites=[("localhost:8080", f"localhost:{port}")]) as reader:
        for snippet in session("keys"):
            reader.follow(snippet)


@pytest.mark.engine
def test_a_container_is_a_client_over_an_allowed_host_name(
    make_stack: Callable[..., Any],
    label_prefix: str,
    engine_url: str,
    api: docker.APIClient,
    unique: str,
    folder: Path,
    free_port: Callable[[], int],
) -> None:
    """On the shared engine, because this needs a real network: so its labels and its target have other names."""
    stack = make_stack("single")
    worker(folder)
    shutil.copy(ROOT / "examples" / "client.py", folder)
    gateway = api.inspect_network("bridge")["IPAM"]["Config"][0].get("Gateway", "172.17.0.1")
    port = free_port()
    environment = {
        "DOCKER_HOST": engine_url,
        "COMPOSE_PROJECT_NAME": f"{unique}-worker",
        "GPU_SUPERVISOR_PORT": str(port),
        "GPU_SUPERVISOR_DATA_DIR": str(folder / ".data"),
        "GPU_SUPERVISOR_GPUS": "sim:1x24576",
        "GPU_SUPERVISOR_LABEL_PREFIX": label_prefix,
    }
    rewrites = [("172.17.0.1", gateway), (":8080", f":{port}"), ("ollama", stack.target)]
    with Reader(folder, environment, rewrites) as reader:
        try:
            for snippet in session("host name"):
                reader.follow(snippet)
            _, refused = reader.type(
                f"docker compose run --rm worker wget -qO- --header 'Host: evil.example' http://{gateway}:{port}/healthz"
            )
            assert "403" in " ".join(refused), "another name is refused: " + " ".join(refused)
        finally:
            reader.type("docker compose down --timeout 0")
    assert api.networks(filters={"label": f"{PROJECT_LABEL}={unique}-worker"}) == []
