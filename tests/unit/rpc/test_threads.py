"""The threads of the RPCs: which takes a call, how many there are, and how they end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from csi_driver.rpc import threads
from csi_driver.rpc.threads import Threads

WAIT = 30.0
"""Seconds after which a hang is a failure; never waited for when all is well."""


class Held:
    """A call that says on which thread it began, and goes on when it is let."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self.began.set()
        assert self.go_on.wait(WAIT)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Waits until one more thread is idle."""
    became_idle = threading.Semaphore(0)
    wait = threads._Seat.wait

    def tell_and_wait(self):
        became_idle.release()
        return wait(self)

    monkeypatch.setattr(threads._Seat, "wait", tell_and_wait)
    return lambda: became_idle.acquire(timeout=WAIT)


@pytest.fixture
def pool() -> Iterator[Threads]:
    pool = Threads(2, "call")
    yield pool
    pool.shutdown()


def taker(pool: Threads) -> Future[threading.Thread]:
    """Which thread takes the next call."""
    future: Future[threading.Thread] = Future()
    pool.run(lambda: future.set_result(threading.current_thread()))
    return future


def two_held(pool: Threads) -> tuple[Held, Held]:
    first, second = Held(), Held()
    for held in (first, second):
        pool.run(held)
        assert held.began.wait(WAIT)
    return first, second


def test_the_thread_that_became_idle_last_takes_the_next_call(pool, idle):
    first, second = two_held(pool)
    assert first.thread is not second.thread
    for held in (second, first):
        held.go_on.set()
        assert idle()

    taken = []
    for _ in range(3):
        taken.append(taker(pool).result(WAIT))
        assert idle()
    assert taken == [first.thread] * 3


def test_a_call_without_a_thread_waits_for_one(pool):
    first, second = two_held(pool)
    third = taker(pool)
    assert not third.done()
    second.go_on.set()
    assert third.result(WAIT) is second.thread
    first.go_on.set()


def test_a_call_for_which_the_system_makes_no_thread_waits_for_one(pool, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    first = Held()
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            pool.run(first)
    pool.run(first)
    assert first.began.wait(WAIT)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        second = taker(pool)
    assert not second.done()
    first.go_on.set()
    assert second.result(WAIT) is first.thread
    third, fourth = two_held(pool)
    assert third.thread is not fourth.thread
    third.go_on.set()
    fourth.go_on.set()


def test_an_error_is_logged_and_the_next_call_has_its_thread(pool, idle, caplog):
    with caplog.at_level(logging.ERROR, "csi_driver.rpc"):
        pool.run(lambda: 1 // 0)
        assert idle()
    assert "ZeroDivisionError" in caplog.text
    assert taker(pool).result(WAIT) is pool._threads[0]
    assert len(pool._threads) == 1


def test_shut_down_every_thread_ends_when_its_call_has_and_none_starts(pool):
    first, second = two_held(pool)
    waiting = taker(pool)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="call"):
        pool.run(lambda: None)
    first.go_on.set()
    assert waiting.result(WAIT) is first.thread
    second.go_on.set()
    for thread in pool._threads:
        thread.join(WAIT)
        assert not thread.is_alive()


def test_shut_down_idle_threads_end(pool, idle):
    taker(pool)
    assert idle()
    pool.shutdown()
    for thread in pool._threads:
        thread.join(WAIT)
        assert not thread.is_alive()
