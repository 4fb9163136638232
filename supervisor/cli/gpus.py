"""``gpu-supervisor open-gpu``: an operator's word about a GPU."""

from __future__ import annotations

from urllib.parse import quote

from supervisor.answers import OpenedAnswer
from supervisor.cli.connection import ask_raw, decoded
from supervisor.cli.output import answer


def open_gpu(uuid: str, *, as_json: bool) -> None:
    """Open a GPU that was closed because memory did not come back. One that is open already is no error.

    Raises:
        Refused: there is no such GPU.
    """
    server, body = ask_raw("POST", f"/v1/gpus/{quote(uuid, safe='')}/open")
    done = decoded(server, body, OpenedAnswer)
    if as_json:
        print(body.decode())
    else:
        answer(f"{uuid} is open again" if done.opened else f"{uuid} was not closed: there was nothing to open")
