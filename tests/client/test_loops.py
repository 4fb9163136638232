"""The asynchronous client, each story on asyncio and on trio."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from supervisor.client import AsyncClient, GpuBusy, LeaseLost, NotHeld, TargetUnknown, current_lease, gpu
from tests.client.conftest import Home

Story = Callable[[], Awaitable[Any]]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Story], Any]:
    """Run a story on one kind of loop."""

    def on_it(story: Story) -> Any:
        async def bounded() -> Any:
            with anyio.fail_after(20):
                return await story()

        return anyio.run(bounded, backend=request.param)

    return on_it


def test_a_lease_is_held_while_its_block_runs(home: Home, run: Any) -> None:
    async def story() -> None:
        async with AsyncClient() as client, client.lease("a", owner="ann") as lease:
            lease.check()
            assert (await client.status()).leases[0].id == lease.id
            assert (lease.state, lease.env()["CUDA_VISIBLE_DEVICES"]) == ("ready", "SIM-0")

    run(story)
    assert home.leases() == []


def test_a_loop_that_computes_without_an_await_loses_nothing(home: Home, run: Any) -> None:
    async def story() -> None:
        async with AsyncClient() as client, client.lease("a", ttl=1) as lease:
            threading.Event().wait(1.5)  # as a long computation
            lease.check()
            assert (await client.look(lease.token)).state == "ready"

    run(story)


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3)])
def test_whatever_ends_the_block_ends_the_lease_and_goes_on_as_it_is(home: Home, run: Any, error: Any) -> None:
    async def story() -> None:
        async with AsyncClient() as client, client.lease("a"):
            raise error

    # anyio.run's own task group wraps nothing here: the block has none.
    with pytest.raises(type(error)) as caught:
        run(story)
    assert caught.value is error
    assert home.leases() == []


def test_who_is_cancelled_gives_lease_and_place_back(home: Home, run: Any) -> None:
    async def story() -> None:
        async with AsyncClient() as client:
            with anyio.move_on_after(0.3):
                async with client.lease("a"):
                    with anyio.move_on_after(0.1) as waiting:
                        await client.lease("b", wait=None).acquire()
                    assert waiting.cancelled_caught
                    assert (await client.status()).queue == ()
                    await anyio.sleep_forever()
            assert (await client.status()).leases == ()

    run(story)


def test_who_loses_the_lease_is_told_on_the_loop(home: Home, run: Any) -> None:
    threads: list[int] = []

    async def story() -> None:
        def told(_lost: LeaseLost) -> None:
            threads.append(threading.get_ident())

        async with AsyncClient() as client, client.lease("a", ttl=1, on_lost=told) as lease:
            await anyio.to_thread.run_sync(home.take_away)
            lost = await lease.wait_ended()
            await anyio.lowlevel.checkpoint()  # the callback comes right behind
            with pytest.raises(LeaseLost) as caught:
                lease.check()
            assert caught.value is lost
            assert threads == [threading.get_ident()]

    run(story)


def test_an_unheard_loss_is_raised_at_the_end_of_the_block(home: Home, run: Any) -> None:
    async def story() -> None:
        async with AsyncClient() as client, client.lease("a", ttl=1) as lease:
            await anyio.to_thread.run_sync(home.take_away)
            while lease.lost is None:  # noqa: ASYNC110 - as a block that never looks at its lease
                await anyio.sleep(0.02)

    with pytest.raises(LeaseLost):
        run(story)


def test_tickets_are_claimed_when_their_turn_has_come(home: Home, run: Any) -> None:
    async def story() -> None:
        async with AsyncClient() as client:
            async with client.lease("a"):
                ticket = await client.ticket("b")
                with pytest.raises(GpuBusy):
                    await ticket.claim()
                assert (await ticket.look()).state == "queued"
                other = await client.ticket("b")
                assert await other.cancel()
            async with await ticket.claim(wait=10) as lease:
                assert lease.id == ticket.id
            async with await client.ticket_of((await client.ticket("a")).token).claim() as lease:
                assert lease.state == "ready"

    run(story)


def test_everything_is_read(home: Home, run: Any) -> None:
    async def story() -> None:
        async with AsyncClient() as client:
            assert (await client.forecast("a")).would == "grant"
            assert [target.name for target in (await client.targets()).targets] == ["a", "b"]
            assert (await client.target("a")).name == "a"
            with pytest.raises(TargetUnknown):
                await client.target("c")
            assert (await client.why("a")).command.endswith("acquire a")
            assert (await client.processes()).processes == ()
            assert (await client.open_gpu("SIM-0")).opened is False
            async with client.lease("a") as lease:
                assert (await client.renew(lease.token)).ttl_seconds == 60
                assert (await client.release(lease.token)).released
            assert (await client.evict("a")).evicted
            assert (await client.audit(limit=2)).events[-1].seq > 2

    run(story)


def test_events_are_followed(home: Home, run: Any) -> None:
    async def story() -> list[str]:
        seen = []
        async with (
            AsyncClient() as client,
            aclosing(client.events(target="a")) as events,
            anyio.create_task_group() as group,
        ):
            group.start_soon(lease_it, client)
            async for event in events:
                seen.append(event.type)
                if event.type == "LeaseEnded":
                    return seen
        raise AssertionError("events have no end")

    async def lease_it(client: AsyncClient) -> None:
        await anyio.sleep(0.2)
        async with client.lease("a"):
            pass

    seen = run(story)
    assert seen[0] == "LeaseGranted"
    assert "TargetReady" in seen


def test_a_function_holds_a_lease_for_each_of_its_calls(home: Home, run: Any) -> None:
    @gpu("a", owner="ann")
    async def draw(what: str) -> str:
        await anyio.lowlevel.checkpoint()
        return f"{what} {current_lease().fence}"

    async def story() -> None:
        assert [await draw("cat"), await draw("dog")] == ["cat 1", "dog 2"]

    run(story)
    assert home.leases() == []


def test_one_client_serves_several_loops_one_after_the_other(home: Home, run: Any) -> None:
    client = AsyncClient()

    async def story() -> str:
        return (await client.status()).mode

    assert [run(story), run(story)] == ["stop", "stop"]


def test_in_a_notebook_the_cells_are_tasks_of_their_own(home: Home) -> None:
    """Jupyter runs each cell as a task of one loop: what one acquires another releases."""

    async def story() -> None:
        client = AsyncClient()
        lease = await asyncio.create_task(client.lease("a", ttl=1).acquire())
        began = time.monotonic()
        while time.monotonic() < began + 1.2:  # noqa: ASYNC110 - more than a TTL
            await asyncio.sleep(0.05)
        lease.check()
        assert await asyncio.create_task(lease.release())
        await client.close()

    asyncio.run(story())
    assert home.leases() == []


def test_a_task_that_is_cancelled_by_asyncio_itself_gives_its_place_back(home: Home) -> None:
    async def story() -> None:
        async with AsyncClient() as client, client.lease("a"):
            waiting = asyncio.create_task(client.lease("b").acquire())
            while not (await client.status()).queue:  # noqa: ASYNC110 - bounded by the test's own limit
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await client.status()).queue == ()

    asyncio.run(story())


def test_misuse_is_said() -> None:
    async def heard(_lost: LeaseLost) -> None:
        raise AssertionError("nobody awaits this")

    with pytest.raises(TypeError, match="called, not awaited"):
        AsyncClient().lease("a", on_lost=heard)
    with pytest.raises(NotHeld):
        AsyncClient().lease("a").check()
