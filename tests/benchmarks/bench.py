"""What rows need: how much to do, a place on a real disk, and programs that are ended with the run."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from tests.benchmarks import peers
from tests.benchmarks.measure import Figures, take_turns
from tests.benchmarks.wire import Line, Refused, address_of, load, request

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
READY_S = 60.0


class Effort(Struct, frozen=True):
    """How much a run does. ``load_s``: seconds of load in one repetition; ``calls``: single calls in one.

    ``starts``: single starts of containers for the enforcement, ``burst`` at once in each of ``bursts``. ``probe_s``:
    how often the health of a container is probed. ``age_s``: seconds of load that a supervisor has behind it.
    ``warm_up``: a first turn that does not count.
    """

    repetitions: int
    load_s: float
    calls: int
    switches: int
    starts: int
    burst: int
    bursts: int
    replayed: int
    waiters: tuple[int, ...] = (10, 1_000, 10_000)
    containers: tuple[int, ...] = (10, 100, 300)
    facts: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    probe_s: float = 1.0
    age_s: float = 6.0
    warm_up: bool = True


FULL = Effort(repetitions=5, load_s=2.0, calls=300, switches=8, starts=40, burst=30, bursts=4, replayed=1_000_000)
QUICK = Effort(
    repetitions=3,
    load_s=0.5,
    calls=100,
    switches=3,
    starts=15,
    burst=30,
    bursts=2,
    replayed=100_000,
    waiters=(10, 1_000),
    facts=(10_000, 100_000),
)
#: For the test that the programs still run; its figures mean nothing.
TINY = Effort(
    repetitions=1,
    load_s=0.02,
    calls=2,
    switches=1,
    starts=1,
    burst=2,
    bursts=1,
    replayed=120,
    waiters=(2,),
    containers=(3,),
    facts=(60,),
    probe_s=0.1,
    age_s=0.02,
    warm_up=False,
)


class Bench:
    """One run. What rows start through it is ended by ``close``, in the opposite order."""

    def __init__(self, effort: Effort, engine_url: str, folder: Path | None = None) -> None:
        """``folder``: where data go; it should be a real disk. ``engine_url``: a Docker Engine's unix socket."""
        raise_file_limit()
        self.effort = effort
        self.engine_url = engine_url
        self.folder = Path(tempfile.mkdtemp(prefix="gsb-", dir=folder))
        #: Under these labels nobody else's supervisor looks, and ours looks at nobody else's containers.
        self.prefix = f"gpub-{uuid.uuid4().hex[:8]}."
        self._ends = contextlib.ExitStack()
        self._shared: dict[str, Any] = {}
        self._ends.callback(shutil.rmtree, self.folder)

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._ends.close()

    @property
    def engine_socket(self) -> str:
        return urlsplit(self.engine_url).path

    def place(self, name: str) -> Path:
        """Return a new folder on the disk that is measured."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    @contextlib.contextmanager
    def program(self, module: str, *arguments: str, stdin: bool = False) -> Iterator[Program]:
        """Run a module of this folder until the end of the block; its first line says that it is ready."""
        program = Program(
            [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments], self.place("log") / "log", stdin=stdin
        )
        try:
            yield program
        finally:
            program.end()

    @contextlib.contextmanager
    def supervisor(
        self,
        engine_url: str = "",
        *flags: str,
        prefix: str = "",
        data_dir: Path | None = None,
        wait: bool = True,
    ) -> Iterator[Supervisor]:
        """Run the real thing until the end of the block. ``wait``: until it is in sync with the engine."""
        data_dir = data_dir or self.place("data")
        supervisor = Supervisor(data_dir, engine_url or self.engine_url, prefix or self.prefix, *flags)
        try:
            if wait:
                supervisor.until_synced()
            yield supervisor
        finally:
            supervisor.program.end()

    @property
    def idle(self) -> Supervisor:
        """A supervisor without targets that stays up for the whole run, and is not young any more."""
        return self._keep("idle", self._aged)

    @contextlib.contextmanager
    def _aged(self) -> Iterator[Supervisor]:
        """Let it decide a lot first: what it keeps in memory of that is part of every later step."""
        with self.supervisor(prefix=f"{self.prefix.rstrip('.')}-idle.") as ours:
            steps = [request("POST", "/v1/lease", {"queue": True}), request("DELETE", "/v1/lease/{token}")]
            load(ours.url, steps, connections=64, seconds=self.effort.age_s)
            yield ours

    @property
    def web(self) -> str:
        """The URL of the bare web server."""
        return self._keep("web", self._web).first_line

    @property
    def redis(self) -> int | None:
        """The port of a Redis, None where it is not installed. It and etcd do next to nothing while nobody asks."""
        return self._keep("redis", lambda: peers.redis(self.place("redis")))

    @property
    def etcd(self) -> str | None:
        """The URL of an etcd's gateway, None where it is not installed."""
        return self._keep("etcd", lambda: peers.etcd(self.place("etcd")))

    def take_turns(
        self, sides: Mapping[str, Callable[[], float]], *, most: int = 1_000, warm_up: bool = True
    ) -> dict[str, Figures]:
        """Let the sides take turns as often as the effort says, ``most`` times at most."""
        repetitions = min(most, self.effort.repetitions)
        return take_turns(repetitions, sides, warm_up=warm_up and self.effort.warm_up)

    def _web(self) -> AbstractContextManager[Program]:
        return self.program("floors.web", "--file", str(self.place("floor") / "file"))

    def _keep(self, name: str, make: Callable[[], AbstractContextManager[T]]) -> T:
        if name not in self._shared:
            self._shared[name] = self._ends.enter_context(make())
        kept: T = self._shared[name]
        return kept


class Program:
    """A process of ours. ``first_line`` is what it printed first; its stderr goes to a file, as to a service's log."""

    def __init__(
        self, command: list[str], log: Path, *, stdin: bool = False, environment: dict[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=environment,
                text=True,
            )
        # A program that never says that it is ready is killed, which ends the line.
        clock = threading.Timer(READY_S, self.process.kill)
        clock.start()
        self.first_line = self.read()
        clock.cancel()
        if not self.first_line:
            self.end()
            raise Refused(f"{' '.join(command[:5])} did not start:\n{log.read_text()[-2000:]}")

    def read(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()

    def tell(self, line: str = "") -> str:
        """Send it a line; return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.read()
        if not answer:
            raise Refused(f"a program ended early:\n{self.log.read_text()[-2000:]}")
        return answer

    @property
    def resident_kib(self) -> int:
        """Its memory, in KiB (VmRSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1])

    def end(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        # Nothing of it is needed any more: an orderly end would only take its time.
        self.process.kill()
        self.process.wait()


class Supervisor:
    """One ``gpu-supervisor serve``."""

    def __init__(self, data_dir: Path, engine_url: str, prefix: str, *flags: str) -> None:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("GPU_SUPERVISOR_")}
        command = [
            *(sys.executable, "-m", "supervisor.cli", "serve", "--port", "0", "--gpus", "sim:1x24576"),
            *("--data-dir", str(data_dir), "--docker-host", engine_url, *flags),
        ]
        self.data_dir = data_dir
        self.program = Program(command, data_dir / "log", environment={**ours, "GPU_SUPERVISOR_LABEL_PREFIX": prefix})
        found = re.search(r"listening on (http://\S+?)[;,\s]", self.program.first_line)
        assert found is not None, self.program.first_line
        self.url = found[1]

    def line(self) -> Line:
        """Return a new connection to it."""
        return Line(address_of(self.url))

    def until_synced(self) -> None:
        line = self.line()
        pace = threading.Event()
        for _ in range(int(READY_S / 0.02)):
            line.send(request("GET", "/readyz"))
            if line.receive()[0] == 200:
                line.close()
                return
            pace.wait(0.02)
        raise Refused(f"the supervisor was never in sync:\n{(self.data_dir / 'log').read_text()[-2000:]}")

    def status(self) -> Any:
        line = self.line()
        try:
            return line.ask(request("GET", "/v1/status"))
        finally:
            line.close()

    def until_queued(self, count: int, asking: Line) -> None:
        """Wait until the queue has exactly ``count`` tickets; ``asking`` is a connection to ask over."""
        pace = threading.Event()
        for _ in range(20_000):
            if len(asking.ask(request("GET", "/v1/status"))["queue"]) == count:
                return
            pace.wait(0.005)
        raise Refused(f"the queue never had {count} tickets")


def raise_file_limit() -> None:
    """Ten thousand waiters are ten thousand connections, here too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (65_536 if hard == resource.RLIM_INFINITY else hard, hard))


def json_of(text: str) -> Any:
    return msgspec.json.decode(text)
