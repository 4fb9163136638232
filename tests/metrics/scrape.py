"""A page of metrics, read as Prometheus reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(page: bytes | str) -> Series:
    """Return every sample by its name and labels."""
    text = page.decode() if isinstance(page, bytes) else page
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, /, **labels: str) -> float | None:
    """Return one sample of ours, or None where it is not there."""
    return series.get((f"gpu_supervisor_{name}", frozenset(labels.items())))
