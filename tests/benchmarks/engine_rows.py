"""Rows on the real engine: switching from one target to another, a warm target, and enforcement."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from tests.benchmarks.bench import Bench, Program, json_of
from tests.benchmarks.http_rows import FLOOR, GRANT_BYTES, OURS
from tests.benchmarks.measure import (
    Figures,
    Result,
    at_most,
    at_most_more,
    below,
    percentile,
)
from tests.benchmarks.raw import POLITE, Beats, Events, Fleet, ask, call
from tests.benchmarks.wire import Line, address_of, request

GRACE_S = 10
#: In ms: what counts as at once, as a ratio to nothing says nothing.
SOONEST = 0.1
#: The supervisor as it kills where it cannot go below the engine.
ENGINE_ALONE = "engine"
#: The sides of enforcement, in the order of the tap's paths: each judges, or kills, containers of its own.
SIDES = (OURS, FLOOR, ENGINE_ALONE)


# ---- switch, and warm


def switch(bench: Bench) -> list[Result]:
    """From B's acquire sent, while A is resident, to B's start event and to the answer; the floor does it by hand."""
    pause = random.Random(1)
    started: dict[str, list[float]] = {OURS: [], FLOOR: []}
    healthy: dict[str, list[float]] = {OURS: [], FLOOR: []}
    with two_stacks(bench) as stacks, bench.supervisor() as ours:
        filters = {"type": ["container"], "container": [*stacks.ours, *stacks.floor]}
        events = Events(bench.engine_socket, filters)
        line, engine = ours.line(), Line(bench.engine_socket)
        _lease(line, stacks, 0)
        ask(engine, call("start", stacks.floor[0]))
        for turn in range(bench.effort.switches + bench.effort.warm_up):
            to = 1 - turn % 2
            for side, how, over in ((OURS, _switch_ours, line), (FLOOR, _switch_floor, engine)):
                # Probes keep their time: without a pause each side would always be stopped at the same moment of one.
                time.sleep(pause.uniform(0, bench.effort.probe_s))
                took = how(over, stacks, to, events)
                if turn >= bench.effort.warm_up:
                    started[side].append(took[0])
                    healthy[side].append(took[1])
        events.close()
        line.close()
        engine.close()
    rows = []
    for what, seen in (("the other's start event", started), ("it is healthy", healthy)):
        figures = {side: Figures(side, each) for side, each in seen.items()}
        rows.append(
            Result(
                row="switch",
                what=f"switch: acquire sent -> {what}",
                unit="ms",
                subject=figures[OURS],
                floor=figures[FLOOR],
                goals=(at_most(1.1, figures[OURS], figures[FLOOR]),),
                note=f"stop (grace {GRACE_S} s; it ends on SIGTERM), start; probed every {bench.effort.probe_s:g} s",
            )
        )
    return rows


class Stacks(Struct, frozen=True):
    """Two labelled containers and two that nobody leases, otherwise the same. ``targets``: names of the first two."""

    targets: tuple[str, str]
    ours: tuple[str, str]
    floor: tuple[str, str]


@contextlib.contextmanager
def two_stacks(bench: Bench) -> Iterator[Stacks]:
    with Fleet(bench.engine_socket, f"{bench.prefix.rstrip('.')}-switch") as fleet:
        targets = ("left", "right")
        ours = [
            fleet.make(
                POLITE,
                labels={f"{bench.prefix}target": name, f"{bench.prefix}healthcheck-master": "true"},
                probe_s=bench.effort.probe_s,
            )
            for name in targets
        ]
        floor = [fleet.make(POLITE, probe_s=bench.effort.probe_s) for _ in targets]
        yield Stacks(targets, (ours[0], ours[1]), (floor[0], floor[1]))


def _lease(line: Line, stacks: Stacks, which: int) -> None:
    """Lease a target, wait until it is ready, and give it back: it stays resident."""
    held = line.ask(request("POST", "/v1/lease", {"target": stacks.targets[which]}))
    line.ask(request("DELETE", f"/v1/lease/{held['token']}"))


def _switch_ours(line: Line, stacks: Stacks, to: int, events: Events) -> tuple[float, float]:
    events.forget()
    begun = time.perf_counter()
    line.send(request("POST", "/v1/lease", {"target": stacks.targets[to]}))
    started = events.wait(lambda event: event.action == "start" and event.id == stacks.ours[to])
    held = line.answer()
    healthy_s = time.perf_counter()
    line.ask(request("DELETE", f"/v1/lease/{held['token']}"))
    return (started.heard_s - begun) * 1000, (healthy_s - begun) * 1000


def _switch_floor(engine: Line, stacks: Stacks, to: int, events: Events) -> tuple[float, float]:
    events.forget()
    begun = time.perf_counter()
    ask(engine, call("stop", stacks.floor[1 - to], f"?t={GRACE_S}"))
    engine.send(call("start", stacks.floor[to]))
    started = events.wait(lambda event: event.action == "start" and event.id == stacks.floor[to])
    healthy = events.wait(lambda event: event.action == "health_status: healthy" and event.id == stacks.floor[to])
    engine.receive()
    return (started.heard_s - begun) * 1000, (healthy.heard_s - begun) * 1000


def warm(bench: Bench) -> list[Result]:
    """The target runs already, and nobody has it: a grant, and no call of the engine."""
    with two_stacks(bench) as stacks, bench.supervisor() as ours:
        line, web = ours.line(), Line(address_of(bench.web))
        _lease(line, stacks, 0)
        seen = bench.take_turns(
            {
                OURS: lambda: _warm_ours(line, stacks, bench.effort.calls),
                FLOOR: lambda: _one_sync(web, bench.effort.calls),
            },
        )
        line.close()
        web.close()
    return [
        Result(
            row="warm",
            what="acquire a resident target",
            unit="ms",
            subject=seen[OURS],
            floor=seen[FLOOR],
            goals=(at_most(2, seen[OURS], seen[FLOOR]),),
        )
    ]


def _warm_ours(line: Line, stacks: Stacks, calls: int) -> float:
    asks = request("POST", "/v1/lease", {"target": stacks.targets[0]})
    took = []
    for _ in range(calls):
        begun = time.perf_counter()
        token = line.ask(asks)["token"]
        took.append((time.perf_counter() - begun) * 1000)
        line.ask(request("DELETE", f"/v1/lease/{token}"))
    return percentile(took, 50)


def _one_sync(web: Line, calls: int) -> float:
    asks = request("POST", f"/lease/{GRANT_BYTES}", {"owner": "bench", "target": "left"})
    took = []
    for _ in range(calls):
        begun = time.perf_counter()
        web.ask(asks)
        took.append((time.perf_counter() - begun) * 1000)
    return percentile(took, 50)


# ---- enforcement


class Guarded(Struct, frozen=True):
    """Containers that the supervisor kills, containers that the floor kills, and the tap that sees both do it."""

    ids: dict[str, list[str]]
    names: dict[str, str]
    tap: Program
    beats: Beats
    events: Events


@contextlib.contextmanager
def guarded(bench: Bench, each: int, threads: int) -> Iterator[Guarded]:
    """``each``: containers of either side. ``threads`` of the floor."""
    pipes = bench.place("beat")
    taps = [str(bench.place("tap") / "s") for _ in SIDES]
    mark = f"{bench.prefix}floor"
    other = f"{bench.prefix.rstrip('.')}-alone."
    label = {OURS: f"{bench.prefix}target", FLOOR: mark, ENGINE_ALONE: f"{other}target"}
    with contextlib.ExitStack() as ends:
        fleet = ends.enter_context(Fleet(bench.engine_socket, f"{bench.prefix.rstrip('.')}-guarded"))
        beats = Beats(pipes, [f"{side}{number}" for side in label for number in range(each)])
        ends.callback(beats.close)
        names: dict[str, str] = {}
        ids: dict[str, list[str]] = {side: [] for side in SIDES}
        for side, key in label.items():
            for number in range(each):
                name = f"{side}{number}"
                id_ = fleet.make(Beats.script(name), labels={key: f"box-{number}"}, folder=pipes)
                ids[side].append(id_)
                names[id_] = name
        tap = ends.enter_context(bench.program("tap", bench.engine_socket, *taps, stdin=True))
        ends.enter_context(bench.supervisor(f"unix://{taps[0]}"))
        ends.enter_context(bench.supervisor(f"unix://{taps[2]}", "--cgroup-kill", "off", prefix=other))
        ends.enter_context(bench.program("floors.enforcer", taps[1], mark, str(threads)))
        events = Events(bench.engine_socket, {"type": ["container"], "event": ["die"], "container": list(names)})
        ends.callback(events.close)
        yield Guarded(ids, names, tap, beats, events)


class Reaction(Struct, frozen=True):
    """In ms after the start event was on the socket: the kill request, the last beat and the death of the process."""

    kill: float
    beat: float | None
    dead: float | None


def start(bench: Bench, box: Guarded, side: str, count: int) -> list[Reaction]:
    """Start ``count`` containers of one side at once, and see what becomes of them."""
    ids = box.ids[side][:count]
    box.tap.tell()
    box.beats.died_ns.clear()
    box.events.forget()
    together = threading.Barrier(count)

    def start_one(id_: str) -> bool:
        line = Line(bench.engine_socket)
        together.wait()
        line.send(call("start", id_))
        status, _ = line.receive()
        line.close()
        return status < 400

    with ThreadPoolExecutor(count) as pool:
        started = [id_ for id_, well in zip(ids, pool.map(start_one, ids), strict=True) if well]
    alive = set(started)
    while alive:
        alive.discard(box.events.wait(lambda event: event.id in alive).id)
    number = SIDES.index(side)
    notes = [note for note in json_of(box.tap.tell()) if note[0] == number]
    seen = {(what, id_): at_ns for _, what, id_, at_ns in reversed(notes)}  # the first of each
    reactions = []
    for id_ in started:
        event_ns, kill_ns = seen["event", id_], seen["kill", id_]
        died_ns = box.beats.died_ns.get(box.names[id_])
        dead = (died_ns - event_ns) / 1e6 if died_ns is not None else None
        # It may have ended before anybody was told that it began.
        beat = max(SOONEST, (box.beats.last_ns(box.names[id_]) - event_ns) / 1e6) if died_ns is not None else None
        reactions.append(Reaction((kill_ns - event_ns) / 1e6, beat, dead))
    return reactions


def enforcement(bench: Bench) -> list[Result]:
    """One start at a time: the event on the socket -> the kill request leaves, and -> the process is dead."""
    seen: dict[str, list[float]] = {side: [] for side in SIDES}
    dead: dict[str, list[float]] = {side: [] for side in SIDES}
    with guarded(bench, 1, threads=0) as box:
        for turn in range(bench.effort.starts + bench.effort.warm_up):
            for side in SIDES:
                reaction = start(bench, box, side, 1)[0]
                if turn >= bench.effort.warm_up:
                    seen[side].append(reaction.kill)
                    dead[side] += [reaction.dead] if reaction.dead is not None else []
    died = {side: Figures(side, each) for side, each in dead.items()}
    p50 = {side: Figures(side, each) for side, each in seen.items()}
    p99 = {side: Figures(side, [percentile(each, 99)]) for side, each in seen.items()}
    what = "enforcement: the start event on our socket -> the kill request leaves"
    results = [
        Result(
            row="enforcement",
            what=f"{what}, p50",
            unit="ms",
            subject=p50[OURS],
            floor=p50[FLOOR],
            goals=(at_most_more(1, "ms", p50[OURS], p50[FLOOR]),),
        ),
        Result(
            row="enforcement",
            what=f"the same, p99 of {bench.effort.starts}",
            unit="ms",
            subject=p99[OURS],
            floor=p99[FLOOR],
            goals=(below(5, "ms", p99[OURS]),),
        ),
    ]
    if all(dead.values()):  # not where all died before they ran an instruction
        results.append(
            Result(
                row="enforcement",
                what="enforcement: the start event on our socket -> the process is dead, p50",
                unit="ms",
                subject=died[OURS],
                floor=died[FLOOR],
                peers=(died[ENGINE_ALONE],),
                note="through the cgroup as root on the host; beside it the same with cgroup_kill = off",
            )
        )
    return results


def burst(bench: Bench) -> list[Result]:
    """Many starts at once: the event -> the last beat of the process, and -> it is gone.

    Dead it is with the first: it runs no instruction of its own any more. To be gone it needs a processor once more.
    """
    count = bench.effort.burst
    ends = {"its last instruction, to 5 ms": "beat", "its process is gone": "dead"}
    rounds: dict[tuple[str, str], list[list[float]]] = {(end, side): [] for end in ends.values() for side in SIDES}
    with guarded(bench, count, threads=32) as box:
        for turn in range(bench.effort.bursts + bench.effort.warm_up):
            for side in SIDES:
                reactions = start(bench, box, side, count)
                for end in ends.values():
                    seen = [at for each in reactions if (at := getattr(each, end)) is not None]
                    if seen and turn >= bench.effort.warm_up:  # else all died before they ran an instruction
                        rounds[end, side].append(seen)
    return [
        _burst_result(count, words, percent, {side: rounds[end, side] for side in SIDES})
        for words, end in ends.items()
        for percent in (50, 99)
        if all(rounds[end, side] for side in SIDES)
    ]


def _burst_result(count: int, until: str, percent: int, rounds: dict[str, list[list[float]]]) -> Result:
    seen = {side: Figures(side, [percentile(each, percent) for each in rounds[side]]) for side in rounds}
    return Result(
        row="burst",
        what=f"a burst of {count} starts: the event -> {until}, p{percent}",
        unit="ms",
        subject=seen[OURS],
        floor=seen[FLOOR],
        peers=(seen[ENGINE_ALONE],),
        goals=(
            at_most(1.3, seen[OURS], seen[FLOOR]),
            *([below(25, "ms", seen[OURS])] if percent == 99 else []),
        ),
        note="through the cgroup as root on the host; beside it cgroup_kill = off, and the floor, which kills "
        "with 32 threads; containers killed before they ran an instruction are left out",
    )
