"""The screen before a real supervisor on a real engine: a hand-over is watched, and made by keys."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from supervisor.cli.top.app import utc_now
from tests.cli.top.screen import screen
from tests.conftest import Stack
from tests.e2e.conftest import Server, make_server, server

__all__ = ["make_server", "server"]  # fixtures

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


def row(text: str, *words: str) -> bool:
    """Return whether one line of the screen has all these words."""
    return any(all(word in line for word in words) for line in text.splitlines())


def test_a_hand_over_is_watched_and_made_by_keys(
    server: Server, make_stack: Callable[..., Stack], until: Callable[..., Any]
):
    first, second = make_stack("single"), make_stack("chain")
    for stack in (first, second):
        until(lambda stack=stack: server.target_state(stack.target) == "stopped", 5, "the created target")
    assert server.lease(first.target, owner="ann").status_code == 201
    answers = []

    def wait(owner: str, target: str | None) -> threading.Thread:
        body = {"owner": owner, "wait_seconds": 60, "wait_ready": False}
        waiting = threading.Thread(target=lambda: answers.append((owner, server.lease(target, **body).status_code)))
        waiting.start()
        return waiting

    async def story() -> None:
        async with screen(server.url, (230, 40), now=utc_now) as eyes:
            await eyes.until(lambda text: row(text, first.target, "ann", "ready"))
            bob = wait("bob", None)
            await eyes.until(lambda text: row(text, "1", "(bare)", "bob"))
            cy = wait("cy", second.target)
            await eyes.until(lambda text: row(text, "2", second.target, "cy"))

            # Cy goes first, by an operator's word.
            await eyes.press("3", "end", "m", *["backspace"] * 5, "9", "9")
            await eyes.until("It would be at place 1")
            await eyes.press("enter")
            await eyes.until(lambda text: row(text, "1", second.target, "cy", "99"))

            # Ann's lease is taken away: what she ran makes room for what Cy asked for.
            await eyes.press("2", "r")
            await eyes.until(f"Release {first.target}?")
            await eyes.press("y")
            await eyes.until(lambda text: row(text, "cy", "GPU") or row(text, second.target, "cy", "starting"))
            await eyes.until(lambda text: row(text, second.target, "ready", "healthy"), 30)
            await eyes.until(lambda text: row(text, first.target, "stopped"), 30)
            await eyes.until(f"{first.target} was evicted to make room for {second.target} of cy")
            await asyncio.to_thread(cy.join, 30)

            await eyes.press("4", "home", "l")
            await eyes.until(f"What {second.target} last wrote")
            await eyes.press("escape")
            server.http.post("/release", json={"force": True, "target": second.target})
            await eyes.until(lambda text: row(text, "(bare)", "bob", "ready"), 30)
            await asyncio.to_thread(bob.join, 30)

    asyncio.run(story())
    assert sorted(answers) == [("bob", 201), ("cy", 201)]
    told = [one["sentence"] for one in server.audit()]
    assert f"the lease of ann on {first.target} was taken away by an operator; {first.target} stays resident" in told
    assert any("was moved by an operator: priority 99 instead of 0" in sentence for sentence in told)
