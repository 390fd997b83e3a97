"""Calls in flight: joining, refusing, holding, closing.

Work waits on events that the test sets; nothing here waits for a clock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from csi_driver.base.errors import OperationInProgress, ShuttingDown
from csi_driver.base.inflight import InFlight, Running
from csi_driver.base.turns import Turns

WAIT = 30.0
"""Seconds after which a hang is a failure; never waited for when all is well."""


class Work:
    """Work that says when it started and goes on when it is let."""

    def __init__(self, outcome: Callable[[], Any] = lambda: "done") -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.runs = 0
        self._outcome = outcome

    def __call__(self, running: Running) -> Any:
        self.runs += 1
        running.at("half way")
        self.started.set()
        assert self.go_on.wait(WAIT)
        return self._outcome()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def table() -> InFlight:
    return InFlight(clock=lambda: 1_700_000_000.0)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.go_on.set()


def test_equal_calls_at_once_join_and_the_work_is_done_once(table, pool, work):
    callers = 16
    barrier = threading.Barrier(callers)

    def call() -> Future[str]:
        barrier.wait(WAIT)
        return table.start("volume", "Create", "10 GiB", work, pool)

    with ThreadPoolExecutor(callers) as threads:
        calls = [threads.submit(call) for _ in range(callers)]
        futures = [call.result(WAIT) for call in calls]
    assert len(set(map(id, futures))) == 1
    work.go_on.set()
    assert futures[0].result(WAIT) == "done"
    assert work.runs == 1


@pytest.mark.parametrize(("kind", "fingerprint"), [("Create", "20 GiB"), ("Delete", "10 GiB")])
def test_a_different_call_on_a_busy_object_is_told_what_runs(table, pool, work, kind, fingerprint):
    table.start("volume", "Create", "10 GiB", work, pool)
    assert work.started.wait(WAIT)
    with pytest.raises(OperationInProgress) as refused:
        table.start("volume", kind, fingerprint, work, pool)
    text = str(refused.value)
    assert "Create runs since 2023-11-14T22:13:20Z" in text
    assert "'half way'" in text
    assert "process" in text


def test_calls_on_different_objects_run_side_by_side(table, pool):
    both = threading.Barrier(2)
    futures = [
        table.start(key, "Create", None, lambda running: both.wait(WAIT), pool) for key in "ab"
    ]
    assert sorted(future.result(WAIT) for future in futures) == [0, 1]


def test_after_its_end_the_same_call_runs_again(table, pool, work):
    work.go_on.set()
    for _ in range(2):
        table.start("volume", "Create", None, work, pool).result(WAIT)
    assert work.runs == 2


# -- objects that a call needs unchanged ----------------------------------------


def test_nothing_starts_on_an_object_that_another_call_holds(table, pool, work):
    table.start("clone", "Create", None, work, pool, holding=("source",))
    with pytest.raises(OperationInProgress, match=r"source is needed by another call: Create runs"):
        table.start("source", "Delete", None, work, pool)


def test_a_call_cannot_hold_an_object_on_which_another_runs(table, pool, work):
    table.start("source", "Delete", None, work, pool)
    with pytest.raises(OperationInProgress, match="source is busy: Delete runs"):
        table.start("clone", "Create", None, work, pool, holding=("source",))


def test_several_calls_hold_one_object_and_it_is_free_after_the_last(table, pool):
    works = {key: Work() for key in ("clone-1", "clone-2")}
    futures = {
        key: table.start(key, "Create", None, work, pool, holding=("source",))
        for key, work in works.items()
    }
    works["clone-1"].go_on.set()
    futures["clone-1"].result(WAIT)
    with pytest.raises(OperationInProgress):
        table.start("source", "Delete", None, lambda running: None, pool)
    works["clone-2"].go_on.set()
    futures["clone-2"].result(WAIT)
    assert (
        table.start("source", "Delete", None, lambda running: "gone", pool).result(WAIT) == "gone"
    )


def test_a_refused_call_holds_nothing(table, pool, work):
    blocker = table.start("clone", "Create", "one", work, pool)
    with pytest.raises(OperationInProgress):
        table.start("clone", "Create", "other", work, pool, holding=("source",))
    assert table.start("source", "Delete", None, lambda running: 1, pool).result(WAIT) == 1
    work.go_on.set()
    blocker.result(WAIT)


def test_what_runs_is_found_by_its_key_and_refuses_other_kinds(table, pool, work):
    table.start("volume/node", "Publish", None, work, pool)
    assert table.busy() == ["volume/node"]
    table.refuse_other("volume/node", "Publish")
    table.refuse_other("volume/other", "Unpublish")
    with pytest.raises(OperationInProgress, match="volume/node is busy: Publish runs"):
        table.refuse_other("volume/node", "Unpublish")


# -- failures -------------------------------------------------------------------


class Broken(Exception):
    pass


def test_an_exception_reaches_everyone_who_joined_and_frees_the_object(table, pool):
    def fail() -> None:
        raise Broken("the array is on fire")

    work = Work(fail)
    futures = [
        table.start("volume", "Create", None, work, pool, holding=("source",)) for _ in range(3)
    ]
    work.go_on.set()
    for future in futures:
        with pytest.raises(Broken, match="on fire"):
            future.result(WAIT)
    assert table.start("volume", "Delete", None, lambda running: 1, pool).result(WAIT) == 1
    assert table.start("source", "Delete", None, lambda running: 1, pool).result(WAIT) == 1


def test_a_pool_that_takes_no_work_fails_the_call_and_frees_the_object(table):
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    future = table.start("volume", "Create", None, lambda running: 1, closed, holding=("source",))
    with pytest.raises(RuntimeError):
        future.result(WAIT)
    assert table.describe() == []
    assert table.close(0)


def test_a_caller_that_gives_up_cancels_nothing(table, pool, work):
    """As the gRPC edge waits: the RPC is cancelled, the retry gets the result."""

    async def give_up() -> None:
        future = table.start("volume", "Create", None, work, pool)
        waiting = asyncio.ensure_future(asyncio.wrap_future(future))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    retry = table.start("volume", "Create", None, work, pool)
    work.go_on.set()
    assert retry.result(WAIT) == "done"
    assert work.runs == 1


def test_what_its_executor_did_not_run_is_over_and_may_be_started_again(table, pool, work):
    turns = Turns(1, "turns")
    first = table.start("first", "Create", None, work, turns)
    queued = table.start("volume", "Create", None, work, turns, holding=("source",))
    assert work.started.wait(WAIT)
    turns.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(ShuttingDown, match="Create of volume was not started"):
        queued.result(WAIT)
    work.go_on.set()
    assert first.result(WAIT) == "done"
    with pytest.raises(RuntimeError, match="shutdown"):
        table.start("volume", "Create", None, work, turns).result(WAIT)
    assert table.busy() == []
    assert table.start("source", "Delete", None, work, pool).result(WAIT) == "done"
    assert work.runs == 2


# -- draining -------------------------------------------------------------------


def test_a_closed_table_starts_nothing_new_but_lets_callers_join(table, pool, work):
    first = table.start("volume", "Create", None, work, pool)
    assert not table.close(0)
    assert table.start("volume", "Create", None, work, pool) is first
    with pytest.raises(ShuttingDown):
        table.start("other", "Create", None, work, pool)
    work.go_on.set()
    assert table.close(WAIT)
    assert first.result(WAIT) == "done"
    with pytest.raises(ShuttingDown):
        table.start("volume", "Create", None, work, pool)


def test_closing_waits_until_the_running_work_has_ended(table, pool, work):
    table.start("volume", "Create", None, work, pool)
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(table.close, None)
        assert work.started.wait(WAIT)
        assert not closing.done()
        work.go_on.set()
        assert closing.result(WAIT)


def test_what_runs_is_told_in_a_sentence_each(table, pool, work):
    table.start("volume", "Create", None, work, pool)
    assert work.started.wait(WAIT)
    (sentence,) = table.describe()
    assert sentence.startswith("volume: Create runs since 2023-11-14T22:13:20Z (0.0 s)")
