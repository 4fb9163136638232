"""``config``: what is in force with its origin, and a file to begin with; both are files that ``serve`` reads."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from supervisor.cli.config import template
from supervisor.config import Config, load
from supervisor.settings import BY_KEY, SETTINGS
from tests.cli.test_config import EVERY, EVERY_TEXT, EVERY_TOML


def load_file(path: Path, text: str) -> Config:
    """What a file means, where nothing else is set."""
    path.write_text(text)
    return load({}, {"XDG_CONFIG_HOME": "/nonexistent"}, file=path)


def origins(out: str) -> dict[str, str]:
    """Key -> origin, of what ``config show`` printed; a list ends on a line of its own."""
    return dict(re.findall(r"^(\w+) = (?:\[\n(?:    .*\n)*\]|.*?)  # (.*)$", out, re.MULTILINE))


def test_what_is_shown_is_a_file_that_means_the_same(run, tmp_path, monkeypatch):
    monkeypatch.setenv("GPU_SUPERVISOR_CLAIM_WINDOW", "1m")
    monkeypatch.setenv("GPU_SUPERVISOR_ALLOWED_HOSTS", "gpu.lan,box")
    status, out, err = run("config", "show", "--port", "0", "--aging", "0.25", "--data-dir", "here", "--allow-remote")

    assert (status, err) == (0, "")
    assert load_file(tmp_path / "shown.toml", out) == load(
        {"port": "0", "aging": "0.25", "data_dir": "here", "allow_remote": "true"}, os.environ
    )
    assert tomllib.loads(out).keys() == BY_KEY.keys()


def test_every_setting_is_shown_as_it_was_given_in_a_file(run, tmp_path):
    path = tmp_path / "every.toml"
    path.write_text(EVERY_TOML)
    _, out, _ = run("config", "show", "--config", str(path))

    assert load_file(tmp_path / "again.toml", out) == EVERY
    assert origins(out) == {
        key: f"file {path}:{number}"
        for number, line in enumerate(EVERY_TOML.splitlines(), 1)
        if (key := line.partition(" ")[0])
    }


def test_each_value_is_shown_with_the_layer_that_it_came_from(run, tmp_path, monkeypatch):
    path = tmp_path / "config" / "gpu-supervisor" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("# mine\nqueue_max = 5\nport = 1\naging = 2\n")
    monkeypatch.setenv("GPU_SUPERVISOR_PORT", "2")
    monkeypatch.setenv("GPU_SUPERVISOR_AGING", "3")
    monkeypatch.setenv("DOCKER_HOST", "tcp://proxy:2375")

    _, out, _ = run("config", "show", "--port", "3")

    shown = origins(out)
    assert shown.keys() == BY_KEY.keys()
    assert shown["host"] == "default"
    assert shown["docker_host"] == "environment variable DOCKER_HOST"
    assert shown["queue_max"] == f"file {path}:2"
    assert shown["aging"] == "environment variable GPU_SUPERVISOR_AGING"
    assert shown["port"] == "flag --port"
    assert f"Files that were read: {path}" in out


def test_a_program_gets_values_and_origins_as_json(run, monkeypatch):
    monkeypatch.setenv("GPU_SUPERVISOR_PORT", "2")
    _, out, _ = run("config", "show", "--json")

    shown = json.loads(out)
    assert shown["files"] == []
    assert shown["settings"].keys() == BY_KEY.keys()
    assert shown["settings"]["port"] == {"value": 2, "origin": "environment variable GPU_SUPERVISOR_PORT"}
    assert shown["settings"]["allowed_hosts"] == {"value": [], "origin": "default"}


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_password_is_never_shown(run, monkeypatch, as_json):
    monkeypatch.setenv("DOCKER_HOST", "tcp://ann:hunter2@proxy:2375")
    shown = run("config", "show", "--docker-write-host", "http://bob:hunter2@box:1", *as_json)
    written = run("config", "init", "-")

    assert (shown[0], written[0]) == (0, 0)
    assert "hunter2" not in "".join([*map(str, shown), *map(str, written)])
    assert "environment variable DOCKER_HOST" in shown[1], "but where it is set"


def test_a_setting_that_is_marked_secret_is_never_shown(run, monkeypatch):
    monkeypatch.setattr("supervisor.settings.Setting.secret", True, raising=False)

    _, out, _ = run("config", "show", "--label-prefix", "acme.")

    assert "acme." not in out
    assert "# label_prefix is set, and not shown" in out


def test_what_would_not_start_is_refused_with_its_place_and_the_nearest_key(run, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text('port = 1\nclaim_windw = "1s"\n')

    assert run("config", "show", "--config", str(path)) == (
        2,
        "",
        f"error: {path}:2: claim_windw is no setting\nhint:  did you mean claim_window?\n",
    )


def test_two_wrong_settings_are_told_together_to_people_and_programs(run, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text('port = 1\nclaim_windw = "1s"\naging = "1"\n')

    status, _, people = run("config", "show", "--config", str(path))
    _, _, programs = run("config", "show", "--config", str(path), "--json")

    assert (status, people.splitlines()) == (
        2,
        [
            f"error: {path}:2: claim_windw is no setting",
            "hint:  did you mean claim_window?",
            f'error: {path}:3: aging = "1" has the wrong type',
            "hint:  write a number without quotes: aging = 1.5",
        ],
    )
    said = json.loads(programs)
    assert said["message"].endswith("claim_windw is no setting")
    assert said["context"] == {
        "others": [
            {
                "message": f'{path}:3: aging = "1" has the wrong type',
                "hint": "write a number without quotes: aging = 1.5",
            }
        ]
    }


# ---- init


def test_a_new_file_explains_every_setting_and_sets_none(run, tmp_path):
    path = tmp_path / "new" / "gs.toml"
    status, out, _ = run("config", "init", str(path))

    text = path.read_text()
    assert (status, out) == (
        0,
        f"wrote {path}\nnext: edit it, then gpu-supervisor config show --config {path}\n",
    )
    assert tomllib.loads(text) == {}
    for setting in SETTINGS:
        assert setting.meaning.replace("`", "") in text, setting.key
        assert setting.default_shown.replace("`", "") in text, setting.key


def test_a_new_file_with_every_line_taken_in_means_the_defaults(run, tmp_path):
    path = tmp_path / "gs.toml"
    run("config", "init", str(path))
    taken_in = re.sub(r"^#(\w+ =)", r"\1", path.read_text(), flags=re.MULTILINE)

    assert tomllib.loads(taken_in).keys() == BY_KEY.keys()
    path.write_text(taken_in)
    assert load({}, os.environ, file=path) == load({}, os.environ)


def test_a_file_that_is_there_is_kept_unless_it_is_to_be_replaced(run, tmp_path):
    path = tmp_path / "gs.toml"
    path.write_text("port = 1\n")

    status, _, err = run("config", "init", str(path))
    assert (status, err) == (
        1,
        f"error: {path} is there already\nhint:  replace it with --force, or name another file\n",
    )
    assert path.read_text() == "port = 1\n"

    assert run("config", "init", str(path), "--force")[0] == 0
    assert path.read_text() == template(os.environ)


def test_without_a_name_it_is_the_file_that_serve_reads(run, tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    path = tmp_path / "config" / "gpu-supervisor" / "config.toml"

    assert run("config", "init") == (0, f"wrote {path}\nnext: edit it, then gpu-supervisor config show\n", "")
    assert json.loads(run("config", "init", "--force", "--json")[1]) == {"file": str(path), "read_by_default": True}


def test_a_file_that_cannot_be_written_is_an_error(run):
    status, _, err = run("config", "init", "/proc/none/gs.toml")

    assert status == 1
    assert err.startswith("error: /proc/none/gs.toml cannot be written: ")


def test_every_text_of_a_flag_is_shown_and_read_again(run, tmp_path):
    flags = [
        word
        for key, text in EVERY_TEXT.items()
        for word in ([BY_KEY[key].flag] if BY_KEY[key].kind == "boolean" else [BY_KEY[key].flag, text])
    ]
    _, out, _ = run("config", "show", *flags)

    assert load_file(tmp_path / "again.toml", out) == EVERY
    assert origins(out) == {key: f"flag {BY_KEY[key].flag}" for key in BY_KEY}
