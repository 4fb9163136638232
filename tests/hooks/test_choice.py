"""What a hook may be, which facts it wants, and that its address is in no sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from supervisor.core.facts import AnyFact
from supervisor.core.values import BadValue
from supervisor.hooks.choice import GROUPS, HOOKS_MAX, Hook, as_table, hidden_url, parse_hooks

GOOD = {"name": "phone", "url": "https://hooks.example/T0/SECRET", "facts": ["alerts"]}


def read(**more: Any) -> Hook:
    (hook,) = parse_hooks(json.dumps([{**GOOD, **more}]))
    return hook


def test_every_fact_is_in_a_group():
    grouped = {fact for name, facts in GROUPS.items() if name not in {"alerts", "all"} for fact in facts}

    assert grouped == {fact.__name__ for fact in get_args(AnyFact)}


def test_a_group_names_no_fact_that_there_is_not():
    assert set().union(*GROUPS.values()) == set(GROUPS["all"])


def test_everything_that_is_said_is_read():
    hook = read(
        targets=["comfy*"],
        format="slack",
        secret_file="/etc/s",
        token_file="/etc/t",
        timeout="3s",
        facts=["leases", "GpuClosed"],
    )

    assert hook == Hook(
        name="phone",
        url="https://hooks.example/T0/SECRET",
        facts=("leases", "GpuClosed"),
        targets=("comfy*",),
        format="slack",
        secret_file=Path("/etc/s"),
        token_file=Path("/etc/t"),
        timeout_ms=3_000,
    )


@pytest.mark.parametrize(
    ("facts", "targets", "fact", "target", "wanted"),
    [
        pytest.param(["alerts"], [], "StopFailed", "a", True, id="in a group"),
        pytest.param(["alerts"], [], "LeaseGranted", "a", False, id="in none of its groups"),
        pytest.param(["LeaseGranted"], [], "LeaseGranted", None, True, id="by its name"),
        pytest.param(["all"], ["comfy*"], "LeaseGranted", "comfyui", True, id="of a target that a glob means"),
        pytest.param(["all"], ["comfy*"], "LeaseGranted", "ollama", False, id="of another target"),
        pytest.param(["all"], ["comfy*"], "GpuClosed", None, False, id="of no target, where targets are chosen"),
    ],
)
def test_what_it_wants(facts, targets, fact, target, wanted):
    assert read(facts=facts, targets=targets).wants(fact, target) == wanted


@pytest.mark.parametrize(
    ("table", "told", "hint"),
    [
        pytest.param({"name": None}, "hook 1 has no proper name", "name =", id="no name"),
        pytest.param({"name": "A b"}, "hook 1 has no proper name", "lower-case", id="a name that is no label"),
        pytest.param({"url": None}, "hook phone needs either url or url_file", "url", id="no address"),
        pytest.param({"url_file": "/x"}, "needs either url or url_file", "url", id="two addresses"),
        pytest.param({"url": "ftp://h/SECRET"}, "is not an address", "https://", id="another scheme"),
        pytest.param({"url": "https://SECRET@h/"}, "has a password in it", "token_file", id="a password"),
        pytest.param({"url": "https://h:99999/SECRET"}, "is not an address", "https://", id="a port that is none"),
        pytest.param({"url": "https:///SECRET"}, "is not an address", "https://", id="no host"),
        pytest.param({"url": "https://h/SECRET\n"}, "is not an address", "https://", id="a line break"),
        pytest.param({"facts": []}, "chooses no facts", "alerts", id="no facts"),
        pytest.param({"facts": ["LeaseGrantd"]}, "LeaseGrantd is no fact", "did you mean LeaseGranted?", id="a typo"),
        pytest.param({"facts": "alerts"}, "facts has to be a list", "facts = [", id="a text for a list"),
        pytest.param({"format": "slak"}, '"slak" is no format', "did you mean slack?", id="a format"),
        pytest.param({"timeout": "2h"}, "timeout is not between", "10s", id="a timeout that is none"),
        pytest.param({"fact": ["all"]}, "fact is no key", "did you mean facts?", id="a key"),
        pytest.param({"port": 1}, "port is no key", "stand above [[hooks]]", id="a setting below the tables"),
    ],
)
def test_what_is_wrong_is_said_without_the_address(table, told, hint):
    with pytest.raises(BadValue) as caught:
        read(**table)

    assert told in str(caught.value)
    assert hint in caught.value.hint
    assert "SECRET" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", "https://h/SECRET", json.dumps([GOOD, GOOD]), json.dumps([GOOD] * (HOOKS_MAX + 1)), "[" * 99_999],
)
def test_what_is_no_array_of_different_hooks_is_refused(text):
    with pytest.raises(BadValue) as caught:
        parse_hooks(text)

    assert "SECRET" not in str(caught.value)


def test_what_is_shown_means_the_same_but_for_the_address():
    hook = read(url=None, url_file="/run/url", targets=["a"], timeout="7s")

    assert parse_hooks(json.dumps([as_table(hook)])) == (hook,)
    assert as_table(read())["url"] == hidden_url(GOOD["url"]) == "https://hooks.example/..."


# ---- in the settings


def test_tables_in_the_file_and_what_is_shown_of_them(run, tmp_path):
    path = tmp_path / "gs.toml"
    path.write_text(
        'port = 1\n\n[[hooks]]\nname = "phone"\nurl = "https://h.example/SECRET"\nfacts = ["alerts"]\n\n'
        '[[hooks]]\nname = "ops"\nurl_file = "/run/url"\nfacts = ["all"]\n'
    )
    shown = run("config", "show", "--config", str(path))
    as_json = run("config", "show", "--json", "--config", str(path))

    assert (shown[0], as_json[0]) == (0, 0)
    assert '#     { name = "phone", url = "https://h.example/..."' in shown[1]
    assert f"# ]  # file {path}:3" in shown[1]
    assert [hook["name"] for hook in json.loads(as_json[1])["settings"]["hooks"]["value"]] == ["phone", "ops"]
    assert "SECRET" not in f"{shown}{as_json}"


@pytest.mark.parametrize(
    "toml",
    [
        pytest.param('hooks = "https://h.example/SECRET"', id="another type"),
        pytest.param('hooks = ["https://h.example/SECRET"]', id="a list of texts"),
        pytest.param('[[hooks]]\nname = "a"\nurl = "https://h.example/SECRET"', id="a key is missing"),
        pytest.param('[[hooks]]\nname = 2026-01-01\nurl = "https://h.example/SECRET"', id="a date"),
    ],
)
def test_a_wrong_table_is_an_error_that_does_not_say_the_address(run, tmp_path, toml):
    path = tmp_path / "gs.toml"
    path.write_text(toml)
    status, out, err = run("config", "show", "--config", str(path))

    assert (status, out) == (2, "")
    assert f"{path}:1: hooks" in err
    assert "SECRET" not in err
