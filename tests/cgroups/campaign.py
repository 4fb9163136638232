"""Mixed starts on a real engine under a real supervisor: whoever may not run does not, and nobody else is touched.

    python -m tests.cgroups.campaign --starts 500             with the tripwire, and a daemon restart in between
    python -m tests.cgroups.campaign --starts 500 --no-tripwire

Each container holds a pipe open from its first instruction on: the kernel tells when it ran and when it died.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import shutil
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
from msgspec import Struct, field

from tests.benchmarks.measure import percentile
from tests.benchmarks.raw import Pipes
from tests.conftest import IMAGE, PrivateEngine, until
from tests.e2e.conftest import Server

POLICIES = ("no", "always", "unless-stopped", "on-failure")
BURST = 10
QUARTER_SECOND = 250_000_000


class Beats(Pipes):
    """Containers that are started again and again: when each began to run, and its last beat, in wall time."""

    def __init__(self, folder: Path) -> None:
        self.began: dict[str, list[float]] = {}
        self.ended: dict[str, list[float]] = {}
        super().__init__(folder)

    def polite(self, name: str) -> str:
        """Return the script of a new container, which ends on SIGTERM."""
        self.began[name], self.ended[name] = [], []
        self.open(name)
        return f"trap 'exit 143' TERM; {self.script(name)}"

    def runs(self, name: str) -> bool:
        return len(self.began[name]) > len(self.ended[name])

    def _heard(self, name: str, pipe: int, what: int) -> None:
        now_s = time.time()
        if what & select.EPOLLIN and os.read(pipe, 65_536) and not self.runs(name):
            self.began[name].append(now_s)
        if what & select.EPOLLHUP and self.runs(name):
            self.ended[name].append(os.fstat(pipe).st_mtime)


class Starts:
    """When the daemon stamped the start events of each container, in wall time."""

    def __init__(self, engine: PrivateEngine) -> None:
        self.at_s: dict[str, list[float]] = defaultdict(list)
        self._engine, self._closed, self._since = engine, False, time.time()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed = True

    def of(self, id_: str, began_s: float) -> float | None:
        """Return when the run that began then was told of: some milliseconds later, or before it even got so far."""
        return next((at_s for at_s in self.at_s[id_] if at_s > began_s - 0.25), None)

    def _listen(self) -> None:
        while not self._closed:
            with contextlib.suppress(docker.errors.DockerException, OSError), self._engine.api(timeout=None) as api:
                filters = {"type": "container", "event": "start"}
                for event in api.events(since=self._since, filters=filters, decode=True):
                    self._since = event["timeNano"] / 1e9
                    if self._since not in self.at_s[event["id"]]:
                        self.at_s[event["id"]].append(self._since)
            threading.Event().wait(0.05)  # the daemon is down


class Report(Struct):
    """``ran_ms``: how long those refused ran that ran at all, from their first instruction to their last;
    ``after_event_ms``: from the daemon's start event to it. ``restarted_ms``: how long those ran that the daemon itself
    brought back as it came up, when nobody can be told of it yet. ``again``: how many of these runs were a restart
    policy's, which took a kill for a crash; they were killed too. ``touched``: who was hit and should not have been.
    """

    refused: int = 0
    ran: int = 0
    again: int = 0
    ran_ms: list[float] = field(default_factory=list)
    after_event_ms: list[float] = field(default_factory=list)
    restarted_ms: list[float] = field(default_factory=list)
    allowed: int = 0
    touched: list[str] = field(default_factory=list)
    came_back: list[str] = field(default_factory=list)

    @property
    def never_ran(self) -> int:
        return self.refused - self.ran

    def __str__(self) -> str:
        parts = [f"{self.refused} refused starts: {self.never_ran} never ran an instruction"]
        if self.ran_ms:
            runs = f"{len(self.ran_ms)} runs, {self.again} of them a restart policy's again"
            parts.append(f"{runs}, from the first to the last of them {self._spread(self.ran_ms)}")
            parts.append(f"from the engine's start event to it {self._spread(self.after_event_ms)}")
        if self.restarted_ms:
            parts.append(
                f"{len(self.restarted_ms)} ran that the daemon brought back, {self._spread(self.restarted_ms)}"
            )
        parts.append(f"{self.allowed} other starts, {len(self.touched)} of them hit {self.touched or ''}".rstrip())
        parts.append(f"came back and stayed: {self.came_back or 'none'}")
        return "; ".join(parts)

    @staticmethod
    def _spread(each: list[float]) -> str:
        return f"{percentile(each, 50):.1f} ms at p50, {percentile(each, 99):.1f} at p99, {max(each):.1f} at most"


class Box(Struct):
    id: str
    name: str
    may_run: bool


class Campaign:
    """``starts``: about how many in all, in bursts of ten."""

    def __init__(self, engine: PrivateEngine, server: Server, beats: Beats, seed: int) -> None:
        self.engine, self.server, self.beats = engine, server, beats
        self.starts = Starts(engine)
        self.chance = random.Random(seed)
        self.report = Report()

    def run(self, starts: int, *, restart: bool = True) -> Report:
        with contextlib.closing(self.starts), self.engine.api(60) as self.api:
            self._make()
            rounds = -(-starts // BURST)
            for turn in range(rounds):
                if restart and turn == rounds // 2:
                    self._restart_the_daemon()
                self._burst()
            self._settle()
        return self.report

    # ---- the containers

    def _create(self, name: str, policy: str = "no", *, may_run: bool, **labels: str) -> Box:
        prefix = self.server.prefix
        made = self.api.create_container(
            IMAGE,
            ["sh", "-c", self.beats.polite(name)],
            name=name,
            labels={
                key.replace("_", "-") if "." in key else f"{prefix}{key.replace('_', '-')}": value
                for key, value in labels.items()
            },
            healthcheck={"test": ["CMD", "true"], "interval": QUARTER_SECOND, "timeout": 10**9},
            host_config=self.api.create_host_config(
                network_mode="none", restart_policy={"Name": policy}, binds=[f"{self.beats.folder}:/beat"]
            ),
        )
        return Box(made["Id"], name, may_run)

    def _make(self) -> None:
        shares = {"vram": "1GiB", "coexist_with": "any"}
        one_off = {"com.docker.compose.oneoff": "True"}
        held = [
            self._create(f"held-{n}", may_run=True, target=f"held-{n}", healthcheck_master="true", **shares)
            for n in range(2)
        ]
        resident = self._create("resident", may_run=True, target="resident", healthcheck_master="true", **shares)
        self.cycled = self._create("cycled", may_run=True, target="cycled", healthcheck_master="true", **shares)
        guest = self._create("guest", may_run=True, target="held-0", **one_off)
        plain = [self._create(f"plain-{n}", POLICIES[n], may_run=True) for n in range(3)]
        self.allowed = [*held, resident, guest, *plain]
        self.refused = [
            self._create(
                f"refused-{n}", POLICIES[n % 4], may_run=False, target=f"refused-{n // 4}", healthcheck_master="true"
            )
            for n in range(12)
        ] + [self._create(f"stray-{n}", may_run=False, target="refused-0", **one_off) for n in range(2)]
        until(self._all_known, 10, "every target")
        for box in (*held, resident):
            answer = self.server.lease(box.name, ttl_seconds=3600, wait_ready=True)
            assert answer.status_code == 201, answer.text
            if box is resident:
                self.server.http.delete(f"/v1/lease/{answer.json()['token']}")
        for box in (guest, *plain):
            self._start(box)

    def _all_known(self) -> bool:
        known = {one["name"] for one in self.server.http.get("/v1/status").json()["targets"]}
        return {*(f"refused-{n}" for n in range(3)), "held-0", "held-1", "resident", "cycled"} <= known

    # ---- what happens to them

    def _burst(self) -> None:
        refused = self.chance.sample(self.refused, BURST - 3)
        others = self.chance.sample(self.allowed, 2)
        before = {box.name: len(self.beats.began[box.name]) for box in refused}
        with ThreadPoolExecutor(BURST) as pool:
            calls = [pool.submit(self._start, box) for box in (*refused, *others)]
            calls.append(pool.submit(self._cycle))
            for each in calls:
                each.result()
        self.report.refused += len(refused)
        self.report.allowed += len(others) + 1
        self._note_the_end_of(refused, before)
        self._look_at_the_allowed()

    def _note_the_end_of(self, refused: list[Box], before: dict[str, int], *, restarted: bool = False) -> None:
        for box in refused:
            until(lambda box=box: not self._is_up(box), 10, f"the end of {box.name}")
            for number in range(before[box.name], len(self.beats.began[box.name])):
                until(lambda box=box, number=number: len(self.beats.ended[box.name]) > number, 10, "its end")
                if number == before[box.name]:
                    self.report.ran += 1
                else:
                    self.report.again += 1
                began_s, ended_s = self.beats.began[box.name][number], self.beats.ended[box.name][number]
                if restarted:
                    self.report.restarted_ms.append((ended_s - began_s) * 1000)
                    continue
                event_s = self.starts.of(box.id, began_s) or began_s  # nobody was told: that counts in full
                self.report.ran_ms.append(max(0.0, ended_s - began_s) * 1000)
                self.report.after_event_ms.append(max(0.0, ended_s - event_s) * 1000)

    def _start(self, box: Box) -> None:
        """Start it, or start it anew where it may run and does."""
        if box.may_run:
            self.api.restart(box.id, timeout=0) if self.beats.runs(box.name) else self.api.start(box.id)
            return
        with contextlib.suppress(docker.errors.APIError):  # the answer that it should get
            self.api.start(box.id)

    def _cycle(self) -> None:
        """Lease a target that is down, so that its start is ours, and stop it again."""
        answer = self.server.lease("cycled", wait_ready=True, ttl_seconds=3600)
        if answer.status_code != 201 or answer.json()["state"] != "ready" or not self.beats.runs("cycled"):
            self.report.touched.append(f"cycled: {answer.text}")
        if answer.status_code == 201:
            self.server.http.delete(f"/v1/lease/{answer.json()['token']}")
        self.server.http.post("/v1/targets/cycled/evict")
        until(lambda: not self._is_up(self.cycled), 20, "the end of what was evicted")

    def _look_at_the_allowed(self) -> None:
        for box in self.allowed:
            if not (self._is_up(box) and self.beats.runs(box.name)):
                self.report.touched.append(box.name)
                self._start(box)

    def _is_up(self, box: Box) -> bool:
        status: str = self.api.inspect_container(box.id)["State"]["Status"]
        return status in ("running", "restarting", "paused")

    def _restart_the_daemon(self) -> None:
        """Its end ends all containers; what has the policy for it is started by it when it comes back."""
        before = {box.name: len(self.beats.began[box.name]) for box in self.refused}
        self.engine.kill()
        self.engine.start()
        self.server.until_synced()
        for box in self.allowed:
            if not self._is_up(box):
                self._start(box)
        back = [box for box in self.refused if box.name.startswith("refused") and int(box.name[8:]) % 4 == 1]
        self.report.refused += len(back)
        self._note_the_end_of(back, before, restarted=True)
        self._look_at_the_allowed()

    def _settle(self) -> None:
        """Give restart policies the time to bring back what they would."""
        began = {box.name: len(self.beats.began[box.name]) for box in self.refused}
        threading.Event().wait(1.0)
        self.report.came_back = [
            box.name for box in self.refused if self._is_up(box) or len(self.beats.began[box.name]) > began[box.name]
        ]


def play(engine: PrivateEngine, home: Path, starts: int, *flags: str, seed: int = 1, restart: bool = True) -> Report:
    """Run a campaign under a supervisor of its own, started with ``flags``. ``restart``: the daemon, in between."""
    (home / "beat").mkdir()
    beats = Beats(home / "beat")
    server = Server(home / "data", engine.url, f"gpu-{uuid.uuid4().hex[:8]}.")
    try:
        server.start(*flags)
        return Campaign(engine, server, beats, seed).run(starts, restart=restart)
    finally:
        server.close()
        beats.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-tripwire", action="store_true")
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="gs-"))
    engine = PrivateEngine(home)
    try:
        engine.start()
        shared = docker.APIClient(timeout=60, base_url=os.environ["DOCKER_HOST"])
        with contextlib.closing(shared), engine.api() as own:
            own.load_image(b"".join(shared.get_image(IMAGE)))
        flags: list[Any] = [] if asked.no_tripwire else ["--tripwire"]
        print(play(engine, home, asked.starts, *flags, seed=asked.seed))
    finally:
        engine.close()
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
