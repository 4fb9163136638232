"""The README says what the code does; the command can be installed, and starts without a heavy import."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from supervisor import __version__
from supervisor.api import ROUTES
from supervisor.cli import errors, gpurun_main
from supervisor.cli.app import app
from supervisor.cli.commands.gpurun import app as gpurun_app
from supervisor.core.labels import LABELS, PREFIX
from supervisor.core.problems import PROBLEMS
from supervisor.engine import READ_ENDPOINTS, WRITE_ENDPOINTS
from supervisor.settings import SETTINGS, reference
from tests.documents.tables import between_marks, problem_codes

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LABELS_PAGE = (ROOT / "labels.md").read_text(encoding="utf-8")


def test_the_readme_has_the_table_of_settings():
    assert reference() in README, "replace it with: python -m supervisor.settings"


def test_the_readme_lists_exactly_the_endpoints_of_the_engine_that_are_used():
    section = README.split("## What it asks of Docker")[1].split("\n## ")[0]
    reading, writing = section.split("- writing:")

    assert tuple(re.findall(r"`((?:GET|POST) [^`]+)`", reading)) == READ_ENDPOINTS
    assert tuple(re.findall(r"`((?:GET|POST) [^`]+)`", writing)) == WRITE_ENDPOINTS


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that can be typed, with its whole name, as click's (or typer's own copy of click's) object."""

    def walk(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(f"{prefix}{name} ", command)
            else:
                yield prefix + name, command

    yield from walk("", typer.main.get_command(app))
    yield "gpurun", typer.main.get_command(gpurun_app)


def rows_of_commands() -> dict[str, str]:
    """The README's table: the name of a command, and its whole row."""
    section = README.split("## The command line")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+(?: [a-z]+)?)[^|]*\|.*$", section, flags=re.MULTILINE)
    lines = re.findall(r"^\| `.*$", section, flags=re.MULTILINE)
    return dict(zip(rows, lines, strict=True))


def test_the_readme_has_a_row_for_every_command_and_for_no_other():
    assert sorted(rows_of_commands()) == sorted(name for name, _ in commands())


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_the_readme_names_every_option_of_a_command(name: str, command: Any):
    row = rows_of_commands()[name]
    settings = {setting.flag for setting in SETTINGS} if name in {"serve", "config show"} else set()
    everywhere = {"--json", "--help"}
    for option in command.params:
        if option.param_type_name == "option":
            known = settings | everywhere
            assert any(flag in known or f"{flag}" in row for flag in option.opts), f"{name} {option.opts}"
    for flag in re.findall(r"--[a-z-]+", row):
        assert any(flag in option.opts for option in command.params), f"{name} has no {flag} any more"


def test_the_readme_names_every_exit_status():
    section = README.split("## The command line")[1].split("\n## ")[0]

    for status in errors.MEANINGS:
        assert re.search(rf"\b{status} \w", section), status


def test_the_readme_has_every_problem_code_and_what_to_do():
    assert between_marks(README) == problem_codes(), "write it anew with: python -m tests.documents.tables"


def test_every_label_and_every_problem_of_labels_is_in_their_page():
    for label in LABELS:
        assert f"| `{PREFIX}{label.name}` |" in LABELS_PAGE
    for code in PROBLEMS:
        assert f"| `{code}` |" in LABELS_PAGE


def test_the_readme_and_the_examples_use_no_label_that_does_not_exist():
    known = {PREFIX + label.name for label in LABELS}
    texts = {"README.md": README} | {path.name: path.read_text() for path in (ROOT / "examples").glob("**/*.yml")}

    for name, text in texts.items():
        for label in re.findall(r"^\s+(gpu\.[a-z.-]+):", text, flags=re.MULTILINE):
            assert label in known, f"{name}: {label}"


def test_the_readme_has_every_route():
    section = README.split("## HTTP by example")[1].split("\n## ")[0]

    for path in (*ROUTES, "/healthz", "/v1/events"):
        assert re.search(rf"`(?:GET|POST|DELETE) {re.escape(path)}`", section), path


def test_every_file_that_the_readme_names_is_there():
    """The lists of files for a new label, fact or action are of use only while they are right."""
    contributing = README.split("## Contributing")[1]
    folder = Path()
    for path in re.findall(r"`((?:supervisor|tests|examples)/[\w./-]+|[\w]+\.(?:py|md))`", contributing):
        here = ROOT / path
        if "/" in path:
            folder = here if here.is_dir() else here.parent
        else:
            # A bare name is beside the file that was named before it.
            here = here if here.exists() else folder / path
        assert here.exists(), path


def test_what_the_readme_links_to_is_there():
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", README, flags=re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), link


def test_every_setting_is_a_flag_of_serve(run):
    status, out, _ = run("serve", "--help")

    assert status == 0
    for setting in SETTINGS:
        assert setting.flag in out


@pytest.mark.parametrize("command", ["", *(name for name, _ in commands() if name != "gpurun")])
def test_every_command_explains_itself(run, command):
    status, out, _ = run(*command.split(), "--help")

    assert status == 0
    assert out.startswith("Usage: gpu-supervisor")


def test_gpurun_explains_itself(capfd):
    assert gpurun_main(["--help"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("Usage: gpurun")
    assert "gpurun -n 4 -- torchrun" in out
    assert gpurun_main(["--version"]) == 0
    assert capfd.readouterr().out == f"gpurun {__version__}\n"


def test_the_text_for_agents_is_right():
    """It is pasted elsewhere, where no test holds it: its options and statuses are those of gpurun."""
    text = README.split("**For agents**")[1].split("```")[1]
    options = {name for one in typer.main.get_command(gpurun_app).params for name in one.opts}

    assert set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", text)) <= options | {"--json"}
    for status, words in {3: "busy", 4: "no supervisor", 5: "the lease was lost", 1: "refused for good"}.items():
        assert f"{status} {words}" in " ".join(text.split())


def test_the_version_is_said(run):
    assert run("--version") == (0, f"gpu-supervisor {__version__}\n", "")


def test_help_loads_neither_docker_nor_a_web_server():
    code = (
        "import sys; from supervisor.cli import main; main(['--help']);"
        "print({'docker', 'starlette', 'uvicorn', 'httpx'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert done.stderr == "set()\n"


def test_gpurun_loads_no_web_server():
    """It starts before each command that somebody types: what it loads is felt."""
    code = "import sys, supervisor.cli.gpurun; print({'docker', 'starlette', 'uvicorn'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout == "set()\n"


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
    assert "gpurun = supervisor.cli:gpurun_main" in points
