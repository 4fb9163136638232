"""The screen as people see it, line by line, under a clock that stands still.

Where one is meant to look otherwise, ``python -m tests.cli.top.test_screens`` writes them anew: read the difference.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from supervisor.answers import ContainerLog, LogsView, MovedAnswer, Why
from tests.cli.fake import FakeServer, running_fake
from tests.cli.test_reading import document
from tests.cli.top.scenes import BUSY, EMPTY, HOSTILE, MANY, Scene
from tests.cli.top.screen import screen

FOLDER = Path(__file__).parent / "screens"
NARROW, WIDE = (80, 24), (140, 40)
WHY = Why(
    name="ollama",
    target="ollama",
    state="stopped",
    sentence="container ollama-main-1 of ollama was killed: comfyui holds the GPU (gpu_held); ollama is stopped now",
    stopped=None,
    by="enforcement",
    for_target="comfyui",
    for_owner="ann",
    command="gpu-supervisor acquire ollama",
)
LOGS = LogsView("comfyui", (ContainerLog(container="comfyui-main-1", service="main", lines=("loading", HOSTILE)),), 2)

#: One session each: what the server says, the size, and the screens in turn: name, keys, what is shown then.
Steps = tuple[tuple[str, tuple[str, ...], str], ...]
SESSIONS: dict[str, tuple[Scene, tuple[int, int], Steps]] = {
    "wide": (BUSY, WIDE, (("busy-140x40", (), "gpubox"),)),
    "many-wide": (MANY, WIDE, (("many-140x40", (), "gpubox"),)),
    "many": (MANY, NARROW, (("many-80x24", (), "gpubox"),)),
    "empty": (EMPTY, NARROW, (("empty-80x24", (), "gpubox"),)),
    "narrow": (
        BUSY,
        NARROW,
        (
            ("busy-80x24", (), "gpubox"),
            ("help-80x24", ("question_mark",), "Keys that act"),
            ("release-80x24", ("2", "r"), "Release comfyui?"),
            ("cancel-80x24", ("3", "down", "c"), "Cancel the ticket"),
            ("move-80x24", ("3", "down", "m", "7"), "It would be at place 1"),
            ("evict-80x24", ("4", "down", "e"), "Evict whisper?"),
            ("gpu-80x24", ("1", "enter"), "Processes on it"),
            ("target-80x24", ("4", "end", "up", "enter"), "ollama is stopped now"),
            ("logs-80x24", ("4", "home", "l"), "loading"),
            ("decision-80x24", ("5", "enter"), "ContainerRefused"),
            ("filter-80x24", ("3", "slash", *"ollama bob", "enter"), "Queue 1 of 3"),
        ),
    ),
}


def prepare(fake: FakeServer, scene: Scene) -> None:
    scene.said_by(fake)
    fake.documents["/v1/why/ollama"] = document(WHY)
    fake.documents["/v1/targets/comfyui/logs"] = document(LOGS)
    fake.answers["POST /v1/leases/l_t2/move"] = document(MovedAnswer(moved=False, position=0, reason="dry_run"))


async def look(fake: FakeServer, session: str) -> dict[str, str]:
    scene, size, steps = SESSIONS[session]
    prepare(fake, scene)
    found = {}
    async with screen(fake.url, size) as eyes:
        for name, keys, shown in steps:
            await eyes.until("enforcement")
            await eyes.press(*keys)
            found[name] = await eyes.until(shown)
            await eyes.press("escape")
    return found


@pytest.mark.parametrize("session", SESSIONS)
def test_the_screens(fake: FakeServer, session: str):
    width, height = SESSIONS[session][1]
    for name, shown in asyncio.run(look(fake, session)).items():
        assert max(map(len, shown.splitlines())) <= width
        assert len(shown.splitlines()) <= height
        assert shown == (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), name


def record() -> None:
    os.environ["TZ"] = "UTC"
    time.tzset()
    for session in SESSIONS:
        with running_fake() as fake:
            for name, shown in asyncio.run(look(fake, session)).items():
                (FOLDER / f"{name}.txt").write_text(shown, encoding="utf-8")


if __name__ == "__main__":
    record()
