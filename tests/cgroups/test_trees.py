"""Which hierarchies are of use, on machines as they are: recorded from their mount tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cgroups.trees import Tree, mounted_trees

#: Debian 12, Ubuntu 22.04 and later, Fedora: systemd, v2 alone.
UNIFIED = """\
24 29 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""
#: Ubuntu 20.04 and Debian 10: systemd, v1 with an empty v2 beside it.
HYBRID = """\
32 24 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755
33 32 0:28 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
34 32 0:29 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
40 32 0:35 / /sys/fs/cgroup/freezer rw,nosuid,nodev,noexec,relatime shared:17 - cgroup cgroup rw,freezer
41 32 0:36 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:18 - cgroup cgroup rw,cpu,cpuacct
"""
#: A container with v1 and no ``cgroup: host``: each hierarchy shows its own part alone.
IN_A_CONTAINER = f"""\
633 632 0:35 /docker/{"a" * 64} /sys/fs/cgroup/freezer ro,relatime master:17 - cgroup cgroup rw,freezer
"""
FREEZER, V2 = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup")


@pytest.mark.parametrize(
    ("mountinfo", "expected"),
    [
        pytest.param(UNIFIED, (Tree(V2, 2),), id="v2 alone"),
        pytest.param(HYBRID, (Tree(FREEZER, 1), Tree(V2 / "unified", 2)), id="both: containers are surely in v1"),
        pytest.param(IN_A_CONTAINER, (), id="a part of a hierarchy shows no other containers"),
        pytest.param("1 2 0:1 / /a\\040b rw - cgroup2 c rw\n", (Tree(Path("/a b"), 2),), id="a path with a blank"),
        pytest.param("\nnonsense\n1 2 - cgroup2\n", (), id="no mount table"),
    ],
)
def test_the_hierarchies_that_are_of_use(mountinfo: str, expected: tuple[Tree, ...]):
    assert mounted_trees(mountinfo) == expected
