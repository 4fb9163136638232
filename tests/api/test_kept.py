"""What is kept of the status is, at every moment, what making it anew would be: over whole histories, and at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from supervisor.api.views import kept as module
from supervisor.api.views.kept import Kept
from supervisor.api.views.leases import queue_entries
from supervisor.api.views.targets import briefs
from supervisor.core.inputs import EngineLost
from supervisor.core.model import Now
from supervisor.core.state import State
from tests.core.box import Box, container
from tests.simulation.world import World

encode = msgspec.json.encode


def check(kept: Kept, state: State, now: Now) -> tuple[bytes, bytes]:
    queue, targets = bytes(kept.queue(state, now)), bytes(kept.targets(state))
    assert queue == encode(queue_entries(state, now))
    assert targets == encode(briefs(state))
    return queue, targets


@pytest.mark.parametrize("seed", range(12))
def test_after_every_step_of_a_history_it_is_what_making_it_anew_would_be(seed: int, monkeypatch):
    world = World(seed)
    kept: dict[int, Kept] = {}
    shown: Counter[str] = Counter()
    stepped = world.rules.stepped

    def look(now: Now, item: Any) -> None:
        assert world.life is not None
        state = world.life.kernel.state
        queue, targets = check(kept.setdefault(id(world.life), Kept()), state, now)
        shown.update({"waiting": queue != b"[]", "quiet": b'"stopped"' in targets, "steps": 1})
        stepped(now, item)

    monkeypatch.setattr(world.rules, "stepped", look)
    world.play(active_ms=60_000)

    assert shown["steps"] > 100
    assert shown["quiet"], "some target was kept"


def test_what_has_not_changed_is_not_made_again(monkeypatch):
    box = Box(*(container(name) for name in ("a", "b", "c")))
    box.lease("a")
    for _ in range(3):
        box.ask("b", on_busy="ticket")
    kept = Kept()
    made: Counter[str] = Counter()
    for name in ("queue_entry", "brief"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, real=real, name=name: (made.update([name]), real(*args))[1])

    check(kept, box.state, box.now)
    assert made == {"queue_entry": 3, "brief": 3}
    check(kept, box.state, box.now)
    assert made == {"queue_entry": 3, "brief": 4}, "a is leased: a word on it takes the whole state"


def test_each_change_shows_in_the_very_next_answer():
    box = Box(*(container(name) for name in ("a", "b", "c")))
    holder, waiter = box.lease("a"), box.ask("b", on_busy="ticket")
    kept = Kept()
    changes: list[Callable[[], Any]] = [
        lambda: box.ask("c", on_busy="ticket", priority=5),
        lambda: (box.advance(10), box.renew(holder)),
        lambda: box.start("c-main"),
        lambda: box.exit("c-main"),
        lambda: box.remove("c-main"),
        lambda: box.feed(EngineLost("no answer")),
        lambda: box.release(waiter),
    ]
    seen = [check(kept, box.state, box.now)]
    for number, change in enumerate(changes):
        change()
        seen.append(check(kept, box.state, box.now))
        assert seen[-1] != seen[-2], f"change {number} shows"
