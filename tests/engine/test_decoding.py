"""Answers are decoded in several threads at once, from the first one on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.engine.fake import container

#: The interpreter is handed on as often as it can be: what one thread has half done, another one meets.
FIRST_USE = """
import sys, threading
from supervisor.engine.connection import decode
from supervisor.engine.errors import refused
from supervisor.engine.inspect import INSPECTED, LISTED, to_container

answer = sys.stdin.buffer.read()
together = threading.Barrier(8)
sys.setswitchinterval(1e-6)

def first():
    together.wait()
    to_container(decode(answer, INSPECTED), prefix="gpu.", wall_ms=0)
    decode(b"[" + answer + b"]", LISTED)
    refused(409, b'{"message": "it is so already"}')

threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("attempt", range(4))
def test_eight_threads_may_be_the_first_at_once(attempt: int):
    gpus = {"DeviceRequests": [{"Driver": "nvidia", "Count": -1}], "Devices": [{"PathOnHost": "nvidia.com/gpu=0"}]}
    made = container(attempt)
    answer = json.dumps({**made, "HostConfig": made["HostConfig"] | gpus, "Labels": {}, "Names": []}).encode()

    done = subprocess.run([sys.executable, "-c", FIRST_USE], input=answer, capture_output=True, timeout=30, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
