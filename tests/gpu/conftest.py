"""Fixtures of the GPU tests, and ``--gpu-figures FILE``: where the measurements on a real GPU go, as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gpu.nvml_stub import Stub, build, find_gcc


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-figures", metavar="FILE", help="write what was measured on a real GPU into FILE, as JSON")


@pytest.fixture(scope="session")
def gcc() -> str:
    found = find_gcc()
    if found is None:
        pytest.fail("no gcc to build the stand-in for libnvidia-ml.so.1: apt-get install gcc libc6-dev", pytrace=False)
    return found


@pytest.fixture(scope="session")
def build_stub(gcc: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``build_stub("WITHOUT_MIG")`` returns the library of such a driver, each built once."""
    folder = tmp_path_factory.mktemp("nvml")
    built: dict[tuple[str, ...], Path] = {}

    def library(*defines: str) -> Path:
        if defines not in built:
            built[defines] = build(folder, gcc, *defines)
        return built[defines]

    return library


@pytest.fixture
def stub(build_stub: Callable[..., Path], tmp_path: Path) -> Stub:
    """A driver's library with two GPUs and no processes."""
    return Stub(tmp_path / "driver", build_stub())
