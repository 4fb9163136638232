"""The GPUs of a container: what a label may name, and what Docker was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.devices import COUNT_MAX, NONE, Devices, Request, asked_for, parse_devices
from supervisor.core.values import LIST_MAX, BadValue, shown

UUID = "GPU-5e2f1c3a-0b1c-4d2e-8f3a-0123456789ab"


# ---- the label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("all", Devices(every=True), id="all of them"),
        pytest.param("0", Devices(ids=("0",)), id="an index"),
        pytest.param("10, 2,0, 2", Devices(ids=("0", "2", "10")), id="indices, each once, by number"),
        pytest.param(UUID, Devices(ids=(UUID,)), id="a UUID"),
        pytest.param(UUID[:4] + UUID[4:].upper(), Devices(ids=(UUID,)), id="a UUID in capitals"),
        pytest.param("GPU-5e2f1c3a", Devices(ids=("GPU-5e2f1c3a",)), id="its beginning"),
        pytest.param("GPU-5e2f1c3a-0b", Devices(ids=("GPU-5e2f1c3a-0b",)), id="and a little more"),
        pytest.param("SIM-0,SIM-1", Devices(ids=("SIM-0", "SIM-1")), id="simulated ones"),
        pytest.param(f"1,{UUID}", Devices(ids=("1", UUID)), id="some of each"),
    ],
)
def test_a_label_names_all_or_some(text, expected):
    assert parse_devices(text) == expected


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        pytest.param("", "is an empty list", "write all, or GPUs", id="empty"),
        pytest.param("0,,1", "has an empty item", "one comma", id="a gap"),
        pytest.param("all,0", "has all beside other GPUs", "write all alone", id="all and some"),
        pytest.param("-1", "is not a GPU", "nvidia-smi -L", id="Docker's number for all"),
        pytest.param("01", "is not a GPU", "nvidia-smi -L", id="a zero before it"),
        pytest.param("256", "is not a GPU", "nvidia-smi -L", id="no machine has so many"),
        pytest.param("٣", "is not a GPU", "nvidia-smi -L", id="a digit of another script"),
        pytest.param("none", "is not a GPU", "nvidia-smi -L", id="a word"),
        pytest.param("GPU-5e2f1c3", "is not a GPU", "at least 8 digits", id="too short to be one GPU's"),
        pytest.param("GPU-5e2f1c3a0b", "is not a GPU", "at least 8 digits", id="a digit where the dash is"),
        pytest.param(f"{UUID}0", "is not a GPU", "at least 8 digits", id="longer than a UUID"),
        pytest.param("5e2f1c3a", "is not a GPU", "did you mean GPU-5e2f1c3a?", id="without GPU-"),
        pytest.param("gpu-5e2f1c3a", "is not a GPU", "did you mean GPU-5e2f1c3a?", id="gpu- in small letters"),
        pytest.param("sim-0", "is not a GPU", "did you mean SIM-0?", id="sim- in small letters"),
        pytest.param("MIG-5e2f1c3a-0b1c", "is not a GPU", "name the whole GPU", id="a part of one"),
        pytest.param(",".join(map(str, range(LIST_MAX + 1))), "has 65 items", "at most 64", id="a flood"),
    ],
)
def test_whatever_else_names_no_gpu(text, reason, hint):
    with pytest.raises(BadValue, match=reason) as caught:
        parse_devices(text)

    assert hint in caught.value.hint


@given(st.text(max_size=60) | st.from_regex(r"(GPU-|SIM-|MIG-)?[0-9a-fA-F,-]{1,40}", fullmatch=True))
def test_a_list_of_gpus_is_read_back_the_same_or_refused_in_one_line(text):
    try:
        read, refusal = parse_devices(text), None
    except BadValue as error:
        read, refusal = None, error

    if read is not None:
        assert parse_devices("all" if read.every else ",".join(read.ids)) == read
    else:
        assert all(line and line.isprintable() for line in (str(refusal), refusal.hint))


# ---- Docker


def nvidia(**values):
    return Request(driver="nvidia", **values)


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        pytest.param([], NONE, id="nothing"),
        pytest.param([nvidia(count=-1)], Devices(every=True), id="all"),
        pytest.param([nvidia(count=-5)], Devices(every=True), id="any number below zero is all, as in moby"),
        pytest.param([nvidia(count=2)], Devices(count=2), id="the first two by index"),
        pytest.param([nvidia()], NONE, id="a count of none gives none"),
        pytest.param([nvidia(ids=("1", UUID))], Devices(ids=("1", UUID)), id="by index and UUID"),
        pytest.param([nvidia(ids=("0,2",))], Devices(ids=("0", "2")), id="a list in one id"),
        pytest.param([nvidia(ids=(" 0 , 2", "nvidia.com/gpu= 3"))], Devices(ids=("0", "2", "3")), id="with blanks"),
        pytest.param([nvidia(ids=("all",))], Devices(every=True), id="all, as an id"),
        pytest.param([nvidia(ids=("1",), count=2)], Devices(ids=("1",)), id="both: the engine refuses to start that"),
        pytest.param([nvidia(count=1), nvidia(ids=("3",))], Devices(ids=("3",), count=1), id="two requests"),
        pytest.param([nvidia(count=10**30)], Devices(count=COUNT_MAX), id="more than there are"),
        pytest.param([Request(count=1, capabilities=frozenset({"gpu"}))], Devices(count=1), id="by capability"),
        pytest.param(
            [Request(count=1, capabilities=frozenset({"compute", "utility"}))],
            Devices(count=1),
            id="by what only NVIDIA's driver can do",
        ),
        pytest.param([Request(count=1, capabilities=frozenset({"tpu"}))], NONE, id="another kind of device"),
        pytest.param(
            [Request(driver="amd", count=1, capabilities=frozenset({"gpu"}))], NONE, id="another maker's driver"
        ),
        pytest.param([Request(driver="nvidia.cdi", count=1)], Devices(count=1), id="newer engines: through CDI"),
        pytest.param(
            [Request(driver="nvidia.runtime-hook", ids=("2",))], Devices(ids=("2",)), id="newer engines: the hook"
        ),
        pytest.param([Request(driver="cdi", ids=("nvidia.com/gpu=1",))], Devices(ids=("1",)), id="CDI: an index"),
        pytest.param([Request(driver="cdi", ids=(f"nvidia.com/gpu={UUID}",))], Devices(ids=(UUID,)), id="CDI: a UUID"),
        pytest.param([Request(driver="cdi", ids=("nvidia.com/gpu=all",))], Devices(every=True), id="CDI: all"),
        pytest.param([Request(driver="cdi", ids=("vendor.com/net=0", "amd.com/gpu=0"))], NONE, id="CDI: other devices"),
        pytest.param(
            [Request(driver="cdi", ids=("vendor.com/net=5", "nvidia.com/gpu=0"))], Devices(ids=("0",)), id="CDI: some"
        ),
        pytest.param([nvidia(ids=("nvidia.com/gpu=0",))], Devices(ids=("0",)), id="a CDI name for NVIDIA's driver"),
        pytest.param([Request(driver="cdi", ids=("/dev/nvidia0",))], NONE, id="a device file"),
        pytest.param([nvidia(ids=("MIG-1", "0:1"))], Devices(unreadable=("0:1", "MIG-1")), id="parts of a GPU"),
        pytest.param([nvidia(ids=("none", "void", ""))], NONE, id="words for none"),
    ],
)
def test_device_requests_name_gpus(requests, expected):
    assert asked_for(requests) == expected


@pytest.mark.parametrize(
    ("runtime", "visible", "expected"),
    [
        pytest.param("nvidia", "all", Devices(every=True), id="all, as CUDA's images say"),
        pytest.param("nvidia", "0,1", Devices(ids=("0", "1")), id="by index"),
        pytest.param("nvidia", UUID[:12], Devices(ids=(UUID[:12],)), id="by the beginning of a UUID"),
        pytest.param("nvidia", "nvidia.com/gpu=1", Devices(ids=("1",)), id="by a CDI name"),
        pytest.param("nvidia", "none", NONE, id="the driver without a GPU"),
        pytest.param("nvidia", "void", NONE, id="nothing at all"),
        pytest.param("nvidia", "", NONE, id="empty"),
        pytest.param("nvidia", None, NONE, id="not set"),
        pytest.param("nvidia", "MIG-1", Devices(unreadable=("MIG-1",)), id="a part of one"),
        pytest.param("nvidia-legacy", "0", Devices(ids=("0",)), id="under another of its names"),
        pytest.param("runc", "all", NONE, id="another runtime does not look at it"),
        pytest.param("", "all", NONE, id="the engine's own neither"),
    ],
)
def test_nvidias_runtime_goes_by_the_environment(runtime, visible, expected):
    assert asked_for([], runtime, visible) == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(nvidia(ids=("1",)), Devices(ids=("1",)), id="ids"),
        pytest.param(nvidia(), NONE, id="for none"),
        pytest.param(Request(driver="cdi", ids=("nvidia.com/gpu=1",)), Devices(ids=("1",)), id="CDI"),
        pytest.param(Request(driver="cdi", ids=("vendor.com/net=0",)), Devices(every=True), id="not for a GPU"),
    ],
)
def test_a_request_for_gpus_comes_before_the_environment(request_, expected):
    assert asked_for([request_], "nvidia", "all") == expected


WORDS = st.sampled_from(["0", "1", "all", "void", "GPU-5e2f1c3a", "nvidia.com/gpu=2", "MIG-1"]) | st.text(max_size=20)


@given(
    st.lists(
        st.builds(
            Request,
            driver=st.sampled_from(["", "nvidia", "cdi", "amd"]),
            ids=st.lists(WORDS, max_size=4).map(tuple),
            count=st.integers(),
            capabilities=st.frozensets(st.sampled_from(["gpu", "tpu"])),
        ),
        max_size=4,
    ),
    st.sampled_from(["", "runc", "nvidia"]),
    st.none() | WORDS,
)
def test_whatever_docker_was_asked_for_is_a_set_of_gpus_that_a_label_could_name(requests, runtime, visible):
    found = asked_for(requests, runtime, visible)

    assert 0 <= found.count <= COUNT_MAX
    assert not found.ids or parse_devices(",".join(found.ids)) == Devices(ids=found.ids)
    for word in found.unreadable:
        with pytest.raises(BadValue) as caught:
            parse_devices(word)
        assert str(caught.value).isprintable()
        assert len(shown(word)) < 120
