"""``gpu-supervisor renew`` and ``release``: keep a lease that ``--detach`` left, give it back, or take one away."""

from __future__ import annotations

import sys
from urllib.parse import quote

from msgspec import Struct

from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.errors import Usage
from supervisor.cli.names import did_you_mean
from supervisor.cli.output import answer, answer_json, clock_time
from supervisor.core.errors import SupervisorError


class Released(Struct, frozen=True):
    released: bool
    reason: str = ""


class Renewed(Struct, frozen=True):
    """Of a ticket nothing expires."""

    ttl_seconds: float
    expires_at: str | None = None
    ends_at: str | None = None


def token_of(given: str) -> str:
    """Return a token from the command line, or from stdin where ``-`` was typed: others see a command line."""
    token = sys.stdin.readline().strip() if given == "-" else given.strip()
    if not token:
        raise Usage("there is no token", "give what acquire --detach printed, or - and the token on stdin")
    return token


def renew_token(token: str, *, as_json: bool) -> None:
    """Give a lease its whole TTL again.

    Raises:
        SupervisorError: nothing has this token.
    """
    server, body = ask_raw("POST", f"/v1/lease/{quote(token, safe='')}/renew")
    if as_json:
        print(body.decode())
        return
    done = decoded(server, body, Renewed)
    if done.expires_at is None:
        until = ", and need not be: this lease has no TTL"
    else:
        until = f" until {clock_time(done.expires_at)}, {done.ttl_seconds:g} s from now"
    ends = f"; others wait, and it ends at {clock_time(done.ends_at)} if they still do" if done.ends_at else ""
    answer(f"renewed{until}{ends}")


def release_token(token: str, *, as_json: bool) -> None:
    """End the lease, or cancel the ticket, of this token.

    Raises:
        SupervisorError: nothing has this token. Scripts that only want it gone may ignore that.
    """
    server, body = ask_raw("DELETE", f"/v1/lease/{quote(token, safe='')}")
    if not decoded(server, body, Released).released:
        raise SupervisorError(
            "no lease or ticket has this token: it has ended, or never was", "see who holds: gpu-supervisor status"
        )
    if as_json:
        print(body.decode())
    else:
        answer("released")


def force_release(target: str | None, *, as_json: bool) -> None:
    """End somebody else's lease: of ``target``, or the only one there is.

    Raises:
        SupervisorError: there is none.
    """
    server, body = ask_raw("POST", "/release", json={"force": True} | ({"target": target} if target else {}))
    if not decoded(server, body, Released).released:
        meant = did_you_mean(target) if target else ""
        raise SupervisorError(f"{target or 'the GPU'} has no lease", meant or "see who holds: gpu-supervisor status")
    if as_json:
        answer_json({"released": True})
    else:
        answer(f"released {target or 'the lease'}")
