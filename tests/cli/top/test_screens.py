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

#: name -> what the server says, the size, the keys, and what the screen shows then.
SCREENS: dict[str, tuple[Scene, tuple[int, int], tuple[str, ...], str]] = {
    "busy-80x24": (BUSY, NARROW, (), "gpubox"),
    "busy-140x40": (BUSY, WIDE, (), "gpubox"),
    "many-80x24": (MANY, NARROW, (), "gpubox"),
    "many-140x40": (MANY, WIDE, (), "gpubox"),
    "empty-80x24": (EMPTY, NARROW, (), "gpubox"),
    "filter-80x24": (BUSY, NARROW, ("3", "slash", *"ollama bob", "enter"), "Queue 1 of 3"),
    "help-80x24": (BUSY, NARROW, ("question_mark",), "Keys that act"),
    "release-80x24": (BUSY, NARROW, ("2", "r"), "Release comfyui?"),
    "cancel-80x24": (BUSY, NARROW, ("3", "down", "c"), "Cancel the ticket"),
    "move-80x24": (BUSY, NARROW, ("3", "down", "down", "m", "7"), "It would be at place 1"),
    "evict-80x24": (BUSY, NARROW, ("4", "down", "e"), "Evict whisper?"),
    "gpu-80x24": (BUSY, NARROW, ("1", "enter"), "Processes on it"),
    "target-80x24": (BUSY, NARROW, ("4", "end", "up", "enter"), "ollama is stopped now"),
    "logs-80x24": (BUSY, NARROW, ("4", "l"), "loading"),
    "decision-80x24": (BUSY, NARROW, ("5", "enter"), "ContainerRefused"),
}


def prepare(fake: FakeServer, scene: Scene) -> None:
    scene.said_by(fake)
    fake.documents["/v1/why/ollama"] = document(WHY)
    fake.documents["/v1/targets/comfyui/logs"] = document(LOGS)
    fake.answers["POST /v1/leases/l_t2/move"] = document(MovedAnswer(moved=False, position=0, reason="dry_run"))


async def look(fake: FakeServer, name: str) -> str:
    scene, size, keys, shown = SCREENS[name]
    prepare(fake, scene)
    async with screen(fake.url, size) as eyes:
        await eyes.until("enforcement")
        await eyes.press(*keys)
        return await eyes.until(shown)


@pytest.mark.parametrize("name", SCREENS)
def test_the_screen(fake: FakeServer, name: str, utc: None):
    shown = asyncio.run(look(fake, name))
    width, height = SCREENS[name][1]
    assert max(map(len, shown.splitlines())) <= width
    assert len(shown.splitlines()) <= height
    assert shown == (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def record() -> None:
    os.environ["TZ"] = "UTC"
    time.tzset()
    for name in SCREENS:
        with running_fake() as fake:
            (FOLDER / f"{name}.txt").write_text(asyncio.run(look(fake, name)), encoding="utf-8")


if __name__ == "__main__":
    record()
