"""One line of the event stream is a hint or noise; what labels say about it is not believed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from supervisor.engine.events import translate

RECORDED = (Path(__file__).parent / "recorded" / "events-20.10.24.jsonl").read_bytes().splitlines()


def test_of_a_recorded_life_with_a_healthcheck_only_what_matters_is_left():
    hints = [hint for line in RECORDED if (hint := translate(line))]

    assert len(RECORDED) == 27
    assert [hint.action for hint in hints] == [
        *("create", "start", "pause", "unpause", "rename", "update", "health_status", "die", "destroy")
    ]
    assert len({hint.id for hint in hints}) == 1
    assert all(hint.at_ns > 10**18 for hint in hints)


@pytest.mark.parametrize(
    ("line", "action"),
    [
        pytest.param({"Action": "start", "Actor": {"ID": "c1"}}, "start", id="without attributes"),
        pytest.param({"Action": "health_status: unhealthy", "Actor": {"ID": "c1"}}, "health_status", id="with a value"),
        pytest.param({"Action": "health_status", "Actor": {"ID": "c1"}}, "health_status", id="podman: without one"),
        pytest.param({"Action": "remove", "Actor": {"ID": "c1"}}, "remove", id="podman: remove is destroy"),
        pytest.param({"Action": "exec_create: sh -c start", "Actor": {"ID": "c1"}}, None, id="a healthcheck's probe"),
        pytest.param({"Action": "exec_died", "Actor": {"ID": "c1"}}, None, id="podman: exec"),
        pytest.param({"Action": "start", "Actor": {}}, None, id="of nobody"),
        pytest.param({"status": "start", "id": "c1"}, None, id="the fields that API 1.52 drops are not used"),
        pytest.param({}, None, id="empty"),
    ],
)
def test_a_line_is_a_hint_or_noise(line: dict[str, object], action: str | None):
    hint = translate(json.dumps(line).encode())
    assert (hint and hint.action) == action


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"Action": 1}', b"\xff\xfe", b'{"Actor": "c1"}'])
def test_a_line_of_another_shape_is_an_error(line: bytes):
    with pytest.raises(msgspec.DecodeError):
        translate(line)
