"""``gpu-supervisor targets`` and ``evict``: the stacks that are known, one of them in full, and stopping one."""

from __future__ import annotations

from urllib.parse import quote

from supervisor.answers import ContainerView, EvictAnswer, TargetsView, TargetView
from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.output import Block, Grid, answer, needs, show
from supervisor.cli.status import count, mib, problem_line
from supervisor.core.errors import SupervisorError


def show_targets(*, as_json: bool) -> None:
    """Print every target that is known, and the problems of all."""
    server, body = ask_raw("GET", "/v1/targets")
    if as_json:
        print(body.decode())
        return
    known = decoded(server, body, TargetsView)
    blocks: list[Block] = []
    if known.targets:
        columns = ("target", "state", "lease", "declared", "seen", "priority", "containers", "problems")
        blocks.append(Grid("Targets", columns, [_row(target) for target in known.targets]))
        blocks += [suggestion(target) for target in known.targets if is_suggested(target)]
    for problem in [*(problem for target in known.targets for problem in target.problems), *known.problems]:
        blocks.append(problem_line(problem))
    if not known.targets:
        blocks.append("no target yet: label a compose file with gpu.target, then docker compose create")
    show(blocks)


def _row(target: TargetView) -> tuple[object, ...]:
    running = sum(container.status == "running" for container in target.containers)
    return (
        target.name,
        target.state,
        target.lease,
        needs(target.vram_mib),
        mib(target.seen_mib),
        target.priority,
        f"{running} of {len(target.containers)} running" if target.containers else "",
        count(target.problems),
    )


def is_suggested(target: TargetView) -> bool:
    """Return whether there is a size to suggest that no warning suggests already."""
    return target.suggested_label is not None and target.vram_mib is None


def suggestion(target: TargetView) -> str:
    return (
        f"{target.name} declares nothing and was seen to use {target.seen_mib} MiB: "
        f"{target.suggested_label} would leave the rest to others"
    )


def sharing_line(target: TargetView) -> str:
    """Say with whom it shares, where it is, and what bounds it."""
    most = target.max_holders
    where = ", ".join(target.gpus) or "no GPU now"
    limits = (
        ("stopped after", target.idle_timeout_seconds, "s without a lease"),
        ("not evicted for", target.min_residency_seconds, "s after its start"),
        ("held for", target.max_hold_seconds, "s at most while others wait"),
    )
    parts = [
        f"on {where}",
        *([f"pinned to {', '.join(target.devices)}"] if target.devices else []),
        *([f"class {target.gpu_class}"] if target.gpu_class else []),
        f"shares with {target.coexist_with}",
        *([f"in groups {', '.join(target.groups)}"] if target.groups else []),
        f"{target.holders} of {'any number of' if most is None else most} holders",
        *(f"{what} {limit_s} {unit}" for what, limit_s, unit in limits if limit_s is not None),
    ]
    return f"  {'; '.join(parts)}"


def show_target(name: str, *, as_json: bool) -> None:
    """Print one target: its containers, its problems, and what to type next.

    Raises:
        Refused: there is no such target; the server says which it may be.
    """
    server, body = ask_raw("GET", f"/v1/targets/{quote(name, safe='')}")
    if as_json:
        print(body.decode())
        return
    show(target_blocks(decoded(server, body, TargetView)))


def target_blocks(target: TargetView) -> list[Block]:
    lease = f"lease {target.lease}" if target.lease else ""
    seen = f"seen to use {target.seen_mib} MiB" if target.seen_mib is not None else ""
    project = f"Compose project {target.project}" if target.project else ""
    # What it says of itself is on its containers: where there are none, nobody knows it.
    there = target.state != "absent"
    needed, priority = (f"needs {needs(target.vram_mib)}", f"priority {target.priority}") if there else ("", "")
    said = ", ".join(filter(None, (needed, seen, priority, lease, project)))
    blocks: list[Block] = [
        f"{target.name} is {target.state}" + (f": {said}" if said else ""),
        *([sharing_line(target)] if there else []),
        *([suggestion(target)] if is_suggested(target) else []),
    ]
    if target.containers:
        columns = ("container", "service", "status", "health", "needs", "restart", "notes")
        blocks.append(Grid("Containers", columns, [_container_row(container) for container in target.containers]))
    if target.endpoint is not None:
        blocks.append(f"it answers at {target.endpoint.host}:{target.endpoint.port}")
    blocks += [problem_line(problem) for problem in target.problems]
    if target.create:
        blocks.append(f"its containers are gone; create them with: {target.create}")
    elif target.state in ("stopped", "resident"):
        blocks.append(f"next: gpu-supervisor acquire {target.name}")
    return blocks


def _container_row(container: ContainerView) -> tuple[object, ...]:
    exited = f" {container.exit_code}" if container.status == "exited" else ""
    notes = [word for word, true in (("master", container.master), ("one-off", container.one_off)) if true]
    return (
        container.name,
        container.service,
        f"{container.status}{exited}",
        container.health if container.health != "none" else "",
        f"{container.vram_mib} MiB" if container.vram_mib is not None else "",
        container.restart_policy,
        ", ".join(notes),
    )


def evict(name: str, *, as_json: bool) -> None:
    """Stop a resident target now.

    Raises:
        SupervisorError: it is leased, or nothing of it is resident.
    """
    server, body = ask_raw("POST", f"/v1/targets/{quote(name, safe='')}/evict")
    done = decoded(server, body, EvictAnswer)
    if not done.evicted:
        raise SupervisorError(
            f"{name} is not resident: there is nothing to stop",
            f"see what it does with: gpu-supervisor targets {name}",
        )
    if as_json:
        print(body.decode())
    else:
        answer(f"{name} is being stopped")
