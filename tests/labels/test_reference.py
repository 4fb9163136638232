"""labels.md is what the tables say, and its example works."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.check import check_files
from supervisor.core.labels import LABELS, Parsed, TargetSpec, merge
from supervisor.core.model import Container, Sharing
from supervisor.core.problems import PROBLEMS
from supervisor.core.reference import EXAMPLE, page

PAGE = Path(__file__).parents[2] / "labels.md"


def test_labels_md_is_in_step_with_the_tables():
    assert PAGE.read_text() == page(), "run: python -m supervisor.core.reference > labels.md"


#: Where nothing is said it is not the labels that decide.
DEFAULTS_OF_OTHERS = dict.fromkeys(("idle-timeout", "min-residency", "max-hold"), "the configuration's") | {
    "devices": "what Docker was asked for"
}


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.name)
def test_each_label_is_documented_with_an_example_and_a_default_that_hold(label):
    row = next(line for line in page().splitlines() if line.startswith(f"| `gpu.{label.name}` |"))
    unsaid = merge("x", [Container(id="x", name="x", target="x")])
    value = getattr(Parsed(), label.field)
    if value is None and label.field in TargetSpec.__struct_fields__:
        value = getattr(unsaid, label.field)
    default = "none" if value in (None, (), Sharing()) else str(value).lower()

    assert all(text in row for text in (label.value, label.default, label.meaning, label.example))
    assert label.parse(label.example) is not None
    assert label.default in {default, DEFAULTS_OF_OTHERS.get(label.name)}


def test_each_problem_is_documented():
    assert all(f"| `{code}` |" in page() for code in PROBLEMS)


def test_the_page_follows_the_prefix():
    assert "`org.example.gpu.target`" in page("org.example.gpu.")


@pytest.mark.engine
def test_the_example_has_no_problem(tmp_path):
    file = tmp_path / "docker-compose.yml"
    file.write_text(EXAMPLE.format(prefix="gpu."))

    report = check_files([file], project="demo")

    assert report.problems == ()
    assert [spec.name for spec in report.targets] == ["comfyui"]
