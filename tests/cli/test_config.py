"""Settings: which layer wins, what each value may be, and what is said of one that may not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor.config import Config, ConfigError, is_loopback, load
from supervisor.core.model import Gpu
from supervisor.core.processes import Allowed
from supervisor.core.values import BadValue
from supervisor.gpu.choice import GpuChoice, parse_gpus
from supervisor.hooks.choice import Hook
from supervisor.keys import create, revoke
from supervisor.settings import SETTINGS, _default_engine, parse_gpu_classes, parse_size_bytes


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment without any file or setting of this machine's."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")}


def read(environ: dict[str, str], toml: str | None = None, tmp_path: Path | None = None, **flags: str) -> Config:
    file = None
    if toml is not None:
        assert tmp_path is not None
        file = tmp_path / "given.toml"
        file.write_text(toml)
    return load(flags, environ, file=file, system_file=Path("/nonexistent"))


def test_no_setting_is_needed(home):
    config = read(home)

    assert (config.host, config.port, config.socket) == ("127.0.0.1", 8080, None)
    assert config.gpus == GpuChoice("auto")
    assert (config.headroom_mib, config.placement, config.gpu_classes, config.affinity_points) == (0, "pack", None, 1.0)
    assert (config.idle_timeout_ms, config.min_residency_ms, config.max_hold_ms) == (0, 0, 0)
    assert (config.enforce, config.claim_window_ms, config.aging) == ("stop", 10_000, 1.0)
    assert (config.ttl_min_ms, config.ttl_max_ms, config.queue_max) == (10_000, 3_600_000, 20_000)
    assert (config.allowed_hosts, config.allow_remote, config.label_prefix) == ((), False, "gpu.")


@pytest.mark.parametrize(
    ("layers", "port"),
    [
        pytest.param((), 8080, id="the default"),
        pytest.param(("system",), 1, id="the system's file over the default"),
        pytest.param(("system", "user"), 2, id="the user's file over the system's"),
        pytest.param(("system", "user", "file"), 3, id="a file that was named replaces both"),
        pytest.param(("system", "user", "environment"), 4, id="the environment over files"),
        pytest.param(("file", "environment"), 4, id="the environment over a file that was named"),
        pytest.param(("system", "user", "file", "environment", "flag"), 5, id="a flag over everything"),
    ],
)
def test_a_later_layer_wins(home, tmp_path, layers, port):
    files = {"system": tmp_path / "system.toml", "user": tmp_path / "config/gpu-supervisor/config.toml"}
    files["user"].parent.mkdir(parents=True)
    files["file"] = tmp_path / "named.toml"
    for number, name in enumerate(files, 1):
        if name in layers:
            files[name].write_text(f"port = {number}\n")
    if "environment" in layers:
        home["GPU_SUPERVISOR_PORT"] = "4"

    config = load(
        {"port": "5" if "flag" in layers else None},
        home,
        file=files["file"] if "file" in layers else None,
        system_file=files["system"],
    )

    assert config.port == port


def test_a_named_file_may_come_from_the_environment(home, tmp_path):
    (tmp_path / "named.toml").write_text('enforce = "observe"')

    assert read({**home, "GPU_SUPERVISOR_CONFIG": str(tmp_path / "named.toml")}).enforce == "observe"


def test_layers_are_merged_setting_by_setting(home, tmp_path):
    config = read({**home, "GPU_SUPERVISOR_AGING": "0.5"}, 'claim_window = "1m"\nqueue_max = 5', tmp_path, port="0")

    assert (config.claim_window_ms, config.queue_max, config.aging, config.port) == (60_000, 5, 0.5, 0)


EVERY_TOML = """
host = "::1"
port = 9000
socket = "/run/gs.sock"
socket_role = "read"
caller_leases = 4
caller_tickets = 8
caller_requests = 50
data_dir = "/data"
docker_host = "tcp://proxy:2375"
docker_write_host = "unix:///run/write.sock"
gpus = "sim:2x8192,1x24576"
headroom = 1024
placement = "spread"
gpu_classes = "high=2;low=0,SIM-1"
enforce = "adopt"
claim_window = 15
aging = 0
affinity = 2.5
idle_timeout = "30m"
min_residency = 90
max_hold = "2h"
processes = "terminate"
processes_grace = "1m"
processes_allow = ["user=anna", "exe=/usr/lib/xorg/*+user=root"]
processes_include_root = true
processes_include_graphics = true
allowed_hosts = ["gpu.lan", "box"]
allow_remote = true
label_prefix = "acme."
cgroup_kill = "off"
tripwire = true
ttl_min = "1m"
ttl_max = "2h"
queue_max = 100
journal_retention = "7d"
journal_retention_size = "1GiB"
log_format = "json"
log_level = "warning"
hooks = [{name = "phone", url_file = "/run/url", facts = ["alerts", "LeaseEnded"], targets = ["a*"], timeout = 5}]
"""
EVERY = Config(
    host="::1",
    port=9000,
    socket=Path("/run/gs.sock"),
    socket_role="read",
    caller_leases=4,
    caller_tickets=8,
    caller_requests=50.0,
    data_dir=Path("/data"),
    docker_host="tcp://proxy:2375",
    docker_write_host="unix:///run/write.sock",
    gpus=parse_gpus("sim:2x8192,1x24576"),
    headroom_mib=1_024,
    placement="spread",
    gpu_classes={"high": ("2",), "low": ("0", "SIM-1")},
    enforce="adopt",
    claim_window_ms=15_000,
    aging=0.0,
    affinity_points=2.5,
    idle_timeout_ms=1_800_000,
    min_residency_ms=90_000,
    max_hold_ms=7_200_000,
    processes="terminate",
    processes_grace_ms=60_000,
    processes_allow=(Allowed(user="anna"), Allowed(user="root", executable="/usr/lib/xorg/*")),
    processes_include_root=True,
    processes_include_graphics=True,
    allowed_hosts=("gpu.lan", "box"),
    allow_remote=True,
    label_prefix="acme.",
    cgroup_kill="off",
    tripwire=True,
    ttl_min_ms=60_000,
    ttl_max_ms=7_200_000,
    queue_max=100,
    journal_retention_ms=7 * 86_400_000,
    journal_retention_bytes=2**30,
    log_format="json",
    log_level="warning",
    hooks=(
        Hook(
            name="phone",
            url_file=Path("/run/url"),
            facts=("alerts", "LeaseEnded"),
            targets=("a*",),
            timeout_ms=5_000,
        ),
    ),
)
EVERY_TEXT = {
    "host": "::1",
    "port": "9000",
    "socket": "unix:///run/gs.sock",
    "socket_role": "read",
    "caller_leases": "4",
    "caller_tickets": "8",
    "caller_requests": "50",
    "data_dir": "/data",
    "docker_host": "tcp://proxy:2375",
    "docker_write_host": "unix:///run/write.sock",
    "gpus": "sim:2x8192,1x24576",
    "headroom": "1GiB",
    "placement": "spread",
    "gpu_classes": "high=2; low=0, SIM-1",
    "enforce": "adopt",
    "claim_window": "15",
    "aging": "0",
    "affinity": "2.5",
    "idle_timeout": "30m",
    "min_residency": "90",
    "max_hold": "2h",
    "processes": "terminate",
    "processes_grace": "1m",
    "processes_allow": "user=anna, exe=/usr/lib/xorg/*+user=root",
    "processes_include_root": "on",
    "processes_include_graphics": "1",
    "allowed_hosts": "gpu.lan, box",
    "allow_remote": "yes",
    "label_prefix": "acme.",
    "cgroup_kill": "off",
    "tripwire": "true",
    "ttl_min": "1m",
    "ttl_max": "2h",
    "queue_max": "100",
    "journal_retention": "7d",
    "journal_retention_size": "1GiB",
    "log_format": "json",
    "log_level": "warning",
    "hooks": '[{"name":"phone","url_file":"/run/url","facts":["alerts","LeaseEnded"],"targets":["a*"],"timeout":"5s"}]',
}


def test_every_setting_can_be_given_in_every_layer(home, tmp_path):
    assert EVERY_TEXT.keys() == {setting.key for setting in SETTINGS}

    variables = {f"GPU_SUPERVISOR_{key.upper()}": text for key, text in EVERY_TEXT.items()}

    assert read(home, EVERY_TOML, tmp_path) == EVERY
    assert read({**home, **variables}) == EVERY
    assert read(home, **EVERY_TEXT) == EVERY


@pytest.mark.parametrize(
    ("toml", "message", "hint"),
    [
        pytest.param("prot = 1", ":1: prot is no setting", "did you mean port?", id="a misspelt key"),
        pytest.param(
            '\n# hi\nclaim-window = "1s"',
            ":3: claim-window is no setting",
            "did you mean claim_window?",
            id="a key as the flag is written",
        ),
        pytest.param("[serve]\nport = 1", ":1: serve is no setting", "the settings are: host,", id="a section"),
        pytest.param(
            'aging = 1\nport = "8080"',
            ':2: port = "8080" has the wrong type',
            "write a whole number without quotes: port = 8080",
            id="a number in quotes",
        ),
        pytest.param(
            'allow_remote = "yes"',
            ':1: allow_remote = "yes" has the wrong type',
            "write true or false without quotes: allow_remote = true",
            id="a boolean in quotes",
        ),
        pytest.param("port = true", ":1: port = true has the wrong type", "whole number", id="true is no number"),
        pytest.param("port = 80.5", ":1: port = 80.5 has the wrong type", "whole number", id="half a port"),
        pytest.param(
            'allowed_hosts = "box"',
            ':1: allowed_hosts = "box" has the wrong type',
            "a list of texts",
            id="a text instead of a list",
        ),
        pytest.param(
            "allowed_hosts = [1]", ":1: allowed_hosts: 1 is no item", "a list of texts", id="a list of numbers"
        ),
        pytest.param("port = 70000", ':1: port: "70000" is more than 65535', "from 0 to 65535", id="beyond all ports"),
        pytest.param("port = -1", ':1: port: "-1" is less than 0', "from 0 to 65535", id="before all ports"),
        pytest.param("aging = -1", ':1: aging: "-1" is not a number of points', "0 for no aging", id="aging backwards"),
        pytest.param("aging = nan", ':1: aging: "nan" is not a number of points', "points per minute", id="nan"),
        pytest.param(
            'claim_window = "10 s"', ':1: claim_window: "10 s" is not a duration', "90s, 5m, 1h30m", id="a blank inside"
        ),
        pytest.param('claim_window = "0s"', ':1: claim_window: "0s" is no time at all', "10s", id="no window at all"),
        pytest.param(
            'enforce = "Stop"', ':1: enforce: "Stop" is not a mode', "did you mean stop?", id="a mode in capitals"
        ),
        pytest.param("affinity = -1", '"-1" is not a number of points', "points of priority", id="affinity backwards"),
        pytest.param('headroom = "1 GB?"', '"1 GB?" is not a size', "12GiB, 8192MiB", id="no size"),
        pytest.param("headroom = true", "has the wrong type", 'headroom = "1GiB"', id="true is no size"),
        pytest.param('placement = "packed"', '"packed" is not a placement', "did you mean pack?", id="a near miss"),
        pytest.param(
            'max_hold = "never"', '"never" is not a duration', "none switches it off", id="another word for none"
        ),
        pytest.param('gpus = "1x24576"', ':1: gpus: "1x24576" names no GPUs', "sim:1x24576", id="the sim: is missing"),
        pytest.param(
            'docker_host = "ssh://box"', '"ssh://box" is not the address', "needs its socket forwarded", id="ssh"
        ),
        pytest.param('host = "http://box"', '"http://box" is not an address', "127.0.0.1", id="a URL as an address"),
        pytest.param('host = ""', ":1: host is empty", "leave it out for its default, 127.0.0.1", id="nothing"),
        pytest.param(
            f'socket = "/{"x" * 107}"', "is too long for a unix socket", "at most 107 bytes", id="too long a path"
        ),
        pytest.param('label_prefix = "gpu"', '"gpu" is not a prefix', "ending with a dot", id="the dot is missing"),
        pytest.param(
            'journal_retention_size = "100"', '"100" is not a size', "512MiB or 2GiB", id="a size without its unit"
        ),
        pytest.param("port = ", "is not TOML", "one setting a line", id="half a line"),
        pytest.param(
            'ttl_min = "2h"', 'ttl_min ("2h", ', "set both, or neither", id="the shortest TTL above the longest"
        ),
        pytest.param('enforce = "\\u001b[31m"', r'"\x1b[31m" is not a mode', "one of: stop", id="a terminal's escape"),
    ],
)
def test_a_wrong_file_is_refused_with_file_line_key_and_what_to_write(home, tmp_path, toml, message, hint):
    with pytest.raises(ConfigError) as caught:
        read(home, toml, tmp_path)

    assert message in str(caught.value)
    assert str(tmp_path / "given.toml") in str(caught.value)
    assert hint in caught.value.hint


def test_a_named_file_must_exist(home, tmp_path):
    with pytest.raises(ConfigError, match="No such file") as caught:
        load({}, home, file=tmp_path / "missing.toml")
    assert caught.value.hint == f"write one with: gpu-supervisor config init {tmp_path}/missing.toml"


def test_a_file_that_is_not_text_is_refused(home, tmp_path):
    (tmp_path / "given.toml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="is not TOML"):
        load({}, home, file=tmp_path / "given.toml")


@pytest.mark.parametrize(
    ("variables", "message", "hint"),
    [
        pytest.param(
            {"GPU_SUPERVISOR_PROT": "1"},
            "the environment variable GPU_SUPERVISOR_PROT is no setting",
            "did you mean GPU_SUPERVISOR_PORT?",
            id="a misspelt name",
        ),
        pytest.param(
            {"GPU_SUPERVISOR_PORT": "http"},
            'GPU_SUPERVISOR_PORT: "http" is not a whole number',
            "write a number from 0 to 65535",
            id="a wrong value",
        ),
        pytest.param(
            {"GPU_SUPERVISOR_ALLOW_REMOTE": "ture"},
            'GPU_SUPERVISOR_ALLOW_REMOTE: "ture" is not a boolean',
            "did you mean true?",
            id="a misspelt boolean",
        ),
    ],
)
def test_a_wrong_variable_is_refused_by_name(home, variables, message, hint):
    with pytest.raises(ConfigError) as caught:
        read({**home, **variables})

    assert str(caught.value) == message
    assert caught.value.hint == hint


def test_everything_that_is_wrong_is_said_at_once(home, tmp_path):
    variables = {"GPU_SUPERVISOR_PORT": "http", "GPU_SUPERVISOR_QUEUE_MAXI": "3"}

    with pytest.raises(ConfigError) as caught:
        read({**home, **variables}, 'enforce = "stopp"\nprot = 1\naging = "1"', tmp_path, claim_window="soon")

    every = {str(error).removeprefix(f"{tmp_path}/"): error.hint for error in (caught.value, *caught.value.others)}
    assert {message: hint.partition(":")[0].partition(",")[0] for message, hint in every.items()} == {
        "given.toml:2: prot is no setting": "did you mean port?",
        'given.toml:3: aging = "1" has the wrong type': "write a number without quotes",
        "the environment variable GPU_SUPERVISOR_QUEUE_MAXI is no setting": "did you mean GPU_SUPERVISOR_QUEUE_MAX?",
        'GPU_SUPERVISOR_PORT: "http" is not a whole number': "write a number from 0 to 65535",
        'given.toml:1: enforce: "stopp" is not a mode': "did you mean stop? one of",
        '--claim-window: "soon" is not a duration': "write seconds (90)",
    }


def test_an_unreadable_file_does_not_hide_what_is_wrong_elsewhere(home, tmp_path):
    with pytest.raises(ConfigError, match="No such file") as caught:
        load({"port": "http"}, home, file=tmp_path / "missing.toml")

    assert [str(error) for error in caught.value.others] == ['--port: "http" is not a whole number']


def test_empty_variables_and_those_of_the_client_are_no_settings(home):
    assert read({**home, "GPU_SUPERVISOR_PORT": "", "GPU_SUPERVISOR_URL": "http://box"}).port == 8080


def test_a_wrong_flag_is_named_as_it_was_typed(home):
    with pytest.raises(ConfigError, match='--claim-window: "soon" is not a duration'):
        read(home, claim_window="soon")


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        pytest.param("auto", (), id="none of ours before the driver was asked"),
        pytest.param("sim:1x24576", (Gpu("SIM-0", 0, "simulated", 24_576, 0),), id="one simulated"),
        pytest.param(
            "sim:2x8192, 1x24576",
            (
                Gpu("SIM-0", 0, "simulated", 8_192, 0),
                Gpu("SIM-1", 1, "simulated", 8_192, 0),
                Gpu("SIM-2", 2, "simulated", 24_576, 0),
            ),
            id="several groups are numbered through",
        ),
    ],
)
def test_gpus_are_read(text, gpus):
    assert parse_gpus(text).simulated == gpus


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AUTO",
        "sim",
        "sim:",
        "sim:24576",
        "sim:0x1",
        "sim:1x0",
        "sim:1x8GiB",
        "sim:65x1",
        "sim:40x1,40x1",
        "sim:1x1,",
    ],
)
def test_gpus_that_cannot_be_read_are_refused_with_an_example(text):
    with pytest.raises(BadValue) as caught:
        parse_gpus(text)

    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("high", '"high" is not name=GPUs', id="a name alone"),
        pytest.param("Big GPU=0", '"Big GPU" is not the name of a class', id="no name"),
        pytest.param("high=0;high=1", "high is there twice", id="a name twice"),
        pytest.param("high=", '"" names no GPU', id="no GPU"),
        pytest.param("high=0,-1", '"-1" names no GPU', id="before the first GPU"),
        pytest.param("high=GPU-5e", '"GPU-5e" names no GPU', id="too short to be told from others"),
    ],
)
def test_classes_of_gpus_that_cannot_be_read_are_refused(text, message):
    with pytest.raises(BadValue, match=re.escape(message)):
        parse_gpu_classes(text)


@pytest.mark.parametrize("text", ["", "512", "0MiB", "1.5GiB", "1GB", "-1GiB", "1 GiB"])
def test_sizes_need_a_whole_number_and_a_unit(text):
    with pytest.raises(BadValue):
        parse_size_bytes(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_permission(home, host):
    assert is_loopback(host)
    assert read(home, host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "box.lan", "localhost.evil.example"])
def test_another_address_than_loopback_is_refused_until_it_is_asked_for(home, host):
    with pytest.raises(ConfigError, match="is not a loopback address") as caught:
        read(home, host=host)

    assert "--allow-remote" in caught.value.hint
    assert "gpu-supervisor token create" in caught.value.hint
    assert read(home, host=host, allow_remote="true").host == host
    assert not read(home, host=host, allow_remote="true").needs_keys


@pytest.mark.parametrize("revoked", [False, True])
def test_keys_are_enough_to_listen_to_others_even_if_all_are_revoked(home, tmp_path, revoked):
    create(tmp_path, "ci", "lease")
    if revoked:
        revoke(tmp_path, "ci")

    assert read(home, host="0.0.0.0", data_dir=str(tmp_path)).needs_keys


def test_data_lie_under_var_lib_for_root_and_at_home_for_others(home, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert read(home).data_dir == Path("/var/lib/gpu-supervisor")

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert read(home).data_dir == Path(home["XDG_STATE_HOME"]) / "gpu-supervisor"


def test_the_engine_is_the_one_of_the_docker_command(tmp_path, monkeypatch):
    system, rootless = tmp_path / "system.sock", tmp_path / "docker.sock"
    monkeypatch.setattr("supervisor.settings.SYSTEM_ENGINE", f"unix://{system}")
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}

    assert _default_engine(environ) == f"unix://{system}"
    rootless.touch()
    assert _default_engine(environ) == f"unix://{rootless}"
    system.touch()
    assert _default_engine(environ) == f"unix://{system}"
    assert _default_engine({**environ, "DOCKER_HOST": "tcp://box:2375"}) == "tcp://box:2375"
