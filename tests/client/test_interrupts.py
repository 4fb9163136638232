"""Whoever is interrupted before the first answer came: it knows no token, and what it asked for ends all the same.

The answer is held back until what was asked for has gone: by a disk that does not sync, or because there is no room.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from supervisor.client import AsyncClient, Client
from tests.client.conftest import Home, container
from tests.client.conftest import home as living

Until = Callable[..., Any]


@pytest.fixture
def client(home: Home) -> Any:
    with Client(home.url) as made:
        yield made


def tickets(home: Home) -> int:
    """How many there are by the state itself: what is answered waits for the disk."""
    return len(home.house.state.durable.tickets)


def leases(home: Home) -> int:
    return len(home.house.state.durable.leases)


def ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)  # which wakes it up, too


@contextmanager
def no_disk(home: Home) -> Iterator[None]:
    disk = home.house.box.disk
    disk.open.clear()
    try:
        yield
    finally:
        disk.open.set()


def interrupting(home: Home, until: Until, asked_for: Callable[[], Any], interrupt: Callable[[], None]) -> Any:
    """Interrupt when something was asked for; let the disk go on when it has gone."""

    def story() -> None:
        try:
            until(asked_for, what="the request at the server")
            interrupt()
            until(lambda: not asked_for(), what="the end of what was asked for")
        finally:
            home.house.box.disk.open.set()

    thread = threading.Thread(target=story)
    thread.start()
    return thread


@pytest.mark.parametrize("asked", ["a lease", "a ticket"])
def test_ctrl_c_before_the_answer_came_gives_the_place_back(
    home: Home, client: Client, until: Until, asked: str
) -> None:
    with client.lease("a"), no_disk(home):
        thread = interrupting(home, until, lambda: tickets(home), ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            client.lease("b", wait=None).acquire() if asked == "a lease" else client.ticket("b")
        assert (leases(home), tickets(home)) == (1, 0), "it is gone when the interrupt goes on"
        thread.join(10)


def test_ctrl_c_before_the_answer_came_ends_a_lease_that_was_granted(home: Home, client: Client, until: Until) -> None:
    with no_disk(home):
        thread = interrupting(home, until, lambda: leases(home), ctrl_c)
        with pytest.raises(KeyboardInterrupt), client.lease("b"):
            pytest.fail("the block is not entered")
        assert leases(home) == 0
        thread.join(10)


def test_ctrl_c_while_room_is_made_for_a_bare_lease_ends_it_at_once(until: Until) -> None:
    with living(container("a")) as made, Client(made.url) as client:
        with client.lease("a"):
            pass
        made.house.box.engine.perform = lambda _action, _done: None  # type: ignore[method-assign] # it stays
        thread = interrupting(made, until, lambda: leases(made), ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            client.lease(vram="20GiB", wait=None).acquire()
        assert leases(made) == 0
        thread.join(10)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("asked", ["a lease", "a ticket"])
def test_who_is_cancelled_before_the_answer_came_gives_the_place_back(
    home: Home, client: Client, until: Until, asked: str, backend: str
) -> None:
    async def ask(asynchronous: AsyncClient) -> None:
        wait: Awaitable[Any]
        wait = asynchronous.lease("b", wait=None).acquire() if asked == "a lease" else asynchronous.ticket("b")
        await wait

    async def story() -> None:
        async with AsyncClient(home.url) as asynchronous:
            with anyio.fail_after(20), no_disk(home):
                async with anyio.create_task_group() as group:
                    group.start_soon(ask, asynchronous)
                    while not tickets(home):  # noqa: ASYNC110 - the server is in another thread
                        await anyio.sleep(0.01)
                    thread = interrupting(home, until, lambda: tickets(home), lambda: None)
                    group.cancel_scope.cancel()
                await anyio.to_thread.run_sync(thread.join)
            assert (await asynchronous.status()).queue == ()

    with client.lease("a"):
        anyio.run(story, backend=backend)
        assert leases(home) == 1


def test_a_fork_while_the_answer_is_awaited_gives_nothing_back_in_the_child(
    home: Home, client: Client, until: Until
) -> None:
    with client.lease("a"):
        lease = client.lease("b", wait=None)
        with no_disk(home):
            waiter = threading.Thread(target=lease.acquire)
            waiter.start()
            until(lambda: tickets(home), what="the request at the server")
            pid = os.fork()
            if pid == 0:
                os._exit(0 if lease.release() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert tickets(home) == 1
    waiter.join(10)
    assert lease.held
    assert lease.release()
