"""The threads of the RPCs: which takes a call, how many there are, and how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

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
    with Threads(2, "call") as pool:
        yield pool


def two_held(pool: Threads) -> tuple[Held, Held]:
    first, second = Held(), Held()
    for held in (first, second):
        pool.submit(held)
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
        taken.append(pool.submit(threading.current_thread).result(WAIT))
        assert idle()
    assert taken == [first.thread] * 3


def test_a_call_without_a_thread_waits_for_one(pool):
    first, second = two_held(pool)
    third = pool.submit(threading.current_thread)
    assert not third.running()
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
            pool.submit(first)
    pool.submit(first)
    assert first.began.wait(WAIT)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        second = pool.submit(threading.current_thread)
    assert not second.running()
    first.go_on.set()
    assert second.result(WAIT) is first.thread
    third, fourth = two_held(pool)
    assert third.thread is not fourth.thread
    third.go_on.set()
    fourth.go_on.set()


def test_an_error_is_the_future_s_and_its_thread_goes_on(pool, idle):
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(WAIT)
    assert idle()
    assert pool.submit(lambda: "next").result(WAIT) == "next"
    assert len(pool._threads) == 1


def test_shut_down_every_thread_ends_when_its_call_has_and_none_starts(pool):
    first, second = two_held(pool)
    waiting = pool.submit(lambda: "done")
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="call"):
        pool.submit(print)
    first.go_on.set()
    assert waiting.result(WAIT) == "done"
    second.go_on.set()
    for thread in (first.thread, second.thread):
        thread.join(WAIT)
        assert not thread.is_alive()


def test_shut_down_calls_that_wait_can_be_cancelled(pool):
    first, second = two_held(pool)
    waiting = pool.submit(print)
    pool.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    first.go_on.set()
    second.go_on.set()
    pool.shutdown()
    assert not any(thread.is_alive() for thread in pool._threads)


def test_shut_down_idle_threads_end(pool, idle):
    pool.submit(print)
    assert idle()
    pool.shutdown()
    assert not any(thread.is_alive() for thread in pool._threads)
