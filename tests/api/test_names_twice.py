"""A name that is there twice is refused, however it is spelled: the quick look agrees with the slow one."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from supervisor.api.bodies import NAMES, decode_body
from supervisor.api.problems import RequestRefused
from supervisor.api.schemas import LeaseBody

NAME = st.sampled_from(["owner", "target", "consumer", "priority", "queue"])
VALUE = st.one_of(st.text(':"\\{}, a', max_size=5), st.integers(0, 3), st.booleans(), st.none())
BLANK = st.sampled_from(["", " ", "\n"])


@st.composite
def members(draw: st.DrawFn) -> bytes:
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        name, blank = draw(NAME), draw(BLANK)
        spelled = f'"\\u{ord(name[0]):04x}{name[1:]}"' if draw(st.booleans()) else f'"{name}"'
        parts.append(f"{spelled}{blank}:{blank}{json.dumps(draw(VALUE))}")
    return ("{" + ",".join(parts) + "}").encode()


@given(raw=members())
def test_the_quick_look_for_a_name_twice_agrees_with_the_slow_one(raw):
    def slow() -> bool:
        try:
            msgspec.json.decode(raw, type=LeaseBody)
            NAMES.decode(raw.decode())
        except ValueError:
            return False
        return True

    def quick() -> bool:
        try:
            decode_body(raw, LeaseBody)
        except RequestRefused:
            return False
        return True

    assert quick() == slow()
