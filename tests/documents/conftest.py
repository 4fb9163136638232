"""Stand-ins for what a machine without a GPU, a registry and a network does not have."""

from __future__ import annotations

import io
import os
import shutil
import socket
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.cli.conftest import no_settings, run  # noqa: F401 - the command line's own fixtures
from tests.conftest import IMAGE, PrivateEngine

#: In the place of a model server: it "loads" for a moment, and any other command asks whether it has.
STAND_IN = b"""#!/bin/sh
case $0:$1 in
*/server:*) trap 'exit 0' TERM; sleep 0.3; touch /tmp/ready; while :; do sleep 1 & wait $!; done ;;
*:ps) test -e /tmp/ready && echo 'NAME    ID    SIZE    PROCESSOR    CONTEXT    UNTIL' ;;
*) test -e /tmp/ready ;;
esac
"""

#: Images of the README by their names there, with what their healthchecks call.
IMAGES = {"ollama/ollama": "ollama", "ghcr.io/speaches-ai/speaches:latest-cuda": "curl"}


def build_stand_in(api: docker.APIClient, name: str, program: str) -> None:
    """Build an image that looks, from outside, like the real one: its program, and a server that becomes healthy."""
    dockerfile = f'FROM {IMAGE}\nCOPY server {program} /bin/\nCMD ["/bin/server"]\n'.encode()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for path, content in (("Dockerfile", dockerfile), ("server", STAND_IN), (program, STAND_IN)):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    context.seek(0)
    lines = list(api.build(fileobj=context, custom_context=True, tag=name, rm=True, decode=True))
    assert not any("error" in line for line in lines), lines


@pytest.fixture
def stocked_engine(private_engine: PrivateEngine) -> PrivateEngine:
    """An engine of our own that has the README's images: on a shared one their names may be somebody's real images."""
    with private_engine.api() as api:
        for name, program in IMAGES.items():
            if not api.images(name):
                build_stand_in(api, name, program)
    return private_engine


@pytest.fixture
def curl() -> str:
    """What the README's reader types; where it is missing, tests that ask for it are named as not run."""
    path = shutil.which("curl")
    assert path is not None
    return path


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket's has at most 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="gs-"))
    yield made
    shutil.rmtree(made)


def python_mounts() -> list[str]:
    """This machine's Python for a container without one: its folders at the same places, read-only."""
    folders = {sys.base_prefix, "/lib", "/usr/lib"} | ({"/lib64"} if os.path.isdir("/lib64") else set())  # noqa: PTH112
    return [f"{folder}:{folder}:ro" for folder in sorted(folders)]
