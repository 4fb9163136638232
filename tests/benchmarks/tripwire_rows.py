"""The tripwire beside the kill through the cgroup and the engine's own: from the call that starts a container on.

Each side has a supervisor and containers of its own, and they take turns.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from tests.benchmarks.bench import Bench
from tests.benchmarks.http_rows import OURS
from tests.benchmarks.measure import Figures, Goal, Result, percentile
from tests.benchmarks.raw import Beats, Events, Fleet, call
from tests.benchmarks.wire import Line

THROUGH_CGROUP, ENGINE_ALONE = "cgroup", "engine"
FLAGS = {OURS: ("--tripwire",), THROUGH_CGROUP: (), ENGINE_ALONE: ("--cgroup-kill", "off")}
#: Of the containers that may not run, so many percent are to be stopped before their first instruction.
WANTED = 90.0


class Sides(Struct, frozen=True):
    socket: str
    ids: dict[str, list[str]]
    names: dict[str, str]
    beats: Beats
    events: Events


def tripwire(bench: Bench) -> list[Result]:
    """Many starts at once that may not be: how many never ran, and how long until none of them runs any more."""
    count = bench.effort.burst
    over: dict[str, list[float]] = {side: [] for side in FLAGS}
    never: list[float] = []
    with contextlib.ExitStack() as ends:
        sides = _sides(bench, ends, count)
        for turn in range(bench.effort.bursts + bench.effort.warm_up):
            for side in FLAGS:
                took_ms, ran = _burst(sides, side)
                if turn >= bench.effort.warm_up:
                    over[side].append(percentile(took_ms, 99))
                    if side == OURS:
                        never.append(100 * (count - ran) / count)
    seen = {side: Figures(side, each) for side, each in over.items()}
    results = [
        Result(
            row="tripwire",
            what=f"the tripwire, {count} starts at once: the start is asked for -> nothing of it runs, p99",
            unit="ms",
            subject=seen[OURS],
            peers=(seen[THROUGH_CGROUP], seen[ENGINE_ALONE]),
            note="as root on the host; beside it the kill through the cgroup, and the engine's own, without a tripwire",
        )
    ]
    if any(never):  # nobody is stopped in time where it cannot be armed
        share = Figures(OURS, never)
        results.append(
            Result(
                row="tripwire",
                what="the tripwire: of these never ran an instruction",
                unit="%",
                subject=share,
                goals=(Goal(f">= {WANTED:g} %", share.median >= WANTED),),
            )
        )
    return results


def _sides(bench: Bench, ends: contextlib.ExitStack, count: int) -> Sides:
    pipes = bench.place("beat")
    stem = bench.prefix.rstrip(".")
    fleet = ends.enter_context(Fleet(bench.engine_socket, f"{stem}-tripped"))
    beats = Beats(pipes, [f"{side}{number}" for side in FLAGS for number in range(count)])
    ends.callback(beats.close)
    ids: dict[str, list[str]] = {side: [] for side in FLAGS}
    names: dict[str, str] = {}
    for side in FLAGS:
        for number in range(count):
            name = f"{side}{number}"
            labels = {f"{stem}-{side}.target": f"box-{number}"}
            id_ = fleet.make(Beats.script(name), labels=labels, folder=pipes)
            ids[side].append(id_)
            names[id_] = name
    for side, flags in FLAGS.items():
        ends.enter_context(bench.supervisor("", *flags, prefix=f"{stem}-{side}."))
    events = Events(bench.engine_socket, {"type": ["container"], "event": ["die"], "container": list(names)})
    ends.callback(events.close)
    return Sides(bench.engine_socket, ids, names, beats, events)


def _burst(sides: Sides, side: str) -> tuple[list[float], int]:
    """Return after how many ms each start had come to nothing, and how many of them ran."""
    ids = sides.ids[side]
    sides.beats.died_ns.clear()
    sides.events.forget()
    together = threading.Barrier(len(ids))

    def start_one(id_: str) -> tuple[int, int, bool]:
        line = Line(sides.socket)
        together.wait()
        begun_ns = time.monotonic_ns()
        line.send(call("start", id_))
        status, _ = line.receive()
        answered_ns = time.monotonic_ns()
        line.close()
        return begun_ns, answered_ns, status < 400

    with ThreadPoolExecutor(len(ids)) as pool:
        calls = dict(zip(ids, pool.map(start_one, ids), strict=True))
    alive = {id_ for id_, (_, _, started) in calls.items() if started}
    while alive:
        alive.discard(sides.events.wait(lambda event: event.id in alive).id)
    died_ns = sides.beats.died_ns
    took_ms = [
        (died_ns.get(sides.names[id_], answered_ns) - begun_ns) / 1e6
        for id_, (begun_ns, answered_ns, _) in calls.items()
    ]
    return took_ms, len(died_ns)
