"""Finding a container's cgroup by its full id, in trees as engines make them.

Those of cgroupfs are what the engine under test makes too; those of systemd are recorded, as no machine has both.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cgroups.places import Places, Shape, expanded_slice, shapes_of

A, B, INNER = "a" * 64, "b" * 64, "c" * 64

#: Docker 24 on Debian 12 (v2, systemd), one stack in a slice of its own; Podman 4 beside it.
SYSTEMD = (
    "init.scope",
    "user.slice/user-1000.slice/session-1.scope",
    "system.slice/docker.service",
    "system.slice/containerd.service",
    f"system.slice/docker-{A}.scope",
    f"gpu.slice/gpu-big.slice/docker-{B}.scope/init.scope",
    f"machine.slice/libpod-{INNER}.scope/container",
    f"machine.slice/libpod-conmon-{INNER}.scope",
)
#: Docker 20.10 (v1, cgroupfs): the default, a daemon with ``cgroup-parent``, and an engine in a container.
CGROUPFS = (f"docker/{A}/docker/{INNER}", f"lab/gpus/{B}", "docker/buildkit")


def tree(root: Path, folders: tuple[str, ...]) -> Places:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return Places(root)


@pytest.mark.parametrize(
    ("folders", "learned", "id_", "expected"),
    [
        pytest.param(CGROUPFS, (), A, f"docker/{A}", id="cgroupfs"),
        pytest.param(CGROUPFS, (), B, None, id="a parent that nobody told us of"),
        pytest.param(CGROUPFS, ("/lab/gpus",), B, f"lab/gpus/{B}", id="its own parent"),
        pytest.param(CGROUPFS, ("lab/gpus/",), B, f"lab/gpus/{B}", id="its own parent, written otherwise"),
        pytest.param(CGROUPFS, (), INNER, None, id="the container of an engine in a container is not ours"),
        pytest.param(CGROUPFS, (f"docker/{A}/docker",), INNER, None, id="nor if somebody says so"),
        pytest.param(CGROUPFS, (), A[:12], None, id="a short id names nothing"),
        pytest.param(CGROUPFS, ("../../..", "/"), "..", None, id="nor does what is none"),
        pytest.param(SYSTEMD, (), A, f"system.slice/docker-{A}.scope", id="systemd"),
        pytest.param(SYSTEMD, (), B, None, id="a slice that nobody told us of"),
        pytest.param(SYSTEMD, ("gpu-big.slice",), B, f"gpu.slice/gpu-big.slice/docker-{B}.scope", id="its own slice"),
        pytest.param(SYSTEMD, (), INNER, f"machine.slice/libpod-{INNER}.scope", id="Podman's, and not its monitor's"),
    ],
)
def test_the_cgroup_of_a_container(
    tmp_path: Path, folders: tuple[str, ...], learned: tuple[str, ...], id_: str, expected: str | None
):
    places = tree(tmp_path, folders)
    for parent in learned:
        places.learn(parent)

    assert places.find(id_) == (tmp_path / expected if expected else None)


@pytest.mark.parametrize(
    ("folders", "found"), [(CGROUPFS, {A, B}), (SYSTEMD, {A, B, INNER})], ids=["cgroupfs", "systemd"]
)
def test_a_search_finds_every_container_of_this_host_and_where_others_will_be(
    tmp_path: Path, folders: tuple[str, ...], found: set[str]
):
    places = tree(tmp_path, folders)

    cgroups = places.search()

    assert sorted(cgroups) == sorted(path for path in map(places.find, found) if path is not None)
    assert len(cgroups) == len(found)
    sibling = places.find(B)
    assert sibling is not None
    (sibling.parent / sibling.name.replace(B, "d" * 64)).mkdir()
    assert places.find("d" * 64) == sibling.parent / sibling.name.replace(B, "d" * 64)


def test_a_search_of_what_is_not_there_finds_nothing(tmp_path: Path):
    assert Places(tmp_path / "nowhere").search() == []


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        pytest.param("", (), id="none given"),
        pytest.param("/lab", (Shape("lab"),), id="a folder"),
        pytest.param("-.slice", (Shape("", "docker-", ".scope"), Shape("-.slice")), id="the root slice"),
        pytest.param(f"/docker/{A}", (), id="within a container"),
    ],
)
def test_what_a_cgroup_parent_means(parent: str, expected: tuple[Shape, ...]):
    assert shapes_of(parent) == expected


def test_a_slice_lies_in_those_that_its_name_begins_with():
    assert expanded_slice("a-b-c.slice") == "a.slice/a-b.slice/a-b-c.slice"
