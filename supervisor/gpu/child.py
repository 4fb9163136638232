"""The process that calls the driver's library, so that the supervisor never has to: ``python -m supervisor.gpu.child``.

It answers each line on its standard input with lines on its standard output (``supervisor.gpu.wire``), and ends with
its parent: at the end of its input, or, while a call hangs, by a signal. Its only argument is its parent's process id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from supervisor.gpu.nvml import Nvml
from supervisor.gpu.wire import Message, Started, decode_request, encode

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel end this process when the thread that started it ends (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("its parent ended before it could be followed")


def main() -> None:
    die_with(int(sys.argv[1]))
    if os.sched_getscheduler(0) == os.SCHED_RR:  # born of one that is urgent (supervisor/urgency.py)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    # What the library prints must not come between our lines.
    answers = os.dup(1)
    os.dup2(2, 1)

    def send(message: Message) -> None:
        line = memoryview(encode(message) + b"\n")
        while line:
            line = line[os.write(answers, line) :]

    nvml = Nvml(send)
    send(Started())
    for line in iter(sys.stdin.buffer.readline, b""):
        for message in nvml.read(decode_request(line)):
            send(message)


if __name__ == "__main__":
    main()
