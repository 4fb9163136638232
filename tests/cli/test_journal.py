"""``journal show | verify | salvage``: on journals that the real journal wrote, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor import __version__
from supervisor.core.facts import SupervisorStarted, SupervisorStopped
from supervisor.journal import Journal

RETAIN = {"retain_ms": 10**12, "retain_bytes": 2**40}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A journal of three records with one fact each."""
    journal = Journal.open(tmp_path, version=__version__, **RETAIN)
    assert list(journal.replay()) == []
    for seq in (1, 2, 3):
        journal.write([SupervisorStarted(seq, 978_404_645_000 + seq, f"boot-{seq}", seq, __version__)])
    journal.close()
    return tmp_path


def segment(data_dir: Path) -> Path:
    """The segment with records in it."""
    return next(path for path in sorted((data_dir / "journal").iterdir()) if b"\xc1rec" in path.read_bytes())


def damage(data_dir: Path) -> None:
    """Flip a bit in the second record: a good one stands behind it."""
    path = segment(data_dir)
    data = bytearray(path.read_bytes())
    at = data.index(b"boot-2")
    data[at] ^= 1
    path.write_bytes(data)


def test_show_prints_every_fact_with_its_number_time_and_sentence(data_dir, run):
    status, out, _ = run("journal", "show", "--data-dir", str(data_dir))

    facts = [line for line in out.splitlines() if not line.startswith("record")]
    assert status == 0
    assert facts == [
        f"  {number:>8}  2001-01-02T03:04:05.00{number}Z  supervisor {__version__} started" for number in (1, 2, 3)
    ]


def test_show_for_a_script_names_every_field(data_dir, run):
    _, out, _ = run("journal", "show", "--json", "--after", "1", "--limit", "1", "--data-dir", str(data_dir))

    (record,) = [json.loads(line) for line in out.splitlines()]
    assert record["kind"] == "shown"
    assert record["facts"] == [
        {
            "fact_seq": 2,
            "type": "SupervisorStarted",
            "at_ms": 2,
            "wall_ms": 978_404_645_002,
            "boot_id": "boot-2",
            "boot_ms": 2,
            "version": __version__,
        }
    ]


def test_verify_of_a_good_journal_is_0(data_dir, run):
    status, out, _ = run("journal", "verify", "--data-dir", str(data_dir))

    assert status == 0
    assert out.splitlines()[-2:] == ["facts 1 to 3, 3 of them verify", "good"]


def test_damage_is_shown_verified_and_salvaged(data_dir, run):
    damage(data_dir)
    flags = ("--data-dir", str(data_dir))

    status, out, _ = run("journal", "show", *flags)
    assert status == 1
    assert "DAMAGE: " in out
    assert "behind damage" in out

    status, out, _ = run("journal", "verify", *flags)
    assert status == 1
    assert "put it right with: gpu-supervisor journal salvage" in out
    assert "it leaves out the 1 fact behind the damage; with --skip-damage it takes over" in out
    assert out.splitlines()[-1] == "NOT good"

    status, out, _ = run("journal", "salvage", *flags)
    assert status == 0
    assert "kept: every fact up to number 1" in out
    assert "lost: 2 facts" in out
    assert str(data_dir / "journal" / "damaged-1") in out
    assert run("journal", "verify", *flags)[0] == 0


def test_salvage_can_take_over_what_is_readable_behind_the_damage(data_dir, run):
    damage(data_dir)

    _, out, _ = run("journal", "salvage", "--skip-damage", "--json", "--data-dir", str(data_dir))

    done = json.loads(out)
    assert (done["kept_up_to"], done["found_behind"], done["taken_over"]) == (1, 1, 1)


def test_salvage_of_a_good_journal_does_nothing(data_dir, run):
    assert run("journal", "salvage", "--data-dir", str(data_dir)) == (
        0,
        "nothing is damaged: nothing was done\n",
        "",
    )


def test_salvage_while_a_supervisor_runs_is_refused_with_2(data_dir, run):
    journal = Journal.open(data_dir, version=__version__, **RETAIN)
    try:
        status, _, err = run("journal", "salvage", "--data-dir", str(data_dir))
    finally:
        journal.close()

    assert status == 2
    assert "already uses the journal" in err


@pytest.mark.parametrize("command", ["show", "verify", "salvage"])
def test_no_journal_is_said_with_how_to_name_another(run, tmp_path, command):
    status, out, err = run("journal", command, "--data-dir", str(tmp_path / "none"))

    assert (status, out) == (1, "")
    assert "there is no journal in" in err
    assert "--data-dir" in err


def test_the_folder_comes_from_the_settings_too(data_dir, run, monkeypatch):
    monkeypatch.setenv("GPU_SUPERVISOR_DATA_DIR", str(data_dir))

    assert run("journal", "verify")[0] == 0


def test_facts_that_name_anything_are_harmless_on_a_terminal(tmp_path, run):
    journal = Journal.open(tmp_path, version=__version__, **RETAIN)
    list(journal.replay())
    journal.write([SupervisorStopped(1, 1, "\x1b[2J")])
    journal.close()

    assert "\x1b" not in run("journal", "show", "--data-dir", str(tmp_path))[1]
