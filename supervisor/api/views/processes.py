"""Who is on the GPUs, and what each stands by."""

from __future__ import annotations

from supervisor.answers import AncestorView, FinishedView, GpuInUse, ProcessesView, ProcessUse, ProcessView
from supervisor.api.times import rfc3339
from supervisor.core.model import Gpu, Now
from supervisor.core.processes import Finished, SeenProcess, Use
from supervisor.core.state import State
from supervisor.core.strangers import Judged, judge
from supervisor.core.targets import known_container
from supervisor.core.usage import is_silent, unexplained_mib

SIMULATED = "the GPUs are simulated, and so are the processes on them"


def processes_view(state: State, now: Now) -> ProcessesView:
    gpus = state.observed.gpus
    shown = [_process(state, now, judge(state, process)) for process in (*state.observed.processes, *_simulated(state))]
    silent = [f"the driver does not say what each process uses on {gpu.uuid}" for gpu in gpus if is_silent(gpu)]
    problem = [state.observed.gpu_problem] if state.observed.gpu_problem else []
    return ProcessesView(
        policy=state.settings.process_policy,
        gpus=tuple(_gpu(state, gpu) for gpu in gpus),
        finished=tuple(_finished(one) for one in reversed(state.observed.finished)),
        processes=tuple(sorted(shown, key=lambda one: (one.gpus[0].gpu, -(one.used_mib or 0), one.pid))),
        limited=(*problem, *silent, *state.observed.process_limits, *([SIMULATED] if _is_simulated(state) else [])),
    )


def _gpu(state: State, gpu: Gpu) -> GpuInUse:
    return GpuInUse(
        uuid=gpu.uuid,
        index=gpu.index,
        name=gpu.name,
        total_mib=gpu.total_mib,
        used_mib=gpu.used_mib,
        unexplained_mib=unexplained_mib(state, gpu) if gpu.used_mib is not None else None,
        listed=gpu.processes is not None,
        accounting=gpu.accounting,
    )


def _finished(one: Finished) -> FinishedView:
    use = one.use
    return FinishedView(
        pid=use.pid,
        gpu=use.gpu,
        started_at=rfc3339(use.started_wall_ms),
        ended_at=rfc3339(use.ended_wall_ms),
        peak_mib=use.peak_mib,
        gpu_percent=use.gpu_percent,
        memory_percent=use.memory_percent,
        container=one.container,
        target=one.target,
        standing=one.standing,
        meanwhile=one.meanwhile,
    )


def _is_simulated(state: State) -> bool:
    return bool(state.settings.gpus) and state.observed.gpus != ()


def _simulated(state: State) -> list[SeenProcess]:
    """Return the processes of simulated GPUs, which nobody looks for in ``/proc``."""
    uses: dict[tuple[int, str], list[Use]] = {}
    for gpu in state.observed.gpus if _is_simulated(state) else ():
        for process in gpu.processes or ():
            use = Use(gpu.uuid, process.used_mib, process.kind)
            uses.setdefault((process.pid, process.container or ""), []).append(use)
    return [
        SeenProcess(pid=pid, started=0, uses=tuple(on), containers=(container,) if container else ())
        for (pid, container), on in uses.items()
    ]


def _process(state: State, now: Now, one: Judged) -> ProcessView:
    process = one.process
    suspect = state.observed.suspects.get(process.identity)
    asked_ms = suspect.asked_ms if suspect is not None else None
    inside = ((id_, known_container(state, id_)) for id_ in process.containers)
    return ProcessView(
        pid=process.pid,
        started_at=rfc3339(process.started_wall_ms) if process.started else None,
        name=process.name,
        user=process.user,
        uid=process.uid,
        executable=process.executable,
        command=" ".join(process.command),
        cgroup=process.cgroup,
        container=one.container,
        containers=tuple(known.name if known is not None else id_ for id_, known in inside),
        service=one.service,
        target=one.target,
        lease=one.lease,
        standing=one.standing,
        why_spared=one.why_spared,
        asked_to_end_at=rfc3339(now.wall_of(asked_ms)) if asked_ms is not None else None,
        killed=suspect is not None and suspect.killed,
        gpus=tuple(ProcessUse(use.gpu, use.used_mib, use.kind) for use in process.uses),
        used_mib=process.used_mib,
        ancestors=tuple(AncestorView(each.pid, each.name, " ".join(each.command)) for each in process.ancestors),
        denied=process.denied,
    )
