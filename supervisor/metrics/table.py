"""The one list of metrics: what is registered, what the README says and what stays for ever come from it.

A name is never changed or taken away, nor are its labels: dashboards and alerts rest on them. Values of labels are
few: a target (bounded, see ``Targets``), a GPU, or a word of ours. Never an owner, a token, an id or a container.
Units are Prometheus's base units, at the end of the name.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal["counter", "gauge", "histogram"]

PREFIX = "gpu_supervisor_"
#: In the queue a minute is short; a lease is held for hours.
LONG_S = (0.1, 1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200)
START_S = (0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 900)
CALL_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
SYNC_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2, 10)


class Metric(Struct, frozen=True):
    """One family. ``name`` is as it is shown, ``_total`` of a counter included; ``buckets``: a histogram's, in s."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"{PREFIX}{name}_total", "counter", meaning, labels)


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, "gauge", meaning, labels)


def _histogram(name: str, buckets: tuple[float, ...], meaning: str, *labels: str) -> Metric:
    return Metric(f"{PREFIX}{name}_seconds", "histogram", meaning, labels, buckets)


INFO = _gauge("info", "1; the version that runs, and its enforcement mode", "version", "mode")
FACTS = _counter("facts", "decisions that took effect, by the name of the fact in the audit", "type")

GRANTS = _counter("grants", "leases granted; `how`: cold, warm (it still ran), joined, adopted", "target", "how")
REFUSALS = _counter("refusals", "requests refused over HTTP, by problem code", "code")
ENDED = _counter("leases_ended", "leases ended, by reason: released, expired, forced, ...", "target", "reason")
TICKETS_ENDED = _counter("tickets_ended", "tickets that ended without a lease, by reason", "target", "reason")
WAIT = _histogram("wait", LONG_S, "time in the queue of what was granted; 0 at once", "target")
HOLD = _histogram("hold", LONG_S, "time from a grant to the end of the lease", "target")
LEASES = _gauge("leases", "leases now; `phase`: making_room, starting, ready", "phase")
QUEUE = _gauge("queue_length", "tickets that wait now", "target")
OLDEST = _gauge("queue_oldest_wait_seconds", "how long the oldest ticket has waited; 0 if none does")

START = _histogram("start", START_S, "time from a grant until the target was ready, its containers started", "target")
START_FAILURES = _counter(
    "start_failures",
    "starts that failed; `reason`: target_failed, target_unhealthy, target_timeout, insufficient_vram",
    "target",
    "reason",
)
DOWNS = _counter("target_downs", "leased targets that went down after they were ready", "target")
SWAPS = _counter("swaps", "resident targets evicted to make room for another", "target")
RESIDENCIES_ENDED = _counter(
    "residencies_ended", "residencies ended; `reason`: evicted, stopped, unused, operator", "target", "reason"
)
TARGET_STATE = _gauge("target_state", "1 for the state that the target is in, 0 for the others", "target", "state")
LABEL_PROBLEMS = _gauge("label_problems", "what is wrong with labels now; `severity`: error, warning", "severity")

ENFORCEMENTS = _counter(
    "enforcements",
    "starts of labelled containers stopped because they had no right to run; `action`: kill, stop",
    "target",
    "reason",
    "action",
)
SPARED = _counter("spared", "the same in mode observe: seen and left alone", "target", "reason")
ENFORCEMENT = _histogram(
    "enforcement", CALL_S, "time from the start of such a container, by the engine's clock, until its kill was done"
)
STOP_FAILURES = _counter("stop_failures", "containers that would not stop: their GPU stays closed", "target")

ENGINE_SYNCED = _gauge("engine_synced", "1 while in sync with the container engine")
ENGINE_AGE = _gauge("engine_contact_age_seconds", "time since the engine last answered; missing before it ever did")
ENGINE_CALLS = _counter(
    "engine_calls",
    "calls to the engine; `call`: start, stop, kill; `outcome`: done, gone, refused, failed, timeout",
    "call",
    "outcome",
)
ENGINE_CALL = _histogram("engine_call", CALL_S, "how long such calls took, a stop's grace included", "call")
EVENT_LAG = _histogram("event_lag", CALL_S, "age of a container's start event when it was taken in")

JOURNAL_STATE = _gauge("journal_state", "1 for the state that it is in: ok, full, damaged; 0 for the others", "state")
JOURNAL_SYNC = _histogram("journal_sync", SYNC_S, "time to write and sync one batch of facts")
JOURNAL_PENDING = _gauge("journal_pending_facts", "facts that are not on disk yet: nobody has been told them")

GPUS = _gauge("gpus", "GPUs that are known; 0 without a driver")
GPUS_PROBLEM = _gauge("gpus_problem", "1 while something is wrong with the driver or a GPU; /readyz says what")
GPU_INFO = _gauge("gpu_info", "1; index and name of a GPU", "gpu", "index", "name")
GPU_STATE = _gauge("gpu_state", "1 for the state that it is in: ok, lost, mig, unreadable, dirty", "gpu", "state")
GPU_CLOSED = _gauge("gpu_closed", "1 while nothing new is granted on it; `gpu-supervisor status` says why", "gpu")
GPU_TOTAL = _gauge("gpu_memory_total_bytes", "its memory; missing where nobody can read it, as below", "gpu")
GPU_USED = _gauge("gpu_memory_used_bytes", "in use by processes", "gpu")
GPU_RESERVED = _gauge("gpu_memory_reserved_bytes", "kept by the driver for itself", "gpu")
GPU_FREE = _gauge("gpu_memory_free_bytes", "in use by nobody", "gpu")
GPU_GRANTED = _gauge("gpu_memory_granted_bytes", "reserved for leases, residents and open claim windows", "gpu")
GPU_GRANTABLE = _gauge("gpu_memory_grantable_bytes", "what a lease could get now without an eviction", "gpu")
GPU_UNEXPLAINED = _gauge("gpu_memory_unexplained_bytes", "in use by nothing that has a right to it", "gpu")
GPU_UTILIZATION = _gauge("gpu_utilization_ratio", "share of time in which it was busy, 0 to 1", "gpu")
GPU_TEMPERATURE = _gauge("gpu_temperature_celsius", "its temperature", "gpu")
GPU_POWER = _gauge("gpu_power_watts", "its power draw", "gpu")
TARGET_RESERVED = _gauge("target_memory_reserved_bytes", "reserved for a target on a GPU", "gpu", "target")
TARGET_USED = _gauge("target_memory_used_bytes", "what a target uses on a GPU, as its driver says", "gpu", "target")
TARGET_PEAK = _gauge("target_memory_peak_bytes", "the most that it was ever seen to use, on all its GPUs", "target")

PROCESSES_REPORTED = _counter("processes_reported", "processes seen on a GPU that stand by no lease")
PROCESS_SIGNALS = _counter("process_signals", "signals sent to such processes", "signal")
SIGNAL_FAILURES = _counter("process_signal_failures", "signals that were not sent, by reason", "reason")

HOOK_DELIVERIES = _counter(
    "hook_deliveries",
    "facts for a hook; `outcome`: delivered, given_up, dropped (its queue was full)",
    "hook",
    "outcome",
)
HOOK_RETRIES = _counter("hook_retries", "deliveries that failed and were tried again", "hook")
HOOK_QUEUE = _gauge("hook_queue_length", "facts that wait for their delivery", "hook")

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def reference() -> str:
    """Return the README's table of all metrics."""
    rows = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(reference())
