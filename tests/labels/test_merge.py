"""What a target's containers say together: one spec, and every problem with a sentence of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core.devices import NONE, Devices
from supervisor.core.labels import (
    COMMON,
    TargetSpec,
    current,
    merge,
    needed_mib,
    parse,
    services_of,
    stray_problems,
    with_labels,
)
from supervisor.core.model import Container, Dependency, Problem, Sharing
from supervisor.core.problems import PROBLEMS
from supervisor.core.values import UNLIMITED


def box(service="llm", number=1, **values):
    """One container of project comfy, by default the healthy-to-be master of target comfyui."""
    base = {
        "id": f"id-{service}-{number}",
        "name": f"comfy-{service}-{number}",
        "target": "comfyui",
        "project": "comfy",
        "service": service,
        "number": number,
        "master": service == "llm",
        "healthcheck": service == "llm",
        "created_wall_ms": 1,
    }
    return Container(**{**base, **values})


def codes(spec):
    return [problem.code for problem in spec.problems]


# ---- what counts


def test_containers_make_one_spec():
    spec = merge("comfyui", [box(vram_mib=8192, priority=5), box("web", vram_mib=1024), box("db")])

    assert spec == TargetSpec(name="comfyui", project="comfy", master="id-llm-1", vram_mib=9216, priority=5)
    assert spec.valid


def test_a_plain_container_without_compose_is_a_target_too():
    plain = box("train", project="", master=True, healthcheck=True)

    assert merge("comfyui", [plain]) == TargetSpec(name="comfyui", master="id-train-1")


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        pytest.param([8_192], 8_192, id="as declared"),
        pytest.param([8_192, 1_024], 9_216, id="the sum of its containers"),
        pytest.param([8_192, None], 8_192, id="a sidecar that declares nothing counts nothing"),
        pytest.param([None], 24_576, id="nothing declared needs the whole GPU"),
        pytest.param([], 24_576, id="nobody to declare anything"),
    ],
)
def test_needed_mib(declared, expected):
    assert needed_mib(declared, gpu_mib=24_576) == expected


def test_one_offs_count_for_nothing_and_are_no_problem():
    run = box(id="run", name="comfy-llm-run-ab12", one_off=True, vram_mib=4096, priority=9, created_wall_ms=9)

    assert merge("comfyui", [box(vram_mib=8192), run]) == merge("comfyui", [box(vram_mib=8192)])


def test_a_target_of_one_offs_alone_says_nothing():
    assert merge("comfyui", [box(one_off=True)]) == TargetSpec(name="comfyui")


@pytest.mark.parametrize(
    "old",
    [
        pytest.param(box(id="old"), id="one place"),
        pytest.param(box(id="old", number=7), id="the label names the old one's id"),
        pytest.param(box(id="x", name="old", number=7), id="or its name"),
    ],
)
def test_during_a_recreate_old_and_new_are_one_container(old):
    new = box(id="new", name="ab12_comfy-llm-1", replaces="old", vram_mib=4096, created_wall_ms=2)

    spec = merge("comfyui", [replace(old, vram_mib=8192), new])

    assert spec == TargetSpec(name="comfyui", project="comfy", master="new", vram_mib=4096)


def test_after_a_recreate_the_label_may_name_its_own_container():
    assert current([box(replaces="comfy-llm-1")]) == [box(replaces="comfy-llm-1")]


def test_two_that_name_each_other_do_not_both_vanish():
    older = box("a", id="older", name="older", replaces="newer")
    newer = box("a", id="newer", name="newer", replaces="older", number=2, created_wall_ms=2)

    assert current([older, newer]) == [newer]


def test_nobody_replaces_a_container_of_another_service():
    assert len(current([box("web", id="web"), box(replaces="web", created_wall_ms=2)])) == 2


# ---- what is wrong


def test_a_target_without_a_master_is_told_who_could_be():
    spec = merge("comfyui", [box(master=False), box("web")])

    assert spec == TargetSpec(
        name="comfyui",
        project="comfy",
        problems=(
            Problem(
                code="no_master",
                message="no container of target comfyui is labelled gpu.healthcheck-master=true; "
                "it has comfy-llm-1 (service llm) and comfy-web-1 (service web)",
                hint='add gpu.healthcheck-master: "true" to service llm',
                target="comfyui",
                label="gpu.healthcheck-master",
            ),
        ),
    )
    assert not spec.valid


def test_two_masters_are_named():
    spec = merge("comfyui", [box(), box("web", master=True, healthcheck=True)])

    assert codes(spec) == ["several_masters"]
    assert spec.master is None
    assert spec.problems[0].message == (
        "target comfyui has 2 masters: comfy-llm-1 (service llm) and comfy-web-1 (service web)"
    )


def test_a_scaled_master_is_several_masters_and_says_how_to_scale_back():
    spec = merge("comfyui", [box(), box(number=2)])

    assert codes(spec) == ["several_masters"]
    assert spec.problems[0].hint == "run one container of it: docker compose up --scale llm=1"


def test_many_containers_are_counted_and_not_all_named():
    spec = merge("comfyui", [box(number=number) for number in range(1, 1001)])

    assert "has 1000 masters" in spec.problems[0].message
    assert spec.problems[0].message.endswith("and 995 more")


def test_a_master_without_a_healthcheck_is_named():
    spec = merge("comfyui", [box(healthcheck=False)])

    assert codes(spec) == ["master_without_healthcheck"]
    assert spec.master == "id-llm-1"
    assert (spec.problems[0].container, spec.problems[0].service) == ("comfy-llm-1", "llm")
    assert (
        "comfy-llm-1 (service llm) is the master of target comfyui but has no healthcheck" in spec.problems[0].message
    )


def test_priorities_that_differ_conflict_and_the_same_one_twice_does_not():
    agreed = merge("comfyui", [box(priority=5), box("web", priority=5)])
    differ = merge("comfyui", [box(priority=5), box("web", priority=7)])

    assert (agreed.priority, agreed.valid) == (5, True)
    assert codes(differ) == ["conflicting_values"]
    assert differ.priority == 7
    assert (
        "comfy-llm-1 (service llm) says 5 and container comfy-web-1 (service web) says 7" in differ.problems[0].message
    )


AGREED = [
    pytest.param("coexist", Sharing(any=True), Sharing(names=("tts",)), "any", "tts", id="coexist-with"),
    pytest.param("max_holders", 4, UNLIMITED, "4", "unlimited", id="max-holders"),
    pytest.param("idle_timeout_ms", 0, 1_800_000, "none", "30m", id="idle-timeout"),
    pytest.param("min_residency_ms", 90_000, 5_400_000, "1m30s", "1h30m", id="min-residency"),
    pytest.param("max_hold_ms", 86_400_000, 500, "1d", "500ms", id="max-hold"),
    pytest.param("gpu_class", "high", "low", "high", "low", id="class"),
]


@pytest.mark.parametrize(("field", "value", "other", "spelled", "other_spelled"), AGREED)
def test_what_is_one_for_the_target_is_taken_from_whoever_gives_it_and_conflicts_where_two_differ(
    field, value, other, spelled, other_spelled, request
):
    label = f"gpu.{request.node.callspec.id}"

    alone = merge("comfyui", [box(), box("web", **{field: value})])
    agreed = merge("comfyui", [box(**{field: value}), box("web", **{field: value})])
    differ = merge("comfyui", [box(**{field: value}), box("web", **{field: other})])

    assert alone == agreed == replace(merge("comfyui", [box(), box("web")]), **{field: value})
    assert (codes(differ), getattr(differ, field)) == (["conflicting_values"], value)
    assert differ.problems[0].label == label
    assert differ.problems[0].message == (
        f"target comfyui has one {label}, but container comfy-llm-1 (service llm) says {spelled} "
        f"and container comfy-web-1 (service web) says {other_spelled}"
    )


def test_groups_are_those_of_all_containers():
    assert merge("comfyui", [box(groups=("small",)), box("web", groups=("a", "small"))]).groups == ("a", "small")


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        pytest.param([{}, {}], ((), False, 0), id="any one"),
        pytest.param(
            [{"devices": ("10", "GPU-5e2f1c3a")}, {"devices": ("2", "10")}],
            (("2", "10", "GPU-5e2f1c3a"), False, 0),
            id="all that are named",
        ),
        pytest.param([{"devices": ("1",)}, {"all_devices": True}], (("1",), True, 0), id="one of them uses all"),
        pytest.param([{"device_count": 1}, {"device_count": 2}], ((), False, 2), id="both get the same first ones"),
        pytest.param([{"device_count": 1}, {"devices": ("3",)}], (("3",), False, 1), id="the first, and one more"),
    ],
)
def test_a_target_uses_the_gpus_of_all_its_containers(devices, expected):
    spec = merge("comfyui", [box(**devices[0]), box("web", **devices[1])])

    assert (spec.devices, spec.all_devices, spec.device_count) == expected
    assert spec.valid


def test_a_target_that_coexists_with_itself_is_told_what_lets_several_leases_have_it():
    spec = merge("comfyui", [box(coexist=Sharing(names=("comfyui", "tts"))), box("web")])

    assert (codes(spec), spec.valid) == (["coexists_with_itself"], True)
    assert spec.problems[0] == Problem(
        code="coexists_with_itself",
        message="container comfy-llm-1 (service llm) of target comfyui names its own target in gpu.coexist-with",
        hint="leave it out; for several leases of one target: gpu.max-holders",
        severity="warning",
        target="comfyui",
        container="comfy-llm-1",
        service="llm",
        label="gpu.coexist-with",
    )


# ---- a container, its labels, and what Docker was asked for


def wear(labels, asked=NONE):
    container = box(target=None, master=False)
    return with_labels(container, parse(labels, container=container.name, service="llm"), asked)


def test_a_container_takes_on_what_its_labels_say():
    worn = wear(
        {
            "gpu.target": "comfyui",
            "gpu.healthcheck-master": "true",
            "gpu.vram": "8GiB",
            "gpu.priority": "5",
            "gpu.coexist-with": "@small",
            "gpu.groups": "speech",
            "gpu.max-holders": "2",
            "gpu.idle-timeout": "30m",
            "gpu.min-residency": "1m",
            "gpu.max-hold": "none",
            "gpu.class": "low",
        }
    )

    assert worn == box(
        vram_mib=8_192,
        priority=5,
        coexist=Sharing(groups=("small",)),
        groups=("speech",),
        max_holders=2,
        idle_timeout_ms=1_800_000,
        min_residency_ms=60_000,
        max_hold_ms=0,
        gpu_class="low",
    )


@pytest.mark.parametrize(
    ("label", "asked", "expected"),
    [
        pytest.param(None, NONE, ((), False, 0), id="nobody says anything"),
        pytest.param(None, Devices(ids=("1",), count=2), (("1",), False, 2), id="Docker was asked"),
        pytest.param("0,1", Devices(every=True), (("0", "1"), False, 0), id="the label comes before Docker"),
        pytest.param("all", Devices(ids=("1",), count=2), ((), True, 0), id="for all, too"),
        pytest.param("0", Devices(unreadable=("MIG-1",)), (("0",), False, 0), id="and mends what cannot be read"),
    ],
)
def test_the_label_for_gpus_comes_before_what_docker_was_asked_for(label, asked, expected):
    worn = wear({"gpu.target": "comfyui", **({"gpu.devices": label} if label else {})}, asked)

    assert (worn.devices, worn.all_devices, worn.device_count) == expected
    assert worn.problems == ()


def test_a_device_that_nobody_can_tell_is_a_problem_that_names_it():
    worn = wear({"gpu.target": "comfyui"}, Devices(ids=("0",), unreadable=("MIG-1", "a\nb")))

    assert worn.problems == (
        Problem(
            code="bad_device",
            message="container comfy-llm-1 (service llm) of target comfyui asks Docker for "
            '"MIG-1" and "a\\nb": no GPU\'s index or UUID',
            hint="name whole GPUs, or say which it uses: gpu.devices",
            target="comfyui",
            container="comfy-llm-1",
            service="llm",
            label="gpu.devices",
        ),
    )
    assert not merge("comfyui", [worn]).valid


def test_what_an_unlabelled_container_asks_docker_for_is_no_problem_of_ours():
    assert wear({}, Devices(unreadable=("MIG-1",))).problems == ()


def test_two_projects_with_one_target_are_both_named_with_the_way_out():
    stale = box(id="old", name="comfyold-llm-1", project="comfyold")
    spec = merge("comfyui", [box(created_wall_ms=2), stale])

    assert codes(spec) == ["several_projects"]
    assert (spec.project, spec.master) == ("", None)
    assert "is in Compose project comfy and Compose project comfyold" in spec.problems[0].message
    assert "docker compose -p comfyold down" in spec.problems[0].hint


def test_a_plain_container_beside_a_project_is_a_second_home():
    plain = box("stray", id="plain", name="stray", project="")
    spec = merge("comfyui", [box(created_wall_ms=2), plain])

    assert codes(spec) == ["several_projects", "no_master"]
    assert "no project (stray)" in spec.problems[0].message
    assert "docker rm -f stray" in spec.problems[0].hint


def test_a_hostile_project_name_is_quoted_in_the_command():
    spec = merge("comfyui", [box(created_wall_ms=2), box(id="x", project="a; rm -rf /\n")])

    assert r"docker compose -p 'a; rm -rf /\n' down" in spec.problems[0].hint


def test_a_dependency_on_another_target_is_a_problem_of_the_one_that_depends():
    web = box("web", target="chat", master=True, healthcheck=True, depends_on=(Dependency("llm", "service_healthy"),))
    services = services_of([box(), web])

    spec = merge("chat", [web], services)

    assert codes(spec) == ["depends_on_other_target"]
    assert "comfy-web-1 (service web) of target chat depends on service llm, which is of target comfyui" in (
        spec.problems[0].message
    )
    assert merge("comfyui", [box()], services).valid


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(box("db", target=None), id="an unlabelled service"),
        pytest.param(box("db"), id="a service of the same target"),
        pytest.param(box("db", target="chat", project="elsewhere"), id="its namesake in another project"),
        pytest.param(box("db", target="chat", one_off=True), id="a one-off of it"),
    ],
)
def test_a_dependency_within_the_target_is_none(other):
    master = box(depends_on=(Dependency("db", "service_started"),))

    assert merge("comfyui", [master], services_of([master, other])).valid


def test_a_service_that_moves_to_another_target_belongs_to_the_newer_one():
    moved = box("db", id="a", target="chat", created_wall_ms=2)

    assert services_of([moved, box("db", id="b")]) == {("comfy", "db"): "chat"}


def test_a_container_that_compose_did_not_make_has_no_service():
    assert services_of([box(project="")]) == {}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("always", ["restart_policy"]), ("unless-stopped", ["restart_policy"]), ("on-failure", []), ("no", [])],
)
def test_a_restart_policy_that_starts_it_at_boot_is_a_warning(policy, expected):
    spec = merge("comfyui", [box(restart_policy=policy)])

    assert codes(spec) == expected
    assert spec.valid


def test_what_a_container_has_wrong_its_target_has_wrong():
    bad = parse({"gpu.target": "comfyui", "gpu.vram-mib": "8GiB"}, container="comfy-web-1", service="web")
    spec = merge("comfyui", [box(), box("web", problems=bad.problems)])

    assert spec.problems == bad.problems
    assert not spec.valid


def test_every_problem_of_a_target_is_told_at_once():
    other = box("web", id="web", target="chat")
    containers = [
        box(healthcheck=False, priority=1, restart_policy="always", depends_on=(Dependency("web", "service_started"),)),
        box(number=2, priority=2),
        box(id="old", project="old", created_wall_ms=0),
    ]

    spec = merge("comfyui", containers, services_of([*containers, other]))

    assert sorted(codes(spec)) == [
        "conflicting_values",
        "depends_on_other_target",
        "master_without_healthcheck",
        "restart_policy",
        "several_masters",
        "several_projects",
    ]


def test_problems_of_no_target_are_listed_apart():
    malformed = parse({"gpu.target": "Bad Name"}, container="b", service="b")
    lonely = parse({"gpu.vram-mib": "1"}, container="a", service="a")
    strays = [
        box("b", target=None, problems=malformed.problems),
        box("a", target=None, problems=lonely.problems),
        box("db", target=None),
        box(problems=(Problem("bad_value", "the target's own"),)),
    ]

    assert [problem.code for problem in stray_problems(strays)] == ["no_target", "bad_target_name"]


# ---- whatever there is

BOXES = st.lists(
    st.builds(
        box,
        service=st.sampled_from(["llm", "web", ""]),
        number=st.integers(1, 3),
        id=st.text("abc", min_size=1, max_size=2),
        name=st.text("abc", min_size=1, max_size=2),
        project=st.sampled_from(["comfy", "other", ""]),
        master=st.booleans(),
        healthcheck=st.booleans(),
        vram_mib=st.none() | st.integers(1, 9),
        priority=st.none() | st.integers(-2, 2),
        one_off=st.booleans(),
        replaces=st.none() | st.text("abc", max_size=2),
        created_wall_ms=st.integers(0, 2),
        restart_policy=st.sampled_from(["no", "always"]),
        depends_on=st.sampled_from([(), (Dependency("llm", "service_started"),)]),
        coexist=st.none() | st.builds(Sharing, any=st.booleans(), names=st.sampled_from([(), ("comfyui",)])),
        groups=st.sampled_from([(), ("a",), ("a", "b")]),
        max_holders=st.none() | st.integers(1, 2),
        idle_timeout_ms=st.none() | st.integers(0, 1),
        min_residency_ms=st.none() | st.integers(0, 1),
        max_hold_ms=st.none() | st.integers(0, 1),
        devices=st.sampled_from([(), ("0",), ("1", "GPU-5e2f1c3a")]),
        all_devices=st.booleans(),
        device_count=st.integers(0, 2),
        gpu_class=st.sampled_from([None, "high", "low"]),
    ),
    max_size=6,
    unique_by=lambda container: container.id,
)


@given(BOXES, st.randoms(use_true_random=False))
def test_the_order_of_containers_does_not_matter(boxes, random):
    shuffled = boxes.copy()
    random.shuffle(shuffled)

    assert merge("comfyui", shuffled, services_of(shuffled)) == merge("comfyui", boxes, services_of(boxes))


@given(BOXES)
def test_a_valid_target_has_one_healthy_to_be_master_in_one_project(boxes):
    spec = merge("comfyui", boxes)
    team = current(boxes)

    assert {problem.code for problem in spec.problems} <= PROBLEMS.keys()
    assert len({container.place for container in team}) == len(team)
    if spec.valid and team:
        master = next(container for container in team if container.id == spec.master)
        assert master.healthcheck
        assert {container.project for container in team} == {spec.project}


@given(BOXES)
def test_containers_of_a_valid_target_agree_on_what_is_one_for_all(boxes):
    spec = merge("comfyui", boxes)

    for _, field, _ in COMMON if spec.valid else ():
        given = {value for container in current(boxes) if (value := getattr(container, field)) is not None}
        assert len(given) < 2
        assert not given or given == {getattr(spec, field)}


@given(BOXES)
def test_a_target_uses_no_gpu_that_none_of_its_containers_uses_and_forgets_none(boxes):
    spec, team = merge("comfyui", boxes), current(boxes)

    assert {*spec.devices} == {device for container in team for device in container.devices}
    assert spec.all_devices is any(container.all_devices for container in team)
    assert {spec.device_count} <= {0} | {container.device_count for container in team}
    assert all(container.device_count <= spec.device_count for container in team)


@given(BOXES)
def test_of_each_service_that_has_containers_one_counts(boxes):
    lasting = {(c.project, c.service) for c in boxes if not c.one_off}

    assert {(c.project, c.service) for c in current(boxes)} == lasting
