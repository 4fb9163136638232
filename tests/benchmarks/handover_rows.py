"""The hand-over: somebody gives the GPU back, and the next waiter's held request is answered."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from tests.benchmarks import peers
from tests.benchmarks.bench import Bench, Supervisor
from tests.benchmarks.http_rows import BEHIND, END_BYTES, ETCD, FLOOR, GRANT_BYTES, OURS, REDIS
from tests.benchmarks.measure import Figures, Goal, Result, at_most, percentile
from tests.benchmarks.wire import Line, address_of, request

#: Where nobody can be asked whether the waiter waits already, it is given this long to get there.
SETTLED_S = 0.02


def handover(bench: Bench) -> list[Result]:
    calls, redis, etcd = bench.effort.calls, bench.redis, bench.etcd
    sides: dict[str, Callable[[], float]] = {
        OURS: lambda: percentile(_idle_hand_overs(bench.idle, calls), 50),
        FLOOR: lambda: percentile(_two_syncs(bench.web, calls), 50),
        BEHIND: lambda: percentile(_awaited_syncs(bench.web, calls), 50),
    }
    if redis is not None:
        sides[REDIS] = lambda: percentile(_pushes(redis, calls), 50)
    if etcd is not None:
        sides[ETCD] = lambda: percentile(_locks(etcd, max(2, calls // 10)), 50)
    seen = bench.take_turns(sides)
    two_syncs = Figures("one sync, twice", seen[FLOOR].each)
    floor, others = (seen[REDIS], [two_syncs]) if REDIS in seen else (two_syncs, [])
    others.append(seen[BEHIND])
    return [
        Result(
            row="handover",
            what="release sent -> the next waiter's held request answered",
            unit="ms",
            subject=seen[OURS],
            floor=Figures("redis BLPOP", floor.each) if REDIS in seen else floor,
            peers=(*others, *([seen[ETCD]] if ETCD in seen else [])),
            goals=(
                at_most(2, seen[OURS], floor, at_best=seen[BEHIND]),
                _faster(30, seen[OURS], seen.get(ETCD)),
            ),
            note="redis appendfsync always; etcd's v3lock over its gateway; medians of each repetition's hand-overs",
        )
    ]


def _faster(times: float, ours: Figures, etcd: Figures | None) -> Goal:
    reached = None if etcd is None else etcd.median >= times * ours.median
    return Goal(f"{times:g} times faster than etcd's lock", reached)


def _idle_hand_overs(ours: Supervisor, calls: int) -> list[float]:
    with contextlib.closing(ours.line()) as line:
        token = line.ask(request("POST", "/v1/lease", {"ttl_seconds": 3600}))["token"]
    took, token = between_waiters(ours, calls, token)
    with contextlib.closing(ours.line()) as line:
        line.ask(request("DELETE", f"/v1/lease/{token}"))
    return took


def between_waiters(
    ours: Supervisor, calls: int, token: str, *, others: int = 0, priority: int = 0
) -> tuple[list[float], str]:
    """Hand the GPU to and fro between two callers; return what each took, in ms, and the token of the last.

    ``token`` is the holder's. ``others`` are in the queue already, and stay there if ``priority`` is above theirs.
    """
    asking, lines = ours.line(), [ours.line(), ours.line()]
    body = {"owner": "bench", "wait_seconds": 600, "ttl_seconds": 3600, "priority": priority}
    asks = request("POST", "/v1/lease", body)
    took = []
    for turn in range(calls):
        holder, waiter = lines[turn % 2], lines[1 - turn % 2]
        waiter.send(asks)
        ours.until_queued(others + 1, asking)
        back = request("DELETE", f"/v1/lease/{token}")
        begun = time.perf_counter()
        holder.send(back)
        token = waiter.answer()["token"]
        took.append((time.perf_counter() - begun) * 1000)
        holder.answer()
    for line in (asking, *lines):
        line.close()
    return took, token


def _two_syncs(web: str, calls: int) -> list[float]:
    """A hand-over is an end and a grant: two requests, each with its sync, one after the other."""
    line = Line(address_of(web))
    requests = [request("POST", f"/lease/{count}", {"owner": "bench"}) for count in (END_BYTES, GRANT_BYTES)]
    took = []
    for _ in range(calls):
        begun = time.perf_counter()
        for each in requests:
            line.ask(each)
        took.append((time.perf_counter() - begun) * 1000)
    line.close()
    return took


def _awaited_syncs(web: str, calls: int) -> list[float]:
    """A waiter who is answered when what another one sends is on disk: nothing is decided."""
    holder, waiter, asking = (Line(address_of(web)) for _ in range(3))
    took = []
    for _ in range(calls):
        waiter.send(request("POST", "/await", {"owner": "bench"}))
        while not asking.ask(request("GET", "/awaited")):
            pass
        begun = time.perf_counter()
        holder.send(request("POST", f"/behind/{END_BYTES + GRANT_BYTES}", {"owner": "bench"}))
        waiter.answer()
        took.append((time.perf_counter() - begun) * 1000)
        holder.answer()
    for line in (holder, waiter, asking):
        line.close()
    return took


def _pushes(port: int, calls: int) -> list[float]:
    """A waiter in BLPOP, a holder who pushes the one token."""
    holder, waiter = Line(("127.0.0.1", port)), Line(("127.0.0.1", port))
    took = []
    for _ in range(calls):
        waiter.send(b"BLPOP gpu 0\r\n")
        while b"blocked_clients:1" not in _redis_says(holder, b"INFO clients\r\n"):
            pass
        begun = time.perf_counter()
        holder.send(b"RPUSH gpu token\r\n")
        waiter.sock.recv(1 << 16)
        took.append((time.perf_counter() - begun) * 1000)
        holder.sock.recv(1 << 16)
    holder.close()
    waiter.close()
    return took


def _redis_says(line: Line, command: bytes) -> bytes:
    """Return a bulk answer: ``$LENGTH``, the text, and a line's end."""
    line.send(command)
    data = line.sock.recv(1 << 16)
    while len(data) < data.index(b"\r\n") + int(data[1 : data.index(b"\r\n")]) + 4:
        data += line.sock.recv(1 << 16)
    return data


def _locks(etcd: str, calls: int) -> list[float]:
    """Two leases of etcd that want one lock."""
    lines = [Line(address_of(etcd)) for _ in range(2)]
    leases = [peers.grant(line) for line in lines]
    key = lines[0].ask(peers.lock(leases[0]))["key"]
    pace = threading.Event()
    took = []
    for turn in range(calls):
        holder, waiter = lines[turn % 2], lines[1 - turn % 2]
        waiter.send(peers.lock(leases[1 - turn % 2]))
        pace.wait(SETTLED_S)
        begun = time.perf_counter()
        holder.send(peers.unlock(key))
        key = waiter.answer()["key"]
        took.append((time.perf_counter() - begun) * 1000)
        holder.answer()
    lines[calls % 2].ask(peers.unlock(key))
    for line in lines:
        line.close()
    return took
