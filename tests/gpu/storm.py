"""A storm of forks that gives the same few pids out again and again, as pid 1 of a pid namespace of its own.

Run by test_reaper_storm.py, never by pytest itself:  unshare --pid --fork --mount-proc python -m tests.gpu.storm ROUNDS

In each round a process is meant, ends, and another takes its pid: before the reaper looks, between its pidfd and its
look at the start time, or between that and its signal. Nobody may be hit. In each ``HIT_EVERY``-th round nothing
happens, and the one that is meant must be hit. Then the same with a second process that changes places at its own pace.
Prints one JSON object.

The children share our memory (clone(2) with CLONE_VM, without a thread) and only wait: that costs a tenth of a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import mmap
import os
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor.gpu.proc_files import stat_of
from supervisor.gpu.reaper import Reaper

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
FIRST_PID = 1000
#: So many that a place's last process is older than the tick (10 ms) in which the next one starts.
PLACES = 512
HIT_EVERY = 50

CLONE_VM = 0x100  # linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
_PAUSE = ctypes.cast(_LIBC.pause, ctypes.c_void_p)
#: One stack for all: each writes the same few words to the same place, and none ever returns.
_STACK = ctypes.create_string_buffer(1 << 14)
_STACK_TOP = (ctypes.addressof(_STACK) + len(_STACK)) & ~15


def fork_at(pid: int) -> int:
    """Start a process with this very pid, which waits for its end. Returns when it started, in ticks."""
    LAST_PID.write_text(str(pid - 1))
    child = _LIBC.clone(_PAUSE, _STACK_TOP, CLONE_VM | signal.SIGCHLD, None)
    assert child == pid, f"got pid {child} for {pid}"
    stat = stat_of(pid)
    assert stat is not None
    return stat.started


def end(pid: int) -> int:
    """End a child with SIGKILL and return the signal that ended it: another one, if that came first."""
    os.kill(pid, signal.SIGKILL)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def just_before(call: str, act: Callable[[], None]) -> Iterator[None]:
    """Do something right before the reaper's next ``os.pidfd_open`` or ``signal.pidfd_send_signal``."""
    owner = os if call == "pidfd_open" else signal
    real = getattr(owner, call)

    def acting(*arguments: int) -> object:
        act()
        return real(*arguments)

    setattr(owner, call, acting)
    try:
        yield
    finally:
        setattr(owner, call, real)


@contextlib.contextmanager
def just_after_open(act: Callable[[], None]) -> Iterator[None]:
    real = os.pidfd_open

    def acting(pid: int) -> int:
        pidfd = real(pid)
        act()
        return pidfd

    os.pidfd_open = acting
    try:
        yield
    finally:
        os.pidfd_open = real


def in_turns(rounds: int) -> dict[str, object]:
    reaper = Reaper()
    started = {pid: fork_at(pid) for pid in range(FIRST_PID, FIRST_PID + PLACES)}
    seams = {
        "before": lambda act: just_before("pidfd_open", act),
        "between": just_after_open,
        "after": lambda act: just_before("pidfd_send_signal", act),
    }
    outcomes: Counter[str] = Counter()
    wrong = reused = hits = 0
    for number in range(rounds):
        pid = FIRST_PID + number % PLACES
        meant = started[pid]
        if number % HIT_EVERY == 0:
            outcomes[f"hit {reaper.terminate(pid, meant, signal.SIGTERM)}"] += 1
            hits += os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM
            started[pid] = fork_at(pid)
            continue

        def take_its_place(pid: int = pid) -> None:
            nonlocal wrong
            wrong += end(pid) != signal.SIGKILL  # an earlier round hit it
            started[pid] = fork_at(pid)

        seam = list(seams)[number % 3]
        with seams[seam](take_its_place):
            outcomes[f"{seam} {reaper.terminate(pid, meant, signal.SIGTERM)}"] += 1
        reused += started[pid] != meant
    wrong += sum(end(pid) != signal.SIGKILL for pid in started)
    return {"outcomes": outcomes, "wrong": wrong, "reused": reused, "hits": hits}


def at_its_own_pace(owners_wanted: int) -> dict[str, object]:
    """One process changes a pid's owner as fast as it can, while the reaper is sent after owners of earlier ticks."""
    pid = FIRST_PID
    shared = mmap.mmap(-1, 24)  # the newest tick whose owners have all ended, owners so far, wrongly ended ones
    storm = os.fork()
    if storm == 0:
        earlier, owners, wrong = 0, 0, 0
        before = fork_at(pid)
        while True:
            wrong += end(pid) != signal.SIGKILL
            started = fork_at(pid)
            if started != before:
                earlier, before = before, started
            owners += 1
            shared[:] = struct.pack("qqq", earlier, owners, wrong)
    reaper = Reaper()
    outcomes: Counter[str] = Counter()
    owners = wrong = 0
    # The storm counts an owner when it has ended: the last ones that could be hit are counted, too.
    while owners < owners_wanted + 2:
        meant, owners, wrong = struct.unpack("qqq", shared[:])
        if meant and owners < owners_wanted:
            outcomes[reaper.terminate(pid, meant, signal.SIGTERM)] += 1
    os.kill(storm, signal.SIGKILL)
    os.waitpid(storm, 0)
    return {"outcomes": outcomes, "wrong": wrong, "owners": owners}


if __name__ == "__main__":
    assert os.getpid() == 1, "this gives pids out anew: only in a pid namespace of its own"
    gc.freeze()
    # One line for each refusal would be most of the work.
    logging.disable()
    rounds = int(sys.argv[1])
    began = time.perf_counter()
    report = {"in_turns": in_turns(rounds), "at_its_own_pace": at_its_own_pace(rounds)}
    print(json.dumps(report | {"seconds": round(time.perf_counter() - began, 1)}))
