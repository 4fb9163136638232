"""``gpu-supervisor check``: what is wrong with labels, of compose files or of the containers that are there."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from supervisor.answers import TargetsView
from supervisor.check import CheckReport, check_containers, check_files
from supervisor.cli.connection import ask
from supervisor.cli.errors import FAILED, OK, Unreachable
from supervisor.cli.output import answer, say
from supervisor.config import load
from supervisor.core.errors import SupervisorError
from supervisor.core.labels import TargetSpec
from supervisor.core.model import Container, Problem
from supervisor.engine.connection import Connection, decode
from supervisor.engine.errors import ContainerMissing, EngineError
from supervisor.engine.inspect import INSPECTED, LISTED, to_container
from supervisor.engine.roster import worth_inspecting

#: In the order in which Compose looks for one.
COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")


def show_check(files: Sequence[Path], project: str | None, config: Path | None, *, as_json: bool) -> int:
    """Print targets and problems. Returns 1 if something must be mended, or nothing is labelled."""
    settings = load({}, os.environ, file=config)
    if files:
        report = check_files(files, project=project, prefix=settings.label_prefix)
    else:
        report = _of_server() or check_containers(
            inspect_all(settings.docker_host, settings.label_prefix), prefix=settings.label_prefix
        )
        tell_unchecked(Path())
    if as_json:
        print(msgspec.json.encode({"ok": report.ok, **msgspec.structs.asdict(report)}).decode())
    else:
        _print(report)
    return OK if report.ok else FAILED


def tell_unchecked(folder: Path) -> None:
    """Say that a compose file in this folder was not read: whoever types ``check`` beside it may well mean it."""
    for name in COMPOSE_FILES:
        if (folder / name).is_file():
            say(f"these are the containers that are there; of the file: gpu-supervisor check {name}")
            return


def _of_server() -> CheckReport | None:
    """What the server knows, absent targets aside; None where none answers or it has not seen the engine."""
    try:
        known = ask("GET", "/v1/targets", TargetsView)
    except Unreachable:
        say("no supervisor answers: asking Docker")
        return None
    specs = tuple(
        TargetSpec(
            name=target.name,
            project=target.project,
            vram_mib=target.vram_mib,
            priority=target.priority,
            problems=target.problems,
        )
        for target in known.targets
        if target.state != "absent"
    )
    found = [problem for spec in specs for problem in spec.problems]
    found += [problem for problem in known.problems if problem not in found]
    report = CheckReport(targets=specs, problems=tuple(found), next_command="gpu-supervisor check")
    if report.ok:
        report = msgspec.structs.replace(report, next_command=f"gpu-supervisor acquire {specs[0].name}")
    return report


def inspect_all(url: str, prefix: str) -> list[Container]:
    """Ask the engine itself for every labelled container, and for what those depend on.

    Raises:
        EngineError: it cannot be asked.
    """
    try:
        connection = Connection(url)
    except EngineError as error:
        raise SupervisorError(f"{url}: {error}", "say where the engine is with DOCKER_HOST, or name files") from error
    try:
        rows = decode(connection.get("/containers/json", {"all": 1}), LISTED)
        found: list[Container] = []
        for container_id in sorted(worth_inspecting(rows, prefix)):
            try:
                seen = decode(connection.get(f"/containers/{container_id}/json"), INSPECTED)
            except ContainerMissing:
                continue  # removed since the list
            found.append(to_container(seen, prefix=prefix, wall_ms=time.time_ns() // 1_000_000))
        return found
    finally:
        connection.close()


def _print(report: CheckReport) -> None:
    for target in report.targets:
        needs = "the whole GPU" if target.vram_mib is None else f"{target.vram_mib} MiB"
        state = "ok" if target.valid else "INVALID"
        project = f", Compose project {target.project}" if target.project else ""
        answer(f"{target.name}: {state}, needs {needs}, priority {target.priority}{project}")
        for problem in target.problems:
            _print_problem(problem)
    strays = [problem for problem in report.problems if not any(problem in one.problems for one in report.targets)]
    if strays:
        answer("of no target:")
    for problem in strays:
        _print_problem(problem)
    answer(f"next: {report.next_command}")


def _print_problem(problem: Problem) -> None:
    answer(f"  {problem.severity}: {problem.message} [{problem.code}]")
    if problem.hint:
        answer(f"    hint: {problem.hint}")
