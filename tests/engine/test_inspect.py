"""Inspect answers of every kind become containers; nothing a label says can do harm."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.model import Container, Dependency, Endpoint
from supervisor.engine import compose
from supervisor.engine.inspect import Inspected, to_container, to_wall_ms

WALL_MS = to_wall_ms("2026-01-01T00:01:00Z")
ID = "a" * 64


def read(answer: dict[str, Any], prefix: str = "gpu.") -> Container:
    return to_container(
        msgspec.json.decode(json.dumps({"Id": ID, "Name": "/box", **answer}), type=Inspected),
        prefix=prefix,
        wall_ms=WALL_MS,
    )


def test_an_answer_with_only_an_id_is_a_container_that_never_ran():
    assert read({}) == Container(id=ID, name="box", service="box", status="exited")


def test_a_full_answer_becomes_every_field():
    assert read(
        {
            "Created": "2026-01-01T00:00:10.25Z",
            "State": {
                "Status": "running",
                "Running": True,
                "ExitCode": 0,
                "StartedAt": "2026-01-01T00:00:59.123456789Z",
                "FinishedAt": "0001-01-01T00:00:00Z",
                "Health": {"Status": "starting", "Log": []},
            },
            "Config": {
                "Labels": {
                    "gpu.target": "comfy",
                    "gpu.healthcheck-master": "true",
                    "gpu.vram-mib": "8192",
                    "com.docker.compose.project": "art",
                    "com.docker.compose.service": "ui",
                    "com.docker.compose.container-number": "2",
                    "com.docker.compose.oneoff": "False",
                    "com.docker.compose.depends_on": "db:service_healthy:false",
                    "com.docker.compose.project.working_dir": "/srv/art",
                    "com.docker.compose.project.config_files": "/srv/art/compose.yml",
                },
                "StopTimeout": 30,
                "Healthcheck": {"Test": ["CMD", "true"]},
            },
            "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}, "AutoRemove": True},
            "NetworkSettings": {"Ports": {"8188/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8000"}]}},
        }
    ) == Container(
        id=ID,
        name="box",
        target="comfy",
        master=True,
        vram_mib=8192,
        project="art",
        service="ui",
        number=2,
        depends_on=(Dependency("db", "service_healthy"),),
        working_dir="/srv/art",
        config_files="/srv/art/compose.yml",
        status="running",
        health="starting",
        run="2026-01-01T00:00:59.123456789Z",
        started_wall_ms=to_wall_ms("2026-01-01T00:00:59.123Z"),
        created_wall_ms=to_wall_ms("2026-01-01T00:00:10.250Z"),
        age_ms=877,
        restart_policy="unless-stopped",
        stop_grace_s=30,
        auto_remove=True,
        healthcheck=True,
        endpoint=Endpoint("127.0.0.1", 8000),
    )


@pytest.mark.parametrize(
    ("state", "status"),
    [
        pytest.param({"Status": "restarting", "Running": True}, "restarting", id="a crash loop's usual state"),
        pytest.param({"Status": "stopping", "Running": True}, "running", id="podman: stopping still runs"),
        pytest.param({"Status": "stopped"}, "exited", id="podman: stopped"),
        pytest.param({"Status": "configured"}, "created", id="podman: configured"),
        pytest.param({"Status": "brand-new", "Running": True}, "running", id="unknown, but it runs"),
        pytest.param({"Status": "brand-new"}, "exited", id="unknown, and it does not run"),
    ],
)
def test_every_state_maps_to_one_of_dockers(state: dict[str, Any], status: str):
    assert read({"State": state}).status == status


@pytest.mark.parametrize(
    ("state", "age_ms"),
    [
        pytest.param({"Status": "running", "StartedAt": "2026-01-01T00:00:57Z"}, 3_000, id="runs: until now"),
        pytest.param(
            {"Status": "exited", "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "2026-01-01T00:00:02Z"},
            2_000,
            id="over: as long as it lasted",
        ),
        pytest.param(
            {"Status": "restarting", "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "2026-01-01T00:00:01Z"},
            1_000,
            id="restarting: its last run is over",
        ),
        pytest.param({"Status": "running", "StartedAt": "2027-01-01T00:00:00Z"}, 0, id="the clock was set back"),
        pytest.param({"Status": "created", "StartedAt": "0001-01-01T00:00:00Z"}, 0, id="never started"),
        pytest.param({"Status": "running", "StartedAt": "yesterday"}, 0, id="not a time"),
    ],
)
def test_the_age_of_a_run(state: dict[str, Any], age_ms: int):
    assert read({"State": state}).age_ms == age_ms


def test_a_container_that_never_ran_has_no_run():
    assert read({"State": {"StartedAt": "0001-01-01T00:00:00Z"}}).run == ""


@pytest.mark.parametrize(
    ("timeout", "grace_s"),
    [(None, 10), (0, 0), (300, 300), (-1, 3600), (10**9, 3600)],
    ids=["Docker's default", "at once", "as asked for", "for ever is an hour", "and so is an age"],
)
def test_the_stop_grace_is_the_containers_own_but_ends(timeout: int | None, grace_s: int):
    assert read({"Config": {"StopTimeout": timeout}}).stop_grace_s == grace_s


@pytest.mark.parametrize(
    ("test", "has_one"),
    [(None, False), ([], False), (["NONE"], False), (["CMD", "true"], True), (["CMD-SHELL", "true"], True)],
)
def test_a_healthcheck_is_one_that_probes(test: list[str] | None, has_one: bool):
    assert read({"Config": {"Healthcheck": {"Test": test}}}).healthcheck is has_one


@pytest.mark.parametrize(
    ("ports", "endpoint"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"80/tcp": None}, None, id="exposed, not published"),
        pytest.param({"80/udp": [{"HostIp": "", "HostPort": "80"}]}, None, id="not TCP"),
        pytest.param({"80/tcp": [{"HostIp": "::", "HostPort": "8080"}]}, Endpoint("127.0.0.1", 8080), id="any address"),
        pytest.param(
            {"80/tcp": [{"HostIp": "10.0.0.5", "HostPort": "81"}]}, Endpoint("10.0.0.5", 81), id="one address"
        ),
        pytest.param(
            {"8188/tcp": [{"HostIp": "", "HostPort": "2"}], "80/tcp": [{"HostIp": "", "HostPort": "1"}]},
            Endpoint("127.0.0.1", 1),
            id="the lowest, by number",
        ),
        pytest.param({"80/tcp": [{"HostIp": "", "HostPort": "8000-8010"}]}, None, id="a range is not settled yet"),
        pytest.param({"80/tcp": [{"HostIp": "", "HostPort": "99999"}]}, None, id="no port"),
    ],
)
def test_the_first_published_port_is_the_endpoint(ports: dict[str, Any], endpoint: Endpoint | None):
    assert read({"NetworkSettings": {"Ports": ports}}).endpoint == endpoint
    assert read({"HostConfig": {"PortBindings": ports}}).endpoint == endpoint


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        pytest.param("", [], id="none"),
        pytest.param("db", [("db", "service_started")], id="early releases: the bare name"),
        pytest.param("db:service_healthy", [("db", "service_healthy")], id="without restart"),
        pytest.param(
            "llm:service_completed_successfully:true,db:service_started:false",
            [("db", "service_started"), ("llm", "service_completed_successfully")],
            id="today, in an order of its own",
        ),
        pytest.param("db:service_dreamt:false", [("db", "service_started")], id="an unknown condition"),
        pytest.param(" db , ,:service_healthy:", [("db", "service_started")], id="gaps"),
        pytest.param("db:service_healthy,db", [("db", "service_healthy")], id="twice"),
    ],
)
def test_depends_on_in_every_form_that_compose_has_written(raw: str, found: list[tuple[str, str]]):
    assert [(entry.service, entry.condition) for entry in compose.dependencies(raw)] == found


@pytest.mark.parametrize(
    ("label", "value", "field", "expected"),
    [
        ("container-number", "", "number", 1),
        ("container-number", "-3", "number", 1),
        ("container-number", "٣", "number", 1),
        ("container-number", "9" * 5000, "number", 1),
        ("container-number", "7", "number", 7),
        ("oneoff", "True", "one_off", True),
        ("oneoff", "False", "one_off", False),
        ("oneoff", "yes\x1b[31m", "one_off", False),
        ("replace", "", "replaces", None),
        ("replace", "old-name", "replaces", "old-name"),
    ],
)
def test_compose_labels_are_read_or_ignored(label: str, value: str, field: str, expected: object):
    labels = {"com.docker.compose.project": "p", f"com.docker.compose.{label}": value}
    assert getattr(compose.read(labels), field) == expected


def test_compose_labels_without_a_project_mean_nothing():
    labels = {"com.docker.compose.service": "s", "com.docker.compose.oneoff": "True"}
    assert compose.read(labels) == compose.ComposeLabels()


def test_the_prefix_is_one_setting():
    labels = {"lab.target": "mine", "gpu.target": "theirs"}
    assert read({"Config": {"Labels": labels}}, prefix="lab.").target == "mine"


NAMES = st.sampled_from(
    ["gpu.target", "gpu.vram-mib", "gpu.priority", "gpu.healthcheck-master", "gpu.unknown"]
    + [f"com.docker.compose.{name}" for name in ("project", "service", "container-number", "oneoff", "depends_on")]
)


@settings(max_examples=300, deadline=None)
@given(labels=st.dictionaries(NAMES | st.text(), st.text() | st.just("9" * 6000), max_size=8))
def test_no_label_set_crashes_anything_or_changes_what_the_engine_says(labels: dict[str, str]):
    seen = read({"State": {"Status": "running", "ExitCode": 3}, "Config": {"Labels": labels}})

    assert (seen.id, seen.name, seen.status, seen.exit_code) == (ID, "box", "running", 3)
