"""What ``/metrics`` shows: counters fed by facts, gauges read from the state when somebody asks."""

from __future__ import annotations

from supervisor.metrics.page import Metrics

__all__ = ["Metrics"]
