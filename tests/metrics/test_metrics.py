"""What is counted, what is read, and that none of it names anybody."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import supervisor
from supervisor.core.facts import AnyFact, ContainerRefused, LeaseEnded, TargetReady
from supervisor.core.inputs import ActionDone, EngineContact, EngineLost, ShutDown, StartHinted, VramRead
from supervisor.core.model import Gpu
from supervisor.core.replies import KillContainer, StartContainer
from supervisor.core.state import Settings, State
from supervisor.kernel import Kernel
from supervisor.metrics import Metrics
from supervisor.metrics.counts import TARGETS_MAX, Targets
from supervisor.metrics.table import METRICS, reference
from supervisor.metrics.timed import TimedEngine, TimedJournal
from tests.api.house import DEADLINE_S, House, house, run
from tests.core.box import Box, container
from tests.golden.record_metrics import contract, recorded
from tests.journal.facts import ONE_OF_EACH
from tests.metrics.scrape import Series, read, value
from tests.runtime.test_pump import ObedientEngine, SlowDisk

ROOT = Path(__file__).parents[2]


class Metered(Box):
    """A box whose facts are counted when they are on disk."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.counted = 0
        super().__init__(*args, **options)
        self.meter()

    def meter(self) -> None:
        self.metrics = Metrics(self.kernel, lambda: self.now, "1.2.3")
        self.counted = len(self.journal)

    def series(self) -> Series:
        for seq, fact in enumerate(self.journal[self.counted :], self.counted + 1):
            self.metrics.told(seq, fact)
        self.counted = len(self.journal)
        return read(self.metrics.page())


# ---- the contract


def test_the_readme_has_the_table_of_metrics():
    assert reference() in (ROOT / "README.md").read_text(), "replace it with: python -m supervisor.metrics.table"


@pytest.mark.parametrize("version", recorded())
def test_a_metric_that_was_released_stays_with_its_type_and_labels(version):
    assert set(recorded()[version]) - set(contract()) == set()


def test_the_metrics_of_this_version_are_recorded():
    assert recorded()[supervisor.__version__] == contract(), (
        f"before its release: rm tests/golden/metrics-{supervisor.__version__}.txt && "
        "python -m tests.golden.record_metrics"
    )


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_ends_with_its_unit_and_labels_name_nobody(metric):
    assert re.fullmatch(r"gpu_supervisor_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|mib|percent|seconds_total)$", metric.name)
    assert set(metric.labels) <= {
        *("target", "gpu", "index", "name", "type", "how", "code", "reason", "phase", "state", "severity"),
        *("action", "call", "outcome", "signal", "hook", "version", "mode"),
    }


def test_every_metric_of_the_table_is_on_the_page_and_no_other_of_ours():
    box = Metered(container("a", vram_mib=8_192), gpus=(Gpu("SIM-0", total_mib=24_576, used_mib=0),))
    page = box.metrics.page().decode()
    shown = dict(re.findall(r"^# TYPE (gpu_supervisor_\S+) (\S+)$", page, flags=re.MULTILINE))

    assert shown == {metric.name: metric.kind for metric in METRICS}


def test_there_is_no_owner_no_id_no_token_and_no_container_on_the_page():
    metrics = Metrics(Kernel(State(Settings())), lambda: Box().now, "1.2.3")
    for seq, fact in enumerate(ONE_OF_EACH, 1):
        metrics.told(seq, fact)

    shown = {text for _, labels in read(metrics.page()) for _, text in labels}
    secret = {text for fact in ONE_OF_EACH for text in personal(fact)}
    assert secret
    assert shown & secret == set()


def personal(fact: AnyFact) -> set[str]:
    """What a fact says of somebody."""
    terms = getattr(fact, "terms", None)
    names = ("id", "token_hash", "owner", "container", "container_id", "user", "command", "for_owner", "pid")
    found = {getattr(fact, name, None) for name in names} | {terms.owner if terms is not None else None}
    return {str(text) for text in found if text}


# ---- facts


def test_a_story_of_leases_is_counted():
    box = Metered(container("a"), container("b"))
    first = box.lease("a")
    box.ask("b", wait_ms=600_000)
    box.advance(30)
    box.release(first)
    box.obey()
    box.start("a-main")
    series = box.series()

    assert value(series, "grants_total", target="a", how="cold") == 1
    assert value(series, "wait_seconds_sum", target="a") == 0
    assert value(series, "wait_seconds_sum", target="b") == 30
    assert value(series, "wait_seconds_bucket", target="b", le="15.0") == 0
    assert value(series, "wait_seconds_bucket", target="b", le="60.0") == 1
    assert value(series, "hold_seconds_sum", target="a") == 30
    assert value(series, "leases_ended_total", target="a", reason="released") == 1
    assert value(series, "swaps_total", target="a") == 1
    assert value(series, "residencies_ended_total", target="a", reason="evicted") == 1
    assert value(series, "start_seconds_count", target="b") == 1
    assert value(series, "enforcements_total", target="a", reason="gpu_held", action="kill") == 1
    assert value(series, "facts_total", type="LeaseGranted") == 2


def test_a_failed_start_is_counted_and_a_release_is_none():
    metrics = Metrics(Kernel(State(Settings())), lambda: Box().now, "1.2.3")
    for reason in ("target_failed", "released"):
        metrics.told(1, LeaseEnded(1, 1, "l", reason, resident=False, owner="ann", target="a"))
    series = read(metrics.page())

    assert value(series, "start_failures_total", target="a", reason="target_failed") == 1
    assert value(series, "start_failures_total", target="a", reason="released") is None


def test_a_fact_for_several_refusals_counts_them_all():
    metrics = Metrics(Kernel(State(Settings())), lambda: Box().now, "1.2.3")
    metrics.told(1, ContainerRefused(1, 1, "c", "a-1", "a", "main", "no_lease", "kill", count=7))

    assert value(read(metrics.page()), "enforcements_total", target="a", reason="no_lease", action="kill") == 7


def test_targets_beyond_the_bound_are_counted_together():
    metrics = Metrics(Kernel(State(Settings())), lambda: Box().now, "1.2.3")
    for number in range(TARGETS_MAX + 5):
        metrics.told(number, TargetReady(1, 1, "l", f"t{number}", 500))
    series = read(metrics.page())

    assert value(series, "start_seconds_count", target="t0") == 1
    assert value(series, "start_seconds_count", target="_other") == 5


def test_no_target_can_be_called_like_what_stands_for_none():
    assert Targets().label(None) == "_bare"
    assert not re.fullmatch("[a-z0-9][a-z0-9._-]*", "_bare")


# ---- gauges


def test_gauges_show_what_is():
    box = Metered(container("a"), container("b"), gpus=(Gpu("SIM-0", name="Sim", total_mib=24_576, used_mib=0),))
    box.lease("a")
    box.ask("b", wait_ms=600_000)
    box.advance(5)
    box.ask(None, wait_ms=600_000)
    box.advance(2)
    busy = Gpu("SIM-0", 0, "Sim", 24_576, 1_024, utilization_percent=50, temperature_c=61, power_w=200)
    box.feed(VramRead((busy,)))
    series = box.series()

    assert value(series, "info", version="1.2.3", mode="stop") == 1
    assert value(series, "leases", phase="ready") == 1
    assert value(series, "leases", phase="starting") == 0
    assert (value(series, "queue_length", target="b"), value(series, "queue_length", target="_bare")) == (1, 1)
    assert value(series, "queue_length", target="a") == 0
    assert value(series, "queue_oldest_wait_seconds") == 7
    assert value(series, "target_state", target="a", state="ready") == 1
    assert value(series, "target_state", target="a", state="stopped") == 0
    assert value(series, "gpu_info", gpu="SIM-0", index="0", name="Sim") == 1
    assert value(series, "gpu_memory_total_bytes", gpu="SIM-0") == 24_576 * 2**20
    assert value(series, "gpu_memory_used_bytes", gpu="SIM-0") == 2**30
    assert value(series, "gpu_memory_granted_bytes", gpu="SIM-0") == 24_576 * 2**20
    assert value(series, "gpu_utilization_ratio", gpu="SIM-0") == 0.5
    assert value(series, "gpu_temperature_celsius", gpu="SIM-0") == 61
    assert value(series, "gpu_power_watts", gpu="SIM-0") == 200
    assert value(series, "target_memory_reserved_bytes", gpu="SIM-0", target="a") == 24_576 * 2**20
    assert value(series, "engine_synced") == 1
    assert value(series, "journal_state", state="ok") == 1


def test_a_gpu_that_is_lost_and_a_missing_driver_are_seen():
    box = Metered(container("a"))
    box.feed(VramRead((Gpu("GPU-1", state="lost", detail="it fell off the bus"),), problem="GPU-1 is lost"))
    series = box.series()

    assert value(series, "gpu_state", gpu="GPU-1", state="lost") == 1
    assert value(series, "gpu_state", gpu="GPU-1", state="ok") == 0
    assert value(series, "gpu_closed", gpu="GPU-1") == 1
    assert value(series, "gpus_problem") == 1
    assert value(series, "gpu_memory_used_bytes", gpu="GPU-1") is None

    box.feed(VramRead((), problem="there is no NVIDIA driver"))
    series = box.series()
    assert (value(series, "gpus"), value(series, "gpus_problem")) == (0, 1)


def test_an_engine_that_is_away_and_facts_that_are_not_on_disk_are_seen():
    box = Metered(container("a"))
    box.feed(EngineContact())
    box.feed(EngineLost("connection refused"))
    box.advance(9)
    box.sync = False
    box.feed(ShutDown("a test"))
    series = box.series()

    assert value(series, "engine_synced") == 0
    assert value(series, "engine_contact_age_seconds") == 9
    assert value(series, "journal_pending_facts") == 1


def test_after_a_restart_counters_begin_at_zero_and_gauges_and_lengths_are_right():
    box = Metered(container("a"), container("b"))
    first = box.lease("a")
    box.ask("b", on_busy="ticket")
    box.advance(20)
    box.restart(down_s=1)
    box.meter()
    series = box.series()

    assert value(series, "grants_total", target="a", how="cold") is None
    assert value(series, "leases", phase="ready") == 1
    assert value(series, "queue_oldest_wait_seconds") == 21

    box.snapshot()
    box.release(first)
    assert value(box.series(), "hold_seconds_sum", target="a") == 21, "it spans the restart"


# ---- the edges


def test_calls_of_the_engine_and_syncs_are_timed():
    box = Metered(container("a"))
    counts = box.metrics.counts
    box.start("a-main", started_wall_ms=box.now.wall_ms)
    engine = ObedientEngine(*box.engine.values())
    timed = TimedEngine(engine, counts, box.state)
    done: list[ActionDone] = []
    seen: list[object] = []
    timed.watch(seen.append)
    timed.perform(KillContainer("a-main"), done.append)
    timed.perform(StartContainer("a-main"), done.append)
    engine.post(StartHinted("a-main", "r", 1_000))
    disk = TimedJournal(SlowDisk(), counts)
    disk.write([])
    disk.replenish()
    series = box.series()

    assert [one.kind for one in done] == ["kill", "start"]
    assert isinstance(seen[-1], StartHinted), "and goes on"
    assert value(series, "engine_calls_total", call="kill", outcome="done") == 1
    assert value(series, "engine_call_seconds_count", call="start") == 1
    assert value(series, "enforcement_seconds_count") == 1
    assert value(series, "event_lag_seconds_sum") > 1_000_000
    assert value(series, "journal_sync_seconds_count") == 1


def test_the_page_is_served_and_counts_every_refusal():
    async def story() -> None:
        async with house() as it:
            await it.get("/nowhere")
            await it.post("/metrics")
            await it.lease("nobody")
            refused = await it.get("/metrics", headers={"Host": "evil.example"})
            answer = await it.get("/metrics")
            series = read(answer.text)

            assert refused.status_code == 403
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            for code in ("not_found", "method_not_allowed", "target_unknown", "forbidden"):
                assert value(series, "refusals_total", code=code) == 1, code
            assert value(series, "target_state", target="a", state="stopped") == 1

    run(story())


def test_what_is_refused_before_it_is_a_request_is_counted():
    async def story() -> None:
        async with house() as it:
            reader, writer = await it.connect()
            writer.write(b"this is no HTTP\r\n\r\n")
            await reader.read()
            writer.close()

            assert value(read((await it.get("/metrics")).text), "refusals_total", code="bad_request") == 1

    run(story())


def test_the_page_comes_while_the_disk_hangs():
    async def story() -> None:
        async with house() as it:
            it.box.disk.open.clear()
            try:
                asking = asyncio.ensure_future(it.lease())
                async with asyncio.timeout(DEADLINE_S):
                    while value(await scraped(it), "journal_pending_facts") == 0:
                        assert not asking.done(), "who asked has to wait for the disk"
            finally:
                it.box.disk.open.set()
            await asking

    async def scraped(it: House) -> Series:
        return read((await it.get("/metrics")).text)

    run(story())
