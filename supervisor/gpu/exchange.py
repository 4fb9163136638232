"""The supervisor's end of the pipes to the child that calls the driver's library: one question, one bounded answer.

The child announces every call before it makes it, and each has a deadline of its own. A child that misses one is
useless from then on, and so is one that dies or talks nonsense: whoever asked ends it and starts another.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from supervisor.gpu.reading import Limits
from supervisor.gpu.wire import LINE_MAX, Broken, Calling, Done, Message, Request, Seen, Started, decode_message, encode

#: All that the child sees of the environment: where the driver's library is.
KEPT_VARIABLES = ("LD_LIBRARY_PATH",)


class ChildFailed(Exception):
    """The child can be asked no more. ``call`` is what it was doing, None between two readings or before the first."""

    def __init__(self, kind: Literal["hung", "died", "closed"], why: str, call: Calling | None) -> None:
        super().__init__(why)
        self.kind, self.why, self.call = kind, why, call


class Answer(Struct, frozen=True):
    """What one request brought. ``began_s`` is ``time.monotonic()`` before the child was asked."""

    seen: tuple[Seen, ...]
    end: Done | Broken
    began_s: float
    took_s: float


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment. Its modules are those of this process, wherever it was started."""
    kept = {name: environ[name] for name in KEPT_VARIABLES if name in environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}  # noqa: PTH100 - "" too


class Child:
    """One process of ``supervisor.gpu.child``. It ends with the thread that made it.

    ``closing`` is a file that becomes readable when nobody waits for answers any more.
    """

    def __init__(self, limits: Limits, closing: int, environ: Mapping[str, str]) -> None:
        self._limits, self._closing = limits, closing
        # A session of its own: Ctrl-C at the terminal is for the supervisor, which then ends it.
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and nothing that anybody typed
            [sys.executable, "-P", "-m", "supervisor.gpu.child", str(os.getpid())],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(environ),
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._poll.register(closing, select.POLLIN)
        self._buffer = bytearray()
        self._started = False
        self._call: Calling | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Request) -> Answer:
        """Have one reading made.

        Raises:
            ChildFailed: the child hangs, died, or wrote what nobody understands; or ``closing`` became readable.
        """
        self._call = None
        if not self._started:
            self._message(time.monotonic() + self._limits.start_s)
            self._started = True
        began_s = time.monotonic()
        try:
            self._stdin.write(encode(request) + b"\n")
        except OSError:
            raise self._died() from None
        return self._listen(began_s)

    def end(self) -> bool:
        """Kill the child, and return whether it is gone. In a system call that cannot be interrupted it stays."""
        self._process.kill()
        try:
            self._process.wait(self._limits.end_s)
        except subprocess.TimeoutExpired:
            return False
        finally:
            self._stdin.close()
            self._stdout.close()
        return True

    def gone(self) -> bool:
        """Return whether a killed child has ended by now."""
        return self._process.poll() is not None

    def _died(self, why: str = "") -> ChildFailed:
        if not why:
            try:
                status = self._process.wait(self._limits.end_s)
            except subprocess.TimeoutExpired:
                why = "it closed its output"
            else:
                why = f"it was ended by signal {-status}" if status < 0 else f"it ended with status {status}"
        return ChildFailed("died", why, self._call)

    def _listen(self, began_s: float) -> Answer:
        seen: list[Seen] = []
        ends_s = began_s + self._limits.reading_s
        call_ends_s = began_s + self._limits.call_s
        while True:
            match self._message(min(call_ends_s, ends_s)):
                case Calling() as call:
                    self._call = call
                    call_ends_s = time.monotonic() + self._limits.of_call(call.call)
                case Seen() as one:
                    seen.append(one)
                case Done() | Broken() as end:
                    self._call = None
                    return Answer(tuple(seen), end, began_s, time.monotonic() - began_s)
                case Started():
                    raise self._died("it started twice")

    def _message(self, deadline_s: float) -> Message:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_MAX:
                raise self._died(f"it wrote a line of more than {LINE_MAX} bytes")
            self._fill(deadline_s)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return decode_message(line)
        except msgspec.DecodeError as error:
            raise self._died(f"it wrote what cannot be read: {error}") from None

    def _fill(self, deadline_s: float) -> None:
        left_s = deadline_s - time.monotonic()
        ready = [file for file, _ in self._poll.poll(max(0.0, left_s) * 1000)]
        if self._closing in ready:
            raise ChildFailed("closed", "nobody waits for it", self._call)
        if not ready:
            raise ChildFailed("hung", "it does not answer", self._call)
        chunk = os.read(self._stdout.fileno(), 65536)
        if not chunk:
            raise self._died()
        self._buffer += chunk
