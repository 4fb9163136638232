"""Which container a process is in, from the text of its ``/proc/PID/cgroup``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.gpu.cgroup_ids import container_ids, container_of
from supervisor.gpu.processes import ProcessReader
from tests.conftest import IMAGE, until

A = "a1" * 32
B = "b2" * 32
C = "c3" * 32
POD = "kubepods-burstable-pod0f8fad5b_d9cb_469f_a165_70867728950e.slice"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        pytest.param("", (), id="nothing may be read"),
        pytest.param("0::/\n", (), id="v2: the root, or a process of its own cgroup namespace"),
        pytest.param("0::/user.slice/user-1000.slice/session-2.scope\n", (), id="v2: a user's session"),
        pytest.param("0::/system.slice/docker.service\n", (), id="v2: the engine itself"),
        pytest.param(f"0::/docker/{A}\n", (A,), id="v2: cgroupfs"),
        pytest.param(f"12:pids:/docker/{A}\n3:cpu,cpuacct:/docker/{A}\n0::/\n", (A,), id="v1: cgroupfs, one id"),
        pytest.param(f"5:devices:/\n4:memory:/docker/{A}\n", (A,), id="v1: in some hierarchies only"),
        pytest.param(f"1:name=systemd:/docker/{A}\n", (A,), id="v1: a hierarchy without a controller"),
        pytest.param(f"0::/system.slice/docker-{A}.scope\n", (A,), id="v2: systemd"),
        pytest.param(f"9:memory:/system.slice/docker-{A}.scope\n", (A,), id="v1: systemd"),
        pytest.param(f"0::/mygpu/{A}\n", (A,), id="--cgroup-parent"),
        pytest.param(f"0::/../{A}\n", (A,), id="seen from a cgroup namespace beside it"),
        pytest.param(f"0::/docker/{A}/init\n", (A,), id="a cgroup that the container made"),
        pytest.param(
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope\n",
            (A,),
            id="rootless docker",
        ),
        pytest.param(f"0::/machine.slice/libpod-{A}.scope/container\n", (A,), id="podman"),
        pytest.param(f"0::/machine.slice/libpod-payload-{A}\n", (A,), id="podman with --cgroups=split"),
        pytest.param(
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container\n",
            (A,),
            id="rootless podman",
        ),
        pytest.param(f"0::/libpod_parent/libpod-{A}\n", (A,), id="podman, cgroupfs"),
        pytest.param(f"0::/machine.slice/libpod-conmon-{A}.scope\n", (), id="podman's monitor is not in the container"),
        pytest.param(f"0::/libpod_parent/conmon-{A}\n", (), id="podman's monitor, cgroupfs"),
        pytest.param(f"0::/x/crio-conmon-{A}.scope\n", (), id="CRI-O's monitor"),
        pytest.param(f"0::/machine.slice/libpod-conmon-{A}.scope/{B}\n", (B,), id="below a monitor's cgroup"),
        pytest.param(f"0::/kubepods.slice/kubepods-burstable.slice/{POD}/cri-containerd-{A}.scope\n", (A,), id="CRI"),
        pytest.param(f"0::/kubepods/besteffort/pod0f8fad5b-d9cb/{A}\n", (A,), id="CRI, cgroupfs"),
        pytest.param(f"0::/kubepods.slice/{POD}/crio-{A}.scope/container\n", (A,), id="CRI-O"),
        pytest.param(f"0::/system.slice/containerd.service/{POD}:cri-containerd:{A}\n", (A,), id="CRI, colons"),
        pytest.param(f"0::/docker/{A}/docker/{B}\n", (A, B), id="docker in docker: the outermost first"),
        pytest.param(f"0::/system.slice/docker-{A}.scope/kubepods/pod1/{B}/docker/{C}\n", (A, B, C), id="three deep"),
        pytest.param(f"7:cpu:/docker/{A}\n6:pids:/docker/{A}/docker/{B}\n", (A, B), id="v1: one hierarchy goes deeper"),
        pytest.param(f"7:cpu:/docker/{B}\n6:pids:/docker/{A}/docker/{B}\n", (A, B), id="v1: the deepest place counts"),
        pytest.param(f"7:cpu:/x/{B}\n6:pids:/x/{A}/{B}\n5:blkio:/x/{B}\n", (A, B), id="v1: wherever the deepest is"),
        pytest.param(f"0::/docker/{A}/docker-{A}.scope\n", (A,), id="the same id twice"),
        pytest.param(f"0::/docker/{A}ff\n", (), id="66 digits are no id"),
        pytest.param(f"0::/docker/{A[:-1]}\n", (), id="63 digits are no id"),
        pytest.param(f"0::/docker/{A.upper()}\n", (), id="capitals are no id"),
        pytest.param(f"0::/docker/x{A}\n", (), id="part of a word"),
        pytest.param(f"0::/docker/{A} (deleted)\n", (A,), id="a cgroup that was removed"),
    ],
)
def test_the_containers_of_a_process_are_read_from_its_cgroups(text: str, ids: tuple[str, ...]):
    assert container_ids(text) == ids


def test_the_container_of_a_process_is_the_outermost_that_the_engine_knows():
    nested = f"0::/docker/{A}/docker/{B}\n"

    assert container_of(nested) == A
    assert container_of(nested, {A, B}) == A
    assert container_of(nested, {B}) == B
    assert container_of(nested, {C}) is None
    assert container_of("0::/\n", {A}) is None


_paths = st.lists(
    st.sampled_from([A, B, f"docker-{A}.scope", f"libpod-conmon-{B}.scope", "..", "init", ""]) | st.text(max_size=9),
    max_size=6,
).map("/".join)
_texts = st.lists(
    st.sampled_from(["0::", "3:cpu,cpuacct:", "", ":", "::"]).flatmap(lambda head: _paths.map(head.__add__))
)


@given(st.text() | _texts.map("\n".join))
def test_whatever_the_text_is_each_id_is_in_it_once(text: str):
    ids = container_ids(text)

    assert len(set(ids)) == len(ids)
    assert all(len(one) == 64 and one in text for one in ids)
    assert container_of(text) == (ids[0] if ids else None)


@given(
    st.lists(st.sampled_from([A, B, C]), max_size=3, unique=True), st.lists(st.text("xyz.-", min_size=1), min_size=4)
)
def test_ids_on_one_path_come_in_the_order_of_the_path(ids: list[str], between: list[str]):
    path = "".join(f"/{word}/docker/{one}" for word, one in zip(between, ids, strict=False))

    assert container_ids(f"0::{path}\n") == tuple(ids)


@pytest.mark.engine
def test_a_process_in_a_real_container_is_found_there_and_we_are_not(api: docker.APIClient, unique: str):
    container: dict[str, Any] = api.create_container(IMAGE, ["sleep", "60"], name=unique)
    api.start(container["Id"])
    pid = api.inspect_container(container["Id"])["State"]["Pid"]
    reader = ProcessReader()
    own = reader.describe(os.getpid())
    # The engine answers in the middle of the exec.
    story = until(lambda: (one := reader.describe(pid)) and one.command and one, what="its command")

    assert own is not None
    assert container_of(Path(f"/proc/{pid}/cgroup").read_text()) == container["Id"]
    assert story.containers[-1] == container["Id"]
    assert (story.command, story.root, story.denied) == (("sleep", "60"), True, ())
    assert container["Id"] not in own.containers
