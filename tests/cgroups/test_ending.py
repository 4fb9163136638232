"""Real processes in real cgroups of our own: all in it die, nobody else does, and nothing stays frozen."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from supervisor.cgroups import ending
from supervisor.cgroups.below import TRIAL_NAME, Below, find_below, trial
from supervisor.cgroups.ending import end_all, thaw_doomed
from supervisor.cgroups.places import DRIVERS, Driver
from supervisor.cgroups.trees import Tree
from tests.conftest import until
from tests.gpu.proc_tree import NOBODY, process

pytestmark = pytest.mark.root

#: Begins when told to, in the cgroup by then; as a user of its own, who may have 24 processes of 5 s each.
FORKS = """
import os, resource, sys, time
sys.stdin.read(1)
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
resource.setrlimit(resource.RLIMIT_NPROC, (24, 24))
os.setuid(100_000 + os.getpid())
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.001)
"""


@contextlib.contextmanager
def inmate(cgroup: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with process(*command, echoes=not command) as one:
        (cgroup / "cgroup.procs").write_text(str(one.pid))
        yield one


def count(cgroup: Path) -> int:
    return len((cgroup / "cgroup.procs").read_text().split())


def frozen(cgroup: Path) -> bool:
    return (cgroup / "freezer.self_freezing").read_text().strip() == "1"


def test_all_in_a_cgroup_die_and_nobody_else(tree: Tree, cgroup: Path):
    (cgroup / "inner" / "most").mkdir(parents=True)
    beside = cgroup.parent / ("b" * 64)
    beside.mkdir()
    with inmate(cgroup) as one, inmate(cgroup / "inner" / "most") as other, inmate(beside) as neighbour:
        assert end_all(tree, cgroup)

        assert (one.wait(5), other.wait(5)) == (-signal.SIGKILL, -signal.SIGKILL)
        assert neighbour.poll() is None
    assert not end_all(tree, cgroup), "nothing is in it any more"


def test_a_process_that_forks_without_end_dies_with_all_its_children(tree: Tree, cgroup: Path):
    with process(sys.executable, "-I", "-S", "-c", FORKS, echoes=False) as bomb:
        (cgroup / "cgroup.procs").write_text(str(bomb.pid))
        assert bomb.stdin is not None
        bomb.stdin.write(b"\n")
        bomb.stdin.flush()
        until(lambda: count(cgroup) > 12, what="children")

        assert end_all(tree, cgroup)

        until(lambda: count(cgroup) == 0, what="the end of all of them")


def test_a_cgroup_that_is_removed_while_its_last_ones_die_was_ended_all_the_same(
    tree: Tree, cgroup: Path, monkeypatch: pytest.MonkeyPatch
):
    """An engine is quick to remove the cgroup of a container that has ended."""
    end_those = ending._end_those

    def and_it_is_gone(folder: int, pids: Collection[int]) -> set[int]:
        doomed = end_those(folder, pids)
        one.wait(5)
        cgroup.rmdir()
        return doomed

    monkeypatch.setattr(ending, "_end_those", and_it_is_gone)
    with inmate(cgroup) as one:
        assert end_all(tree, cgroup)


def test_below_kills_by_the_full_id_and_nothing_that_it_does_not_find(tree: Tree, cgroup: Path):
    below = Below(tree)
    with inmate(cgroup) as one:
        assert not below.kill(cgroup.name), "nobody told it of this parent"
        below.look_round()
        assert not below.kill(cgroup.name[:12])
        assert not below.kill("f" * 64)
        assert one.poll() is None

        assert below.kill(cgroup.name)

        assert one.wait(5) == -signal.SIGKILL


def test_a_cgroup_that_we_are_in_ourselves_is_never_touched(tree: Tree, cgroup: Path):
    code = (
        "import sys; from pathlib import Path; from supervisor.cgroups.below import Below; "
        "from supervisor.cgroups.trees import Tree; sys.stdin.readline(); "
        f"below = Below(Tree(Path({str(tree.root)!r}), {tree.version})); below.look_round(); "
        f"print(below.places.find({cgroup.name!r}) is not None, below.kill({cgroup.name!r}))"
    )
    (cgroup / "inner").mkdir()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        (cgroup / "inner" / "cgroup.procs").write_text(str(one.pid))

        assert one.communicate(b"\n", 20)[0] == b"True False\n"


@pytest.mark.cgroup(1)
@pytest.mark.parametrize("tree", [pytest.param(1, id="v1")], indirect=True)
def test_who_was_killed_and_left_frozen_is_let_go_and_who_was_paused_is_not(tree: Tree, cgroup: Path):
    with inmate(cgroup) as one:
        (cgroup / "freezer.state").write_text("FROZEN")
        thaw_doomed(tree, cgroup)
        assert frozen(cgroup)

        one.send_signal(signal.SIGKILL)
        thaw_doomed(tree, cgroup)

        assert one.wait(5) == -signal.SIGKILL


@pytest.mark.cgroup(1)
@pytest.mark.parametrize("tree", [pytest.param(1, id="v1")], indirect=True)
def test_a_paused_container_dies_too_and_nothing_stays_frozen(tree: Tree, cgroup: Path):
    with inmate(cgroup) as one:
        (cgroup / "freezer.state").write_text("FROZEN")

        assert end_all(tree, cgroup)

        assert one.wait(5) == -signal.SIGKILL
        assert not frozen(cgroup)


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_trial_of_each_driver_leaves_nothing_behind(tree: Tree, driver: Driver):
    below = Below(tree, (driver,))

    assert trial(below, driver) == ""

    folders = [tree.root / parent for parent in below.places.parents() if parent.startswith(TRIAL_NAME)]
    assert folders
    until(lambda: not any(folder.exists() for folder in folders), what="the end of this and of others' trials")


@pytest.mark.parametrize(("driver", "other"), [DRIVERS, DRIVERS[::-1]], ids=DRIVERS)
def test_what_a_driver_made_whose_trial_did_not_go_well_is_not_found(tree: Tree, driver: Driver, other: Driver):
    assert trial(Below(tree, (driver,)), other) == "a process of our own was not found through its cgroup"


@pytest.mark.cgroup
def test_root_needs_no_more_than_two_capabilities_for_it(cgroup: Path, tree: Tree):
    code = (
        "from pathlib import Path; from supervisor.cgroups.below import Below, trial; "
        "from supervisor.cgroups.trees import Tree; "
        f"below = Below(Tree(Path({str(tree.root)!r}), {tree.version})); below.look_round(); "
        f"print([trial(Below(below.tree), driver) for driver in below.places.drivers], below.kill({cgroup.name!r}))"
    )
    few = ["setpriv", "--bounding-set", "-all,+kill,+dac_override", "--inh-caps", "-all"]
    with process("cat", user=NOBODY) as one:
        (cgroup / "cgroup.procs").write_text(str(one.pid))

        said = subprocess.run(
            [*few, sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
        )

        assert said.stdout == "['', ''] True\n"
        assert one.wait(5) == -signal.SIGKILL


def test_a_hierarchy_in_which_nothing_can_be_killed_is_not_used(tmp_path: Path):
    """A folder that is none: what is made in it are folders."""
    assert trial(Below(Tree(tmp_path, 2)), "cgroupfs") == "this kernel has no cgroup.kill (Linux 5.14)"
    assert trial(Below(Tree(tmp_path, 1)), "systemd").startswith("no cgroup can be made and used in ")
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"1 2 0:1 / {tmp_path} rw - cgroup2 cgroup2 rw\n")

    below, why = find_below(mountinfo)

    assert below is None
    reason = "this kernel has no cgroup.kill (Linux 5.14)"
    assert why == f"cgroup v2 with cgroupfs: {reason}; cgroup v2 with systemd: {reason}"
