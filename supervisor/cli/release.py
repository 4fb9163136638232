"""``gpu-supervisor release``: give a lease back, or take somebody else's away."""

from __future__ import annotations

from urllib.parse import quote

from msgspec import Struct

from supervisor.cli.connection import ask
from supervisor.cli.output import answer
from supervisor.core.errors import SupervisorError


class Released(Struct, frozen=True):
    released: bool
    reason: str = ""


def release_token(token: str) -> None:
    """End the lease, or cancel the ticket, of this token.

    Raises:
        SupervisorError: nothing has this token. Scripts that only want it gone may ignore that.
    """
    done = ask("DELETE", f"/v1/lease/{quote(token, safe='')}", Released)
    if not done.released:
        raise SupervisorError(
            "no lease or ticket has this token: it has ended, or never was", "see who holds: gpu-supervisor status"
        )
    answer("released")


def force_release(target: str | None) -> None:
    """End somebody else's lease: of ``target``, or the only one there is.

    Raises:
        SupervisorError: there is none.
    """
    done = ask("POST", "/release", Released, json={"force": True} | ({"target": target} if target else {}))
    if not done.released:
        raise SupervisorError(f"{target or 'the GPU'} has no lease", "see who holds: gpu-supervisor status")
    answer(f"released {target or 'the lease'}")
