"""The dashboard asks for metrics that there are; the hooks of the examples and of the README are hooks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from supervisor.config import Config, load
from supervisor.core.facts import AnyFact, GpuClosed, LeaseEnded, StopFailed
from supervisor.hooks.bodies import message
from supervisor.hooks.choice import GROUPS
from supervisor.metrics.table import METRICS, Metric
from tests.documents.snippets import snippets

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((ROOT / "examples" / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


def families(expression: str) -> list[Metric]:
    """The metrics that a query asks for; fails where there is one that is not on the page."""
    series = {
        f"{metric.name}{suffix}": metric
        for metric in METRICS
        for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
    }
    return [series[name] for name in re.findall(r"gpu_supervisor_\w+", expression)]


@pytest.mark.parametrize(("title", "target"), QUERIES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_dashboard_asks_for_metrics_and_labels_that_there_are(title, target):
    found = families(target["expr"])
    labels = {"le", "job"} | {label for metric in found for label in metric.labels}

    grouped = {
        label.strip()
        for by in re.findall(r"by \(([^)]*)\)", target["expr"])
        for label in by.split(",")
        if label.strip()
    }
    picked = set(re.findall(r"[{,]\s*(\w+)!?=", target["expr"]))
    assert grouped | picked | set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels


def test_every_query_is_of_the_chosen_job():
    for _, target in QUERIES:
        asked = re.findall(r"(?:gpu_supervisor|process)_\w+(\{[^}]*\})?", target["expr"])
        assert asked
        assert all('job="$job"' in selector for selector in asked), target["expr"]


def test_a_counter_is_never_shown_as_it_is():
    for _, target in QUERIES:
        for name in re.findall(r"(\w+_(?:total|bucket))\{", target["expr"]):
            assert re.search(rf"(?:rate|increase)\({name}\{{", target["expr"]), target["expr"]


def test_the_dashboard_shows_every_metric_but_what_is_only_a_name():
    shown = {metric.name for _, target in QUERIES for metric in families(target["expr"])}

    assert {metric.name for metric in METRICS} - shown == {
        *("gpu_supervisor_info", "gpu_supervisor_gpu_info", "gpu_supervisor_gpus"),
        *("gpu_supervisor_gpu_memory_reserved_bytes", "gpu_supervisor_gpu_memory_free_bytes"),
        "gpu_supervisor_target_memory_reserved_bytes",
    }


def test_no_two_panels_lie_on_each_other_and_none_leaves_the_page():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_the_readme_alarms_on_metrics_that_there_are():
    section = README.split("## Metrics, logs and hooks")[1].split("<!-- metrics:")[0]

    for query in re.findall(r"`(gpu_supervisor_[^`]+)`", section):
        assert families(query)


# ---- hooks


def settings(text: str, tmp_path: Path) -> Config:
    file = tmp_path / "gs.toml"
    file.write_text(text)
    return load({}, {"XDG_CONFIG_HOME": "/nonexistent"}, file=file)


def test_the_hooks_of_the_example_send_what_ntfy_and_slack_document(tmp_path):
    phone, chat = settings((ROOT / "examples" / "hooks.toml").read_text(), tmp_path).hooks
    ended: AnyFact = LeaseEnded(1, 1, "l_1", "expired", resident=True, owner="<ann>", target="a")
    stuck: AnyFact = StopFailed(1, 1, "c", "a-1", "a", "it hangs")
    assert (phone.name, chat.name) == ("phone", "chat")
    assert not phone.wants("LeaseEnded", "a")
    assert phone.wants("StopFailed", "a")
    assert chat.wants("LeaseEnded", "a")

    told = message(phone.format, "box", 1, stuck)
    assert told.body == b"container a-1 of a cannot be stopped: it hangs; its GPU stays closed"
    assert dict(told.headers).items() >= {"Title": "box: StopFailed", "Priority": "high", "Tags": "warning"}.items()
    assert json.loads(message(chat.format, "box", 2, ended).body) == {
        "text": "*box*: the lease of &lt;ann&gt; on a has expired; a stays resident"
    }


def test_the_hook_of_the_readme_is_one(tmp_path):
    (block,) = (it for it in snippets(README) if it.name == "a hook")
    (hook,) = settings(block.text, tmp_path).hooks

    assert hook.wants("LeaseEnded", "llm-70b")
    assert not hook.wants("LeaseEnded", "ollama")
    assert hook.wants(GpuClosed.__name__, "comfyui")


def test_the_readme_has_every_group_with_its_facts():
    for name, facts in GROUPS.items():
        words = "every fact" if name == "all" else ", ".join(f"`{fact}`" for fact in facts)
        assert f"| `{name}` | {words} |" in README
