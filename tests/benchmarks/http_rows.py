"""Rows that need no containers: renewals, leases without a target, and the status."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from supervisor.core.facts import AnyFact, LeaseEnded, LeaseGranted, RoomVerified
from supervisor.core.model import Terms
from supervisor.journal.frame import Chain, encode_record
from supervisor.journal.journal import ENCODER
from tests.benchmarks import decide, peers
from tests.benchmarks.bench import Bench, Supervisor
from tests.benchmarks.measure import Figures, Result, at_least, at_most, percentile
from tests.benchmarks.wire import Line, Load, address_of, load, request

OURS, FLOOR, ETCD, REDIS = "supervisor", "floor", "etcd", "redis"
#: What no guard, no keys and no log could be faster than: our decision behind a bare route.
DECIDING = "the floor with our decision, synced in a thread"
#: What it costs to let nothing wait for the disk but who must.
BEHIND = "the floor with its sync in a thread"
#: What no faster route, disk or log could be faster than.
DECIDED = "decided and encoded, without a route"
#: The same of one caller: what does it has just been woken.
ALONE = "decided and encoded, just woken"

ASK = request("POST", "/v1/lease", {"owner": "bench"})
ASK_OR_QUEUE = request("POST", "/v1/lease", {"owner": "bench", "queue": True})
GIVE_BACK = request("DELETE", "/v1/lease/{token}")
RENEW = request("POST", "/v1/lease/{token}/renew")
STATUS = request("GET", "/v1/status")


def _record_bytes(*facts: AnyFact) -> int:
    return len(encode_record(ENCODER.encode(facts), len(facts), Chain())[0])


_TERMS = Terms(target=None, owner="bench", priority=0, ttl_ms=300_000, ready_timeout_ms=900_000)
_WHEN = (123_456_789, 1_700_000_000_000)
#: What the journal takes for a lease without a target, and for its end: the floor writes as much.
GRANT_BYTES = _record_bytes(
    LeaseGranted(*_WHEN, "0123456789abcdef", 7, "x" * 43, True, _TERMS, "", ("SIM-0",), None),
    RoomVerified(*_WHEN, "0123456789abcdef", None),
)
END_BYTES = _record_bytes(LeaseEnded(*_WHEN, "0123456789abcdef", "released", False, "bench", None))


def generator(bench: Bench) -> list[Result]:
    """How much the load generator can drive: a row above half of this says more about it than about a server."""
    with bench.program("floors.wire") as bare:
        loads = bench.take_turns(
            {"ceiling": lambda: load(bare.first_line, [STATUS], connections=16, seconds=bench.effort.load_s).rate},
        )
    return [
        Result(
            row="generator",
            what="the load generator against a server that only answers, 16 connections",
            unit="requests/s",
            subject=loads["ceiling"],
        )
    ]


def renew(bench: Bench) -> list[Result]:
    ours, etcd, seconds = bench.idle, bench.etcd, bench.effort.load_s
    with holding(ours) as token:
        sides: dict[str, Callable[[], float]] = {
            OURS: lambda: load(ours.url, [RENEW], connections=16, seconds=seconds, token=token).rate,
            FLOOR: lambda: (
                load(bench.web, [request("POST", "/renew/{token}")], connections=16, seconds=seconds, token=token).rate
            ),
        }
        if etcd is not None:
            alive = [peers.keep_alive(peers.grant(Line(address_of(etcd))))]
            sides[ETCD] = lambda: load(etcd, alive, connections=16, seconds=seconds).rate
        seen = bench.take_turns(sides)
    return [
        Result(
            row="renew",
            what="renew, 16 connections",
            unit="requests/s",
            subject=seen[OURS],
            floor=seen[FLOOR],
            peers=_others(seen),
            goals=(
                at_least(0.7, seen[OURS], seen[FLOOR]),
                at_least(2, seen[OURS], seen.get(ETCD), "etcd's keep-alive"),
            ),
        )
    ]


def lease(bench: Bench) -> list[Result]:
    """One caller: ask for the GPU without a target, get it, give it back."""
    ours, etcd, seconds = bench.idle, bench.etcd, bench.effort.load_s
    floor = [request("POST", f"/lease/{count}", {"owner": "bench"}) for count in (GRANT_BYTES, END_BYTES)]
    acquired: dict[str, list[float]] = {OURS: [], FLOOR: [], DECIDING: [], ALONE: [], ETCD: []}
    released: dict[str, list[float]] = {OURS: [], FLOOR: [], DECIDING: [], ALONE: [], ETCD: []}

    def note(side: str, seen: Load) -> float:
        acquired[side].append(seen.p50_ms(0))
        released[side].append(seen.p50_ms(1))
        return seen.rate

    sides: dict[str, Callable[[], float]] = {
        OURS: lambda: note(OURS, load(ours.url, [ASK, GIVE_BACK], connections=1, seconds=seconds)),
        FLOOR: lambda: note(FLOOR, load(bench.web, floor, connections=1, seconds=seconds)),
        DECIDING: lambda: note(DECIDING, load(bench.web, _deciding("/decide"), connections=1, seconds=seconds)),
        ALONE: lambda: _decide_alone(bench.effort.calls, acquired[ALONE], released[ALONE]),
    }
    if etcd is not None:
        sides[ETCD] = lambda: _lock_and_unlock(etcd, bench.effort.calls, acquired[ETCD], released[ETCD])
    bench.take_turns(sides, warm_up=False)
    rows = []
    for row, what, seen in (
        ("acquire", "acquire a bare lease, one caller", acquired),
        ("release", "release it", released),
    ):
        figures = {side: Figures(side, each) for side, each in seen.items() if each}
        rows.append(
            Result(
                row=row,
                what=what,
                unit="ms",
                subject=figures[OURS],
                floor=figures[FLOOR],
                peers=_others(figures),
                goals=(
                    at_most(1.5, figures[OURS], figures[FLOOR], at_best=figures[DECIDING]),
                    at_most(1, figures[OURS], figures.get(ETCD), "etcd's v3lock"),
                ),
                note="medians of each repetition's requests",
            )
        )
    return rows


def _decide_alone(calls: int, asked_ms: list[float], given_back_ms: list[float]) -> float:
    grant_ms, end_ms = decide.alone(calls)
    asked_ms.append(grant_ms)
    given_back_ms.append(end_ms)
    return 0.0


def _lock_and_unlock(etcd: str, calls: int, locked_ms: list[float], unlocked_ms: list[float]) -> float:
    line = Line(address_of(etcd))
    lease_id = peers.grant(line)
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(calls):
        begun = time.perf_counter()
        key = line.ask(peers.lock(lease_id))["key"]
        amid = time.perf_counter()
        line.ask(peers.unlock(key))
        took[0].append((amid - begun) * 1000)
        took[1].append((time.perf_counter() - amid) * 1000)
    line.close()
    locked_ms.append(percentile(took[0], 50))
    unlocked_ms.append(percentile(took[1], 50))
    return 0.0


def durable(bench: Bench) -> list[Result]:
    """The same at 64 connections: one of them has the GPU, the others get a ticket and give that back."""
    ours, etcd, seconds = bench.idle, bench.etcd, bench.effort.load_s
    bare = [request("POST", "/lease", {"owner": "bench"})]
    behind = [request("POST", f"/behind/{count}", {"owner": "bench"}) for count in (GRANT_BYTES, END_BYTES)]
    deciding = _deciding("/decide/together")
    sides: dict[str, Callable[[], float]] = {
        OURS: lambda: load(ours.url, [ASK_OR_QUEUE, GIVE_BACK], connections=64, seconds=seconds).rate,
        FLOOR: lambda: load(bench.web, bare, connections=64, seconds=seconds).rate,
        BEHIND: lambda: load(bench.web, behind, connections=64, seconds=seconds).rate,
        DECIDING: lambda: load(bench.web, deciding, connections=64, seconds=seconds).rate,
        DECIDED: lambda: decide.rate(64, seconds),
    }
    if etcd is not None:
        sides[ETCD] = lambda: load(etcd, peers.take_and_give(), connections=64, seconds=seconds).rate
    seen = bench.take_turns(sides)
    return [
        Result(
            row="durable",
            what="acquire (or queue) and release, 64 connections",
            unit="operations/s",
            subject=seen[OURS],
            floor=seen[FLOOR],
            peers=_others(seen),
            goals=(
                at_least(0.5, seen[OURS], seen[FLOOR], at_best=seen[DECIDING]),
                at_least(2, seen[OURS], seen.get(ETCD), "etcd's transactions", at_best=seen[DECIDING]),
            ),
            note="the floor syncs nothing",
        )
    ]


def _deciding(route: str) -> list[bytes]:
    return [request("POST", route, {"owner": "bench"}), request("DELETE", f"{route}/{{token}}")]


@contextlib.contextmanager
def holding(ours: Supervisor) -> Iterator[str]:
    """Hold the GPU without a target; the value is the lease's token."""
    # Two connections: one that is idle for as long as a row takes would have been closed meanwhile.
    with contextlib.closing(ours.line()) as line:
        token = str(line.ask(request("POST", "/v1/lease", {"ttl_seconds": 3600}))["token"])
    yield token
    with contextlib.closing(ours.line()) as line:
        line.ask(request("DELETE", f"/v1/lease/{token}"))


def _others(seen: dict[str, Figures]) -> tuple[Figures, ...]:
    return tuple(figures for side, figures in seen.items() if side not in (OURS, FLOOR))
