"""Real engines and real Compose stacks for tests, and the last line that says what this machine lacks.

``tests/run`` sets the machine up; after ``eval "$(tests/run --engine-up)"`` a plain ``pytest`` works too.

``engine_url``     the engine under test. It is shared: work only under names from ``unique``, with labels under
                   ``label_prefix``, so that a supervisor in one test never judges another's containers.
``docker_services`` (pytest-docker) the stack of tests/docker-compose.yml, created once, started by nobody.
``make_stack``     a stack of tests/stacks/ for one test, gone after it.
``private_engine`` a second daemon, to be terminated, killed, frozen and started again. Its network leads nowhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from pytest_docker.plugin import DockerComposeExecutor

from supervisor.cgroups.below import Below, trial
from supervisor.cgroups.trees import Tree, mounted_trees

TESTS = Path(__file__).parent
IMAGE = "local/busybox:1"
PROJECT_LABEL = "com.docker.compose.project"


def until(condition: Callable[[], Any], within_s: float = 10.0, what: str = "the condition") -> Any:
    """Return the first true value of ``condition``, or fail after ``within_s``. For what nothing can notify us of."""
    deadline = time.monotonic() + within_s
    pace = threading.Event()
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {within_s} s")
        pace.wait(0.02)
    return value


@pytest.fixture(name="until", scope="session")
def _until() -> Callable[..., Any]:
    return until


def pytest_configure() -> None:
    """What a shell put into the background ignores Ctrl-C, under nohup SIGHUP; what tests start would inherit that."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


# ---- what this machine lacks

LACKED = pytest.StashKey[dict[str, list[str]]]()


#: Fixtures that start a daemon of their own.
NEED_DOCKERD = {"private_engine", "own_dockerd"}
#: Fixtures that are a program, which tests/run brings where it can.
NEED_PROGRAM = {"curl": "curl", "haproxy": "haproxy", "systemd_analyze": "systemd-analyze", "chromium": "chromium"}


def lacks(item: pytest.Item) -> str | None:
    """Say what a test needs and this machine has not: a mark, or the fixture that needs a dockerd of its own."""
    if item.get_closest_marker("nvidia") and not Path("/proc/driver/nvidia/gpus").is_dir():
        return "an NVIDIA GPU"
    needs_tree = item.get_closest_marker("cgroup")
    if needs_tree and usable_trees().keys().isdisjoint(needs_tree.args or (1, 2)):
        return f"a hierarchy of cgroup v{' or v'.join(map(str, needs_tree.args or (1, 2)))} to kill in"
    if item.get_closest_marker("realtime") and not may_be_urgent():
        return "the right to real-time priorities"
    needs_daemon = not NEED_DOCKERD.isdisjoint(fixtures_of(item))
    if (item.get_closest_marker("root") or needs_daemon) and os.geteuid() != 0:
        return "root"
    if needs_daemon and not (shutil.which("dockerd") and shutil.which("containerd")):
        return "dockerd and containerd"
    wanted = [program for fixture, program in NEED_PROGRAM.items() if fixture in fixtures_of(item)]
    return next((program for program in wanted if find_program(program) is None), None)


@functools.cache
def usable_trees() -> dict[int, Tree]:
    """The cgroup hierarchies in which a process of our own can be killed, by version."""
    trees = mounted_trees(Path("/proc/self/mountinfo").read_text())
    return {tree.version: tree for tree in trees if os.geteuid() == 0 and not trial(Below(tree), "cgroupfs")}


@functools.cache
def may_be_urgent() -> bool:
    """Whether a process of ours may go before others: a group of real-time tasks may have no time at all."""
    return subprocess.run(["chrt", "--rr", "1", "true"], capture_output=True, check=False).returncode == 0


def find_program(name: str) -> str | None:
    """Return its path; on Debian /usr/sbin is not on everybody's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


#: Fixtures that are an engine, or are on one.
ENGINES = {*NEED_DOCKERD, "engine_url", "docker_services"}


def fixtures_of(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def on_an_engine(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("engine")) or not ENGINES.isdisjoint(fixtures_of(item))


#: Folders whose tests on the shared engine wait for people's things most of the time: they go beside all the others.
BESIDE = {"benchmarks", "cli", "client", "documents", "gpurun", "web"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """One process has the daemons and the images, and does one thing at a time with them; one has what goes beside."""
    if on_an_engine(item):
        if "private_engine" in fixtures_of(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(WITH_RESTARTS_S))
        beside = item.path.relative_to(TESTS).parts[0] in BESIDE and NEED_DOCKERD.isdisjoint(fixtures_of(item))
        item.add_marker(pytest.mark.xdist_group("beside" if beside else "engine"))


def takes_long(item: pytest.Item) -> bool:
    """Whether it would be waited for if it came last: it may take minutes, and is not one of a process's own."""
    limit = item.get_closest_marker("timeout")
    return limit is not None and limit.args[0] > 120 and not on_an_engine(item)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, never skip: a skip looks like a choice of the test's author. What takes long goes first."""
    items.sort(key=lambda item: not takes_long(item))
    lacked: dict[str, list[str]] = {}
    kept: list[pytest.Item] = []
    gone: list[pytest.Item] = []
    for item in items:
        if what := lacks(item):
            lacked.setdefault(what, []).append(item.name)
            gone.append(item)
        else:
            kept.append(item)
    config.stash[LACKED] = lacked
    if hasattr(config, "workeroutput"):
        config.workeroutput["lacked"] = lacked
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """What pytest-xdist keeps together has its group in its id. It has not where the two do not go together."""
    if getattr(session.config.option, "loadgroup", False):
        loose = [item for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid]
        assert not loose, f"{len(loose)} tests of a group would run anywhere: is it pytest 9.2 with pytest-xdist 3.8?"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Of several processes each has collected all tests: what one of them lacks, all do."""
    node.config.stash[LACKED] = getattr(node, "workeroutput", {}).get("lacked")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The very last line: after pytest's own summary."""
    lacked = config.stash.get(LACKED, None)
    if lacked is None or hasattr(config, "workerinput"):
        return
    count = sum(map(len, lacked.values()))
    detail = "; ".join(f"{what}: {', '.join(names)}" for what, names in sorted(lacked.items()))
    print(
        f"{count} test{'s' * (count != 1)} deselected for what this machine lacks" + (f" ({detail})" if detail else "")
    )


# ---- the engine under test, and names of our own on it


@pytest.fixture(scope="session")
def engine_url() -> str:
    """The engine that everybody shares, as a ``unix://`` or ``tcp://`` URL."""
    url = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    lack = ""
    try:
        with contextlib.closing(docker.APIClient(base_url=url, timeout=5)) as api:
            api.inspect_image(IMAGE)
    except (docker.errors.DockerException, OSError) as error:
        lack = str(error)
    if lack:
        pytest.fail(f'no engine with {IMAGE} at {url} ({lack}); try: eval "$(tests/run --engine-up)"', pytrace=False)
    return url


@pytest.fixture
def api(engine_url: str) -> Iterator[docker.APIClient]:
    with contextlib.closing(docker.APIClient(base_url=engine_url, timeout=20, version="auto")) as client:
        yield client


@pytest.fixture(scope="session")
def label_prefix() -> str:
    """The prefix of this run's labels, in place of ``gpu.``: other runs may use the same engine at the same time."""
    return f"gpu-{uuid.uuid4().hex[:8]}."


@pytest.fixture
def unique(engine_url: str) -> Iterator[str]:
    """A name that nobody else uses. After the test every container is removed whose name or project begins with it."""
    name = f"gs{uuid.uuid4().hex[:10]}"
    yield name
    with contextlib.closing(docker.APIClient(base_url=engine_url, timeout=20)) as client:
        for container in client.containers(all=True):
            project = (container["Labels"] or {}).get(PROJECT_LABEL, "")
            if project.startswith(name) or any(known.startswith(f"/{name}") for known in container["Names"]):
                with contextlib.suppress(docker.errors.NotFound):
                    client.remove_container(container["Id"], force=True)


# ---- Compose stacks


class Stack:
    """One Compose project of tests/stacks on an engine. Its target is ``target``, its labels are under ``prefix``."""

    def __init__(self, file: Path, project: str, target: str, prefix: str, url: str) -> None:
        self.project, self.target, self.prefix, self.url = project, target, prefix, url
        command = f"env DOCKER_HOST={url} GPU_PREFIX={prefix} GPU_TARGET={target} docker compose --ansi never"
        self._executor = DockerComposeExecutor(command, str(file), project)

    def compose(self, arguments: str, *, codes: tuple[int, ...] = (0,)) -> str:
        """Run ``docker compose ARGUMENTS`` and return what it printed; another status than ``codes`` raises."""
        return self._executor.execute(arguments, success_codes=codes).decode()

    def id(self, service: str) -> str:
        """The full id of a service's container, stopped ones too."""
        return self.compose(f"ps --all --no-trunc --quiet {service}").strip()

    def remove(self) -> None:
        self.compose("down --volumes --remove-orphans --timeout 0")


@pytest.fixture
def make_stack(engine_url: str, unique: str, label_prefix: str) -> Iterator[Callable[..., Stack]]:
    """``make_stack("chain")`` creates tests/stacks/chain.yml without starting it; ``url`` names another engine."""
    made: list[Stack] = []

    def make(name: str, *, url: str = engine_url, prefix: str = label_prefix, create: bool = True) -> Stack:
        project = f"{unique}-{name}-{len(made)}"
        stack = Stack(TESTS / "stacks" / f"{name}.yml", project, target=project, prefix=prefix, url=url)
        made.append(stack)
        if create:
            stack.compose("create")
        return stack

    yield make
    for stack in made:
        # A private engine loses its containers by itself, and may be down by now.
        if stack.url == engine_url:
            stack.remove()


@pytest.fixture(scope="session")
def docker_compose_command(engine_url: str, label_prefix: str) -> str:
    return f"env DOCKER_HOST={engine_url} GPU_PREFIX={label_prefix} docker compose --ansi never"


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return f"gs{uuid.uuid4().hex[:10]}"


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """Created and not started: who may run is the supervisor's decision."""
    return ["create"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down --volumes --remove-orphans --timeout 0"]


# ---- an engine of our own


@contextlib.contextmanager
def own_bridge() -> Iterator[str]:
    """A network bridge with an address that nobody else uses (RFC 2544's), made without a tool that may be missing.

    Source: linux/sockios.h; netdevice(7) for the shape of ``ifreq``.
    """
    add, remove, set_address, set_netmask, set_flags, up = 0x89A0, 0x89A1, 0x8916, 0x891C, 0x8914, 0x1
    name = f"gs{uuid.uuid4().hex[:10]}"

    def address(dotted: str) -> bytes:
        return struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(dotted))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, add, name.encode() + b"\0")
        try:
            fcntl.ioctl(control, set_address, address(f"198.18.{secrets.randbelow(256)}.1"))
            fcntl.ioctl(control, set_netmask, address("255.255.255.0"))
            fcntl.ioctl(control, set_flags, struct.pack("16sh14x", name.encode(), up))
            yield name
        finally:
            fcntl.ioctl(control, set_flags, struct.pack("16sh14x", name.encode(), 0))
            fcntl.ioctl(control, remove, name.encode() + b"\0")


#: A daemon that comes back after its death may take half a minute (``PrivateEngine.start``): so may a test, twice.
ANSWERS_WITHIN_S = 60.0
WITH_RESTARTS_S = 150


class PrivateEngine:
    """A real dockerd, with a containerd of its own that outlives it, as on a machine with systemd.

    It must not touch the bridge of the engine that runs beside it, so it has one of its own, which leads nowhere. (With
    ``--bridge=none`` a daemon deletes the interface docker0, whoever made it: moby daemon/daemon_unix.go,
    ``removeDefaultBridgeInterface``; tried on 20.10.) Its runtime ``slow`` takes two seconds longer to start a
    container, as the hooks of a GPU do.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = f"unix://{home}/docker.sock"
        self._processes = contextlib.ExitStack()
        self._bridge = self._processes.enter_context(own_bridge())
        self._containerd = self._spawn("containerd", "--config", str(self._write_configuration()))
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._live_restore = False

    def start(self, *, live_restore: bool = False) -> None:
        """Start the daemon and wait until it answers.

        Of a daemon that was killed while a container started or ended the next one waits for that container's end
        before it answers: 24 s (its grace, and twice after a kill) or 30 s, in six of 150 tries on 20.10.
        """
        assert self._dockerd is None, "it runs already"
        self._live_restore = live_restore
        self._dockerd = self._spawn(
            "dockerd",
            *("--config-file", f"{self.home}/daemon.json", "--containerd", f"{self.home}/containerd.sock"),
            *("--data-root", f"{self.home}/data", "--exec-root", f"{self.home}/exec"),
            *("--pidfile", f"{self.home}/pid", "--host", self.url, "--bridge", self._bridge),
            *("--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"),
            *(["--live-restore"] if live_restore else []),
        )
        daemon, deadline = self._dockerd, time.monotonic() + ANSWERS_WITHIN_S
        while not self.answers():
            if daemon.poll() is not None or time.monotonic() > deadline:
                log = (self.home / "dockerd.log").read_text(errors="replace")
                pytest.fail(f"the private engine does not answer, its exit status is {daemon.poll()}: {log[-4_000:]}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(0.02)

    def answers(self) -> bool:
        try:
            with self.api(timeout=2) as api:
                return bool(api.ping())
        except (docker.errors.DockerException, OSError):
            return False

    @contextlib.contextmanager
    def api(self, timeout: float | None = 20) -> Iterator[docker.APIClient]:
        with contextlib.closing(docker.APIClient(base_url=self.url, timeout=timeout)) as client:
            yield client

    @property
    def runs(self) -> bool:
        return self._dockerd is not None

    def terminate(self) -> None:
        """SIGTERM: without live-restore it stops its containers first, each with its own grace."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: its containers run on."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: its socket accepts connections, and nobody answers."""
        assert self._dockerd is not None
        self._dockerd.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._dockerd is not None
        self._dockerd.send_signal(signal.SIGCONT)

    def heal(self) -> None:
        """Bring it into the state in which every test finds it: running, without containers and live-restore."""
        if self._dockerd is not None:
            self.thaw()
            if self._live_restore:
                self.terminate()
        if self._dockerd is None:
            self.start()
        stuck = []
        with self.api() as api:
            for container in api.containers(all=True):
                try:
                    api.remove_container(container["Id"], force=True)
                except docker.errors.NotFound:
                    continue
                except docker.errors.APIError:
                    # One that a killed daemon was about to restart is "restarting" ever after: no process of it is
                    # there to be killed, and none comes (tried on 20.10).
                    stuck.append(container["Id"])
        if stuck:
            self.kill()
            for container_id in stuck:
                shutil.rmtree(self.home / "data" / "containers" / container_id)
            self.start()

    def close(self) -> None:
        if self._dockerd is not None:
            self.heal()
            self.terminate()
        self._containerd.terminate()
        self._containerd.wait(20)
        self._processes.close()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            # A killed daemon leaves its data folder bind-mounted onto itself.
            if line.split()[1].startswith(f"{self.home}/"):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=True)

    def _end(self, how: signal.Signals) -> None:
        assert self._dockerd is not None
        self._dockerd.send_signal(how)
        self._dockerd.wait(30)
        self._dockerd = None

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        log = self._processes.enter_context((self.home / f"{command[0]}.log").open("ab"))
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _write_configuration(self) -> Path:
        slow = self.home / "slow-runc"
        slow.write_text('#!/bin/sh\ncase " $* " in *" create "*) sleep 2 ;; esac\nexec runc "$@"\n')
        slow.chmod(0o755)
        (self.home / "daemon.json").write_text(json.dumps({"runtimes": {"slow": {"path": str(slow)}}}))
        path = self.home / "containerd.toml"
        path.write_text(
            f'version = 2\nroot = "{self.home}/containerd/root"\nstate = "{self.home}/containerd/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self.home}/containerd.sock"\n'
        )
        return path


@pytest.fixture(scope="session")
def private_daemon(engine_url: str) -> Iterator[PrivateEngine]:
    """The process behind ``private_engine``: started once, with the test image from the shared engine."""
    # A short path: a unix socket's has at most 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="gs-"))
    engine = PrivateEngine(home)
    try:
        engine.start()
        with contextlib.closing(docker.APIClient(base_url=engine_url, timeout=60)) as shared, engine.api() as own:
            own.load_image(b"".join(shared.get_image(IMAGE)))
        yield engine
    finally:
        engine.close()
        shutil.rmtree(home)


@pytest.fixture
def private_engine(private_daemon: PrivateEngine) -> Iterator[PrivateEngine]:
    """A running engine without containers, to be treated badly; the next test finds it healed."""
    private_daemon.heal()
    yield private_daemon
    private_daemon.heal()
