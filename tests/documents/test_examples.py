"""The example stacks are right, and the README shows the very healthchecks that they have."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PrivateEngine
from tests.documents.reader import Reader
from tests.documents.snippets import snippets

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: The supervisor's own compose file carries no labels: it is no target.
STACKS = sorted(path for path in (ROOT / "examples").glob("*.yml") if path.name != "supervisor.yml")
HEALTHCHECKS = [it for it in snippets(README) if it.role == "healthcheck"]

pytestmark = pytest.mark.engine


def composed(*files: Path) -> dict[str, Any]:
    """What Compose makes of compose files."""
    named = [argument for file in files for argument in ("-f", str(file))]
    done = subprocess.run(
        ["docker", "compose", *named, "config", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return dict(json.loads(done.stdout)["services"])


@pytest.mark.parametrize("file", STACKS, ids=lambda file: file.stem)
def test_an_example_is_a_target_without_a_warning_and_check_says_what_to_type(run: Any, file: Path) -> None:
    status, out, _ = run("check", str(file), "--json")
    report = json.loads(out)

    assert (status, report["problems"]) == (0, [])
    assert [target["name"] for target in report["targets"]] == [file.stem], "called like its file"
    assert report["next_command"] == f"docker compose -f {file} create && gpu-supervisor acquire {file.stem}"


@pytest.mark.parametrize("file", STACKS, ids=lambda file: file.stem)
def test_an_example_asks_docker_for_a_gpu_and_leaves_starting_to_the_lease(file: Path) -> None:
    services = composed(file)
    labelled = {name: service for name, service in services.items() if "gpu.target" in service.get("labels", {})}
    masters = [service for service in labelled.values() if service["labels"].get("gpu.healthcheck-master") == "true"]

    assert all(service["restart"] == "no" for service in labelled.values())
    assert len(masters) == 1
    (device,) = masters[0]["deploy"]["resources"]["reservations"]["devices"]
    assert "gpu" in device["capabilities"]
    # A job has no server that loads for a while; it is ready as soon as it runs.
    assert "start_period" in masters[0]["healthcheck"] or file.stem == "training"


def test_examples_that_share_a_gpu_agree_on_it() -> None:
    labels = {file.stem: [service.get("labels", {}) for service in composed(file).values()] for file in STACKS}
    shares = {
        (name, other.strip())
        for name, services in labels.items()
        for own in services
        for other in own.get("gpu.coexist-with", "").split(",")
        if other
    }

    assert {("whisper", "ollama"), ("whisper", "studio")} <= shares
    assert shares == {(other, name) for name, other in shares}, "one side alone has no effect"


def test_the_readme_links_to_every_example() -> None:
    for file in STACKS:
        assert f"](examples/{file.name})" in README, file.name


@pytest.mark.parametrize("snippet", HEALTHCHECKS, ids=lambda snippet: snippet.name)
def test_a_healthcheck_of_the_readme_is_the_one_of_its_example(snippet: Any, tmp_path: Path) -> None:
    indented = textwrap.indent(snippet.text, " " * 6)
    file = tmp_path / "compose.yaml"
    file.write_text(f"services:\n  it:\n    image: it\n    healthcheck:\n{indented}")

    example = composed(ROOT / "examples" / f"{snippet.name}.yml")[snippet.name]

    assert composed(file)["it"]["healthcheck"] == example["healthcheck"]


def test_every_image_without_a_healthcheck_of_its_own_has_one_in_the_readme() -> None:
    assert {it.name for it in HEALTHCHECKS} == {"ollama", "vllm", "comfyui", "whisper", "training"}


@pytest.mark.usefixtures("curl")
def test_what_check_says_to_type_next_leases_the_target(
    private_engine: PrivateEngine, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    (tmp_path / "stack.yaml").write_text(
        "services: {it: {image: 'local/busybox:1', command: [sleep, '99'], network_mode: none, stop_signal: KILL, "
        "labels: {gpu.target: it, gpu.healthcheck-master: true}, healthcheck: {test: [CMD, 'true'], interval: 200ms}}}"
    )
    environment = {
        "DOCKER_HOST": private_engine.url,
        "GPU_SUPERVISOR_PORT": str(port),
        "GPU_SUPERVISOR_URL": f"http://127.0.0.1:{port}",
        "GPU_SUPERVISOR_DATA_DIR": str(tmp_path / "data"),
        "GPU_SUPERVISOR_GPUS": "sim:1x24576",
    }
    with Reader(tmp_path, environment) as reader:
        reader.type("gpu-supervisor serve >log 2>&1 &")
        reader.type("until curl -sf localhost:$GPU_SUPERVISOR_PORT/readyz; do sleep 0.1; done")
        _, shown = reader.type("gpu-supervisor check stack.yaml")
        prefix, _, command = shown[-1].partition(": ")
        assert prefix == "next"

        reader.type(f"({command}) >said 2>&1 &")
        status, shown = reader.type("until grep -q 'it is ready' said; do sleep 0.1; done; cat said", within_s=20)

        assert status == 0
        assert any(line.startswith("it is ready: lease ") for line in shown)
