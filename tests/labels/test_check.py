"""What is wrong is said before anything starts: compose files as Compose itself reads them, and containers."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from supervisor.check import REPLICAS_MAX, CheckFailed, check_containers, check_files
from supervisor.core.labels import parse
from supervisor.core.model import Container, Dependency
from supervisor.core.problems import PROBLEMS
from supervisor.engine.inspect import Inspected, to_container

STACKS = Path(__file__).parents[1] / "stacks"

GOOD = """\
services:
  llm:
    image: x
    labels:
      gpu.target: comfyui
      gpu.healthcheck-master: "true"
      gpu.vram-mib: 8192
    healthcheck:
      test: [CMD, "true"]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """``write("a.yml", text)`` makes a file in the folder ``stack``, or in the one that its name begins with."""
    for name in ("COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"):
        monkeypatch.delenv(name, raising=False)

    def make(name, text):
        path = tmp_path / (name if "/" in name else f"stack/{name}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return make


def codes(report):
    return [(problem.severity, problem.code) for problem in report.problems]


def service(*lines, labels="{gpu.target: comfyui, gpu.healthcheck-master: yes}", check="{test: [CMD, 'true']}"):
    """One service in one stack: its labels, its healthcheck and other lines."""
    own = [f"labels: {labels}", *([f"healthcheck: {check}"] if check else []), *lines]
    return "services:\n  llm:\n    image: x\n" + "".join(f"    {line}\n" for line in own)


# ---- files


@pytest.mark.engine
def test_a_good_file_gives_its_target_and_the_command_that_leases_it(write):
    file = write("docker-compose.yml", GOOD)

    report = check_files([file])

    assert report.ok
    assert report.problems == ()
    assert [(spec.name, spec.project, spec.vram_mib, spec.valid) for spec in report.targets] == [
        ("comfyui", "stack", 8192, True)
    ]
    assert report.next_command == f"docker compose -f {file} create && gpu-supervisor acquire comfyui"


@pytest.mark.engine
def test_the_command_that_it_names_is_one_that_compose_takes(write):
    file = write("it's a file.yml", GOOD)

    report = check_files([file], project="named")

    assert report.targets[0].project == "named"
    create = report.next_command.split(" create ")[0]
    listed = subprocess.run(
        f"{create} config --services", shell=True, capture_output=True, text=True, timeout=30, check=True
    )
    assert listed.stdout == "llm\n"


@pytest.mark.engine
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(service(), [], id="labels as a map, with YAML's own booleans"),
        pytest.param(service(labels="[gpu.target=comfyui, gpu.healthcheck-master=true]"), [], id="labels as a list"),
        pytest.param(
            service(labels="{gpu.target: comfyui, gpu.healthcheck-master: }"),
            [("error", "bad_value"), ("error", "no_master")],
            id="a label without a value",
        ),
        pytest.param(
            service(labels="{gpu.target: '$${NAME}', gpu.priority: 5}"),
            [("error", "bad_target_name")],
            id="a malformed target",
        ),
        pytest.param(service(labels="{gpu.vram-mib: 5}"), [("warning", "no_target")], id="labels but no target"),
        pytest.param(service(labels="{some.label: 5}"), [("error", "no_labels")], id="none of our labels"),
        pytest.param("services: {}\n", [("error", "no_labels")], id="no services"),
        pytest.param(
            service(check="{disable: true}"),
            [("error", "master_without_healthcheck")],
            id="a healthcheck that is switched off",
        ),
        pytest.param(
            service(check="{test: [NONE]}"), [("error", "master_without_healthcheck")], id="and in the other way"
        ),
        pytest.param(service(check="{test: exit 0}"), [], id="a healthcheck for the shell"),
        pytest.param(
            service(check=""), [("warning", "master_without_healthcheck")], id="the image may have a healthcheck"
        ),
        pytest.param(
            service(check="{interval: 5s}"),
            [("warning", "master_without_healthcheck")],
            id="the interval of the image's healthcheck",
        ),
        pytest.param(service("restart: unless-stopped"), [("warning", "restart_policy")], id="started at boot"),
        pytest.param(service("restart: on-failure:3"), [], id="restarted only after a failure"),
        pytest.param(
            service("deploy: {restart_policy: {condition: any}}"),
            [("warning", "restart_policy")],
            id="started at boot, in Swarm's words",
        ),
        pytest.param(service("deploy: {replicas: 2}"), [("error", "several_masters")], id="replicas"),
        pytest.param(service("scale: 3"), [("error", "several_masters")], id="scaled"),
        pytest.param(service("scale: 0"), [("error", "no_labels")], id="scaled to nothing"),
        pytest.param(
            service("scale: 2", labels="{gpu.target: comfyui, gpu.vrm: 8}"),
            [("warning", "unknown_label"), ("error", "no_master")],
            id="what replicas have wrong is said once",
        ),
    ],
)
def test_a_service_is_judged_as_compose_would_make_it(write, text, expected):
    assert codes(check_files([write("docker-compose.yml", text)])) == expected


@pytest.mark.engine
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], ((), False, 0), id="nothing is said: any one"),
        pytest.param(["gpus: all"], ((), True, 0), id="all, in short"),
        pytest.param(["gpus: [{driver: nvidia}]"], ((), True, 0), id="without a count that is all"),
        pytest.param(["gpus: [{count: 1}, {device_ids: ['3']}]"], (("3",), False, 1), id="the first, and one more"),
        pytest.param(
            ["deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 2, capabilities: [gpu]}]}}}"],
            ((), False, 2),
            id="the first two",
        ),
        pytest.param(
            ["deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: all}]}}}"],
            ((), True, 0),
            id="all, without a driver's name",
        ),
        pytest.param(
            ["deploy: {resources: {reservations: {devices: [{capabilities: [tpu], count: all}]}}}"],
            ((), False, 0),
            id="another kind of device",
        ),
        pytest.param(
            [
                "deploy: {resources: {reservations: {devices: "
                "[{driver: cdi, device_ids: ['nvidia.com/gpu=1'], capabilities: [gpu]}]}}}"
            ],
            (("1",), False, 0),
            id="a CDI driver",
        ),
        pytest.param(["devices: ['nvidia.com/gpu=1', /dev/null]"], (("1",), False, 0), id="a CDI name among files"),
        pytest.param(
            ["runtime: nvidia", "environment: {NVIDIA_VISIBLE_DEVICES: '0,1', OTHER: }"],
            (("0", "1"), False, 0),
            id="the nvidia runtime",
        ),
        pytest.param(["environment: [NVIDIA_VISIBLE_DEVICES=all]"], ((), False, 0), id="which is not the usual one"),
    ],
)
def test_the_gpus_of_a_service_are_those_that_compose_would_ask_docker_for(write, lines, expected):
    spec = check_files([write("docker-compose.yml", service(*lines))]).targets[0]

    assert (spec.devices, spec.all_devices, spec.device_count, spec.problems) == (*expected, ())


@pytest.mark.engine
def test_the_label_for_gpus_comes_before_what_compose_asks_for(write):
    labels = "{gpu.target: comfyui, gpu.healthcheck-master: yes, gpu.devices: '0,1'}"

    spec = check_files([write("docker-compose.yml", service("gpus: [{device_ids: [MIG-1]}]", labels=labels))]).targets[
        0
    ]

    assert (spec.devices, spec.all_devices, spec.problems) == (("0", "1"), False, ())


@pytest.mark.engine
def test_a_gpu_that_nobody_can_tell_is_found_before_anything_starts_and_said_once(write):
    file = write("docker-compose.yml", service("gpus: [{device_ids: [MIG-1]}]", "scale: 2"))

    report = check_files([file])

    assert codes(report) == [("error", "bad_device"), ("error", "several_masters")]
    assert 'asks Docker for "MIG-1"' in report.problems[0].message


@pytest.mark.engine
def test_a_healthcheck_that_only_the_image_can_bring_is_a_warning_that_says_so(write):
    report = check_files([write("docker-compose.yml", service(check=""))])

    assert report.ok
    assert "unless its image has one" in report.problems[0].message


@pytest.mark.engine
def test_a_label_reaches_us_with_its_dollar_signs_and_variables_as_the_container_would_get_it(write, monkeypatch):
    monkeypatch.setenv("NAME", "from-the-shell")
    labels = "{gpu.target: '${NAME}', gpu.healthcheck-master: yes, gpu.vram-mib: '$$5'}"

    report = check_files([write("docker-compose.yml", service(labels=labels))])

    assert [spec.name for spec in report.targets] == ["from-the-shell"]
    assert [problem.value for problem in report.problems] == ["$5"]


@pytest.mark.engine
def test_containers_are_called_what_compose_will_call_them(write):
    named = service("container_name: mine", labels="{gpu.target: comfyui}")
    plain = service("scale: 2", labels="{gpu.target: comfyui}")

    texts = [check_files([write("a.yml", text)], project="p").problems[0].message for text in (named, plain)]

    assert "it has mine (service llm)" in texts[0]
    assert "it has p-llm-1 (service llm) and p-llm-2 (service llm)" in texts[1]


@pytest.mark.engine
def test_a_dependency_on_another_target_is_found(write):
    tts = GOOD.removeprefix("services:\n").replace("llm", "tts").replace("comfyui", "books")
    file = write("docker-compose.yml", GOOD + "    depends_on: [tts]\n" + tts)
    report = check_files([file])

    assert codes(report) == [("error", "depends_on_other_target")]
    assert report.problems[0].target == "comfyui"


@pytest.mark.engine
def test_files_of_one_folder_are_one_stack_and_the_later_overrides(write):
    base = write("docker-compose.yml", GOOD)
    override = write("override.yml", "services:\n  llm:\n    labels: {gpu.vram-mib: 4096}\n")

    report = check_files([base, override])

    assert [(spec.name, spec.vram_mib) for spec in report.targets] == [("comfyui", 4096)]
    assert f"-f {base} -f {override} create" in report.next_command


@pytest.mark.engine
def test_files_of_two_folders_are_two_stacks_and_may_not_share_a_target(write):
    files = [write("one/docker-compose.yml", GOOD), write("two/docker-compose.yml", GOOD)]

    report = check_files(files)

    assert codes(report) == [("error", "several_projects")]
    assert "Compose project one and Compose project two" in report.problems[0].message
    assert not report.ok


@pytest.mark.engine
def test_with_a_project_all_files_are_that_one(write):
    files = [write("one/a.yml", GOOD), write("two/b.yml", GOOD)]

    report = check_files(files, project="both")

    assert report.ok
    assert report.targets[0].project == "both"


@pytest.mark.engine
def test_two_folders_that_compose_takes_for_one_project_are_refused(write):
    files = [write("one/a.yml", "name: same\n" + GOOD), write("two/b.yml", "name: same\n" + GOOD)]

    with pytest.raises(CheckFailed, match="are both project same"):
        check_files(files)


@pytest.mark.engine
def test_a_service_behind_a_profile_is_checked_when_it_is_active_and_else_said_not_to_be(write, monkeypatch):
    file = write("docker-compose.yml", GOOD + "    profiles: [cuda]\n")

    without = check_files([file])
    monkeypatch.setenv("COMPOSE_PROFILES", "cuda")
    within = check_files([file])

    assert codes(without) == [("warning", "not_checked")]
    assert without.problems[0].hint == f"COMPOSE_PROFILES=cuda gpu-supervisor check {file}"
    assert not without.ok
    assert within.ok


@pytest.mark.engine
def test_another_prefix_is_another_set_of_labels(write):
    file = write("docker-compose.yml", GOOD.replace("gpu.", "org.example.gpu."))

    assert check_files([file], prefix="org.example.gpu.").ok
    file.write_text(file.read_text().replace("healthcheck-master", "healthcheck"))
    message = check_files([file], prefix="org.example.gpu.").problems[-1].message
    assert "is labelled org.example.gpu.healthcheck-master=true" in message
    assert codes(check_files([file])) == [("error", "no_labels")]


@pytest.mark.engine
def test_when_something_is_wrong_the_next_command_checks_again(write):
    file = write("docker-compose.yml", service(labels="{gpu.target: comfyui}"))

    assert check_files([file]).next_command == f"gpu-supervisor check {file}"
    assert check_files([file], project="p").next_command == f"gpu-supervisor check --project p {file}"


@pytest.mark.engine
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("services:\n  a: [\n", "docker compose cannot read it: yaml", id="no YAML"),
        pytest.param(service("nonsense: 1"), "nonsense", id="no compose file"),
        pytest.param("", "empty compose file", id="empty"),
        pytest.param(service(f"scale: {REPLICAS_MAX + 1}"), "asks for 1001 containers", id="a flood of replicas"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_says_why(write, text, reason):
    with pytest.raises(CheckFailed, match=reason) as caught:
        check_files([write("docker-compose.yml", text)])

    assert caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckFailed, match=r"there is no file nowhere\.yml"):
        check_files([Path("nowhere.yml")])
    with pytest.raises(CheckFailed, match="is a folder"):
        check_files([tmp_path])


@pytest.mark.engine
@pytest.mark.parametrize("name", ["chain", "crash", "gpus", "job", "sick", "single", "stubborn"])
def test_the_files_of_a_stack_are_judged_like_the_containers_that_compose_makes_of_them(
    name, make_stack, api, label_prefix, monkeypatch
):
    stack = make_stack(name)
    made = api.containers(all=True, filters={"label": f"com.docker.compose.project={stack.project}"})
    seen = [msgspec.convert(api.inspect_container(row["Id"]), Inspected) for row in made]
    containers = [to_container(one, prefix=label_prefix, wall_ms=0) for one in seen]
    monkeypatch.setenv("GPU_PREFIX", label_prefix)
    monkeypatch.setenv("GPU_TARGET", stack.target)

    foreseen = check_files([STACKS / f"{name}.yml"], project=stack.project, prefix=label_prefix)
    found = check_containers(containers, prefix=label_prefix)

    assert foreseen.problems == found.problems
    assert [replace(spec, master=None) for spec in foreseen.targets] == [
        replace(spec, master=None) for spec in found.targets
    ]
    assert foreseen.ok


# ---- without a docker that can be used


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("exit 1", "there is no docker compose", id="no plugin"),
        pytest.param('case "$*" in *version) ;; *) exit 1 ;; esac', "it does not say why", id="fails in silence"),
        pytest.param("echo nonsense", "answered something unknown", id="prints something else"),
        pytest.param('echo \'{"services": {"a": {"labels": 1}}}\'', "answered something unknown", id="another shape"),
    ],
)
def test_a_docker_command_that_does_not_serve_is_told_apart(write, script, reason):
    docker = write("docker", f"#!/bin/sh\n{script}\n")
    docker.chmod(stat.S_IRWXU)

    with pytest.raises(CheckFailed, match=reason) as caught:
        check_files([write("docker-compose.yml", GOOD)], docker=str(docker))

    assert caught.value.hint


def test_a_docker_command_that_hangs_is_not_waited_for_longer_than_told(write):
    docker = write("docker", "#!/bin/sh\nexec sleep 60\n")
    docker.chmod(stat.S_IRWXU)

    with pytest.raises(CheckFailed, match=r"gave no answer in 0\.2 s"):
        check_files([write("docker-compose.yml", GOOD)], docker=str(docker), timeout_s=0.2)


def test_a_missing_docker_command_is_named(write, tmp_path):
    file = write("docker-compose.yml", GOOD)

    with pytest.raises(CheckFailed, match=r"there is no command .*nowhere"):
        check_files([file], docker=str(tmp_path / "nowhere"))
    with pytest.raises(CheckFailed, match=f"cannot be run: {os.strerror(13)}"):
        check_files([file], docker=str(file))


# ---- containers


def box(name="llm", labels=None, **values):
    says = parse(labels or {}, container=name, service=name)
    return Container(
        id=name,
        name=name,
        project="comfy",
        service=name,
        target=says.target,
        master=says.master,
        problems=says.problems,
        healthcheck=True,
        **values,
    )


def test_running_containers_are_checked_target_by_target():
    master = {"gpu.healthcheck-master": "true"}
    report = check_containers(
        [
            box("b", {"gpu.target": "b", **master}, depends_on=(Dependency("a", "service_started"),)),
            box("a", {"gpu.target": "a", **master}),
            box("c", {"gpu.target": "C"}),
            box("db"),
        ]
    )

    assert [(spec.name, spec.valid) for spec in report.targets] == [("a", True), ("b", False)]
    assert codes(report) == [("error", "depends_on_other_target"), ("error", "bad_target_name")]
    assert (report.ok, report.next_command) == (False, "gpu-supervisor check")


def test_containers_in_order_name_the_lease_to_take():
    report = check_containers([box("a", {"gpu.target": "a", "gpu.healthcheck-master": "1"})])

    assert (report.ok, report.problems, report.next_command) == (True, (), "gpu-supervisor acquire a")


@pytest.mark.parametrize("containers", [[], [box("db")]], ids=["nothing at all", "nothing labelled"])
def test_no_labels_at_all_is_said(containers):
    report = check_containers(containers)

    assert codes(report) == [("error", "no_labels")]
    assert not report.ok
    assert report.problems[0].code in PROBLEMS
