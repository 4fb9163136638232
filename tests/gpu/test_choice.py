"""Which GPUs there are: what people may write, and what is refused with a word on what to write."""

from __future__ import annotations

import pytest

from supervisor.core.model import Gpu
from supervisor.core.values import BadValue
from supervisor.gpu.choice import GpuChoice, parse_gpus


def simulated(index: int, mib: int) -> Gpu:
    return Gpu(f"SIM-{index}", index=index, name="simulated", total_mib=mib, used_mib=0)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        pytest.param("auto", GpuChoice("auto"), id="the driver's, if there are any"),
        pytest.param("nvml", GpuChoice("nvml"), id="the driver's"),
        pytest.param("sim:1x24576", GpuChoice("sim", (simulated(0, 24576),)), id="one simulated"),
        pytest.param(
            "sim:2x24576, 1x8192",
            GpuChoice("sim", (simulated(0, 24576), simulated(1, 24576), simulated(2, 8192))),
            id="groups are counted through",
        ),
    ],
)
def test_a_choice_is_read(text: str, choice: GpuChoice):
    assert parse_gpus(text) == choice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", '"" names no GPUs', id="nothing"),
        pytest.param("nvidia", '"nvidia" names no GPUs', id="a near miss"),
        pytest.param("AUTO", '"AUTO" names no GPUs', id="upper case"),
        pytest.param("sim:", '"" is not count x MiB', id="no group"),
        pytest.param("sim:1x24576,", '"" is not count x MiB', id="an empty group"),
        pytest.param("sim:24576", '"24576" is not count x MiB', id="no count"),
        pytest.param("sim:0x24576", '"0" is less than 1', id="none of them"),
        pytest.param("sim:1x24GiB", '"24GiB" is not a whole number', id="a unit"),
        pytest.param("sim:64x1,1x1", "more than 64 simulated GPUs", id="too many in sum"),
        pytest.param("sim:65x1", '"65" is more than 64', id="too many"),
    ],
)
def test_a_bad_choice_is_refused(text: str, message: str):
    with pytest.raises(BadValue) as caught:
        parse_gpus(text)

    assert str(caught.value) == message
    assert caught.value.hint
