"""Keys: who may drive the supervisor from where nobody vouches for them, and how far: a file, and what of it counts.

``<data-dir>/tokens`` is written by ``gpu-supervisor token`` on the same machine, whether or not the server runs; the
server looks at it as requests come, and the command returns when it has: a revoked key is dead by then, and no signal
is needed. Once there is a file, every caller over TCP needs a key, also when the last one was revoked: nothing opens by
itself. A file that cannot be read, or that went away, changes nothing: the last good one goes on counting.

A key is 256 random bits, so a plain SHA-256 of it is as hard to turn back as the key is to guess: the slow, salted
hashes are for passwords, which people choose. Keys are looked up by that digest and never compared themselves.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from supervisor.core.errors import SupervisorError
from supervisor.core.values import BadValue, shown

log = logging.getLogger(__name__)

Role = Literal["read", "lease", "admin"]
#: The weakest first; each may do what those before it may.
ROLES: tuple[Role, ...] = get_args(Role)
#: So that scanners for secrets find a key that lies where it should not.
PREFIX = "gpusk_"
FILE_NAME = "tokens"
FILE_MODE = 0o600
#: The file is looked at once in so many seconds at most: a look takes 3 us, which at each request would be a twentieth
#: of a renewal.
LOOK_S = 0.05
FILE_MAX_BYTES = 4 * 2**20
KEYS_MAX = 10_000
ALL = "*"
#: Stands for leases without a target among the patterns of targets; no target can have this name.
BARE_PATTERN = "@bare"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PATTERN = re.compile(r"@bare|[a-z0-9._*?-]{1,63}")


class KeysUnusable(SupervisorError):
    """The file of keys cannot be read, written, or trusted."""

    code = "keys_unusable"


class BadKeyName(SupervisorError):
    """A key is named that is not there, or one is made that is."""

    code = "bad_key_name"


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of a key. ``targets``: patterns of what it may lease and evict (``@bare``: bare leases)."""

    name: str
    role: Role
    targets: tuple[str, ...] = (ALL,)
    digest: str
    created_at: Annotated[datetime, Meta(tz=True)]
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None

    def expired(self, wall_s: float) -> bool:
        """Return whether it has expired at ``wall_s`` (Unix seconds)."""
        return self.expires_at is not None and wall_s >= self.expires_at.timestamp()


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown fields are refused: they may be limits that this version would not keep."""

    format: Literal[1] = 1
    keys: tuple[Key, ...] = ()


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def reaches(patterns: Collection[str], target: str | None) -> bool:
    """Return whether patterns cover a target; None is a bare lease, which only ``*`` and ``@bare`` cover."""
    if ALL in patterns:
        return True
    if target is None:
        return BARE_PATTERN in patterns
    return any(fnmatch.fnmatchcase(target, pattern) for pattern in patterns)


# ---- readers of single values: text -> value, or BadValue


def parse_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise BadValue(
            f'"{shown(text)}" is no name for a key', "lower-case letters, digits, dots and dashes: ci-runner"
        )
    return text


def parse_role(text: str) -> Role:
    for role in ROLES:
        if text == role:
            return role
    raise BadValue(f'"{shown(text)}" is not a role', f"one of: {', '.join(ROLES)}")


def parse_patterns(text: str) -> tuple[str, ...]:
    """Read ``whisper*,comfyui``: names of targets with ``*`` and ``?``, or ``@bare`` for leases without a target."""
    patterns = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise BadValue(
                f'"{shown(pattern)}" is no pattern of targets', f"write names with * and ?, or {BARE_PATTERN}: whisper*"
            )
    return patterns


# ---- the file


def keys_file(data_dir: Path) -> Path:
    return data_dir / FILE_NAME


def configured(data_dir: Path) -> bool:
    """Return whether callers need keys: there is a file of them, be it empty."""
    return os.path.lexists(keys_file(data_dir))


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read the file.

    Raises:
        FileNotFoundError: there is none.
        KeysUnusable: it cannot be read, others may write it, or it is not what this version writes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & 0o022 or status.st_uid not in {0, os.geteuid(), path.parent.stat().st_uid}:
                raise KeysUnusable(
                    f"{path} could be written by others, who could make keys for themselves",
                    f"look at what is in it, then: chown {os.geteuid()} {path} && chmod 600 {path}",
                )
            raw = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeysUnusable(f"{path}: {error.strerror or error}", "see that it is ours, and a file") from error
    try:
        _check(keys := msgspec.json.decode(raw, type=_File).keys)
    except ValueError as error:  # msgspec's are, too
        raise KeysUnusable(
            f"{path} is not a file of keys: {shown(str(error), 200)}",
            "mend it, or put it aside and make new keys: gpu-supervisor token create",
        ) from error
    return keys


def _check(keys: tuple[Key, ...]) -> None:
    """Refuse what nobody writes who does not edit by hand, and what would make two keys one."""
    for key in keys:
        parse_name(key.name)
        parse_patterns(",".join(key.targets))
        if not re.fullmatch(r"[0-9a-f]{64}", key.digest):
            raise ValueError(f"the digest of {key.name} is no SHA-256 in lower-case hexadecimal")
    for field in ("name", "digest"):
        if len({getattr(key, field) for key in keys}) < len(keys):
            raise ValueError(f"two keys have the same {field}")


def create(
    data_dir: Path, name: str, role: Role, targets: tuple[str, ...] = (ALL,), expires_at: datetime | None = None
) -> tuple[Key, str]:
    """Make a key, write it down, and return it with its text, which nobody can tell again.

    Raises:
        BadKeyName: there is one of this name already.
        KeysUnusable: the file cannot be read or written.
    """
    text = PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC).replace(microsecond=0)
    key = Key(name=name, role=role, targets=targets, digest=digest(text), created_at=now, expires_at=expires_at)
    with _held(data_dir) as (keys, path):
        if any(other.name == name for other in keys):
            raise BadKeyName(
                f"there is a key {name} already", f"choose another name, or first: gpu-supervisor token revoke {name}"
            )
        if len(keys) >= KEYS_MAX:
            raise KeysUnusable(f"there are {len(keys)} keys, and no more are kept", "revoke some")
        _write(path, (*keys, key))
    return key, text


def revoke(data_dir: Path, name: str) -> tuple[Key, int]:
    """Take a key out of the file; return it and how many are left.

    Raises:
        BadKeyName: there is none of this name.
        KeysUnusable: the file cannot be read or written.
    """
    with _held(data_dir) as (keys, path):
        gone = next((key for key in keys if key.name == name), None)
        if gone is None:
            known = ", ".join(sorted(key.name for key in keys)) or "none"
            raise BadKeyName(f"there is no key {shown(name)} in {path}", f"known are: {known}")
        rest = tuple(key for key in keys if key is not gone)
        _write(path, rest)
    return gone, len(rest)


@contextmanager
def _held(data_dir: Path) -> Iterator[tuple[tuple[Key, ...], Path]]:
    """Hold the data directory against other commands that change keys, and read what is there."""
    path = keys_file(data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield (read_keys(path) if configured(data_dir) else ()), path
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise KeysUnusable(
            f"{error.filename or path}: {error.strerror or error}",
            "be root or the supervisor's user, and name its folder with --data-dir",
        ) from error


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    """Replace the file as a whole: whoever reads it meanwhile finds the one before."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(fd, "wb") as file:
        owner = path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:  # root made it for a server that runs as somebody else
            os.fchown(fd, owner.st_uid, owner.st_gid)
        file.write(msgspec.json.format(msgspec.json.encode(_File(keys=keys)), indent=2) + b"\n")
        file.flush()
        os.fsync(fd)
    beside.rename(path)


# ---- what counts now

Signature = tuple[int, ...]


class KeyBook:
    """The keys that count: those of the file as it was when it was last good. ``needed``: whether callers need one.

    Raises:
        KeysUnusable: the file is there and unusable at the start.
    """

    def __init__(self, path: Path, *, needed: bool = False, now_s: Callable[[], float] = time.monotonic) -> None:
        self.needed = needed
        self._now_s = now_s
        self._look_at_s = 0.0
        self._path = path
        self._at = os.fspath(path)
        self._seen = self._signature()
        self._by_digest: dict[str, Key] = {}
        if self._seen is not None:
            self._take(read_keys(path))

    def look(self) -> None:
        """Take over the file if it has changed. Called for each request."""
        now_s = self._now_s()
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_S
        seen = self._signature()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._take(read_keys(self._path))
        except FileNotFoundError:
            if self.needed:
                log.warning("%s is gone: its keys go on counting until a restart", self._path)
        except KeysUnusable as error:
            # Somebody wants keys: until they are there, nobody has one.
            self.needed = True
            log.warning("%s; until it is mended the keys of before count (%d)", error, len(self._by_digest))

    def find(self, key_digest: str) -> Key | None:
        return self._by_digest.get(key_digest)

    def _signature(self) -> Signature | None:
        """Return what changes with the file; None: there is none, or nobody can tell."""
        try:
            seen = os.lstat(self._at)
        except FileNotFoundError:
            return None
        except OSError as error:
            return (error.errno or 0,)
        return (seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size)

    def _take(self, keys: tuple[Key, ...]) -> None:
        count = "1 key" if len(keys) == 1 else f"{len(keys)} keys"
        if self.needed:
            log.info("%s: %s", self._path, count)
        else:
            log.info("%s: %s; callers over TCP need one from now on", self._path, count)
        self._by_digest = {key.digest: key for key in keys}
        self.needed = True
