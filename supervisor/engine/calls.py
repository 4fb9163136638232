"""Start, stop and kill, each in a bounded pool and with a time limit, and what the engine's answer means.

Kills have a pool of their own: thirty stops that wait out their grace must not delay the one kill that matters. A kill
takes 45 ms, nearly all of it in the engine, and the engine takes many at a time; one thread would serialise a burst.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import assert_never

import docker

from supervisor.core.inputs import ActionDone
from supervisor.core.replies import Action, KillContainer, StartContainer, StopContainer
from supervisor.engine.connection import client
from supervisor.engine.errors import ContainerMissing, EngineError, EngineRefused, EngineTimeout, translated
from supervisor.engine.kills import QuickKills
from supervisor.engine.pool import Pool
from supervisor.ports import BelowPort

logger = logging.getLogger(__name__)

#: After SIGKILL the engine waits 10 s, kills again, waits 2 s, and then answers 500 "did not receive an exit event"
#: (moby daemon/kill.go). A little more, so that we hear it.
KILL_LIMIT_S = 20
#: A GPU's driver may have to be loaded, and a network made, before the engine answers.
START_LIMIT_S = 120


class Calls:
    """Carries out actions on one engine. ``connected`` has to be told before the first."""

    def __init__(self, url: str, after: Callable[[str], None], below: BelowPort | None = None) -> None:
        """``after`` is called with a container's id once a call about it has come back, whatever came of it.

        ``below``: a way to kill that does not wait for the engine. The engine is told at once as well: it takes a bare
        SIGKILL for a crash, and its restart policy would start the container again.
        """
        self._url, self._after, self._below = url, after, below
        self._kills = Pool("engine-kill", 32)
        self._starts_and_stops = Pool("engine-call", 32)
        self._clients: Mapping[int, docker.APIClient] = {}
        self._quick = QuickKills(url)

    def connected(self, api_version: str) -> None:
        """Take the version that was agreed on. The write endpoint is not asked for one: a proxy may not allow it."""
        limits = (KILL_LIMIT_S, START_LIMIT_S)
        self._clients = {limit: client(self._url, api_version, timeout_s=limit) for limit in limits}
        self._quick.connected(api_version)

    def perform(self, action: Action, done: Callable[[ActionDone], None]) -> None:
        # Before anything else, and whatever thread this is: until it has left, what has no right to run does.
        kills = isinstance(action, KillContainer)
        # The engine is told first: that takes 0.1 ms, and a death that comes before is a crash to a restart policy.
        sent = self._quick.send(action.id) if kills else None
        unfound = kills and self._below is not None and not self._below.kill(action.id)

        def call() -> None:
            if unfound and self._below is not None:
                self._below.look_round()  # for the next one: this one's cgroup may lie where none was before
            done(self._carry_out(action, sent))
            self._after(action.id)

        pool = self._kills if kills else self._starts_and_stops
        if not pool.submit(call):
            done(ActionDone(action.id, action.kind, "failed", "the supervisor is shutting down"))

    def close(self) -> None:
        """Take no more calls. One in flight goes on in its daemon thread, and the engine goes on with it anyway."""
        self._quick.close()
        self._kills.close()
        self._starts_and_stops.close()

    def _carry_out(self, action: Action, sent: socket.socket | None) -> ActionDone:
        try:
            if sent is not None:
                self._quick.finish(sent, KILL_LIMIT_S)
            else:
                self._send(action)
        except ContainerMissing as error:
            return ActionDone(action.id, action.kind, "gone", str(error))
        except EngineRefused as error:
            # 409: "Container ... is not running". What a kill is for has come to pass.
            if error.status == 409 and isinstance(action, KillContainer):
                return ActionDone(action.id, action.kind, "done")
            return ActionDone(action.id, action.kind, "refused", str(error))
        except EngineTimeout as error:
            return ActionDone(action.id, action.kind, "timeout", str(error))
        except EngineError as error:
            return ActionDone(action.id, action.kind, "failed", str(error))
        except Exception as error:
            # Whoever waits for this call has to hear something, and "it may have happened" is all we know.
            logger.exception("calling %s for %s failed", action.kind, action.id)
            return ActionDone(action.id, action.kind, "timeout", f"internal error: {error!r}")
        return ActionDone(action.id, action.kind, "done")

    def _send(self, action: Action) -> None:
        """One request by id. 304 (already started, already stopped) is no error to the SDK, nor to us."""
        clients = self._clients
        if not clients:
            raise EngineError("the engine was not reached yet")
        with translated():
            match action:
                case KillContainer():
                    clients[KILL_LIMIT_S].kill(action.id)
                case StopContainer():
                    # The SDK adds the grace to the client's own limit; left out, it would listen for 10 s more only.
                    clients[KILL_LIMIT_S].stop(action.id, timeout=action.grace_s)
                case StartContainer():
                    clients[START_LIMIT_S].start(action.id)
                case _:
                    assert_never(action)
