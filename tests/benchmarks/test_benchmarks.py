"""The benchmarks do not rot: each row's programs run with next to nothing to do. How fast they are is not asked."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from tests.benchmarks import main
from tests.benchmarks.bench import TINY, Bench


@pytest.fixture(scope="module")
def bench(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    # A short folder: a unix socket's path has at most 107 bytes.
    with Bench(TINY, engine_url, tmp_path_factory.mktemp("b")) as made:
        yield made


@pytest.mark.engine
@pytest.mark.parametrize("row", main.ROWS)
def test_the_programs_of_a_row_run_and_say_something_sane(bench: Bench, row: str) -> None:
    results = main.ROWS[row](bench)

    assert results
    for result in results:
        assert result.row
        assert result.what
        for side in (result.subject, result.floor, *result.peers):
            if side is not None:
                assert side.each, f"{side.name} has no figures"
                assert all(math.isfinite(figure) and figure > 0 for figure in side.each), side
