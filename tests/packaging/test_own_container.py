"""A supervisor in a container knows which one is its own, and leaves it alone whatever its labels say."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from supervisor.core.inputs import ContainerGone, ContainerSeen, EngineSnapshot, Input
from supervisor.core.model import Bystander
from supervisor.own_container import own_container_id, sparing
from tests.core.box import container

ID = "ab" * 32
OTHER = "cd" * 32
DOCKER = f"135 96 254:0 /var/lib/docker/containers/{ID}/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw\n"
PODMAN = (
    f"620 580 0:25 /containers/storage/overlay-containers/{ID}/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw\n"
)
SHM = f"80 29 0:60 / /var/lib/docker/containers/{OTHER}/mounts/shm rw,nosuid - tmpfs shm rw,size=65536k\n"
CLOUD = "40 29 254:0 /cloud/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "expected"),
    [
        pytest.param(CLOUD + DOCKER, ID, id="docker mounts three files from the container's folder"),
        pytest.param(PODMAN, ID, id="so does podman"),
        pytest.param(SHM, None, id="a host sees the mounts of its containers"),
        pytest.param(CLOUD, None, id="a mounted hosts file makes no container"),
        pytest.param("", None, id="no mounts"),
    ],
)
def test_the_own_container_is_told_from_the_mounts(tmp_path: Path, mountinfo: str, expected: str | None):
    file = tmp_path / "mountinfo"
    file.write_text(mountinfo)
    assert own_container_id(file) == expected


def test_where_there_is_no_proc_there_is_no_container(tmp_path: Path):
    assert own_container_id(tmp_path / "none") is None


def test_the_own_container_loses_its_target_and_every_other_input_passes(caplog: pytest.LogCaptureFixture):
    heard: list[Input] = []
    post = sparing("self", heard.append)
    own, other = container("me", id="self"), container("other", id="b")
    plain = container("me", id="self", target=None, master=False)
    others = (Bystander("c", "db"),)
    with caplog.at_level(logging.WARNING):
        for item in (
            EngineSnapshot((own, other), others),
            ContainerSeen(own),
            ContainerSeen(other),
            ContainerGone("self"),
        ):
            post(item)
    assert heard == [
        EngineSnapshot((plain, other), others),
        ContainerSeen(plain),
        ContainerSeen(other),
        ContainerGone("self"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        'this supervisor\'s own container is labelled as part of the target "me", which it can neither lease nor stop: '
        "take the labels off it"
    ]
