"""The GPUs as the driver sees them, read without ever waiting for the driver.

One thread asks; a child process makes the calls, each with a deadline. When a child is of no more use it is killed and
replaced, at once the first time, then after growing pauses:

- it died: the reading is made once more;
- a call about one GPU hangs: the reading is made once more without this GPU, which is left out for a while;
- a call about all GPUs hangs: what is known is reported as unreadable, and the next reading tries again;
- the driver was upgraded under the library: the reading is made once more by a child that loads the new library.

A process in a system call that cannot be interrupted does not die when it is killed. It is left alone, and what it hung
in is not tried again until it is gone; there are never more than a few of them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from msgspec import Struct

from supervisor.core.model import FinishedUse, Gpu
from supervisor.gpu.accounts_told import AccountsTold
from supervisor.gpu.exchange import Answer, Child, ChildFailed
from supervisor.gpu.nvml_codes import LIBRARY_MISMATCH
from supervisor.gpu.reading import Limits, Reading
from supervisor.gpu.verdict import closed, complete, is_nameless, none_listed, sentences, why_no_reading
from supervisor.gpu.wire import Broken, Calling, Done, Request
from supervisor.own_container import own_container_id

logger = logging.getLogger(__name__)

#: A reading is tried with so many children; what a second one cannot do waits for the next reading.
ATTEMPTS = 2
CLOSE_S = 1.0
Spawn = Callable[[Limits, int, Mapping[str, str]], Child]


class Avoided(Struct, frozen=True):
    """A GPU that is not asked until ``until_s``, and until the process that hung in a call about it is gone."""

    why: str
    until_s: float
    times: int
    stuck: Child | None


class NvmlGpus:
    """Reads all GPUs when asked to, in a thread of its own, and reports each reading from there."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        in_container: bool | None = None,
        environ: Mapping[str, str] = os.environ,
        spawn: Spawn = Child,
    ) -> None:
        """``in_container``: whether the sentences are for somebody in one (None: look). ``spawn`` makes a child."""
        self._limits = limits or Limits()
        self._in_container = own_container_id() is not None if in_container is None else in_container
        self._environ, self._spawn = environ, spawn
        self._wanted = threading.Event()
        self._closed = False
        self._closing = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="gpu-probe", daemon=True)
        self._child: Child | None = None
        self._stuck: list[Child] = []
        self._failures = 0
        self._next_child_at_s = 0.0
        self._why = ""
        self._known: dict[str, Gpu] = {}
        self._avoided: dict[int, Avoided] = {}
        self._versions = ("", "")
        self._accounts = AccountsTold()

    def start(self, report: Callable[[Reading], None]) -> None:
        """Report a first reading as soon as there is one, and later those that are asked for. Returns at once."""
        self._report = report
        self._wanted.set()
        self._thread.start()

    def read_soon(self) -> None:
        """Have a reading reported that begins after this call. Never waits; many calls may share one reading."""
        self._wanted.set()

    def close(self) -> None:
        """End the thread and its child; nothing is reported afterwards."""
        if self._closed:
            return
        self._closed = True
        os.eventfd_write(self._closing, 1)
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
        # The thread polls this file: it is closed here, never under it.
        if not self._thread.is_alive():
            os.close(self._closing)

    # ---- the thread

    def _run(self) -> None:
        try:
            while self._wanted.wait() and not self._closed:
                # Cleared before the reading begins: who asks from now on gets another one.
                self._wanted.clear()
                reading = self._read_safely()
                if reading is not None and not self._closed:
                    self._report(reading)
        finally:
            if self._child is not None:
                self._child.end()

    def _read_safely(self) -> Reading | None:
        began_s = time.monotonic()
        try:
            return self._read()
        except Exception as error:
            # Ours, not the driver's: said out loud, and nothing is granted on what was known before.
            logger.exception("reading the GPUs failed")
            # The child may be in the midst of an answer, which must not be taken for the next one.
            self._replace(f"reading the GPUs failed: internal error: {error!r}; it is tried again")
            return self._unread(began_s, self._why)

    def _read(self) -> Reading | None:
        """Return a reading, whatever comes; None when nobody waits for it any more."""
        began_s = time.monotonic()
        for _attempt in range(ATTEMPTS):
            began_s = time.monotonic()
            child = self._ready_child(began_s)
            if child is None:
                break
            skip = self._skipped(began_s)
            try:
                answer = child.ask(self._request(skip))
            except ChildFailed as failed:
                if failed.kind == "closed":
                    return None
                if not self._give_up(child, failed):
                    break
                continue
            match answer.end:
                case Broken(trouble) if trouble.code == LIBRARY_MISMATCH:
                    # A new process loads the new library: all that it may take.
                    self._replace(why_no_reading(trouble, in_container=self._in_container))
                case Broken(trouble):
                    self._failures = 0
                    return self._unread(began_s, why_no_reading(trouble, in_container=self._in_container))
                case Done() as done:
                    self._failures = 0
                    return self._told(answer, done, skip)
        return self._unread(began_s, self._why)

    def _request(self, skip: tuple[int, ...]) -> Request:
        limits = self._limits
        return Request(skip=skip, off_s=limits.off_s, refresh_s=limits.refresh_s, accounts_s=limits.accounts_s)

    def _told(self, answer: Answer, done: Done, skip: tuple[int, ...]) -> Reading:
        self._avoided = {index: avoided for index, avoided in self._avoided.items() if index in skip}
        left_out = {index: avoided.why for index, avoided in self._avoided.items()}
        gpus = complete(answer.seen, left_out, self._known, in_container=self._in_container)
        self._known = {gpu.uuid: gpu for gpu in gpus if not is_nameless(gpu)}
        self._versions = (done.driver, f"{done.cuda // 1000}.{done.cuda % 1000 // 10}" if done.cuda else "")
        problem = sentences(gpus) if gpus else none_listed()
        finished = tuple(one for seen in answer.seen for one in self._accounts.news(seen))
        return self._reading(gpus, problem, answer.began_s, answer.took_s, finished)

    def _unread(self, began_s: float, why: str) -> Reading:
        gpus = tuple(closed(gpu, "unreadable", f"cannot be read: {why}") for gpu in self._known.values())
        return self._reading(gpus, why, began_s, time.monotonic() - began_s)

    def _reading(
        self,
        gpus: tuple[Gpu, ...],
        problem: str,
        began_s: float,
        took_s: float,
        finished: tuple[FinishedUse, ...] = (),
    ) -> Reading:
        driver, cuda = self._versions
        return Reading(
            gpus=gpus, problem=problem, began_s=began_s, took_s=took_s, finished=finished, driver=driver, cuda=cuda
        )

    # ---- children, and GPUs that are left out

    def _ready_child(self, now_s: float) -> Child | None:
        """Return the child, a new one where there is none; None where none may be started now, and ``_why`` says so."""
        if self._child is not None:
            return self._child
        self._stuck = [child for child in self._stuck if not child.gone()]
        if len(self._stuck) >= self._limits.stuck_max:
            pids = ", ".join(str(child.pid) for child in self._stuck)
            self._why = (
                f"the NVIDIA driver does not answer: the processes that asked it (pids {pids}) hang in the kernel and "
                "cannot be killed, and no further one is started until one of them ends; look for NVRM and Xid in "
                "`dmesg`, and reboot"
            )
            return None
        if now_s < self._next_child_at_s:
            return None
        try:
            self._child = self._spawn(self._limits, self._closing, self._environ)
        except OSError as error:
            self._replace(f"the process that reads the GPUs cannot be started: {error}; it is tried again")
        return self._child

    def _skipped(self, now_s: float) -> tuple[int, ...]:
        return tuple(
            index
            for index, avoided in sorted(self._avoided.items())
            # While the process that hung does not die, another one would only hang beside it.
            if now_s < avoided.until_s or (avoided.stuck is not None and not avoided.stuck.gone())
        )

    def _give_up(self, child: Child, failed: ChildFailed) -> bool:
        """Replace a child that failed, and return whether the reading is worth another try at once."""
        hung, index = failed.kind == "hung", failed.call.gpu if failed.call else None
        self._replace(_why_replaced(failed, self._limits))
        stuck = child if child in self._stuck else None
        # One death may be anybody's kill. A second one without a reading in between, at a GPU's turn, is the driver's.
        if index is not None and (hung or self._failures > 1):
            times = self._avoided[index].times + 1 if index in self._avoided else 1
            wait_s = min(self._limits.avoid_max_s, self._limits.avoid_s * 2 ** (times - 1))
            why = _why_avoided(failed, self._limits, stuck)
            self._avoided[index] = Avoided(why, time.monotonic() + wait_s, times, stuck)
        return not hung or index is not None

    def _replace(self, why: str) -> None:
        """End the child, if there is one, and set when the next one may start: at once after a first failure."""
        child, self._child = self._child, None
        if child is not None and not child.end():
            self._stuck.append(child)
        self._failures += 1
        pause_s = min(self._limits.pause_max_s, self._limits.pause_s * 2 ** min(self._failures - 2, 30))
        self._next_child_at_s = time.monotonic() + (pause_s if self._failures > 1 else 0.0)
        self._why = why
        logger.warning("the process that reads the GPUs is replaced: %s", why)


def _took(call: Calling, limits: Limits) -> str:
    return f"{call.call} took longer than {limits.of_call(call.call):g} s"


def _why_replaced(failed: ChildFailed, limits: Limits) -> str:
    call = failed.call
    if failed.kind == "died":
        where = f" in {call.call}" + (f" of GPU {call.gpu}" if call.gpu is not None else "") if call else ""
        return (
            f"the process that reads the GPUs died{where}: {failed.why}; it is started again; if it keeps dying, look "
            "for its name and for NVRM in `dmesg`"
        )
    if call is None:
        return "the process that reads the GPUs does not answer: it is started again; look at the load of this machine"
    asked = f" for GPU {call.gpu}" if call.gpu is not None else ""
    return (
        f"the NVIDIA driver does not answer: {_took(call, limits)}{asked}; look for NVRM and Xid in `dmesg`; reboot if "
        "it stays"
    )


def _why_avoided(failed: ChildFailed, limits: Limits, stuck: Child | None) -> str:
    assert failed.call is not None, "what is left out was being asked"
    what = _took(failed.call, limits) if failed.kind == "hung" else f"{failed.call.call} ends the process that makes it"
    kept = f" (process {stuck.pid}, which asked, hangs in the kernel and cannot be killed)" if stuck else ""
    return (
        f"does not answer: {what}{kept}; it is asked again now and then; look for NVRM and Xid in `dmesg`, and reset "
        "it or reboot if it stays"
    )
