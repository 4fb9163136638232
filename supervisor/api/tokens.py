"""Tokens and ids: made here, told once, and known to everything behind the API only as a digest.

A token is 256 random bits, or, with an idempotency key, derived from a secret that lies beside the journal: so a
retry gets the same token from the lease's id, after a restart too, and no token is ever written down.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path

from supervisor.core.errors import SupervisorError

log = logging.getLogger(__name__)

SECRET_BYTES = 32


class SecretUnusable(SupervisorError):
    """The secret that tokens are derived from cannot be read or made."""

    code = "secret_unusable"


def digest(token: str) -> str:
    """Return what everybody but the caller knows of a token.

    Tokens are looked up by this digest and never compared themselves, so how long that takes says nothing that
    would help in guessing one.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def key_scope(caller: str, key: str) -> str:
    """Return the digest under which an idempotency key of one caller is remembered."""
    return digest(f"{caller}\0{key}")


class TokenMint:
    """Makes tokens and public ids."""

    def __init__(self, secret: bytes) -> None:
        assert len(secret) >= SECRET_BYTES, "a short secret makes guessable tokens"
        self._secret = secret

    def new_id(self) -> str:
        """Return a public id for a lease or a ticket: it names, and opens nothing."""
        return "l_" + secrets.token_urlsafe(9)

    def new_token(self) -> str:
        return _typeable(secrets.token_urlsafe(32))

    def derived_token(self, caller: str, key: str, id_: str) -> str:
        """Return the token of the lease or ticket ``id_`` that ``caller`` asked for with an idempotency key."""
        mac = hmac.digest(self._secret, "\0".join((caller, key, id_)).encode(), "sha256")
        return _typeable(base64.urlsafe_b64encode(mac).rstrip(b"=").decode())


def _typeable(token: str) -> str:
    """Return a token that no command line takes for an option."""
    return "_" + token[1:] if token.startswith("-") else token


def load_secret(data_dir: Path) -> bytes:
    """Return the secret of this data directory; make it at the first start. One process at a time may call it.

    Raises:
        SecretUnusable: the file cannot be read or written, or is too short to be one of ours.
    """
    path = data_dir / "secret"
    try:
        secret = path.read_bytes() if path.exists() else _create(path)
        if path.stat().st_mode & 0o077:
            log.warning("%s could be read by others: closed it to them", path)
            path.chmod(0o600)
    except OSError as error:
        raise SecretUnusable(f"{path}: {error.strerror or error}", "see that the data directory is ours") from error
    if len(secret) < SECRET_BYTES:
        raise SecretUnusable(
            f"{path} has {len(secret)} bytes instead of {SECRET_BYTES}",
            "remove it: retries with an Idempotency-Key from before then get no token any more",
        )
    return secret


def _create(path: Path) -> bytes:
    secret = secrets.token_bytes(SECRET_BYTES)
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    # Renamed when it is whole: a crash leaves no secret or a good one, never half of it.
    beside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return secret
