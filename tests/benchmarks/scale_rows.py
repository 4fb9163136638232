"""Rows that ask what one operation costs when there is more of everything: waiters, containers.

As many supervisors as there are sizes run side by side and take turns; the floor of a row is the smallest of them, so a
ratio near 1 is a cost that does not grow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from tests.benchmarks.bench import Bench, Program, Supervisor
from tests.benchmarks.handover_rows import between_waiters
from tests.benchmarks.http_rows import FLOOR, GIVE_BACK, OURS, RENEW, STATUS
from tests.benchmarks.measure import Figures, Result, at_least, percentile
from tests.benchmarks.wire import Load, address_of, load, request

#: Above every waiter of a crowd, whatever it gains by waiting.
FIRST = 1_000
ENQUEUE = request("POST", "/v1/lease", {"owner": "bench", "queue": True})


class Crowded(Struct):
    """A supervisor whose GPU is held, with ``waiters`` on the line. ``token`` is whoever's has it now."""

    ours: Supervisor
    waiters: int
    token: str
    kib_before: int
    kib_after: int


@contextlib.contextmanager
def crowded(bench: Bench, waiters: int, engine_url: str = "", prefix: str = "") -> Iterator[Crowded]:
    with contextlib.ExitStack() as ends:
        ours = ends.enter_context(bench.supervisor(engine_url, prefix=prefix))
        line = ours.line()
        ends.callback(line.close)
        token = line.ask(request("POST", "/v1/lease", {"ttl_seconds": 3600}))["token"]
        ours.until_queued(0, line)
        before = ours.program.resident_kib
        ends.enter_context(crowd(bench, ours.url, "/v1/lease", waiters))
        ours.until_queued(waiters, line)
        yield Crowded(ours, waiters, token, before, ours.program.resident_kib)


@contextlib.contextmanager
def crowd(bench: Bench, url: str, path: str, count: int) -> Iterator[Program]:
    host, port = address_of(url)
    with bench.program("crowd", host, str(port), path, str(count), stdin=True) as program:
        program.tell()
        yield program


def waiters(bench: Bench) -> list[Result]:
    """Renew, enqueue, hand over and look at the status, with ever more waiters."""
    effort = bench.effort
    results: list[Result] = []
    with contextlib.ExitStack() as ends:
        boxes = [ends.enter_context(crowded(bench, count)) for count in effort.waiters]
        web = ends.enter_context(_held_by_the_floor(bench, effort.waiters[-1]))
        results += _memory(boxes[-1], web)
        for what, measure in (
            ("renew", _renew),
            ("enqueue", _enqueue),
            ("cancel", _cancel),
            ("status", _status),
            ("hand-over", _hand_over),
        ):
            sides = {str(box.waiters): _of(measure, box, bench) for box in boxes}
            results += _by_size("waiters", what, "waiters", bench.take_turns(sides))
    return results


def _of(measure: Callable[[Crowded, Bench], float], box: Crowded, bench: Bench) -> Callable[[], float]:
    return lambda: measure(box, bench)


def _by_size(row: str, what: str, unit: str, seen: Mapping[str, Figures]) -> list[Result]:
    sizes = list(seen)
    smallest = Figures(f"with {sizes[0]}", seen[sizes[0]].each)
    return [
        Result(
            row=row,
            what=f"{what} with {int(size):,} {unit}",
            unit="ms",
            subject=seen[size],
            floor=smallest if size != sizes[0] else None,
        )
        for size in sizes
    ]


def _renew(box: Crowded, bench: Bench) -> float:
    return _one_caller(box, bench, [RENEW], box.token).p50_ms()


def _enqueue(box: Crowded, bench: Bench) -> float:
    return _one_caller(box, bench, [ENQUEUE, GIVE_BACK]).p50_ms(0)


def _cancel(box: Crowded, bench: Bench) -> float:
    return _one_caller(box, bench, [ENQUEUE, GIVE_BACK]).p50_ms(1)


def _status(box: Crowded, bench: Bench) -> float:
    return _one_caller(box, bench, [STATUS]).p50_ms()


def _one_caller(box: Crowded, bench: Bench, steps: list[bytes], token: str = "") -> Load:
    return load(box.ours.url, steps, connections=1, seconds=bench.effort.load_s / 2, token=token)


def _hand_over(box: Crowded, bench: Bench) -> float:
    """Between two callers who stand above all waiters, so that the crowd stays as large as it is."""
    calls = max(2, bench.effort.calls // 20)
    took, box.token = between_waiters(box.ours, calls, box.token, others=box.waiters, priority=FIRST)
    return percentile(took, 50)


def _memory(box: Crowded, web: tuple[int, int]) -> list[Result]:
    ours = Figures(OURS, [(box.kib_after - box.kib_before) / box.waiters])
    floor = Figures(FLOOR, [(web[1] - web[0]) / box.waiters])
    return [
        Result(
            row="waiters",
            what=f"memory per waiter, of {box.waiters:,}",
            unit="KiB",
            subject=ours,
            floor=floor,
            note="the floor holds as many requests in a bare route",
        )
    ]


@contextlib.contextmanager
def _held_by_the_floor(bench: Bench, count: int) -> Iterator[tuple[int, int]]:
    """Let a bare server hold as many requests; yields its memory before and after, in KiB."""
    with bench.program("floors.web", "--file", str(bench.place("floor") / "file")) as web:
        load(web.first_line, [request("GET", "/same")], connections=1, seconds=0.05)
        before = web.resident_kib
        with crowd(bench, web.first_line, "/hold", count):
            load(web.first_line, [request("GET", "/same")], connections=1, seconds=0.2)
            after = web.resident_kib
        yield before, after


# ---- containers


@contextlib.contextmanager
def fleet(bench: Bench, count: int) -> Iterator[tuple[Program, str, str]]:
    """A scripted engine with so many containers: the program, the engine's URL, the prefix of its labels."""
    path, prefix = bench.place("fleet") / "s", f"{bench.prefix.rstrip('.')}-fleet."
    with bench.program("fleet", str(path), prefix, str(count), stdin=True) as program:
        yield program, f"unix://{path}", prefix


def containers(bench: Bench) -> list[Result]:
    """From a start event to the kill request, and the status, with ever more containers that are known.

    The scripted engine is Python with a thread per connection: it is in the figures, the same for every size.
    """
    results: list[Result] = []
    with contextlib.ExitStack() as ends:
        reactions: dict[str, Callable[[], float]] = {}
        statuses: dict[str, Callable[[], float]] = {}
        for count in bench.effort.containers:
            program, url, prefix = ends.enter_context(fleet(bench, count))
            ours = ends.enter_context(bench.supervisor(url, prefix=prefix))
            reactions[str(count)] = _reacting(program, bench.effort.calls)
            statuses[str(count)] = _looking(ours, bench.effort.load_s / 2)
        for what, sides in (("start event -> kill request", reactions), ("status", statuses)):
            results += _by_size("containers", what, "containers", bench.take_turns(sides))
    return results


def _reacting(program: Program, calls: int) -> Callable[[], float]:
    return lambda: percentile([float(program.tell()) / 1000 for _ in range(calls)], 50)


def _looking(ours: Supervisor, seconds: float) -> Callable[[], float]:
    return lambda: load(ours.url, [STATUS], connections=1, seconds=seconds).p50_ms()


# ---- the status of a full house


def status(bench: Bench) -> list[Result]:
    count, queued = bench.effort.containers[-1], bench.effort.waiters[min(1, len(bench.effort.waiters) - 1)]
    seconds = bench.effort.load_s
    with contextlib.ExitStack() as ends:
        _, url, prefix = ends.enter_context(fleet(bench, count))
        box = ends.enter_context(crowded(bench, queued, url, prefix))
        line = box.ours.line()
        line.send(STATUS)
        body = line.receive()[1]
        line.close()
        file = bench.place("body") / "body"
        file.write_bytes(body)
        arguments = ("--file", str(bench.place("floor") / "file"), "--body", str(file))
        web = ends.enter_context(bench.program("floors.web", *arguments)).first_line
        seen = bench.take_turns(
            {
                OURS: lambda: load(box.ours.url, [STATUS], connections=4, seconds=seconds).rate,
                FLOOR: lambda: load(web, [request("GET", "/same")], connections=4, seconds=seconds).rate,
            },
        )
    return [
        Result(
            row="status",
            what=f"GET /v1/status with {count} containers and {queued:,} waiters",
            unit="requests/s",
            subject=seen[OURS],
            floor=seen[FLOOR],
            goals=(at_least(0.3, seen[OURS], seen[FLOOR]),),
            note=f"{len(body) // 1024} KiB, 4 connections; the floor sends the same bytes",
        )
    ]
