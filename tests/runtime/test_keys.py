"""The file of keys: what is kept of one, what a file must be to count, and what goes on counting when it is none."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from supervisor import keys
from supervisor.core.values import BadValue
from supervisor.keys import BadKeyName, KeyBook, KeysUnusable, keys_file


def book_of(folder: Path, *, needed: bool = False) -> KeyBook:
    return KeyBook(keys_file(folder), needed=needed, now_s=count(1.0).__next__)


def known(book: KeyBook, text: str) -> bool:
    book.look()
    return book.find(keys.digest(text)) is not None


def test_a_key_has_a_form_that_scanners_know_and_only_its_digest_is_kept(tmp_path):
    texts = {keys.create(tmp_path, f"k{number}", "read")[1] for number in range(20)}

    assert len(texts) == 20
    assert all(re.fullmatch(r"gpusk_[A-Za-z0-9_-]{43}", text) for text in texts)
    written = keys_file(tmp_path).read_text()
    assert not [text for text in texts if text[6:] in written]
    assert all(keys.digest(text) in written for text in texts)


def test_the_file_is_for_its_owner_alone_and_nothing_else_is_left(tmp_path):
    mask = os.umask(0)
    try:
        keys.create(tmp_path / "new", "ci", "lease", ("whisper*", "@bare"))
    finally:
        os.umask(mask)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokens"]
    assert stat.S_IMODE(keys_file(tmp_path / "new").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (key,) = keys.read_keys(keys_file(tmp_path / "new"))
    assert (key.name, key.role, key.targets, key.expires_at) == ("ci", "lease", ("whisper*", "@bare"), None)


@pytest.mark.root
def test_root_makes_keys_that_the_server_of_another_user_can_read(tmp_path):
    os.chown(tmp_path, 12_345, 12_345)
    keys.create(tmp_path, "ci", "lease")
    assert (keys_file(tmp_path).stat().st_uid, keys_file(tmp_path).stat().st_gid) == (12_345, 12_345)
    keys.revoke(tmp_path, "ci")  # and root can go on with it
    assert keys_file(tmp_path).stat().st_uid == 12_345


def test_names_are_there_once_and_what_is_not_there_is_not_revoked(tmp_path):
    keys.create(tmp_path, "ci", "read")
    with pytest.raises(BadKeyName, match="there is a key ci already"):
        keys.create(tmp_path, "ci", "admin")
    with pytest.raises(BadKeyName) as caught:
        keys.revoke(tmp_path, "cy")
    assert caught.value.hint == "known are: ci"


def test_keys_that_are_made_at_the_same_time_are_all_there(tmp_path):
    makers = [threading.Thread(target=keys.create, args=(tmp_path, f"k{number}", "read")) for number in range(12)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(keys.read_keys(keys_file(tmp_path))) == 12


def test_an_expired_key_is_known_by_its_time():
    now = datetime.now(UTC)
    key = keys.Key(name="a", role="read", digest="0" * 64, created_at=now, expires_at=now + timedelta(seconds=5))
    assert [key.expired(now.timestamp() + s) for s in (0, 4.9, 5.0)] == [False, False, True]


@pytest.mark.parametrize("text", ["", "A", "-a", "a b", "a\n", "a" * 64, "ä", "*"])
def test_what_is_no_name_of_a_key(text):
    with pytest.raises(BadValue):
        keys.parse_name(text)


@pytest.mark.parametrize("text", ["", "a,", "A*", "[ab]", "@other", "a b", "a\0"])
def test_what_is_no_pattern_of_targets(text):
    with pytest.raises(BadValue):
        keys.parse_patterns(text)


# ---- a file that is none


def _changed(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        for name, value in values.items():
            if name == "format":
                document[name] = value
            else:
                document["keys"][0][name] = value
        path.write_text(json.dumps(document))

    return change


def _doubled(path: Path) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "keys": document["keys"] * 2}))


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "no JSON": lambda path: path.write_text("keys!"),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
    "another format": _changed(format=2),
    "a limit of a later version": _changed(networks=["10.0.0.0/8"]),
    "an unknown role": _changed(role="root"),
    "a digest that is none": _changed(digest="gpusk_abc"),
    "a digest in capitals": _changed(digest="A" * 64),
    "a pattern that is none": _changed(targets=["[a"]),
    "a time without a zone": _changed(expires_at="2026-01-01T00:00:00"),
    "a key that is there twice": _doubled,
    "others may write": lambda path: path.chmod(0o620),
    "everybody may write": lambda path: path.chmod(0o602),
    "a link": lambda path: path.rename(path.with_name("real")) and path.symlink_to(path.with_name("real")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "endless": lambda path: path.write_bytes(b" " * (keys.FILE_MAX_BYTES + 1)),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_file_is_refused_at_the_start_and_by_every_command(tmp_path, damage):
    keys.create(tmp_path, "ci", "read")
    BROKEN[damage](keys_file(tmp_path))

    for use in (
        lambda: book_of(tmp_path),
        lambda: keys.create(tmp_path, "x", "read"),
        lambda: keys.revoke(tmp_path, "ci"),
    ):
        with pytest.raises(KeysUnusable) as caught:
            use()
        assert str(keys_file(tmp_path)) in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize("damage", [*BROKEN, "gone"])
def test_while_it_runs_a_broken_file_keeps_the_keys_of_before_and_says_so_once(tmp_path, damage, caplog):
    text = keys.create(tmp_path, "ci", "read")[1]
    book = book_of(tmp_path)
    {**BROKEN, "gone": Path.unlink}[damage](keys_file(tmp_path))

    for _ in range(3):
        assert known(book, text)
        assert book.needed
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert str(keys_file(tmp_path)) in warnings[0]


def test_it_counts_again_once_it_is_mended(tmp_path):
    old = keys.create(tmp_path, "old", "read")[1]
    book = book_of(tmp_path)
    good = keys_file(tmp_path).read_bytes()
    keys_file(tmp_path).write_text("{")
    assert known(book, old)
    keys_file(tmp_path).write_bytes(good)
    new = keys.create(tmp_path, "new", "read")[1]
    keys.revoke(tmp_path, "old")
    assert (known(book, old), known(book, new)) == (False, True)


def test_a_broken_file_where_there_was_none_closes_rather_than_opens(tmp_path):
    book = book_of(tmp_path)
    book.look()
    assert not book.needed
    keys_file(tmp_path).write_text("{")
    book.look()
    assert book.needed


def test_the_last_key_leaves_a_file_behind_that_goes_on_asking_for_one(tmp_path):
    keys.create(tmp_path, "ci", "read")
    assert keys.revoke(tmp_path, "ci")[1] == 0
    assert keys.configured(tmp_path)
    assert book_of(tmp_path).needed


def test_who_listens_to_others_needs_keys_though_the_file_went_away(tmp_path):
    assert book_of(tmp_path, needed=True).needed


def test_the_file_is_looked_at_now_and_then_and_not_at_each_request(tmp_path):
    moments = iter([1.0, 1.01, 1.0 + keys.LOOK_S])
    book = KeyBook(keys_file(tmp_path), now_s=moments.__next__)
    book.look()
    keys.create(tmp_path, "ci", "read")
    seen = []
    for _ in range(2):
        book.look()
        seen.append(book.needed)
    assert seen == [False, True]
