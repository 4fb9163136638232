"""``targets``, ``queue``, ``renew``, ``evict`` and the dry run; and what holds for every command there is."""

from __future__ import annotations

import io
import json
import shlex
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import typer
from typer.main import get_command

from supervisor.answers import Ahead, Events, ForecastAnswer, TargetsView
from supervisor.cli.app import WrongCommandLine, app
from supervisor.cli.errors import MEANINGS
from supervisor.cli.moving import NOT_MOVED
from supervisor.core.model import Endpoint, Problem
from supervisor.settings import SETTINGS
from tests.cli.fake import FakeServer
from tests.cli.fake import Problem as Answer
from tests.cli.test_reading import NO_MASTER, STATUS, document, view

CONTAINER = {
    "id": "c1",
    "name": "comfyui-web-1",
    "service": "web",
    "master": True,
    "one_off": False,
    "status": "running",
    "health": "healthy",
    "exit_code": 0,
    "vram_mib": 8_192,
    "restart_policy": "no",
    "endpoint": None,
}
INIT = {**CONTAINER, "name": "comfyui-init-1", "service": "init", "master": False, "status": "exited", "exit_code": 3}
INIT |= {"health": "none", "vram_mib": None, "one_off": True}
COMFYUI = view("comfyui", state="ready", lease="l_abc", priority=5, seen_mib=7_000, containers=(CONTAINER, INIT))


# ---- targets


def test_targets_are_a_table_with_what_is_wrong_below_it(fake: FakeServer, run):
    stray = Problem("bad_target_name", "container x: bad name", severity="warning")
    size = {"vram_mib": None, "seen_mib": 5_000, "suggested_label": "gpu.vram: 5.25GiB"}
    whisper = view("whisper", state="invalid", problems=(NO_MASTER,), **size)
    fake.documents["/v1/targets"] = document(TargetsView((COMFYUI, whisper), (stray,)))

    assert run("targets") == (
        0,
        """\
Targets:
  target   state    lease  declared       seen      priority  containers      problems
  comfyui  ready    l_abc  8192 MiB       7000 MiB  5         1 of 2 running  -
  whisper  invalid  -      the whole GPU  5000 MiB  0         -               1 error
whisper declares nothing and was seen to use 5000 MiB: gpu.vram: 5.25GiB would leave the rest to others
error: no container of whisper is the master; label one of them
warning: container x: bad name
""",
        "",
    )


def test_without_any_target_the_next_step_is_said(fake: FakeServer, run):
    fake.documents["/v1/targets"] = document(TargetsView((), ()))

    assert run("targets") == (
        0,
        "no target yet: label a compose file with gpu.target, then docker compose create\n",
        "",
    )


def test_one_target_is_shown_with_its_containers(fake: FakeServer, run):
    fake.documents["/v1/targets/comfyui"] = document(
        msgspec.structs.replace(COMFYUI, endpoint=Endpoint("127.0.0.1", 8188))
    )

    assert run("targets", "comfyui") == (
        0,
        """\
comfyui is ready: needs 8192 MiB, seen to use 7000 MiB, priority 5, lease l_abc, Compose project comfyui
  on no GPU now; shares with none; 0 of 1 holders
Containers:
  container       service  status    health   needs     restart  notes
  comfyui-web-1   web      running   healthy  8192 MiB  no       master
  comfyui-init-1  init     exited 3  -        -         no       one-off
it answers at 127.0.0.1:8188
""",
        "",
    )


def test_one_target_is_shown_with_where_it_is_whom_it_shares_with_and_its_limits(fake: FakeServer, run):
    fake.documents["/v1/targets/comfyui"] = document(
        view(
            "comfyui",
            vram_mib=None,
            seen_mib=5_000,
            suggested_label="gpu.vram: 5.25GiB",
            gpus=("SIM-0", "SIM-1"),
            devices=("all",),
            gpu_class="high",
            coexist_with="ollama, @small",
            groups=("images",),
            holders=2,
            max_holders=None,
            idle_timeout_seconds=1_800,
            min_residency_seconds=120,
            max_hold_seconds=14_400,
        )
    )

    _, out, _ = run("targets", "comfyui")

    assert out.splitlines()[1:3] == [
        "  on SIM-0, SIM-1; pinned to all; class high; shares with ollama, @small; in groups images; "
        "2 of any number of holders; stopped after 1800 s without a lease; not evicted for 120 s after its start; "
        "held for 14400 s at most while others wait",
        "comfyui declares nothing and was seen to use 5000 MiB: gpu.vram: 5.25GiB would leave the rest to others",
    ]


@pytest.mark.parametrize(
    ("fields", "last"),
    [
        pytest.param(
            {"state": "absent", "create": "docker compose -p comfyui -f /srv/c.yml create"},
            "its containers are gone; create them with: docker compose -p comfyui -f /srv/c.yml create",
            id="an absent one with what to type",
        ),
        pytest.param({"state": "stopped"}, "next: gpu-supervisor acquire comfyui", id="one that can be leased"),
        pytest.param(
            {"state": "invalid", "problems": (NO_MASTER,)},
            "error: no container of whisper is the master; label one of them",
            id="one that must be mended first",
        ),
    ],
)
def test_one_target_ends_with_what_to_do_about_it(fake: FakeServer, run, fields, last):
    fake.documents["/v1/targets/comfyui"] = document(view("comfyui", **fields))

    assert run("targets", "comfyui")[1].splitlines()[-1] == last


def test_of_an_absent_target_nothing_is_said_that_only_its_containers_could_say(fake: FakeServer, run):
    gone = view("comfyui", state="absent", vram_mib=None, seen_mib=5_000, project="images", create="CREATE")
    fake.documents["/v1/targets/comfyui"] = document(gone)

    assert run("targets", "comfyui")[1].splitlines() == [
        "comfyui is absent: seen to use 5000 MiB, Compose project images",
        "its containers are gone; create them with: CREATE",
    ]


def test_an_unknown_target_is_an_error_with_the_nearest_name(fake: FakeServer, run):
    fake.documents["/v1/targets/comfy"] = Answer(
        404, "target_unknown", "no container is labelled gpu.target=comfy; did you mean comfyui?"
    )

    assert run("targets", "comfy") == (
        1,
        "",
        "error: no container is labelled gpu.target=comfy; did you mean comfyui?\n"
        "hint:  see what there is with: gpu-supervisor targets\n",
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(["why", "comfyui-wbe-1"], "hint:  did you mean comfyui-web-1?\n", id="a container"),
        pytest.param(["why", "comfyiu"], "hint:  did you mean comfyui?\n", id="a target that was stopped"),
        pytest.param(["why", "else"], "hint:  see what there is with: gpu-supervisor targets\n", id="nothing alike"),
        pytest.param(["release", "--force", "--target", "comfyiu"], "hint:  did you mean comfyui?\n", id="a lease"),
        pytest.param(
            ["audit", "--target", "comfyiu"],
            "nothing was decided about comfyiu; did you mean comfyui?\n",
            id="a target in the audit",
        ),
        pytest.param(["audit", "--target", "comfyui"], "nothing was decided about comfyui\n", id="one that there is"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest_one_that_there_is(fake: FakeServer, run, line, said):
    fake.documents["/v1/targets"] = document(TargetsView((COMFYUI,), ()))
    fake.documents["/v1/events"] = document(Events((), 7))
    fake.documents[f"/v1/why/{line[1]}"] = Answer(404, "target_unknown", "nothing is known by this name")

    _, out, err = run(*line)

    assert out == ""
    assert err.endswith(said)


# ---- queue, renew, evict


def test_the_queue_is_shown_behind_whoever_has_the_gpu(fake: FakeServer, run):
    waiting = msgspec.structs.replace(STATUS.queue[0], until="2001-01-02T03:09:05.000Z")
    fake.documents["/v1/status"] = document(msgspec.structs.replace(STATUS, queue=(waiting,)))

    assert run("queue") == (
        0,
        "comfyui holds the GPU (owner ann), until 2001-01-02 03:09:05 unless renewed\n"
        "Queue:\n"
        "  place  target  owner        priority  needs         since                until                "
        "ticket  waits because\n"
        "  1      (bare)  bob\\x1b[31m  5         2 x 8192 MiB  2001-01-02 03:05:05  2001-01-02 03:09:05  "
        "l_def   comfyui holds the GPU (owner ann)\n",
        "",
    )


@pytest.mark.parametrize(
    ("answer", "more", "said"),
    [
        pytest.param({"moved": True, "position": 0}, (), "l_1 is at place 1 with priority 5\n", id="it is moved"),
        pytest.param(
            {"moved": False, "position": 2, "reason": "dry_run"},
            ("--dry-run",),
            "l_1 would be at place 3 with priority 5\n",
            id="it is only looked",
        ),
    ],
)
def test_a_ticket_is_moved(fake: FakeServer, run, answer, more, said):
    fake.answers["POST /v1/leases/l_1/move"] = answer
    assert run("move", "l_1", "--priority", "5", *more) == (0, said, "")
    assert fake.calls == [("POST /v1/leases/l_1/move", {"priority": 5, **({"dry_run": True} if more else {})})]
    assert json.loads(run("move", "l_1", "--priority", "5", *more, "--json")[1]) == answer


@pytest.mark.parametrize("reason", ["granted", "claimable", "unknown_or_ended"])
def test_what_does_not_wait_is_not_moved(fake: FakeServer, run, reason):
    fake.answers["POST /v1/leases/l_1/move"] = {"moved": False, "position": None, "reason": reason}
    status, out, err = run("move", "l_1", "--priority", "-5")
    assert (status, out) == (1, "")
    assert err == f"error: l_1: {NOT_MOVED[reason]}\nhint:  see who waits with: gpu-supervisor queue\n"


def test_a_holder_that_was_told_its_end_is_shown_with_it(fake: FakeServer, run):
    told = msgspec.structs.replace(
        STATUS.leases[0], gpus=("SIM-0", "SIM-1"), ends_at="2001-01-02T03:08:00.000Z", joined=True
    )
    fake.documents["/v1/status"] = document(msgspec.structs.replace(STATUS, leases=(told,), queue=()))
    said = "comfyui holds 2 GPUs (owner ann), until 2001-01-02 03:08:00 if others still wait then\nnobody waits\n"
    assert run("queue") == (0, said, "")


def test_a_renewal_says_when_the_lease_ends_because_others_wait(fake: FakeServer, run):
    run("acquire", "comfyui", "--detach")
    fake.ends_at = "2001-01-02T03:08:00.000Z"
    ends = "others wait, and it ends at 2001-01-02 03:08:00 if they still do"
    assert run("renew", "t-1") == (0, f"renewed until 2001-01-02 03:09:05, 60 s from now; {ends}\n", "")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param({"opened": True}, "GPU-1 is open again\n", id="it was closed"),
        pytest.param(
            {"opened": False, "reason": "not_closed"},
            "GPU-1 was not closed: there was nothing to open\n",
            id="it was open",
        ),
    ],
)
def test_an_operator_says_that_a_gpu_is_clean(fake: FakeServer, run, answer, said):
    fake.opens["GPU-1"] = answer
    assert run("open-gpu", "GPU-1") == (0, said, "")
    status, out, _ = run("open-gpu", "GPU-1", "--json")
    assert (status, json.loads(out)) == (0, answer)


def test_a_gpu_that_is_not_there_cannot_be_opened(fake: FakeServer, run):
    status, out, err = run("open-gpu", "GPU-7")
    assert (status, out) == (1, "")
    assert err.startswith("error: there is no GPU GPU-7\n")


def test_an_empty_queue_is_said(fake: FakeServer, run):
    fake.documents["/v1/status"] = document(msgspec.structs.replace(STATUS, leases=(), queue=()))

    assert run("queue") == (0, "nobody waits\n", "")


def test_a_detached_lease_is_renewed_by_its_token_from_stdin_too(fake: FakeServer, run, monkeypatch):
    run("acquire", "comfyui", "--detach")
    said = "renewed until 2001-01-02 03:09:05, 60 s from now\n"

    assert run("renew", "t-1") == (0, said, "")
    monkeypatch.setattr("sys.stdin", io.StringIO("t-1\n"))
    assert run("renew", "-") == (0, said, "")
    assert fake.renewals == 2


def test_a_lease_that_has_ended_cannot_be_renewed(fake: FakeServer, run):
    status, out, err = run("renew", "t-gone")

    assert (status, out) == (1, "")
    assert err.startswith("error: this lease has ended (unknown)\n")
    assert "t-gone" not in err


def test_no_token_on_stdin_is_a_wrong_command_line(fake: FakeServer, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    assert run("renew", "-")[0] == 2


def test_a_resident_target_is_evicted_and_one_that_is_not_is_an_error(fake: FakeServer, run):
    fake.residents = {"comfyui"}
    fake.refusals["ollama"] = Answer(409, "target_leased", "ollama is leased: release its lease first")

    assert run("evict", "comfyui") == (0, "comfyui is being stopped\n", "")
    assert run("evict", "comfyui") == (
        1,
        "",
        "error: comfyui is not resident: there is nothing to stop\n"
        "hint:  see what it does with: gpu-supervisor targets comfyui\n",
    )
    assert run("evict", "ollama")[0] == 1


# ---- a dry run

GRANT = ForecastAnswer(
    would="grant",
    why="the GPU is free; ollama would be started, and comfyui stopped for it",
    code=None,
    retryable=False,
    target="ollama",
    consumer="ollama",
    owner="ann",
    priority=0,
    gpus=("SIM-0",),
    vram_mib=12_000,
    evicts=("comfyui",),
    start="cold",
    position=None,
    ahead=(),
    until=None,
    problems=(),
)
WAIT = msgspec.structs.replace(
    GRANT,
    would="wait",
    why="comfyui holds the GPU (owner bob); it would get place 2 in the queue",
    code="gpu_busy",
    retryable=True,
    evicts=(),
    position=1,
    ahead=(Ahead("l_1", "comfyui", "bob", 3, "ready"), Ahead("l_2", None, "eve", 9, "queued")),
    until="2001-01-02T03:09:05.000Z",
)
REFUSE = msgspec.structs.replace(
    GRANT, would="refuse", why="the labels of ollama must be mended", code="target_invalid", problems=(NO_MASTER,)
)


@pytest.mark.parametrize(
    ("forecast", "arguments", "status", "out"),
    [
        pytest.param(
            GRANT,
            (),
            0,
            "ollama would be granted now: the GPU is free; ollama would be started, and comfyui stopped for it\n"
            "  gets     12000 MiB on SIM-0\n"
            "  start    cold: it would be started\n"
            "  evicts   comfyui\n",
            id="granted",
        ),
        pytest.param(
            msgspec.structs.replace(
                GRANT, why="ollama is leased (owner bob), and may have more holders than 1", evicts=(), start="joined"
            ),
            (),
            0,
            "ollama would be granted now: ollama is leased (owner bob), and may have more holders than 1\n"
            "  gets     12000 MiB on SIM-0\n"
            "  start    joined: it is leased already, and would be shared\n",
            id="a holder more",
        ),
        pytest.param(
            WAIT,
            (),
            3,
            "ollama would have to wait: comfyui holds the GPU (owner bob); it would get place 2 in the queue\n"
            "  place    2\n"
            "  ahead    comfyui of bob: ready, priority 3\n"
            "  ahead    (bare) of eve: queued, priority 9\n"
            "  until    2001-01-02 03:09:05 unless renewed\n",
            id="queued",
        ),
        pytest.param(
            WAIT,
            ("--wait", "0"),
            3,
            "ollama would be refused (gpu_busy): comfyui holds the GPU (owner bob); "
            "it would get place 2 in the queue\n"
            "  place    2\n"
            "  ahead    comfyui of bob: ready, priority 3\n"
            "  ahead    (bare) of eve: queued, priority 9\n"
            "  until    2001-01-02 03:09:05 unless renewed\n",
            id="refused where it does not wait",
        ),
        pytest.param(
            REFUSE,
            (),
            1,
            "ollama would be refused (target_invalid): the labels of ollama must be mended\n"
            "error: no container of whisper is the master; label one of them\n",
            id="refused for good",
        ),
        pytest.param(
            msgspec.structs.replace(REFUSE, retryable=True, problems=(), code="storage_full", why="the disk is full"),
            (),
            3,
            "ollama would be refused (storage_full): the disk is full; the same may succeed later\n",
            id="refused for now",
        ),
    ],
)
def test_a_dry_run_says_what_would_happen_and_does_nothing(
    fake: FakeServer, run, tmp_path, forecast, arguments, status, out
):
    fake.forecast = document(forecast)

    assert run("acquire", "ollama", "--dry-run", *arguments, "--", "touch", str(tmp_path / "ran")) == (status, out, "")
    assert (fake.holder, fake.queue, (tmp_path / "ran").exists()) == (None, [], False)
    assert run("acquire", "ollama", "--dry-run", "--json") == (status, json.dumps(fake.forecast) + "\n", "")


def test_a_dry_run_asks_for_what_was_typed(fake: FakeServer, run):
    fake.forecast = document(GRANT)
    run("acquire", "ollama", "--dry-run", "--owner", "ann", "--priority", "7")

    assert fake.asked[0] | {"ttl_seconds": 0} == {
        "target": "ollama",
        "owner": "ann",
        "priority": 7,
        "ttl_seconds": 0,
        "wait_ready": True,
        "queue": True,
        "dry_run": True,
    }


# ---- JSON


def test_answers_to_a_program_are_the_servers(fake: FakeServer, run):
    fake.documents["/v1/targets"] = document(TargetsView((COMFYUI,), ()))
    fake.documents["/v1/targets/comfyui"] = document(COMFYUI)
    fake.documents["/v1/status"] = document(STATUS)
    fake.residents = {"comfyui"}

    def answer(*arguments: str) -> Any:
        status, out, err = run(*arguments, "--json")
        assert (status, err, out.count("\n")) == (0, "", 1)
        return json.loads(out)

    assert answer("targets") == document(TargetsView((COMFYUI,), ()))
    assert answer("targets", "comfyui") == document(COMFYUI)
    assert answer("queue") == {"leases": document(STATUS.leases), "queue": document(STATUS.queue)}
    assert answer("evict", "comfyui") == {"evicted": True}
    lease = answer("acquire", "ollama", "--detach")
    assert (lease["token"], lease["fence"], lease["target"]) == ("t-1", 7, "ollama")
    assert answer("renew", "t-1")["ttl_seconds"] == 60
    assert answer("release", "t-1") == {"released": True}
    fake.take()
    assert answer("release", "--force") == {"released": True}


def test_a_program_that_holds_a_lease_gets_it_on_stdout_and_progress_on_stderr(fake: FakeServer, run, quick):
    fake.take()
    fake.until_at = "2001-01-02T03:09:05.000Z"

    def free_it() -> None:
        fake.until(lambda: fake.looks >= 2)  # by the second look it has told of the first
        fake.end("t-other", "released")

    threading.Thread(target=free_it).start()

    status, out, err = run("acquire", "ollama", "--json", "--", "echo", "done")

    lease, said = out.splitlines()
    records = [json.loads(line) for line in err.splitlines()]
    assert (status, said) == (0, "done")
    assert json.loads(lease)["fence"] == 7
    assert "t-1" not in lease + err, "we renew and release, so nobody else needs the token"
    assert [record["event"] for record in records] == ["waiting"]
    assert (records[0]["position"], records[0]["until"]) == (0, fake.until_at)
    assert "comfyui holds the GPU (owner ann)" in records[0]["why"]


def test_an_error_for_a_program_is_json_with_its_exit_status(fake: FakeServer, run):
    fake.take()

    status, out, err = run("acquire", "ollama", "--wait", "0", "--json")

    error = json.loads(err)
    assert (status, out) == (3, "")
    assert (error["event"], error["code"], error["retryable"], error["exit_status"]) == ("error", "gpu_busy", True, 3)
    assert error["message"] == "comfyui holds the GPU (owner ann)"
    assert "queue" in error["hint"]
    assert error["context"]["expires_at"] == "2001-01-02T03:09:05.000Z"
    assert json.loads(run("statsu", "--json")[2])["code"] == "usage"


# ---- what holds for every command


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be typed, with its path: the groups too."""
    command = command or get_command(app)
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


ALL = dict(commands())
LEAVES = {path: command for path, command in ALL.items() if not hasattr(command, "commands")}


def test_the_commands_are_those_that_are_promised():
    assert {path[0] for path in LEAVES} == {
        *("serve", "status", "targets", "acquire", "renew", "release", "queue", "evict", "move", "open-gpu", "ps"),
        *("audit", "why", "top", "check", "journal", "config", "shim", "completion", "token"),
    }


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "root")
def test_help_has_examples_that_are_command_lines_of_that_command(run, path):
    status, out, _ = run(*path, "--help")

    examples = [line.strip() for line in out.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()]
    assert (status, bool(examples)) == (0, True)
    for example in examples:
        line = example.partition("gpu-supervisor ")[2].partition(" |")[0].partition(" >")[0].rstrip(")")
        words = shlex.split(line.partition(" -- ")[0])
        assert tuple(words[: len(path)]) == path, example
        read_line(words)


def read_line(words: list[str]) -> None:
    """Read a command line without running it. Raises what is wrong with it."""
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("gpu-supervisor", words)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_option_and_argument_is_explained(path):
    for parameter in LEAVES[path].params:
        assert parameter.help, parameter.name


@pytest.mark.parametrize(
    "path", [path for path in LEAVES if path not in (("serve",), ("completion",), ("top",))], ids=" ".join
)
def test_every_command_that_answers_does_so_in_json_too(path):
    assert any("--json" in parameter.opts for parameter in LEAVES[path].params)


@pytest.mark.parametrize("path", [("serve",), ("config", "show")], ids=" ".join)
def test_every_setting_is_an_option_where_settings_are_read(path):
    options = {option for parameter in LEAVES[path].params for option in parameter.opts}

    assert {setting.flag for setting in SETTINGS} <= options


def test_every_exit_status_is_explained_in_the_help(run):
    for path in ((), ("acquire",)):
        _, out, _ = run(*path, "--help")
        for status, meaning in MEANINGS.items():
            assert f"  {status}  {meaning}\n" in out


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        pytest.param(["statsu"], "did you mean 'status'", id="a command"),
        pytest.param(["journal", "shwo"], "did you mean 'show'?", id="a command of a group"),
        pytest.param(["acquire", "x", "--detahc"], "did you mean --detach?", id="an option"),
        pytest.param(["serve", "--claimwindow", "1s"], "did you mean --claim-window?", id="a setting"),
        pytest.param(["release", "--traget", "x"], "did you mean --target?", id="an option with a value"),
    ],
)
def test_what_was_mistyped_is_answered_with_what_was_meant(run, line, meant):
    status, out, err = run(*line)

    assert (status, out) == (2, "")
    assert meant in err
    assert "--help" in err


def test_a_command_line_that_is_nothing_shows_the_help(run):
    status, out, err = run()

    assert status == 2
    assert "Commands:" in out + err


def test_an_example_with_an_option_that_does_not_exist_would_be_noticed():
    with pytest.raises(WrongCommandLine):
        read_line(["acquire", "x", "--nope"])


def test_what_typer_raises_is_still_what_we_catch(run):
    """The class is found by its place: see ``app.WrongCommandLine``."""
    assert WrongCommandLine.__name__ == "UsageError"
    assert issubclass(typer.BadParameter, WrongCommandLine)
    assert run("why")[0] == 2
