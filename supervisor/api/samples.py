"""What the GPUs used lately, in memory: one point for each stretch of time, a fine hour and a coarse day. Pure.

Nothing of it is written down: after a restart it begins anew, and says since when it goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from supervisor.core.model import Gpu

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
#: How long one point stands for, by how far it goes back.
STEP_MS = {HOUR_MS: 10_000, DAY_MS: 120_000}
#: GPUs that are remembered: a machine has fewer, and one that is gone is forgotten with its last point.
GPUS_MAX = 64


class Point(Struct):
    """One stretch of time: ``step`` counts them from the beginning of supervisor time.

    ``used_mib``: the most that was in use, None if nobody could read it. Load is a mean: ``load_sum`` of ``loads``.
    """

    step: int
    used_mib: int | None = None
    load_sum: int = 0
    loads: int = 0

    @property
    def load_percent(self) -> int | None:
        return round(self.load_sum / self.loads) if self.loads else None

    def take(self, gpu: Gpu) -> None:
        if gpu.used_mib is not None:
            self.used_mib = max(self.used_mib or 0, gpu.used_mib)
        if gpu.utilization_percent is not None:
            self.load_sum += gpu.utilization_percent
            self.loads += 1


class Samples:
    """Points by GPU and span. ``since_ms``: when the first was taken, in supervisor time; None: none was."""

    def __init__(self) -> None:
        self.since_ms: int | None = None
        self._points: dict[int, dict[str, deque[Point]]] = {span_ms: {} for span_ms in STEP_MS}

    def take(self, at_ms: int, gpus: Sequence[Gpu]) -> None:
        if gpus and self.since_ms is None:
            self.since_ms = at_ms
        for span_ms, by_gpu in self._points.items():
            step = at_ms // STEP_MS[span_ms]
            oldest = step - span_ms // STEP_MS[span_ms]
            for gpu in gpus[:GPUS_MAX]:
                points = by_gpu.setdefault(gpu.uuid, deque())
                if not points or points[-1].step < step:
                    points.append(Point(step))
                points[-1].take(gpu)
            for uuid, points in list(by_gpu.items()):
                while points and points[0].step <= oldest:
                    points.popleft()
                if not points:
                    del by_gpu[uuid]

    def points(self, uuid: str, span_ms: int, now_ms: int) -> list[Point]:
        """Return one point for each stretch of the span up to now, oldest first; empty ones where nobody looked."""
        last = now_ms // STEP_MS[span_ms]
        known = {point.step: point for point in self._points[span_ms].get(uuid, ())}
        count = span_ms // STEP_MS[span_ms]
        return [known.get(step) or Point(step) for step in range(last - count + 1, last + 1)]
