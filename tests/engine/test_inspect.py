"""Inspect answers of every kind become containers; nothing a label says can do harm."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.labels import LABELS, PREFIX
from supervisor.core.model import Container, Dependency, Endpoint, Sharing
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


# ---- GPUs


def uses(answer: dict[str, Any]) -> tuple[tuple[str, ...], bool, int]:
    seen = read(answer)
    return (seen.devices, seen.all_devices, seen.device_count)


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        pytest.param(None, ((), False, 0), id="none: any GPU"),
        pytest.param(
            [{"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}],
            ((), True, 0),
            id="--gpus all",
        ),
        pytest.param([{"Driver": "", "Count": 2, "Capabilities": [["gpu"]]}], ((), False, 2), id="--gpus 2"),
        pytest.param(
            [{"Driver": "nvidia", "Count": 0, "DeviceIDs": ["1", "GPU-5e2f1c3a"], "Capabilities": [["gpu"]]}],
            (("1", "GPU-5e2f1c3a"), False, 0),
            id="--gpus device=",
        ),
        pytest.param(
            [{"Count": -1, "Capabilities": [["tpu"], None, ["other", "gpu"]]}], ((), True, 0), id="one of several sets"
        ),
        pytest.param(
            [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"], "Capabilities": None}], ((), True, 0), id="CDI"
        ),
    ],
)
def test_device_requests_say_which_gpus_a_container_uses(requests: object, expected: object):
    assert uses({"HostConfig": {"DeviceRequests": requests}}) == expected


def test_a_cdi_name_among_the_device_files_is_a_gpu_too():
    paths = [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse"}, {"PathOnHost": "nvidia.com/gpu=1"}]

    assert uses({"HostConfig": {"Devices": paths}}) == (("1",), False, 0)


@pytest.mark.parametrize(
    ("runtime", "env", "expected"),
    [
        pytest.param("nvidia", ["PATH=/bin", "NVIDIA_VISIBLE_DEVICES=0,2"], (("0", "2"), False, 0), id="by index"),
        pytest.param("nvidia", ["NVIDIA_VISIBLE_DEVICES=all"], ((), True, 0), id="as CUDA's images say"),
        pytest.param(
            "nvidia", ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=1"], (("1",), False, 0), id="the last one"
        ),
        pytest.param("nvidia", ["NVIDIA_VISIBLE_DEVICES"], ((), False, 0), id="a name without a value"),
        pytest.param("nvidia", None, ((), False, 0), id="no environment"),
        pytest.param("runc", ["NVIDIA_VISIBLE_DEVICES=all"], ((), False, 0), id="another runtime"),
    ],
)
def test_the_nvidia_runtime_goes_by_the_environment(runtime: str, env: object, expected: object):
    assert uses({"HostConfig": {"Runtime": runtime}, "Config": {"Env": env}}) == expected


def test_the_label_for_gpus_comes_before_the_device_requests():
    requests = [{"Driver": "nvidia", "DeviceIDs": ["MIG-1"]}]
    labels = {"gpu.target": "comfy", "gpu.devices": "0,1"}

    seen = read({"HostConfig": {"DeviceRequests": requests}, "Config": {"Labels": labels}})
    unlabelled = read({"HostConfig": {"DeviceRequests": requests}, "Config": {"Labels": {"gpu.target": "comfy"}}})

    assert (seen.devices, seen.problems) == (("0", "1"), ())
    assert (unlabelled.devices, [problem.code for problem in unlabelled.problems]) == ((), ["bad_device"])


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param("all", id="a text"),
        pytest.param({"Count": 1}, id="an object"),
        pytest.param([None, 7, "gpu", []], id="a list of anything"),
        pytest.param([{"Driver": "nvidia", "Count": "2"}], id="a number as a text"),
        pytest.param([{"Driver": 1, "DeviceIDs": {}, "Capabilities": "gpu", "PathOnHost": []}], id="every field odd"),
    ],
)
def test_what_names_gpus_in_another_shape_hides_neither_the_container_nor_what_can_be_read(odd: object):
    good = {"Driver": "nvidia", "Count": 0, "DeviceIDs": ["3"]}
    requests = [*odd, good] if isinstance(odd, list) else odd

    seen = read({"HostConfig": {"DeviceRequests": requests, "Devices": odd, "Runtime": odd}, "Config": {"Env": odd}})

    assert (seen.id, seen.devices) == (ID, ("3",) if isinstance(odd, list) else ())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(["nvidia", "all", "gpu"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Driver", "Count", "DeviceIDs", "Capabilities", "PathOnHost", "Options"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(requests=JSON, paths=JSON, runtime=JSON, env=JSON)
def test_nothing_that_docker_says_of_gpus_raises(requests: object, paths: object, runtime: object, env: object):
    seen = read(
        {
            "HostConfig": {"DeviceRequests": requests, "Devices": paths, "Runtime": runtime},
            "Config": {"Env": env, "Labels": {"gpu.target": "comfy"}},
        }
    )

    assert seen.target == "comfy"
    assert {problem.code for problem in seen.problems} <= {"bad_device"}


@pytest.mark.engine
def test_a_real_engine_tells_the_device_requests_of_what_compose_created(make_stack, api, label_prefix):
    stack = make_stack("gpus")

    seen = {
        service: to_container(
            msgspec.convert(api.inspect_container(stack.id(service)), Inspected), prefix=label_prefix, wall_ms=0
        )
        for service in ("model", "helper", "all")
    }

    assert {service: (one.devices, one.all_devices, one.device_count) for service, one in seen.items()} == {
        "model": (("1", "GPU-5e2f1c3a"), False, 0),
        "helper": ((), False, 2),
        "all": ((), True, 0),
    }
    assert seen["model"].coexist == Sharing(groups=("small",))
    assert (seen["model"].vram_mib, seen["model"].max_hold_ms, seen["helper"].groups) == (12_288, 3_600_000, ("small",))


NAMES = st.sampled_from(
    [*(PREFIX + label.name for label in LABELS), "gpu.unknown"]
    + [f"com.docker.compose.{name}" for name in ("project", "service", "container-number", "oneoff", "depends_on")]
)


@settings(max_examples=300, deadline=None)
@given(labels=st.dictionaries(NAMES | st.text(), st.text() | st.just("9" * 6000), max_size=8))
def test_no_label_set_crashes_anything_or_changes_what_the_engine_says(labels: dict[str, str]):
    seen = read({"State": {"Status": "running", "ExitCode": 3}, "Config": {"Labels": labels}})

    assert (seen.id, seen.name, seen.status, seen.exit_code) == (ID, "box", "running", 3)
