"""Who is at the other end of a unix socket, and which processes they may name: a number becomes an identity, or a
refusal. Nothing is watched here (``pid_watch``), and nothing is signalled.
"""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

from msgspec import Struct

from supervisor.clock import read_boot_id
from supervisor.core.errors import Refusal
from supervisor.core.model import Tie
from supervisor.gpu.proc_files import ProcessFiles

_UCRED = struct.Struct("3i")
INSTEAD = "leave pid out, and renew the lease within its ttl_seconds"


class Peer(Struct, frozen=True):
    """The process that connected, as the kernel noted it then. ``pid`` is 0 where it is in no pid namespace of ours."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket | None) -> Peer | None:
    """Return who connected to a unix socket; None for any other socket.

    Source: unix(7), SO_PEERCRED: ids are translated into our namespaces.
    """
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    return Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def identify(peer: Peer, pid: int, proc: Path = Path("/proc")) -> Tie | Refusal:
    """Return which process a peer means by ``pid``, or why it cannot have it watched.

    A peer names processes of its own user; root names any. Blocks for as long as reads of ``/proc`` do.
    """
    try:
        if _numbers_differ(peer, proc):
            detail = (
                f"this caller is in another pid namespace (a container?), where {pid} is another process; {INSTEAD}"
            )
            return _bad(detail)
        with ProcessFiles(pid, proc) as files:
            stat, status = files.stat(), _status(files)
    except ProcessLookupError:
        return _none(pid)
    except PermissionError:
        return _bad(f"the supervisor may not look at process {pid} (is /proc mounted with hidepid?); {INSTEAD}")
    except OSError as error:
        if error.errno not in {errno.EMFILE, errno.ENFILE}:
            raise
        detail = f"the supervisor has too many files open to watch process {pid}; try again, or {INSTEAD}"
        return Refusal("overloaded", detail, {"field": "pid"})
    if stat.state in "ZX":
        return _none(pid)
    if status.get("Tgid", [str(pid)])[0] != str(pid):
        return _bad(f"{pid} is a thread of process {status['Tgid'][0]}: name the process")
    owner = int(status["Uid"][0])
    if peer.uid not in {0, owner}:
        detail = f"process {pid} is of user {owner}, and this caller of user {peer.uid}: name a process of one's own"
        return Refusal("forbidden", detail, {"field": "pid"})
    return Tie(pid, stat.started, read_boot_id())


def _numbers_differ(peer: Peer, proc: Path) -> bool:
    """Return whether a peer's pid namespace is another one than ours, so that its numbers mean other processes.

    Source: proc_pid_status(5), NSpid: a process's numbers in each namespace from ours inwards; since Linux 4.1.
    """
    if peer.pid == 0:
        return True
    with ProcessFiles(peer.pid, proc) as files:
        return len(_status(files).get("NSpid", [""])) > 1


def _status(files: ProcessFiles) -> dict[str, list[str]]:
    lines = files.read("status").decode(errors="surrogateescape").splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def _none(pid: int) -> Refusal:
    return _bad(
        f"there is no process {pid} here: it has ended, or it is in a container, which counts its own; name one that "
        f"lives, or {INSTEAD}"
    )


def _bad(detail: str) -> Refusal:
    return Refusal("bad_request", f"pid: {detail}", {"field": "pid"})
