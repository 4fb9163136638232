"""Leases from Python: what a script, a thread or a notebook does with them, against the real API."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from supervisor.client import (
    Client,
    GpuBusy,
    LeaseLost,
    LeaseUnknown,
    NotHeld,
    SchedulerTimeout,
    TargetUnknown,
    TicketExpired,
    Unreachable,
    current_lease,
    gpu,
)
from tests.client.conftest import Home

Until = Callable[..., Any]


@pytest.fixture
def client(home: Home) -> Any:
    with Client(home.url) as made:
        yield made


# ---- from the first line of the block to its end


def test_a_lease_is_held_while_its_block_runs(home: Home, client: Client) -> None:
    with client.lease("a", owner="ann", priority=5, wait=600) as lease:
        (held,) = home.leases()
        assert (held["owner"], held["priority"], held["state"]) == ("ann", 5, "ready")
        assert (lease.id, lease.fence, lease.gpus, lease.state) == (held["id"], 1, ("SIM-0",), "ready")
        lease.check()

    assert home.leases() == []
    assert not lease.held


def test_a_bare_lease_asks_for_memory_as_a_label_does_and_names_its_gpus(home: Home, client: Client) -> None:
    with client.lease(gpus=1, vram="8GiB") as lease:
        assert (lease.target, lease.vram_mib) == (None, 8_192)
        assert lease.env() == {"CUDA_VISIBLE_DEVICES": "SIM-0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_it_is_renewed_in_the_background(home: Home, client: Client, until: Until) -> None:
    with client.lease("a", ttl=1) as lease:
        first = lease.expires_at
        until(lambda: lease.expires_at != first, what="a renewal")
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 1.2, what="more than a TTL")
        lease.check()
        assert len(home.leases()) == 1


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_ends_the_block_ends_the_lease_and_goes_on(home: Home, client: Client, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, client.lease("a"):
        raise error

    assert caught.value is error
    assert home.leases() == []


def test_ctrl_c_while_it_waits_gives_the_place_in_the_queue_back(home: Home, client: Client, until: Until) -> None:
    def interrupt() -> None:
        until(home.queue, what="a place in the queue")
        os.kill(os.getpid(), signal.SIGINT)

    with client.lease("a"):
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            client.lease("b", wait=None).acquire()
        assert home.queue() == []
        assert len(home.leases()) == 1


def test_leases_may_be_nested(home: Home) -> None:
    from supervisor.core.model import Sharing
    from tests.client.conftest import container
    from tests.client.conftest import home as living

    shared = Sharing(any=True)
    with (
        living(*(container(name, vram_mib=4_096, coexist=shared) for name in "ab")) as other,
        Client(other.url) as client,
        client.lease("a") as outer,
        client.lease("b") as inner,
    ):
        assert inner.fence > outer.fence
        assert {lease["target"] for lease in other.leases()} == {"a", "b"}


def test_the_same_lease_is_not_taken_twice_and_can_be_taken_again(home: Home, client: Client) -> None:
    lease = client.lease("a")
    with lease:
        with pytest.raises(NotHeld, match="held already"):
            lease.acquire()
        first = lease.fence
    with lease:
        assert lease.fence > first
    with pytest.raises(NotHeld, match="is not held"):
        lease.check()
    with pytest.raises(NotHeld, match="is not held"):
        _ = client.lease("a").token


def test_a_notebook_acquires_in_one_cell_and_releases_in_another(home: Home, client: Client) -> None:
    lease = client.lease("a").acquire()
    client.close()  # what a cell does in the middle
    assert len(home.leases()) == 1
    assert lease.token not in repr(lease)
    assert lease.release()
    assert home.leases() == []
    assert lease.release(), "twice is once"


# ---- waiting


def test_a_busy_gpu_is_refused_at_once_where_nobody_waits(home: Home, client: Client) -> None:
    with client.lease("a", owner="ann"), pytest.raises(GpuBusy, match="a holds the GPU") as caught:
        client.lease("b", wait=0).acquire()

    error = caught.value
    assert (error.code, error.retryable, error.status, error.context["owner"]) == ("gpu_busy", True, 409, "ann")
    assert "wait" in error.hint


def test_a_wait_that_runs_out_leaves_no_place_behind(home: Home, client: Client) -> None:
    with client.lease("a"):
        with pytest.raises((SchedulerTimeout, GpuBusy), match="place 1"):
            client.lease("b", wait=1).acquire()
        assert home.queue() == []


def test_who_waits_gets_it_when_it_is_given_back(home: Home, client: Client, until: Until) -> None:
    fences: list[int] = []

    def wait_for_it() -> None:
        with client.lease("b") as second:
            fences.append(second.fence)

    with client.lease("a") as first:
        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        until(home.queue, what="a place in the queue")
    waiter.join(10)

    assert fences == [first.fence + 1]


def test_a_wait_goes_on_in_slices_and_keeps_its_place(
    home: Home, client: Client, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.client.flows.CLAIM_S", 1)
    got = threading.Event()

    def wait_for_it() -> None:
        with client.lease("b"):
            got.set()

    with client.lease("a"):
        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        (ticket,) = until(home.queue, what="a place in the queue")
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 1.5, what="a second slice")
        assert [waits["id"] for waits in home.queue()] == [ticket["id"]]
    assert got.wait(10)
    waiter.join(10)


# ---- the loss of it


def test_who_loses_the_lease_hears_it_by_callback_and_at_the_next_check(home: Home, client: Client) -> None:
    told: list[LeaseLost] = []
    heard = threading.Event()

    def hear(lost: LeaseLost) -> None:
        told.append(lost)
        heard.set()

    with client.lease("a", ttl=1, on_lost=hear) as lease:
        home.take_away()
        assert heard.wait(5)
        with pytest.raises(LeaseLost, match="the lease of a was lost") as caught:
            lease.check()

    assert told == [caught.value]
    assert caught.value.reason == "forced"


def test_a_loss_that_nobody_heard_of_is_raised_at_the_end_of_the_block(
    home: Home, client: Client, until: Until
) -> None:
    def work() -> None:
        with client.lease("a", ttl=1) as lease:
            home.take_away()
            until(lambda: lease.lost, what="the loss")

    with pytest.raises(LeaseLost):
        work()


def test_an_error_of_the_block_is_not_covered_by_the_loss(home: Home, client: Client, until: Until) -> None:
    def work() -> None:
        with client.lease("a", ttl=1) as lease:
            home.take_away()
            until(lambda: lease.lost, what="the loss")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        work()


def test_a_lease_is_lost_when_its_ttl_is_over_and_no_supervisor_answered(until: Until) -> None:
    from tests.client.conftest import home as living

    with living() as gone:
        client = Client(gone.url, retry_for=0)
        lease = client.lease("a", ttl=1).acquire()
    # The house is gone for good: nobody says that the lease has ended.
    lost = until(lambda: lease.lost, what="the end of its TTL")

    assert (lost.reason, "whole TTL of 1 s" in str(lost)) == (None, True)
    assert lease.wait_ended(timeout=5) is lost


def test_a_job_that_is_done_is_waited_for_and_is_no_misfortune(home: Home, client: Client) -> None:
    def job_is_done() -> None:
        async def exits(house: Any) -> None:
            house.box.engine.start("a-main", status="exited", exit_code=0)

        home.do(exits)

    with client.lease("a", ttl=1) as lease:
        assert lease.wait_ended(timeout=0) is None
        job_is_done()
        ended = lease.wait_ended(timeout=10)

    assert ended is not None
    assert (ended.completed, ended.reason) == (True, "target_completed")


# ---- forks


def test_a_forked_child_gives_nothing_back_and_asks_whether_it_still_is(home: Home, client: Client) -> None:
    with client.lease("a") as lease:
        pid = os.fork()
        if pid == 0:
            try:
                lease.check()
                lease.release()
                os._exit(0 if client.status().leases else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        lease.check()
        assert len(home.leases()) == 1


# ---- tickets


def test_a_ticket_is_looked_at_claimed_when_its_turn_has_come_and_used(home: Home, client: Client) -> None:
    with client.lease("a", owner="ann"):
        ticket = client.ticket("b")
        assert (ticket.look().state, ticket.look().ahead[0].owner) == ("queued", "ann")
        with pytest.raises(GpuBusy, match="place 1"):
            ticket.claim()
        assert len(home.queue()) == 1, "the place is kept"

    with ticket.claim(wait=10) as lease:
        assert (lease.state, lease.id) == ("ready", ticket.id)
        assert client.look(ticket.token).state == "ready"
    assert client.look(ticket.token).state == "ended"
    assert ticket.token not in repr(ticket)


def test_a_ticket_is_cancelled(home: Home, client: Client) -> None:
    with client.lease("a"):
        assert client.ticket("b").cancel()
        assert home.queue() == []


def test_a_turn_that_nobody_claimed_is_said(home: Home, client: Client, until: Until) -> None:
    from supervisor.core.state import Settings
    from tests.client.conftest import home as living
    from tests.runtime.test_pump import GPUS

    with living(core=Settings(gpus=GPUS, claim_window_ms=50)) as quick, Client(quick.url) as impatient:
        with impatient.lease("a"):
            ticket = impatient.ticket("b")
        until(lambda: impatient.look(ticket.token).state == "ended", what="the end of its window")
        with pytest.raises(TicketExpired):
            ticket.claim()


def test_a_lease_that_another_process_left_with_a_token_is_taken_up(home: Home, client: Client) -> None:
    token = home.do(lambda house: house.lease("a")).json()["token"]
    assert client.renew(token).ttl_seconds == 300
    with client.ticket_of(token).claim() as lease:
        assert lease.token == token
    assert not client.release(token).released
    with pytest.raises(LeaseUnknown):
        client.renew(token)


# ---- functions


def test_a_function_holds_a_lease_for_each_of_its_calls(home: Home) -> None:
    @gpu("a", owner="ann", wait=10)
    def draw(what: str, *, twice: bool = False) -> str:
        """Draw."""
        current_lease().check()
        return f"{what} {twice} {home.leases()[0]['owner']} {current_lease().fence}"

    assert [draw("cat"), draw("dog", twice=True)] == ["cat False ann 1", "dog True ann 2"]
    assert home.leases() == []
    assert (draw.__name__, draw.__doc__) == ("draw", "Draw.")
    with pytest.raises(NotHeld):
        current_lease()


def test_a_generator_would_run_after_its_lease_so_it_is_refused() -> None:
    with pytest.raises(TypeError, match="is a generator"):

        @gpu("a")
        def frames() -> Any:
            yield 1


# ---- nobody there


def test_a_supervisor_that_never_answered_is_said_at_once_with_how_to_start_one(tmp_path: Any) -> None:
    client = Client(f"unix://{tmp_path}/nobody.sock")

    with pytest.raises(Unreachable, match="no supervisor answers") as caught:
        client.lease("a").acquire()

    assert "gpu-supervisor serve" in caught.value.hint
    assert not caught.value.asked


def test_what_is_refused_for_good_is_not_waited_for(home: Home, client: Client) -> None:
    with pytest.raises(TargetUnknown, match="no container is labelled") as caught:
        client.lease("nobody", wait=None).acquire()

    assert not caught.value.retryable
