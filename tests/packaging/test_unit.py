"""examples/gpu-supervisor.service: read by systemd itself, and held to what the supervisor needs of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.server import ANSWERS_S, WEB_END_S
from supervisor.settings import BY_KEY
from tests.conftest import find_program

UNIT = Path(__file__).parents[2] / "examples" / "gpu-supervisor.service"
SYSTEM_UNITS = Path("/usr/lib/systemd/system")


@pytest.fixture
def systemd_analyze() -> str:
    program = find_program("systemd-analyze")
    assert program is not None
    return program


def settings(section: str) -> Iterator[tuple[str, str]]:
    inside = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            inside = line.strip("[]")
        elif inside == section and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            yield key, value


def machine(root: Path, text: str) -> Path:
    """A machine on which the unit is installed as its first lines say."""
    shutil.copytree(SYSTEM_UNITS, root / "usr/lib/systemd/system", symlinks=True, ignore_dangling_symlinks=True)
    (root / "lib").symlink_to("usr/lib")
    for folder in ("etc/systemd/system", "opt/gpu-supervisor/bin"):
        (root / folder).mkdir(parents=True)
    (root / "etc/systemd/system" / UNIT.name).write_text(text)
    shutil.copy(shutil.which("true") or "/bin/true", root / "opt/gpu-supervisor/bin/gpu-supervisor")
    return root


def complaints(analyze: str, root: Path) -> str:
    command = [analyze, "verify", f"--root={root}", "--man=no", UNIT.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return "\n".join(line for line in done.stderr.splitlines() if UNIT.name in line) or (
        "" if not done.returncode else "?"
    )


def test_systemd_understands_every_line(systemd_analyze: str, tmp_path: Path):
    assert complaints(systemd_analyze, machine(tmp_path / "good", UNIT.read_text())) == ""


def test_systemd_would_complain_about_a_line_that_it_does_not_know(systemd_analyze: str, tmp_path: Path):
    wrong = UNIT.read_text().replace("WatchdogSec=", "WatchdogSecs=")
    assert "WatchdogSecs" in complaints(systemd_analyze, machine(tmp_path / "bad", wrong))


def test_little_is_left_open(systemd_analyze: str):
    """systemd's own measure, of 10 (an ordinary service: 9.6); what is left is the network, the engine and the GPUs."""
    command = [systemd_analyze, "security", "--offline=true", "--threshold=25", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout


def test_it_is_told_apart_from_a_hang_and_started_again_unless_the_settings_are_wrong():
    service = dict(settings("Service"))
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert dict(settings("Unit"))["StartLimitIntervalSec"] == "0"


def test_the_end_that_the_supervisor_takes_fits_into_the_time_that_it_gets():
    assert int(dict(settings("Service"))["TimeoutStopSec"]) > 2 * (ANSWERS_S + WEB_END_S)


def test_the_engine_may_be_restarted_without_it():
    unit = dict(settings("Unit"))
    assert "docker.service" in unit["After"]
    assert not {"Requires", "BindsTo", "PartOf"} & unit.keys()


def test_the_data_lie_in_the_state_directory():
    environment = dict(
        value.split("=", 1) for key, value in settings("Service") if key == "Environment" and "XDG" in value
    )
    default = BY_KEY["data_dir"].default
    assert callable(default)
    directory = dict(settings("Service"))["StateDirectory"]
    # As another user than root; as root it is the same place.
    assert f"{environment['XDG_STATE_HOME']}/{directory}" == f"/var/lib/{directory}"
    assert default(environment) == f"/var/lib/{directory}"


@pytest.mark.parametrize("closes", ["PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "ProtectProc"])
def test_nothing_closes_the_gpus_or_the_processes_on_them(closes: str):
    assert closes not in dict(settings("Service"))
