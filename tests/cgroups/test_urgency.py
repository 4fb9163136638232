"""Real threads of a process of its own: they go before others, nobody suffers from it, and children do not."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

RR, ORDINARY = "2", "0"
HEAD = """
import asyncio, os, subprocess, sys, threading, time
from pathlib import Path
from supervisor import urgency

def policies():
    return " ".join(sorted({str(os.sched_getscheduler(int(task.name))) for task in Path("/proc/self/task").iterdir()}))

async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)

async def main():
    enough = threading.Event()
    threading.Thread(target=enough.wait).start()
    urgent = urgency.Urgency()
    print(urgent.start() or policies())
    urgent.hurry()
    print(policies())
    try:
        await story(urgent)
    finally:
        urgent.close()
        print(policies())
        enough.set()
"""
TAIL = "\nasyncio.run(main())\n"


def told(story: str, *before: str) -> list[str]:
    lines = ["async def story(urgent):", *(f"    {line}" for line in story.splitlines())]
    code = HEAD + "\n".join(lines) + TAIL
    done = subprocess.run([*before, sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.splitlines()


@pytest.mark.realtime
def test_from_a_start_on_all_threads_go_before_others_for_a_while_those_that_come_later_too():
    story = """
later = threading.Thread(target=lambda: print(os.sched_getscheduler(0)))
later.start()
later.join()
urgency.HASTE_S = 0.01
urgent.hurry()
await until(lambda: policies() == "0")
print(policies())
urgent.hurry()
"""
    assert told(story) == [ORDINARY, RR, RR, ORDINARY, ORDINARY]


@pytest.mark.realtime
def test_each_start_begins_that_while_anew():
    story = """
urgency.HASTE_S = 0.05
began = time.monotonic()
await until(lambda: urgent.hurry() or time.monotonic() - began > 0.2)
print(policies())
await until(lambda: policies() == "0")
"""
    assert told(story) == [ORDINARY, RR, RR, ORDINARY]


@pytest.mark.realtime
def test_who_hears_of_starts_always_goes_before_others():
    story = """
urgency.HASTE_S = 0.01
over = threading.Event()
listening = threading.Thread(target=lambda: (urgent.listen(), over.wait(10)))
listening.start()
await until(lambda: policies() == "0 2")
print(os.sched_getscheduler(listening.native_id))
over.set()
listening.join()
"""
    assert told(story) == [ORDINARY, RR, RR, ORDINARY]


@pytest.mark.realtime
def test_who_goes_on_without_a_wait_is_ordinary_for_a_while_each_time():
    story = """
urgency.REST_S = 0.05
for _ in range(2):
    began = time.monotonic()
    while os.sched_getscheduler(0) and time.monotonic() - began < 10:
        pass
    urgent.hurry()
    print(policies())
    await until(urgent._may)
    urgent.hurry()
"""
    assert told(story) == [ORDINARY, RR, ORDINARY, ORDINARY, ORDINARY]


@pytest.mark.realtime
def test_the_process_that_asks_the_driver_is_an_ordinary_one():
    story = """
command = [sys.executable, "-m", "supervisor.gpu.child", str(os.getpid())]
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    print(os.sched_getscheduler(child.pid))
    child.stdin.close()
"""
    assert told(story) == [ORDINARY, RR, ORDINARY, ORDINARY]


def test_without_the_right_to_it_all_stays_as_it_was():
    few = ["setpriv", "--bounding-set", "-sys_nice", "--inh-caps", "-all"]

    assert told("pass", *few) == ["Operation not permitted (it takes CAP_SYS_NICE)", ORDINARY, ORDINARY]


def test_without_a_limit_that_guards_others_nobody_goes_before_them():
    said = told("pass", "prlimit", "--rttime=100000:100000")

    assert said[0].startswith("without a limit on it that would not be safe: ")
    assert said[1:] == [ORDINARY, ORDINARY]


@pytest.mark.realtime
def test_whoever_chose_a_policy_for_it_keeps_it():
    said = told("pass", "chrt", "--batch", "0")

    assert said == ["whoever started it has chosen how it is scheduled", "3", "3"]
