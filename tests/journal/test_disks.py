"""The disk in memory does what the real one does, and what is lost in a crash is what was not synced."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from supervisor.journal import Disk, OsDisk
from supervisor.journal.disk import read_file, write_all
from tests.journal.memory_disk import MemoryDisk


@pytest.fixture(name="disk", params=[OsDisk, MemoryDisk])
def _disk(request: pytest.FixtureRequest) -> Disk:
    return request.param()


@pytest.fixture(name="home")
def _home(disk: Disk, tmp_path: Path) -> Path:
    disk.make_directories(tmp_path / "a" / "home")
    return tmp_path / "a" / "home"


def test_files_are_written_read_and_resized(disk: Disk, home: Path):
    file = disk.open(home / "x", create=True)
    assert disk.write(file, b"hello", 3) == 5
    assert disk.read(file, 100, 0) == b"\0\0\0hello"
    assert disk.read(file, 2, 4) == b"el"
    disk.truncate(file, 5)
    disk.sync(file)
    assert (disk.size(file), disk.read(file, 9, 3), disk.read(file, 9, 9)) == (5, b"he", b"")
    disk.close(file)
    with pytest.raises(FileNotFoundError):
        disk.open(home / "y")


def test_allocated_room_is_zeros(disk: Disk, home: Path):
    file = disk.open(home / "x", create=True)
    disk.allocate(file, 3_000_000)

    assert disk.read(file, 4_000_000, 0) == bytes(3_000_000)
    disk.close(file)


def test_names_change_and_go(disk: Disk, home: Path):
    for name in ("x", "y"):
        file = disk.open(home / name, create=True)
        write_all(disk, file, name.encode(), 0)
        disk.close(file)
    disk.link(home / "x", home / "z")
    disk.rename(home / "y", home / "x")
    disk.make_directories(home / "folder")
    disk.sync_directory(home)

    assert sorted(disk.list_directory(home)) == ["folder", "x", "z"]
    assert (read_file(disk, home / "x"), read_file(disk, home / "z")) == (b"y", b"x")
    with pytest.raises(FileExistsError):
        disk.link(home / "x", home / "z")
    disk.unlink(home / "x")
    for refused in (disk.unlink, lambda path: disk.rename(path, home / "q"), lambda path: read_file(disk, path)):
        with pytest.raises(FileNotFoundError):
            refused(home / "x")


def test_a_directory_that_is_not_there_cannot_be_listed(disk: Disk, home: Path):
    with pytest.raises(FileNotFoundError):
        disk.list_directory(home / "nowhere")


def test_an_open_file_outlives_its_name(disk: Disk, home: Path):
    file = disk.open(home / "x", create=True)
    disk.unlink(home / "x")

    assert (disk.write(file, b"still", 0), disk.read(file, 9, 0)) == (5, b"still")
    disk.close(file)


def test_a_lock_is_held_once_until_it_is_closed(disk: Disk, home: Path):
    lock = disk.lock(home / "lock")
    with pytest.raises(BlockingIOError):
        disk.lock(home / "lock")
    write_all(disk, lock, b"pid", 0)
    disk.close(lock)

    disk.close(disk.lock(home / "lock"))


# ---- what only the one in memory does


def test_without_room_a_write_is_short_then_fails_and_overwriting_goes_on():
    disk = MemoryDisk(capacity=10)
    disk.make_directories(Path("/d"))
    file = disk.open(Path("/d/x"), create=True)

    assert disk.write(file, bytes(16), 0) == 10
    with pytest.raises(OSError, match="No space") as caught:
        disk.write(file, b"!", 10)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space"):
        disk.allocate(disk.open(Path("/d/y"), create=True), 1)
    assert disk.write(file, b"over", 2) == 4
    disk.truncate(file, 4)
    assert disk.write(file, b"again!!!", 4) == 6


def synced_then_not() -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_directories(Path("/d"))
    file = disk.open(Path("/d/x"), create=True)
    write_all(disk, file, b"a" * 1_024, 0)
    disk.sync(file)
    disk.sync_directory(Path("/d"))
    write_all(disk, file, b"b" * 1_024, 512)
    disk.rename(Path("/d/x"), Path("/d/y"))
    return disk


def test_a_crash_keeps_what_was_synced_and_as_much_of_the_rest_as_it_is_told():
    disk = synced_then_not()

    assert disk.crash("lost").contents() == {Path("/d/x"): b"a" * 1_024}
    assert disk.crash("kept").contents() == {Path("/d/y"): b"a" * 512 + b"b" * 1_024}
    assert disk.crash("torn").contents() == {Path("/d/y"): b"a" * 512 + b"b" * 512}


def test_chance_keeps_any_sectors_the_same_for_the_same_seed():
    disk = synced_then_not()
    images = [disk.crash(random.Random(seed)).contents() for seed in range(200)]
    files = {data for image in images for data in image.values()}

    assert {data[:512] for data in files} == {b"a" * 512}
    assert {b"a" * 1_024, b"a" * 512 + b"b" * 1_024, b"a" * 1_024 + b"b" * 512} <= files
    assert {name for image in images for name in image} == {Path("/d/x"), Path("/d/y")}
    assert images == [disk.crash(random.Random(seed)).contents() for seed in range(200)]


def test_a_crash_gives_back_every_lock():
    disk = MemoryDisk()
    disk.make_directories(Path("/d"))
    disk.lock(Path("/d/lock"))
    disk.sync_directory(Path("/d"))
    disk.crash().lock(Path("/d/lock"))


def test_a_file_that_the_user_may_not_write_is_an_error_of_the_system(tmp_path: Path):
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        OsDisk().open(tmp_path / "nowhere" / "x", create=True)
