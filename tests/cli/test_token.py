"""``token``: keys are made, shown and revoked on the spot; and every command sends the one that it was given."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from supervisor import keys
from supervisor.keys import keys_file
from tests.cli.fake import FakeServer, Problem

KEY = r"gpusk_[A-Za-z0-9_-]{43}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPU_SUPERVISOR_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_a_key_alone_goes_to_stdout_so_that_a_shell_can_keep_it(run, folder):
    status, out, err = run(
        "token", "create", "ci", "--role", "lease", "--targets", "whisper*, @bare", "--expires", "30d"
    )

    assert (status, bool(re.fullmatch(f"{KEY}\n", out))) == (0, True)
    assert "key ci: role lease, targets whisper*, @bare, until " in err
    assert "from now on every caller over TCP needs a key" in err
    assert out.strip() not in err + keys_file(folder).read_text()
    _, _, second = run("token", "create", "cy", "--role", "read")
    assert "from now on" not in second


def test_keys_are_listed_without_what_they_are(run, folder):
    text = run("token", "create", "ci", "--role", "lease")[1].strip()
    run("token", "create", "ops", "--role", "admin", "--targets", "a*")

    shown = run("token", "list")[1]
    assert re.search(r"ci +lease +\* +20\S+ \S+ +never", shown)
    assert re.search(r"ops +admin +a\*", shown)
    listed = json.loads(run("token", "list", "--json")[1])
    assert [key["name"] for key in listed["keys"]] == ["ci", "ops"]
    assert text not in shown + json.dumps(listed)
    assert keys.digest(text) not in shown + json.dumps(listed)


def test_json_has_the_key_and_what_it_is_good_for(run, folder):
    made = json.loads(run("token", "create", "ci", "--role", "read", "--expires", "1h", "--json")[1])
    assert re.fullmatch(KEY, made["token"])
    assert (made["name"], made["role"], made["targets"], made["expired"]) == ("ci", "read", ["*"], False)
    assert json.loads(run("token", "revoke", "ci", "--json")[1]) == {"revoked": "ci", "left": 0}


def test_the_last_one_to_go_leaves_it_closed_and_says_how_to_open_it(run, folder):
    assert "there are no keys" in run("token", "list")[1]
    run("token", "create", "ci", "--role", "read")
    status, out, err = run("token", "revoke", "ci")
    assert (status, out) == (0, "revoked ci, 0 left\n")
    assert f"rm {keys_file(folder)}, and restart" in err
    assert "callers over TCP still need one" in run("token", "list")[1]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["create", "Ci", "--role", "read"], 2, '"Ci" is no name for a key'),
        (["create", "ci", "--role", "boss"], 2, "one of: read, lease, admin"),
        (["create", "ci"], 2, "--role"),
        (["create", "ci", "--role", "read", "--targets", "[a]"], 2, "no pattern of targets"),
        (["create", "ci", "--role", "read", "--expires", "0"], 2, "expired already"),
        (["create", "ci", "--role", "read", "--expires", "soon"], 2, "--expires"),
        (["create", "ci", "--role", "read", "--expires", "11y"], 2, "--expires"),
        (["revoke", "ci"], 1, "there is no key ci"),
    ],
)
def test_what_is_wrong_is_said_and_makes_no_key(run, folder, words, status, said):
    found = run("token", *words)
    assert (found[0], said in found[2]) == (status, True), found
    assert not keys_file(folder).exists() or keys.read_keys(keys_file(folder)) == ()


def test_every_command_sends_the_key_and_shows_it_to_nobody(run, fake: FakeServer, monkeypatch):
    monkeypatch.setenv("GPU_SUPERVISOR_TOKEN", "gpusk_secret")
    outcomes = [run("status"), run("queue"), run("audit"), run("acquire", "a", "--detach"), run("evict", "nobody")]
    assert set(fake.authorizations) == {"Bearer gpusk_secret"}
    assert "gpusk_secret" not in str(outcomes)


def test_without_a_key_none_is_sent(run, fake: FakeServer):
    run("status")
    assert set(fake.authorizations) == {None}


@pytest.mark.parametrize("key", ["a b", "a\nX-More: b", "ä", "\x7f"])
def test_what_cannot_be_a_key_is_said_without_showing_it(run, fake: FakeServer, monkeypatch, key):
    monkeypatch.setenv("GPU_SUPERVISOR_TOKEN", key)
    status, _, err = run("status")
    assert (status, "GPU_SUPERVISOR_TOKEN is no key" in err) == (2, True)
    assert key not in err


@pytest.mark.parametrize(
    ("problem", "status", "hint"),
    [
        pytest.param(
            Problem(401, "unauthorized", "a key is needed here", needed_role="admin"),
            1,
            "gpu-supervisor token create NAME --role admin",
            id="no key",
        ),
        pytest.param(
            Problem(403, "forbidden", "this needs the role lease", needed_role="lease"),
            1,
            "gpu-supervisor token create NAME --role lease",
            id="the wrong role",
        ),
        pytest.param(
            Problem(403, "forbidden", "key ci is not for a", target="a"),
            1,
            "gpu-supervisor token list",
            id="its targets",
        ),
        pytest.param(Problem(403, "forbidden", "this Host is not"), 1, "--allowed-hosts", id="another name"),
        pytest.param(
            Problem(429, "caller_limit", "key ci has 1", retryable=True), 3, "gpu-supervisor queue", id="its limit"
        ),
    ],
)
def test_a_refusal_says_what_to_type(run, fake: FakeServer, problem, status, hint):
    fake.refusals["a"] = problem
    found = run("acquire", "a", "--wait", "0")
    assert (found[0], hint in found[2]) == (status, True), found
