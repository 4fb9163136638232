"""The composition root: journal, kernel, pump, engine, GPUs and the web server, put together and taken apart again."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import resource
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import uvloop
from msgspec.structs import replace

from supervisor import __version__
from supervisor.api import build_app
from supervisor.api.gate import Gate
from supervisor.api.past import Past
from supervisor.api.server import Limits, listening, serve_http
from supervisor.api.tokens import TokenMint, load_secret
from supervisor.cgroups.below import Below, find_below
from supervisor.cgroups.tripwire import Tripwire
from supervisor.clock import Clock, read_boot_id
from supervisor.config import Config
from supervisor.core.apply import replay
from supervisor.core.inputs import EnforcingChanged, ProcessesSeen, Started
from supervisor.core.model import Enforcing, Gpu
from supervisor.core.state import Observed, Settings
from supervisor.engine import Engine
from supervisor.gpu.audit import ProcessAudit
from supervisor.gpu.rights import limits, own_rights
from supervisor.gpu.sources import open_gpus
from supervisor.hooks.delivery import Hooks
from supervisor.journal import Journal
from supervisor.kernel import Kernel
from supervisor.keys import KeyBook, keys_file
from supervisor.log import Numbered, tell_decisions
from supervisor.metrics import Metrics
from supervisor.metrics.timed import TimedEngine, TimedJournal
from supervisor.notify import ServiceManager
from supervisor.own_container import own_container_id, sparing
from supervisor.pump import Pump
from supervisor.socket_access import socket_denial
from supervisor.urgency import Urgency

log = logging.getLogger("supervisor")

#: Answering everybody on the line and ending the web server takes no longer than this; the whole end, 5 s.
ANSWERS_S = 2.0
WEB_END_S = 2.0
#: So long receivers of hooks may still take what they were not told yet.
HOOKS_END_S = 0.8
#: The ready line waits this long for the engine, so that it can name it; then it says that it is still away.
ENGINE_LOOK_S = 2.0
#: Nobody is listened to before the GPUs were read, for as long as this: what cannot be granted yet would be refused.
#: Containers are looked after meanwhile. A driver that answers takes far less; one that is slow is said to be.
GPU_LOOK_S = 2.0


def serve(config: Config) -> int:
    """Run the supervisor until SIGTERM or SIGINT. Returns the exit status: 0 after a clean end.

    Raises:
        SupervisorError: it cannot start (the journal is locked or newer, the address is taken ...), or the journal
            broke while it ran.
    """
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


def raise_file_limit() -> None:
    """Take as many open files as the system lets us: each waiter is a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def core_settings(config: Config) -> Settings:
    return Settings(
        mode=config.enforce,
        aging_per_minute=config.aging,
        claim_window_ms=config.claim_window_ms,
        ttl_min_ms=config.ttl_min_ms,
        ttl_max_ms=config.ttl_max_ms,
        queue_max=config.queue_max,
        label_prefix=config.label_prefix,
        gpus=config.gpus.simulated,
        gpu_classes=config.gpu_classes or {},
        placement=config.placement,
        headroom_mib=config.headroom_mib,
        min_residency_ms=config.min_residency_ms,
        idle_timeout_ms=config.idle_timeout_ms,
        max_hold_ms=config.max_hold_ms,
        affinity_points=config.affinity_points,
        process_policy=config.processes,
        process_grace_ms=config.processes_grace_ms,
        process_allow=config.processes_allow,
        process_spare_root=not config.processes_include_root,
        process_spare_graphics=not config.processes_include_graphics,
        caller_leases=config.caller_leases,
        caller_tickets=config.caller_tickets,
    )


async def _serve(config: Config) -> int:
    journal = Journal.open(
        config.data_dir,
        version=__version__,
        retain_ms=config.journal_retention_ms,
        retain_bytes=config.journal_retention_bytes,
    )
    try:
        # Before the engine is looked at: one that could not serve anybody must not stop anything either.
        with listening(config.host, config.port, config.socket) as sockets:
            return await _run(config, journal, sockets)
    finally:
        journal.close()


async def _run(config: Config, journal: Journal, sockets: list[socket.socket]) -> int:
    state = replay(core_settings(config), journal.snapshot, journal.replay())
    clock = Clock(state.durable, read_boot_id())
    below, enforcing = _way_below(config)
    urgency = Urgency()
    if below is not None:
        enforcing = _be_ready(urgency, enforcing)
    engine = Engine(
        config.docker_host, config.docker_write_host, prefix=config.label_prefix, below=below, urgency=urgency
    )
    kernel = Kernel(state)
    metrics = Metrics(kernel, clock.now, __version__)
    hooks = Hooks(config.hooks, metrics.counts, platform.node())
    metrics.gauges.queues = hooks.waiting
    timed = TimedEngine(engine, metrics.counts, state)
    manager = ServiceManager.from_environment(os.environ)
    gpus = open_gpus(config.gpus)

    def tell(facts: list[Numbered]) -> None:
        tell_decisions(facts)
        for seq, fact in facts:
            hooks.told(seq, fact)
            metrics.told(seq, fact)

    pump = Pump(kernel, TimedJournal(journal, metrics.counts), timed, gpus, clock, tell, manager)
    tripwire, enforcing = _tripwire(config, below, pump, urgency, enforcing)
    pump.post(EnforcingChanged(enforcing))
    if not config.gpus.simulated:  # the pids of simulated processes are nobody's
        _watch_processes(pump, config)
    past = Past()
    app = build_app(
        pump,
        mint=TokenMint(load_secret(config.data_dir)),
        meter=metrics,
        logs=_log_reader(engine),
        version=__version__,
        gate=Gate(
            KeyBook(keys_file(config.data_dir), needed=config.needs_keys),
            socket_role=config.socket_role,
            requests_per_s=config.caller_requests,
        ),
        host=config.host,
        allowed_hosts=config.allowed_hosts,
        past=past,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    started = Started(clock.boot_id, clock.boot_ms(), __version__, first=journal.first, safe_mode=journal.damage)
    web_stop = asyncio.Event()

    async def announce(addresses: list[str]) -> None:
        await pump.first_look(ENGINE_LOOK_S)
        print(ready_line(config, addresses, engine.describe(), journal, kernel.state.observed), flush=True)

    announcing: list[asyncio.Task[None]] = []

    def ready(addresses: list[str]) -> None:
        manager.ready()
        announcing.append(asyncio.create_task(announce(addresses), name="ready line"))

    async def listen() -> None:
        await pump.first_reading(GPU_LOOK_S)
        await serve_http(
            app,
            sockets,
            limits=Limits(),
            on_ready=ready,
            on_refusal=metrics.refusal,
            stop=web_stop,
        )

    owner = asyncio.create_task(pump.run(started), name="owner")
    web = asyncio.create_task(listen(), name="web")
    following = asyncio.create_task(past.follow(pump), name="history")
    manager.status("not in sync with the container engine yet")
    for url in dict.fromkeys(filter(None, (config.docker_host, config.docker_write_host))):
        if denial := socket_denial(url):
            log.warning("%s", denial)
    own_id = own_container_id()
    if own_id is not None:
        log.info("running in the container %s", own_id[:12])
    timed.watch(pump.post if own_id is None else sparing(own_id, pump.post))
    try:
        await _first_of(owner, web, stop.wait())
        if owner.done():
            owner.result()
        if web.done():
            web.result()
        manager.stopping()
        log.info("shutting down: leases and containers stay")
        await _end(pump, web, web_stop)
    finally:
        urgency.close()
        if tripwire is not None:
            tripwire.close()
        engine.close()
        gpus.close()
        for task in (owner, web, following, *announcing):
            task.cancel()
        await asyncio.gather(owner, web, following, *announcing, return_exceptions=True)
        await hooks.close(HOOKS_END_S)
    return 0


def _way_below(config: Config) -> tuple[Below | None, Enforcing]:
    """Find out whether containers can be killed through their cgroups here, and say so in one line."""
    below, detail = find_below() if config.cgroup_kill == "auto" else (None, "cgroup_kill is off")
    if below is not None:
        log.info("containers are killed through their cgroups, and the engine (%s)", detail)
        return below, Enforcing("cgroup", detail)
    if config.cgroup_kill == "auto":
        log.info("containers are killed through the engine alone: %s", detail)
    return None, Enforcing("engine", detail)


def _be_ready(urgency: Urgency, enforcing: Enforcing) -> Enforcing:
    """Kill before whatever else wants a processor where the kernel lets us, and say whether it does."""
    reason = urgency.start()
    words = f"in line for a processor: {reason}" if reason else "ahead of all that wants a processor"
    log.info("while something starts, kills are %s", words)
    return replace(enforcing, kills_detail=f"{enforcing.kills_detail}; {words}")


def _tripwire(
    config: Config, below: Below | None, pump: Pump, urgency: Urgency, enforcing: Enforcing
) -> tuple[Tripwire | None, Enforcing]:
    """Arm the tripwire where it is asked for and can be, and say where it cannot."""
    if not config.tripwire:
        return None, enforcing
    reason = f"nothing can be killed through its cgroup: {enforcing.kills_detail}"
    if below is not None:
        tripwire = Tripwire(below, pump.judge, pump.prevented, urgency.hurry)
        try:
            tripwire.start()
        except OSError as error:
            tripwire.close()
            reason = f"the kernel lets us watch no more folders: {error.strerror} (fs.inotify.max_user_watches)"
        else:
            log.info("the tripwire is armed: what may not run is killed before its first instruction")
            return tripwire, replace(enforcing, tripwire="armed")
    log.warning("there is no tripwire: %s", reason)
    return None, replace(enforcing, tripwire="blind", tripwire_detail=reason)


def _watch_processes(pump: Pump, config: Config) -> None:
    limited = limits(
        own_rights(),
        terminates=config.processes == "terminate",
        allows_programs=any(entry.executable is not None for entry in config.processes_allow),
    )
    for sentence_ in limited:
        log.warning("%s", sentence_)
    pump.watch_processes(ProcessAudit(), lambda seen, finished: ProcessesSeen(seen, finished, limited))


async def _first_of(*awaitables: asyncio.Task[Any] | Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.ensure_future(item) for item in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks[2:]:
        task.cancel()


async def _end(pump: Pump, web: asyncio.Task[None], web_stop: asyncio.Event) -> None:
    """Answer everybody on the line with a retryable refusal, then end the web server; both within their time."""
    try:
        async with asyncio.timeout(ANSWERS_S):
            await pump.shut_down("signal")
    except TimeoutError:
        log.warning(
            "the disk did not take the last fact in %s s; callers were told nothing that is not on it", ANSWERS_S
        )
    web_stop.set()
    await asyncio.wait([web], timeout=WEB_END_S)


def _log_reader(engine: Engine) -> Callable[[str, int], Coroutine[Any, Any, str]]:
    async def read(container_id: str, lines: int) -> str:
        return await asyncio.to_thread(engine.logs, container_id, lines, 1.0)

    return read


def ready_line(config: Config, addresses: list[str], engine: str, journal: Journal, observed: Observed) -> str:
    """Say in one line where it listens, where its data lie, which engine, which GPUs, and the enforcement mode."""
    gpus = ", ".join(_describe(gpu) for gpu in observed.gpus)
    gpus = gpus or f"none ({observed.gpu_problem or 'they have not been read yet'})"
    damage = f" SAFE MODE: {journal.damage}" if journal.damage else ""
    return (
        f"gpu-supervisor {__version__} ready: listening on {' and '.join(addresses)}; data in {config.data_dir}; "
        f"{engine}; GPUs {gpus}; enforcement {config.enforce}{damage}"
    )


def _describe(gpu: Gpu) -> str:
    size = f"{gpu.total_mib} MiB" if gpu.total_mib is not None else "unknown size"
    return f"{gpu.uuid} ({size}{f', {gpu.state}' if gpu.state != 'ok' else ''})"
