"""The README says what the code does; the command can be installed, and starts without a heavy import."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from supervisor import __version__
from supervisor.cli import errors
from supervisor.cli.app import app, journal_app
from supervisor.engine import READ_ENDPOINTS, WRITE_ENDPOINTS
from supervisor.settings import SETTINGS, reference

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_table_of_settings():
    assert reference() in README, "replace it with: python -m supervisor.settings"


def test_the_readme_lists_exactly_the_endpoints_of_the_engine_that_are_used():
    section = README.split("## What it asks of Docker")[1].split("\n## ")[0]
    reading, writing = section.split("- writing:")

    assert tuple(re.findall(r"`((?:GET|POST) [^`]+)`", reading)) == READ_ENDPOINTS
    assert tuple(re.findall(r"`((?:GET|POST) [^`]+)`", writing)) == WRITE_ENDPOINTS


def test_the_readme_names_every_command_and_exit_status():
    section = README.split("## The command line")[1].split("\n## ")[0]
    commands = [
        info.name or info.callback.__name__ for info in [*app.registered_commands, *journal_app.registered_commands]
    ]

    for command in commands:
        assert f"`{command}" in section or f"journal {command}`" in section, command
    for status in errors.MEANINGS:
        assert re.search(rf"\b{status} \w", section), status


def test_what_the_readme_links_to_is_there():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_setting_is_a_flag_of_serve(run):
    status, out, _ = run("serve", "--help")

    assert status == 0
    for setting in SETTINGS:
        assert setting.flag in out


@pytest.mark.parametrize("command", [[], ["serve"], ["acquire"], ["release"], ["status"], ["check"], ["journal"]])
def test_every_command_explains_itself(run, command):
    status, out, _ = run(*command, "--help")

    assert status == 0
    assert out.startswith("Usage: gpu-supervisor")


def test_the_version_is_said(run):
    assert run("--version") == (0, f"gpu-supervisor {__version__}\n", "")


def test_help_loads_neither_docker_nor_a_web_server():
    code = (
        "import sys; from supervisor.cli import main; main(['--help']);"
        "print({'docker', 'starlette', 'uvicorn', 'httpx'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert done.stderr == "set()\n"


def test_a_wheel_has_every_module_and_the_command(tmp_path):
    """Built from a copy: setuptools leaves a build folder beside what it builds."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    modules = sorted(path.relative_to(ROOT) for path in (ROOT / "supervisor").rglob("*.py"))
    for module in [*modules, Path("supervisor/py.typed")]:
        (source / module).parent.mkdir(parents=True, exist_ok=True)
        (source / module).write_bytes((ROOT / module).read_bytes())

    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."],
        cwd=source,
        capture_output=True,
        timeout=50,
        check=True,
    )

    with zipfile.ZipFile(next(source.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        points = wheel.read(f"gpu_supervisor-{__version__}.dist-info/entry_points.txt").decode()
    assert {str(module) for module in modules} <= names
    assert "supervisor/py.typed" in names
    assert "gpu-supervisor = supervisor.cli:main" in points
