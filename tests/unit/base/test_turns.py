"""Turns: how many run, on whose thread, who comes next, and how long a caller waits.

Work waits on events that the test sets; nothing here waits for a clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from csi_driver.base.turns import CallerGone, Turns, lending, on_behalf_of, outcome

WAIT = 30.0
"""Seconds after which a hang is a failure; never waited for when all is well."""


@pytest.fixture
def turns() -> Iterator[Turns]:
    with Turns(2, "turns") as turns:
        yield turns


class Held:
    """Work that says on which thread it began, and goes on when it is let."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> str:
        self.thread = threading.current_thread()
        self.began.set()
        assert self.go_on.wait(WAIT)
        return "done"


@pytest.fixture
def held() -> Iterator[Callable[[], Held]]:
    made: list[Held] = []

    def make() -> Held:
        made.append(Held())
        return made[-1]

    yield make
    for work in made:
        work.go_on.set()


def test_a_lent_thread_does_the_work_itself(turns):
    with lending():
        future = turns.submit(threading.current_thread)
    assert future.done()
    assert outcome(future) is threading.current_thread()


def test_a_thread_that_is_not_lent_waits_for_one_of_the_pool(turns):
    assert outcome(turns.submit(threading.current_thread)) is not threading.current_thread()
    with lending():
        pass
    assert outcome(turns.submit(threading.current_thread)) is not threading.current_thread()


def test_what_lent_work_starts_is_done_by_another_thread(turns):
    with lending():
        inner = outcome(turns.submit(lambda: turns.submit(threading.current_thread)))
    assert outcome(inner) is not threading.current_thread()


def test_an_error_of_lent_work_is_the_outcome_and_the_turn_is_free_again(turns):
    def fail() -> None:
        raise RuntimeError("bang")

    for _ in range(3):
        with lending():
            future = turns.submit(fail)
        with pytest.raises(RuntimeError, match="bang"):
            outcome(future)


def test_without_a_free_turn_lent_threads_queue_and_are_served_in_order(turns, held):
    first, second = held(), held()
    running = [turns.submit(first), turns.submit(second)]
    assert first.began.wait(WAIT)
    assert second.began.wait(WAIT)
    order: list[int] = []
    with lending():
        queued = [turns.submit(order.append, number) for number in range(5)]
    assert not any(future.running() or future.done() for future in queued)
    first.go_on.set()
    for future in (running[0], *queued):
        future.result(WAIT)
    assert order == [0, 1, 2, 3, 4]
    assert not running[1].done()


def test_a_lent_thread_passes_its_turn_on_and_is_free(turns, held):
    slow, queued = held(), held()
    turns.submit(slow)
    assert slow.began.wait(WAIT)
    waiting: list[Future[str]] = []
    with lending():
        turns.submit(lambda: waiting.append(turns.submit(queued)))
    assert queued.began.wait(WAIT)
    assert queued.thread is not threading.current_thread()
    queued.go_on.set()
    assert outcome(waiting[0]) == "done"


def test_a_caller_that_gives_up_leaves_the_work_running(turns, held):
    work = held()
    future = turns.submit(work)
    assert work.began.wait(WAIT)

    def gives_up_at_once(gone: Callable[[], None]) -> bool:
        gone()
        return True

    for on_end in (gives_up_at_once, lambda gone: False):
        with on_behalf_of(on_end), pytest.raises(CallerGone):
            outcome(future)
    work.go_on.set()
    assert outcome(future) == "done"


def test_what_is_done_is_answered_though_the_caller_gave_up(turns):
    with lending():
        future = turns.submit(lambda: "done")
    with on_behalf_of(lambda gone: False):
        assert outcome(future) == "done"


def test_at_the_end_what_waits_is_cancelled_and_what_runs_is_not(held):
    turns = Turns(1, "turns")
    work = held()
    running = turns.submit(work)
    waiting = turns.submit(lambda: "never")
    assert work.began.wait(WAIT)
    turns.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    work.go_on.set()
    assert running.result(WAIT) == "done"
    with pytest.raises(RuntimeError):
        turns.submit(lambda: "late").result(WAIT)
