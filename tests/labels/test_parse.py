"""One container's labels: every problem at once, and none silently ignored."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.core.devices import Devices
from supervisor.core.labels import LABELS, PREFIX, UNKNOWN_MAX, Parsed, parse
from supervisor.core.model import Problem, Sharing
from supervisor.core.problems import PROBLEMS
from supervisor.core.values import shown


def read(labels, prefix=PREFIX):
    return parse(labels, container="comfy-llm-1", service="llm", prefix=prefix)


def codes(parsed):
    return [(problem.severity, problem.code, problem.label) for problem in parsed.problems]


def test_a_container_without_our_labels_says_nothing():
    assert read({"com.docker.compose.project": "comfy", "gpu": "x", "gpus.target": "x"}) == Parsed()


def test_well_formed_labels_become_values():
    labels = {
        "gpu.target": "comfyui",
        "gpu.healthcheck-master": "Yes",
        "gpu.vram-mib": "8192",
        "gpu.priority": "-5",
        "gpu.coexist-with": "tts, @small",
        "gpu.groups": "speech,small",
        "gpu.max-holders": "4",
        "gpu.idle-timeout": "30m",
        "gpu.min-residency": "none",
        "gpu.max-hold": "1h30m",
        "gpu.devices": "1, 0, GPU-5E2F1C3A",
        "gpu.class": "high",
        "traefik.enable": "maybe",
    }

    assert read(labels) == Parsed(
        target="comfyui",
        master=True,
        vram_mib=8192,
        priority=-5,
        coexist=Sharing(names=("tts",), groups=("small",)),
        groups=("small", "speech"),
        max_holders=4,
        idle_timeout_ms=1_800_000,
        min_residency_ms=0,
        max_hold_ms=5_400_000,
        devices=Devices(ids=("0", "1", "GPU-5e2f1c3a")),
        gpu_class="high",
    )


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({"gpu.vram": "12GiB"}, id="a size with its unit"),
        pytest.param({"gpu.vram-mib": "12288"}, id="in MiB"),
        pytest.param({"gpu.vram": "12GiB", "gpu.vram-mib": "12288"}, id="both, and they agree"),
    ],
)
def test_a_size_may_be_given_in_either_way(labels):
    assert read({"gpu.target": "comfyui", **labels}) == Parsed(target="comfyui", vram_mib=12_288)


def test_two_sizes_that_differ_conflict_and_the_larger_one_counts():
    parsed = read({"gpu.target": "comfyui", "gpu.vram-mib": "12000", "gpu.vram": "12GiB"})

    assert parsed == Parsed(
        target="comfyui",
        vram_mib=12_288,
        problems=(
            Problem(
                code="conflicting_values",
                message="container comfy-llm-1 (service llm) has gpu.vram-mib=12000 and gpu.vram=12GiB, "
                "which is 12288 MiB",
                hint="leave one of them",
                target="comfyui",
                container="comfy-llm-1",
                service="llm",
                label="gpu.vram",
            ),
        ),
    )


def test_the_larger_of_two_sizes_counts_whichever_label_has_it():
    assert read({"gpu.target": "comfyui", "gpu.vram-mib": "12289", "gpu.vram": "12GiB"}).vram_mib == 12_289


def test_of_two_sizes_one_of_which_is_bad_only_that_is_told():
    parsed = read({"gpu.target": "comfyui", "gpu.vram-mib": "12000", "gpu.vram": "12"})

    assert codes(parsed) == [("error", "bad_value", "gpu.vram")]
    assert parsed.vram_mib == 12_000


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.name)
def test_an_empty_value_is_never_a_default(label):
    parsed = read({"gpu.target": "x", f"gpu.{label.name}": ""})

    assert [(problem.severity, problem.label) for problem in parsed.problems] == [("error", f"gpu.{label.name}")]


def test_a_bad_value_names_container_service_label_value_reason_and_suggestion():
    assert read({"gpu.target": "comfyui", "gpu.vram-mib": "8GiB"}) == Parsed(
        target="comfyui",
        problems=(
            Problem(
                code="bad_value",
                message='container comfy-llm-1 (service llm) has a bad gpu.vram-mib: "8GiB" is not a whole number',
                hint="write 8192: the unit is MiB",
                target="comfyui",
                container="comfy-llm-1",
                service="llm",
                label="gpu.vram-mib",
                value="8GiB",
            ),
        ),
    )


def test_without_compose_the_service_is_not_named():
    parsed = parse({"gpu.target": "x", "gpu.priority": ""}, container="train", service="train")

    assert parsed.problems[0].message == 'container train has a bad gpu.priority: "" is not a whole number'


def test_every_problem_is_told_at_once():
    labels = {
        "gpu.target": "comfyui",
        "gpu.healthcheck-master": "",
        "gpu.vram-mib": "0",
        "gpu.priority": "1001",
        "gpu.vrm": "8GiB",
        "gpu.coexist-with": "Comfy",
        "gpu.groups": "@small",
        "gpu.max-holders": "0",
        "gpu.idle-timeout": "soon",
        "gpu.min-residency": "-1",
        "gpu.max-hold": "1 h",
        "gpu.devices": "GPU-1",
        "gpu.class": "?",
    }

    assert codes(read(labels)) == [
        ("error", "bad_value", "gpu.healthcheck-master"),
        ("error", "bad_value", "gpu.vram-mib"),
        ("error", "bad_value", "gpu.priority"),
        ("error", "bad_value", "gpu.coexist-with"),
        ("error", "bad_value", "gpu.groups"),
        ("error", "bad_value", "gpu.max-holders"),
        ("error", "bad_value", "gpu.idle-timeout"),
        ("error", "bad_value", "gpu.min-residency"),
        ("error", "bad_value", "gpu.max-hold"),
        ("error", "bad_value", "gpu.devices"),
        ("error", "bad_value", "gpu.class"),
        ("warning", "unknown_label", "gpu.vrm"),
    ]


def test_a_malformed_target_leaves_no_target_and_nothing_else_counts():
    parsed = read({"gpu.target": "Comfy UI", "gpu.healthcheck-master": "true", "gpu.priority": "x"})

    assert codes(parsed) == [("error", "bad_target_name", "gpu.target"), ("error", "bad_value", "gpu.priority")]
    assert (parsed.target, parsed.master) == (None, False)
    assert all(problem.target is None for problem in parsed.problems)
    assert parsed.problems[0].hint.startswith("did you mean comfy-ui?")


def test_labels_without_a_target_are_a_warning_that_names_them():
    parsed = read({"gpu.healthcheck-master": "true", "gpu.vram-mib": "8192"})

    assert codes(parsed) == [("warning", "no_target", "gpu.target")]
    assert "gpu.healthcheck-master, gpu.vram-mib but no gpu.target" in parsed.problems[0].message
    assert (parsed.master, parsed.vram_mib) == (False, None)


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        pytest.param("gpu.vrm", "did you mean gpu.vram?", id="too short"),
        pytest.param("gpu.coexist", "did you mean gpu.coexist-with?", id="only its first word"),
        pytest.param("gpu.group", "did you mean gpu.groups?", id="one for many"),
        pytest.param("gpu.max-holder", "did you mean gpu.max-holders?", id="between two that begin alike"),
        pytest.param("gpu.idle_timeout", "did you mean gpu.idle-timeout?", id="an underscore in a duration's name"),
        pytest.param("gpu.device", "did you mean gpu.devices?", id="one GPU"),
        pytest.param("gpu.VRAM-MIB", "did you mean gpu.vram-mib?", id="names are compared exactly"),
        pytest.param("gpu.vram_mib", "did you mean gpu.vram-mib?", id="an underscore"),
        pytest.param("gpu.prioritiy", "did you mean gpu.priority?", id="a typing error"),
        pytest.param("gpu.health-check.master", "did you mean gpu.healthcheck-master?", id="other separators"),
        pytest.param("GPU.target", "did you mean gpu.target?", id="the prefix in capitals is still meant for us"),
        pytest.param("gpu. target", "did you mean gpu.target?", id="a blank"),
        pytest.param("gpu.xyz", "known are gpu.target, gpu.healthcheck-master,", id="like none of them"),
        pytest.param("gpu.", "known are gpu.target, gpu.healthcheck-master,", id="only the prefix"),
    ],
)
def test_an_unknown_label_is_a_warning_that_names_the_nearest(label, hint):
    parsed = read({"gpu.target": "comfyui", label: "1"})

    assert codes(parsed) == [("warning", "unknown_label", label)]
    assert parsed.target == "comfyui"
    assert parsed.problems[0].message == f'container comfy-llm-1 (service llm) has an unknown label "{label}"'
    assert parsed.problems[0].hint.startswith(hint)


def test_a_flood_of_unknown_labels_is_counted_and_not_told_one_by_one():
    parsed = read({f"gpu.x{number:05}": "" for number in range(10_000)})

    assert len(parsed.problems) == UNKNOWN_MAX + 1
    assert f"has {10_000 - UNKNOWN_MAX} more unknown labels" in parsed.problems[-1].message


def test_the_prefix_is_a_setting_and_appears_in_what_is_said():
    labels = {"org.example.gpu.target": "comfyui", "org.example.gpu.vram-mib": "x", "gpu.priority": "bad"}

    parsed = read(labels, prefix="org.example.gpu.")

    assert parsed.target == "comfyui"
    assert codes(parsed) == [("error", "bad_value", "org.example.gpu.vram-mib")]


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param("x" * 1_000_000, id="a megabyte"),
        pytest.param("9" * 1_000_000, id="a megabyte of digits"),
        pytest.param("a," * 500_000, id="a megabyte of commas"),
        pytest.param("\x00", id="NUL"),
        pytest.param("\x1b]0;owned\x07\x1b[2J", id="terminal escapes"),
        pytest.param("a\nlevel=error forged", id="a forged log line"),
        pytest.param("<script>alert(1)</script>", id="HTML"),
        pytest.param("\u202eevil", id="text that runs backwards"),
        pytest.param("\udcff", id="half a character"),
    ],
)
def test_hostile_text_is_refused_in_one_short_printable_line(hostile):
    labels = {PREFIX + label.name: hostile for label in LABELS} | {PREFIX + hostile: hostile}

    parsed = parse(labels, container=hostile, service=f"s{hostile}")

    assert parsed.target is None
    assert len(parsed.problems) == len(LABELS) + 1
    for problem in parsed.problems:
        texts = (problem.message, problem.hint, problem.container, problem.service, problem.label, problem.value or "")
        assert all(text.isprintable() and len(text) < 600 for text in texts)


NAMES = st.sampled_from([PREFIX + label.name for label in LABELS]) | st.builds(PREFIX.__add__, st.text(max_size=30))
VALUES = (
    st.sampled_from(["comfyui", "true", "off", "8192", "0", "-5", "8GiB", "", "none", "any, @b", "all", "30m", "GPU-1"])
    | st.from_regex(r"[-+]?[0-9]{1,25}", fullmatch=True)
    | st.text(max_size=100)
)


@given(st.dictionaries(NAMES | st.text(max_size=20), VALUES, max_size=12), st.text(max_size=10))
@example({"gpu.target": "x", "gpu.healthcheck-master": "false"}, "x")
@example({"gpu.target": "x", "gpu.vram": "8GiB", "gpu.vram-mib": "8192"}, "x")
@example({"gpu.target": "x", "gpu.vram": "8GiB", "gpu.vram-mib": "1"}, "x")
def test_no_label_set_crashes_anything_and_none_is_silently_ignored(labels, name):
    parsed = parse(labels, container=name, service="")

    told = {problem.label for problem in parsed.problems}
    refused = {problem.label for problem in parsed.problems if problem.code != "conflicting_values"}
    spoken = " ".join(problem.message for problem in parsed.problems)
    without_target = parsed.target is None
    for label in (label for label in labels if label.startswith(PREFIX)):
        field = next((known.field for known in LABELS if PREFIX + known.name == label), None)
        if field is None or label in told:
            assert shown(label) in told
        elif without_target:
            assert label in spoken or "none of its labels counts" in spoken
        else:
            known = [
                known for known in LABELS if known.field == field and PREFIX + known.name in labels.keys() - refused
            ]
            assert getattr(parsed, field) == max(one.parse(labels[PREFIX + one.name]) for one in known)
    assert {problem.code for problem in parsed.problems} <= PROBLEMS.keys()
    assert parse(dict(reversed(labels.items())), container=name, service="") == parsed
