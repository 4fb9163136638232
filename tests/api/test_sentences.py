"""Each fact has one sentence, whatever its names hold."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.api.audit import event
from supervisor.api.sentences import sentence
from supervisor.core import facts
from supervisor.core.facts import (
    AnyFact,
    ContainerRefused,
    ContainerSpared,
    FirstSync,
    GpuClosed,
    GpuOpened,
    LeaseEnded,
    LeaseGranted,
    LeaseRestarted,
    LeaseRetimed,
    LeaseTold,
    ProcessMissed,
    ProcessReported,
    ProcessSignalled,
    ResidencyBegan,
    ResidencyEnded,
    RoomVerified,
    SignalFailed,
    StopFailed,
    SupervisorStarted,
    SupervisorStopped,
    TargetDown,
    TargetReady,
    TargetRemembered,
    TicketEnded,
    TicketKept,
    TicketMoved,
    TicketQueued,
    UseSeen,
    WindowOpened,
)
from supervisor.core.model import Terms, Tie
from supervisor.telling import names

AT = {"at_ms": 1_000, "wall_ms": 1_790_000_000_000}
ANN = Terms(target="comfyui", owner="ann", priority=5, ttl_ms=60_000, scope="SCOPE", body="BODY")
BARE = Terms(target=None, owner="ann", priority=0, ttl_ms=60_000)


def ticket(terms: Terms = ANN) -> dict[str, Any]:
    return {"id": "l_1", "token_hash": "HASH", "token_known": True, "terms": terms}


def granted(terms: Terms = ANN, **values: Any) -> LeaseGranted:
    return LeaseGranted(**AT, **ticket(terms), fence=4, project="p", gpus=("SIM-0",), vram_mib=None, **values)


def ended(reason: str, *, resident: bool = False, **values: Any) -> LeaseEnded:
    return LeaseEnded(**AT, id="l_1", reason=reason, resident=resident, owner="ann", target="comfyui", **values)


def refused(reason: str, holder: str | None = None, **values: Any) -> ContainerRefused:
    named = {"container_id": "c1", "container": "comfyui-1", "target": "comfyui", "service": "main"}
    return ContainerRefused(**AT, **named, reason=reason, holder=holder, **{"action": "kill", **values})


def no_longer(reason: str, *for_whom: str | None) -> ResidencyEnded:
    return ResidencyEnded(**AT, target="comfyui", reason=reason, **dict(zip(WHOM, for_whom, strict=False)))


WHOM = ("for_lease", "for_target", "for_owner")

MISSED: dict[str, Any] = {
    "pid": 4_712,
    "gpu": "GPU-1",
    "started_wall_ms": 1_700_000_000_000,
    "ran_ms": 900,
    "peak_mib": 612,
    "gpu_percent": 38,
    "memory_percent": 4,
    "container": None,
}
STRANGER: dict[str, Any] = {
    "pid": 4_711,
    "started": 7,
    "started_wall_ms": 1,
    "name": "python3",
    "user": "eve",
    "command": "python3 x.py",
    "container": "notebook",
    "holds": (("GPU-1", 9_000), ("GPU-2", None)),
    "ancestors": ("bash (40)", "sshd (9)"),
}

SENTENCES: list[tuple[AnyFact, str]] = [
    (SupervisorStarted(**AT, boot_id="b", boot_ms=1, version="1.2"), "supervisor 1.2 started"),
    (SupervisorStopped(**AT, reason="SIGTERM"), "supervisor stopped (SIGTERM): leases and containers stay"),
    (FirstSync(**AT, residents=()), "first look at the engine"),
    (FirstSync(**AT, residents=("a", "b")), "first look at the engine: a, b ran already and may stay"),
    (TicketQueued(**AT, **ticket()), "ann queued for comfyui with priority 5 (ticket l_1)"),
    (TicketQueued(**AT, **ticket(BARE)), "ann queued for the GPU alone with priority 0 (ticket l_1)"),
    (
        TicketMoved(**AT, id="l_1", priority=9, before=-1, owner="ann", target="comfyui"),
        "the ticket of ann for comfyui was moved by an operator: priority 9 instead of -1 (l_1)",
    ),
    (TicketKept(**AT, id="l_1"), "ticket l_1 keeps its place: its caller comes back with its token"),
    (
        TicketEnded(**AT, id="l_1", reason="ticket_expired", owner="ann", target=None),
        "the ticket of ann for the GPU alone ended: its turn came and was not claimed in time",
    ),
    (
        TicketEnded(**AT, id="l_1", reason="target_absent", owner="ann", target="comfyui"),
        "the ticket of ann for comfyui ended (target_absent)",
    ),
    (
        TicketEnded(**AT, id="l_1", reason="forced", owner="ann", target="comfyui"),
        "the ticket of ann for comfyui was cancelled by an operator",
    ),
    (
        WindowOpened(**AT, id="l_1", until_ms=11_000, owner="ann", target="comfyui"),
        "it is the turn of ann for comfyui, to be claimed until 2026-09-21T14:13:30.000Z",
    ),
    (granted(), "comfyui is leased to ann (lease l_1, fence 4)"),
    (granted(warm=True), "comfyui (still running) is leased to ann (lease l_1, fence 4)"),
    (granted(BARE), "the GPU alone is leased to ann on SIM-0 (lease l_1, fence 4)"),
    (granted(joins="l_0"), "comfyui, which others hold too, is leased to ann (lease l_1, fence 4)"),
    (granted(adopted=True), "comfyui was adopted: it ran while nobody held the GPU (lease l_1)"),
    (RoomVerified(**AT, id="l_1", target="comfyui"), "there is room for comfyui: it may run (lease l_1)"),
    (TargetReady(**AT, id="l_1", target="comfyui", took_ms=3_240), "comfyui is ready after 3.2 s (lease l_1)"),
    (
        TargetDown(**AT, id="l_1", target="comfyui", detail="its master does not run"),
        "comfyui went down: its master does not run (lease l_1)",
    ),
    (
        TargetDown(**AT, id="l_1", target="comfyui", detail='cannot open "C:\\n"\x1b[2J'),
        'comfyui went down: cannot open "C:\\n"\\x1b[2J (lease l_1)',
    ),
    (ended("salvaged"), "the lease of ann on comfyui has ended: the journal was salvaged"),
    (LeaseRestarted(**AT, id="l_1", target="comfyui"), "comfyui is started again for its owner (lease l_1)"),
    (LeaseRetimed(**AT, id="l_1", ttl_ms=90_000), "lease l_1 is renewed by 90 s at a time from now on"),
    (
        LeaseRetimed(**AT, id="l_1", ttl_ms=90_000, answered=True),
        "the holder of lease l_1 was answered before its target is ready, as it asked",
    ),
    (ended("released", resident=True), "the lease of ann on comfyui was released; comfyui stays resident"),
    (
        ended("target_failed", detail="container x exited with code 1"),
        "the lease of ann on comfyui has ended: its target failed to start: container x exited with code 1",
    ),
    (
        ended("max_hold", resident=True),
        "the lease of ann on comfyui has ended: it was held for as long as it may be while others wait; "
        "comfyui stays resident",
    ),
    (
        LeaseTold(**AT, id="l_1", ends_at_ms=31_000, owner="ann", target="comfyui"),
        "others wait: the lease of ann on comfyui ends at 2026-09-21T14:13:50.000Z if they still do (lease l_1)",
    ),
    (
        LeaseTold(**AT, id="l_1", ends_at_ms=31_000, owner="ann", target=None),
        "others wait: the bare lease of ann ends at 2026-09-21T14:13:50.000Z if they still do (lease l_1)",
    ),
    (ended("something new"), "the lease of ann on comfyui has ended (something new)"),
    (
        ResidencyBegan(**AT, target="comfyui", project="p", reason="first_start"),
        "comfyui is resident: it ran before the very first start",
    ),
    (
        ResidencyBegan(**AT, target="comfyui", project="p", reason="observed"),
        "comfyui is resident: mode observe spared it",
    ),
    (no_longer("evicted", "l_2", "whisper", "bob"), "comfyui was evicted to make room for whisper of bob"),
    (no_longer("evicted", "l_2", None, "bob"), "comfyui was evicted to make room for the GPU alone of bob"),
    (no_longer("operator"), "comfyui was evicted by an operator"),
    (no_longer("unused"), "comfyui was stopped: nobody leased it for its idle timeout"),
    (no_longer("stopped"), "comfyui is not resident any more: nothing of it has run for a while"),
    (refused("no_lease"), "container comfyui-1 of comfyui was killed: it ran without a lease (no_lease)"),
    (
        refused("gpu_held", "whisper", action="stop", count=7),
        "container comfyui-1 of comfyui was stopped: whisper holds the GPU (gpu_held), 7 times",
    ),
    (
        refused("target_invalid", detail="no master"),
        "container comfyui-1 of comfyui was killed: its target's labels are invalid (target_invalid): no master",
    ),
    (
        ContainerSpared(
            **AT,
            container_id="c1",
            container="comfyui-1",
            target="comfyui",
            service="main",
            reason="gpu_held",
            holder="whisper",
        ),
        "container comfyui-1 of comfyui was left alone (mode observe), although whisper holds the GPU (gpu_held)",
    ),
    (
        StopFailed(**AT, container_id="c1", container="comfyui-1", target="comfyui", error="no answer"),
        "container comfyui-1 of comfyui cannot be stopped: no answer; its GPU stays closed",
    ),
    (
        ProcessMissed(**AT, **MISSED, policy="observe"),
        "a process (pid 4712) came and went unseen: it used up to 612 MiB of GPU-1 for 0.9 s from "
        "2023-11-14T22:13:20.000Z, while nobody had that GPU; whose it was is not known",
    ),
    (
        ProcessMissed(**AT, **{**MISSED, "peak_mib": None, "container": "f00d"}, policy="warn", more=3),
        "a process (pid 4712) in the container f00d came and went unseen: it used memory of GPU-1 for 0.9 s from "
        "2023-11-14T22:13:20.000Z, while nobody had that GPU; whose it was is not known; so did 3 more",
    ),
    (UseSeen(**AT, target="comfyui", peak_mib=9_216), "comfyui was seen to use 9216 MiB, more than ever before"),
    (GpuClosed(**AT, uuid="SIM-0", detail="512 MiB stay in use"), "GPU SIM-0 is closed: 512 MiB stay in use"),
    (GpuOpened(**AT, uuid="SIM-0", reason="clean"), "GPU SIM-0 is open again: its memory came back"),
    (GpuOpened(**AT, uuid="SIM-0", reason="used"), "GPU SIM-0 is open again: something runs on it by right"),
    (GpuOpened(**AT, uuid="SIM-0", reason="operator"), "GPU SIM-0 is open again: an operator said that it is clean"),
    (
        ProcessReported(**AT, **STRANGER, policy="observe"),
        "pid 4711 (python3) of eve in the container notebook uses 9000 MiB of GPU-1, memory of GPU-2 without a lease; "
        "started by bash (40) < sshd (9): python3 x.py",
    ),
    (
        ProcessSignalled(**AT, **STRANGER, signal="SIGTERM", for_target="comfyui", for_owner="ann"),
        "pid 4711 (python3) of eve in the container notebook is sent SIGTERM for comfyui of ann: it uses 9000 MiB of "
        "GPU-1, memory of GPU-2 without a lease; started by bash (40) < sshd (9): python3 x.py",
    ),
    (
        SignalFailed(**AT, pid=4_711, started=7, signal="SIGKILL", outcome="other_process"),
        "SIGKILL was not sent to pid 4711: its pid belongs to another process by now",
    ),
    (
        TargetRemembered(**AT, name="comfyui", project="p", working_dir="/x", config_files="/x/y"),
        "comfyui is known (Compose project p)",
    ),
]


@pytest.mark.parametrize(("fact", "expected"), SENTENCES, ids=[type(fact).__name__ for fact, _ in SENTENCES])
def test_a_fact_says(fact, expected):
    assert sentence(fact) == expected


def test_every_fact_is_in_the_table():
    assert {type(fact) for fact, _ in SENTENCES} == set(get_args(AnyFact))


@pytest.mark.parametrize("fact", [fact for fact, _ in SENTENCES], ids=[type(fact).__name__ for fact, _ in SENTENCES])
def test_an_event_has_no_digest_and_every_other_field(fact):
    shown = msgspec.to_builtins(event(7, fact))
    assert (shown["seq"], shown["time"], shown["type"]) == (7, "2026-09-21T14:13:20.000Z", type(fact).__name__)
    encoded = msgspec.json.encode(shown)
    assert not [secret for secret in (b"HASH", b"SCOPE", b"BODY") if secret in encoded]
    hidden = {"at_ms", "wall_ms", "token_hash", "token_known", "terms"}
    assert set(fact.__struct_fields__) - hidden <= {*shown["fields"], "target", "container"}


def test_an_event_of_a_bare_lease_or_its_ticket_shows_what_it_asked_for():
    terms = msgspec.structs.replace(BARE, gpus=2, vram_mib=8_192, gpu_class="high", tie=Tie(4_711, 7, "boot"))
    queued, leased = event(1, TicketQueued(**AT, **ticket(terms))), event(2, granted(terms))

    assert {name: queued.fields[name] for name in ASKED_OF_BARE} == {
        "gpu_count": 2,
        "vram_mib": 8_192,
        "gpu_class": "high",
        "pid": 4_711,
    }
    assert (leased.fields["gpus"], leased.fields["vram_mib"]) == (("SIM-0",), None), "what it was granted"
    assert not ASKED_OF_BARE & event(3, TicketQueued(**AT, **ticket())).fields.keys(), "a target's labels say it"


ASKED_OF_BARE = {"gpu_count", "vram_mib", "gpu_class", "pid"}


def test_a_process_that_bears_a_target_s_name_is_not_that_target():
    fact = ProcessReported(**AT, **{**STRANGER, "name": "comfyui"}, policy="observe")

    shown = event(1, fact)

    assert (shown.target, shown.container, shown.fields["name"]) == (None, "notebook", "comfyui")
    assert not names(fact, "comfyui")
    assert names(fact, "notebook")
    remembered = TargetRemembered(**AT, name="comfyui", project="p", working_dir="", config_files="")
    assert (event(2, remembered).target, names(remembered, "comfyui")) == ("comfyui", True)


KINDS = [kind for kind in vars(facts).values() if isinstance(kind, type) and issubclass(kind, facts.Fact)]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_sentence_is_one_printable_line_whatever_the_names_hold(data):
    kind = data.draw(st.sampled_from([kind for kind in KINDS if kind is not facts.Fact]))
    text = st.text(max_size=50)
    # Targets, lease ids and versions are ours, and of fixed shapes; all the rest is anybody's.
    ours = {"target": "comfyui", "for_target": "whisper", "id": "l_1", "version": "1", "signal": "SIGTERM"}
    if kind is TargetRemembered:
        ours["name"] = "comfyui"
    values: dict[str, Any] = {}
    for info in msgspec.structs.fields(kind):
        if info.name in ours:
            values[info.name] = ours[info.name]
        elif info.name == "terms":
            values[info.name] = Terms(target="comfyui", owner=data.draw(text), priority=1, ttl_ms=1)
        elif info.name in {"residents", "gpus", "holders"}:
            values[info.name] = ("a",)
        elif info.name == "holds":
            values[info.name] = ((data.draw(text), 1), ("GPU-2", None))
        elif info.name == "ancestors":
            values[info.name] = (data.draw(text),)
        elif info.name == "action":
            values[info.name] = "kill"
        elif info.name.endswith(("_ms", "_mib")) or info.name in {
            "fence",
            "count",
            "pid",
            "started",
            "priority",
            "before",
            "more",
        }:
            values[info.name] = data.draw(st.integers(0, 2**40))
        elif info.type is bool or info.name in {"token_known", "resident", "adopted", "warm", "needs_cold_start"}:
            values[info.name] = data.draw(st.booleans())
        else:
            values[info.name] = data.draw(text)
    fact = kind(**values)
    assert event(1, fact).target in {None, "comfyui"}
    said = sentence(fact)
    assert said.isprintable()
    assert 0 < len(said) < 1_000
