"""The keys: what each asks first, what it sends, and what is said of the answer; and a server that goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from supervisor.cli.top import deeds, model
from supervisor.cli.top.model import Picture
from tests.cli.fake import FakeServer
from tests.cli.fake import Problem as Answer
from tests.cli.test_reading import document
from tests.cli.top.scenes import BUSY, MANY, NOW, Scene, at, event, gpu, scene, ticket
from tests.cli.top.screen import Eyes, screen

Story = Callable[[Eyes], Awaitable[None]]


def told(fake: FakeServer, said: Scene, story: Story) -> None:
    said.said_by(fake)

    async def tell() -> None:
        async with screen(fake.url) as eyes:
            await eyes.until("enforcement")
            await story(eyes)

    asyncio.run(tell())


LEASE = "DELETE /v1/leases/l_8f3kQ2mXw1aZ"
DIRTY = scene((gpu(state="dirty", problem="512 MiB did not come back"),), (), (), (), ())


@pytest.mark.parametrize(
    ("said", "keys", "question", "call", "body", "answer", "done"),
    [
        pytest.param(
            *(BUSY, ("2", "r"), "Release comfyui?", LEASE, {}, {"released": True}, "released comfyui"), id="release"
        ),
        pytest.param(
            *(BUSY, ("4", "r"), "Release comfyui?", LEASE, {}, {"released": True}, "released comfyui"),
            id="release the lease of a target",
        ),
        pytest.param(
            *(BUSY, ("2", "r"), "Release comfyui?", LEASE, {}),
            *({"released": False, "reason": "unknown_or_ended"}, "it has ended already"),
            id="a lease that had ended already",
        ),
        pytest.param(
            *(BUSY, ("2", "r"), "Release comfyui?", "POST /release", {"force": True, "target": "comfyui"}, None),
            "released comfyui",
            id="release, of a server that knows no ids there",
        ),
        pytest.param(
            *(BUSY, ("3", "c"), "Cancel the ticket of bob@cron", "DELETE /v1/leases/l_t0", {}),
            *({"released": False, "reason": "granted"}, "it was granted meanwhile: it is a lease"),
            id="a ticket that was granted meanwhile",
        ),
        pytest.param(
            *(BUSY, ("3", "down", "c"), "Cancel the ticket of cy@lab", "DELETE /v1/leases/l_t1", {}),
            *({"released": True}, "cancelled the ticket of cy@lab for (bare)"),
            id="cancel",
        ),
        pytest.param(
            *(BUSY, ("4", "down", "e"), "Evict whisper?", "POST /v1/targets/whisper/evict", {}),
            *({"evicted": True}, "whisper is being stopped"),
            id="evict",
        ),
        pytest.param(
            *(DIRTY, ("1", "o"), "Say that GPU 0 is clean?", "POST /v1/gpus/GPU-0/open", {}),
            *({"opened": True}, "GPU 0 is open again"),
            id="open",
        ),
    ],
)
def test_a_key_asks_and_a_yes_acts(fake: FakeServer, said, keys, question, call, body, answer, done):
    if answer is not None:
        fake.answers[call] = answer
    else:
        fake.take()

    async def story(eyes: Eyes) -> None:
        await eyes.press(*keys)
        await eyes.until(question)
        await eyes.press("x", "enter", "n")
        await eyes.until(lambda text: question not in text)
        assert fake.calls == []
        await eyes.press(keys[-1])
        await eyes.until(question)
        await eyes.press("y")
        await eyes.until(done)

    told(fake, said, story)
    if answer is not None:
        assert fake.calls == [(call, body)]
    else:
        assert fake.holder is None


def test_a_release_is_of_this_lease_and_a_cancellation_of_this_ticket_only():
    assert deeds.release(BUSY.status.leases[0], BUSY.status).params == {"only": "lease"}
    assert deeds.cancel(BUSY.status.queue[0]).params == {"only": "ticket"}


def test_a_ticket_is_moved_to_the_place_that_was_foretold(fake: FakeServer):
    path = "POST /v1/leases/l_t2/move"
    fake.answers[path] = {"moved": False, "position": 0, "reason": "dry_run"}

    async def story(eyes: Eyes) -> None:
        await eyes.press("3", "end", "m")
        await eyes.until("Priority, -1000 to 1000")
        await eyes.press("backspace", "-", "x")
        await eyes.until("a whole number from -1000 to 1000")
        await eyes.press("backspace", "4", "2")
        await eyes.until("It would be at place 1; it is at place 3 now.")
        fake.answers[path] = {"moved": True, "position": 0}
        await eyes.press("enter")
        await eyes.until("has priority 42")

    told(fake, BUSY, story)
    assert fake.calls[-1] == (path, {"priority": 42})
    assert all(body["dry_run"] for _, body in fake.calls[:-1])


SENSELESS = (
    (("4", "e"), "comfyui is leased: release its lease first (r)"),
    (("4", "end", "e"), "vllm is stopped: only a resident target"),
    (("4", "end", "r"), "no lease is selected"),
    (("1", "o"), "GPU 0 is not closed"),
    (("3", "down", "l"), "this is about no target"),
)


def test_a_key_that_makes_no_sense_says_why(fake: FakeServer):
    async def story(eyes: Eyes) -> None:
        for keys, said in SENSELESS:
            await eyes.press(*keys)
            await eyes.until(said)

    told(fake, BUSY, story)
    assert fake.calls == []


def test_a_refusal_is_shown_with_its_hint_and_hostile_words_are_only_text(fake: FakeServer):
    fake.answers[LEASE] = Answer(409, "target_leased", "no [b]\x1b[2J\u202eway")
    fake.answers["DELETE /v1/leases/l_t2"] = Answer(404, "not_found", "there is nothing at this path")

    async def story(eyes: Eyes) -> None:
        await eyes.press("3", "end", "c", "y")
        assert "[red]eve[/red]\\x1b[2J" in await eyes.until("there is nothing at this path")
        await eyes.press("escape", "2", "r", "y")
        shown = await eyes.until("hint:")
        assert "no [b]\\x1b[2J\\u202eway" in shown
        assert "its owner gives it back with gpu-supervisor release" in shown
        await eyes.press("escape")
        await eyes.until("Leases 1")

    told(fake, BUSY, story)


def test_what_happens_is_shown_at_once_and_what_is_selected_stays_selected(fake: FakeServer):
    async def story(eyes: Eyes) -> None:
        await eyes.press("3", "down")
        assert eyes.app.query_one("#queue").selected == "l_t1"
        first = ticket(0, "vllm", "dan", id="l_new")
        more = replace(
            BUSY.status, queue=(first, *(replace(one, position=1 + one.position) for one in BUSY.status.queue))
        )
        news = event(44, "TicketQueued", "dan queued for vllm")
        fake.happen(44, document(news), {"/v1/status": document(more)})
        await eyes.until("Queue 4", within_s=1.5)
        await eyes.until("dan queued for vllm")
        assert eyes.app.query_one("#queue").selected == "l_t1"
        assert eyes.app.query_one("#audit").selected == "44"

    told(fake, BUSY, story)


def test_a_server_that_goes_away_leaves_its_last_picture_greyed_and_is_taken_up_again(fake: FakeServer):
    async def story(eyes: Eyes) -> None:
        fake.set_cut(True)
        shown = await eyes.until("NO ANSWER")
        assert "comfyui   ann@desk" in shown
        assert eyes.app.query_one("#leases").stale
        await eyes.press("2", "r", "y")
        await eyes.until("went away")
        await eyes.press("escape")
        fake.set_cut(False)
        await eyes.until("in sync")
        assert not eyes.app.query_one("#leases").stale
        assert fake.resumed_from[-1] == "43"

    told(fake, BUSY, story)


def test_tab_goes_round_the_panes_and_the_keys_at_the_bottom_go_with_it(fake: FakeServer):
    async def story(eyes: Eyes) -> None:
        seen = []
        for _ in range(6):
            seen.append(eyes.app.focused.id)
            await eyes.press("tab")
        assert seen == ["leases", "queue", "targets", "audit", "gpus", "leases"]
        await eyes.press("4")
        assert "e evict" in eyes.text.splitlines()[-1]
        await eyes.press("5")
        assert "e evict" not in eyes.text.splitlines()[-1]
        await eyes.press("slash", *"whisper", "enter")
        await eyes.until("Targets 1 of 5")
        assert eyes.app.focused.id == "audit"
        await eyes.press("escape")
        await eyes.until("Targets 5")

    told(fake, BUSY, story)


def test_a_large_house_is_drawn_in_no_time():
    picture = Picture(status=MANY.status, targets={one.name: one for one in MANY.targets}, events=MANY.events)
    begun = time.process_time()
    for _ in range(10):
        model.tables(picture, NOW, "model")
    assert (time.process_time() - begun) / 10 < 0.1


def test_only_the_lines_in_sight_are_drawn(fake: FakeServer):
    drawn: list[int] = []

    async def story(eyes: Eyes) -> None:
        queue: Any = eyes.app.query_one("#queue")
        honest = queue.row_line
        queue.row_line = lambda at, line, width: drawn.append(at) or honest(at, line, width)
        await eyes.press("3", "end")
        await eyes.until("1000  model-99")

    told(fake, MANY, story)
    assert 0 < len(set(drawn)) < 60


def test_a_gpu_with_several_leases_has_none_to_release(fake: FakeServer):
    shared = scene((gpu(lease="l_1", leases=("l_1", "l_2")),), (), (), (), ())

    async def story(eyes: Eyes) -> None:
        await eyes.press("1", "r")
        await eyes.until("no lease is selected")

    told(fake, shared, story)


def test_times_run_on_while_nothing_happens(fake: FakeServer):
    soon = replace(BUSY.status.leases[0], expires_at=at(30))
    BUSY.said_by(fake)
    fake.documents["/v1/status"] = document(replace(BUSY.status, leases=(soon,)))
    passed = [0]

    async def tell() -> None:
        async with screen(fake.url, now=lambda: NOW + timedelta(seconds=passed[0])) as eyes:
            await eyes.until("30s")
            passed[0] = 21
            await eyes.until(" 9s")

    asyncio.run(tell())
