"""Facts to fill journals with: small ones that count, and one of every kind."""

from __future__ import annotations

from pathlib import Path

from supervisor.core import facts as f
from supervisor.core.facts import AnyFact
from supervisor.core.model import Terms, Tie
from supervisor.journal import Disk, Journal

DATA = Path("/data")
TERMS = Terms(target="comfyui", owner="ann", priority=5, ttl_ms=300_000, scope="c0ffee", body="b0d1", caller="key ci")

TIED = Terms(target=None, owner="cy", priority=0, ttl_ms=300_000, tie=Tie(4_711, 86_400_000, "b00t"))


def fact(number: int, *, size: int = 0) -> AnyFact:
    """Return a fact that says which one it is, about 60 bytes plus ``size`` long."""
    return f.StopFailed(number * 10, 1_700_000_000_000 + number * 10, f"c{number}", "comfyui-1", "comfyui", "x" * size)


def facts(first: int, count: int) -> list[AnyFact]:
    return [fact(number) for number in range(first, first + count)]


def open_journal(disk: Disk, *, version: str = "0.1.0", segment_bytes: int = 4096, **more: int) -> Journal:
    """Open a small journal on a fake disk, so that segments are begun and reserves used up after a few writes."""
    more.setdefault("ballast_bytes", 1024)
    return Journal.open(DATA, version=version, disk=disk, segment_bytes=segment_bytes, **more)


def replayed(journal: Journal) -> list[AnyFact]:
    return [fact for batch in journal.replay() for fact in batch]


def read_back(disk: Disk, **more: int) -> list[AnyFact]:
    """Open a journal, return all facts that it replays, and close it."""
    journal = open_journal(disk, **more)
    assert journal.damage == ""
    found = replayed(journal)
    journal.close()
    return found


ONE_OF_EACH: list[AnyFact] = [
    f.SupervisorStarted(0, 1_700_000_000_000, "b00t", 12_345, "0.1.0"),
    f.FirstSync(1, 1_700_000_000_001, ("ollama", "whisper")),
    f.ResidencyBegan(2, 1_700_000_000_002, "ollama", "llm", "first_start"),
    f.TicketQueued(3, 1_700_000_000_003, "t1", "hash1", True, TERMS),
    f.TicketQueued(4, 1_700_000_000_004, "t2", "hash2", False, TERMS),
    f.TicketKept(5, 1_700_000_000_005, "t2"),
    f.WindowOpened(6, 1_700_000_000_006, "t2", 10_006, "bob", None),
    f.TicketEnded(7, 1_700_000_000_007, "t2", "cancelled", "bob", None, "key ci"),
    f.ResidencyEnded(8, 1_700_000_000_008, "ollama", "evicted", "t1", "comfyui", "ann"),
    f.LeaseGranted(9, 1_700_000_000_009, "t1", 7, "hash1", True, TERMS, "art", ("GPU-1",), 8_192, True, False, False),
    f.RoomVerified(10, 1_700_000_000_010, "t1", "comfyui"),
    f.TargetReady(11, 1_700_000_000_011, "t1", "comfyui", 4_200),
    f.TargetDown(12, 1_700_000_000_012, "t1", "comfyui", "exited with 137"),
    f.LeaseRestarted(13, 1_700_000_000_013, "t1", "comfyui"),
    f.LeaseRetimed(14, 1_700_000_000_014, "t1", 60_000),
    f.ContainerRefused(
        15, 1_700_000_000_015, "c1", "ollama-1", "ollama", "ollama", "gpu_held", "kill", 3, "comfyui", "déjà vu ☃"
    ),
    f.ContainerSpared(16, 1_700_000_000_016, "c2", "whisper-1", "whisper", "whisper", "no_lease", 1, None),
    f.StopFailed(17, 1_700_000_000_017, "c3", "tts-1", "tts", "cannot kill: permission denied"),
    f.TargetRemembered(18, 1_700_000_000_018, "comfyui", "art", "/srv/art", "/srv/art/compose.yml"),
    f.GpuClosed(18, 1_700_000_000_018, "GPU-1", "its memory did not come back"),
    f.GpuOpened(18, 1_700_000_000_018, "GPU-1", "operator", "uid 0"),
    f.ProcessReported(
        18,
        1_700_000_000_018,
        4_711,
        86_400,
        1_700_000_000_000,
        "python3",
        "mallory",
        "python3 mine.py",
        None,
        (("GPU-1", 9_000), ("GPU-2", None)),
        ("bash (4000)", "sshd (900)", "systemd (1)"),
        "terminate",
    ),
    f.ProcessSignalled(
        18,
        1_700_000_000_018,
        4_711,
        86_400,
        1_700_000_000_000,
        "python3",
        "mallory",
        "python3 mine.py",
        "notebook",
        (("GPU-1", 9_000),),
        ("bash (4000)",),
        "SIGTERM",
        "comfyui",
        "ann",
    ),
    f.SignalFailed(18, 1_700_000_000_018, 4_711, 86_400, "SIGKILL", "forbidden"),
    f.ProcessMissed(18, 1_700_000_000_018, 4_712, "GPU-1", 1_700_000_000_000, 900, 612, 38, None, None, "observe", 3),
    f.UseSeen(18, 1_700_000_000_018, "comfyui", 8_412),
    f.LeaseTold(18, 1_700_000_000_018, "t1", 60_000, "ann", "comfyui"),
    f.LeaseEnded(19, 1_700_000_000_019, "t1", "released", True, "ann", "comfyui", "", "uid 1000"),
    f.TicketQueued(19, 1_700_000_000_019, "t3", "hash3", True, TIED),
    f.TicketMoved(19, 1_700_000_000_019, "t3", 9, 0, "cy", None),
    f.LeaseGranted(19, 1_700_000_000_019, "t3", 8, "hash3", True, TIED, "", ("GPU-1",), None),
    f.LeaseEnded(19, 1_700_000_000_019, "t3", "process_ended", False, "cy", None, ""),
    f.SupervisorStopped(20, 1_700_000_000_020, "SIGTERM"),
]
