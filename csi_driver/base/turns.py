"""Turns: a bounded number of calls at a time, on the thread that asks or on one of a pool.

Every backend and the node have :class:`Turns` for what takes time.  ``rpc`` has a thread
for each RPC anyway: it lends it (:func:`lending`) to the work that the RPC starts, since
handing work to another thread and the answer back costs as much as a small call itself.
Work for which no turn is free waits in a queue, and a thread of the pool does it: so a
caller may give up (:func:`outcome`), its thread is free again, and the work goes on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar, cast

T = TypeVar("T")

OnEnd = Callable[[Callable[[], None]], bool]
"""Has a function called when the caller does not wait any more; False: it waits no more now."""


class CallerGone(Exception):
    """Internal to ``rpc``: nobody waits for the answer any more; the work goes on."""


class _Thread(threading.local):
    """What is known of this thread."""

    lent = False
    on_end: OnEnd | None = None


_thread = _Thread()


# Every call enters the next two: as generators they would take three times as long.


class lending:
    """Let work that is submitted in the block run on this thread, if it has a turn at once."""

    def __enter__(self) -> None:
        _thread.lent = True

    def __exit__(self, *_: object) -> None:
        _thread.lent = False


class on_behalf_of:
    """Name the caller that this thread works for; :func:`outcome` waits as long as he does."""

    def __init__(self, on_end: OnEnd) -> None:
        self._on_end = on_end

    def __enter__(self) -> None:
        _thread.on_end = self._on_end

    def __exit__(self, *_: object) -> None:
        _thread.on_end = None


def outcome(future: Future[T]) -> T:
    """The result of the work, once it is there.

    :raises CallerGone: the caller of this thread gave up before.
    """
    if not future.done() and _thread.on_end is not None:
        gone: Future[None] = Future()
        if _thread.on_end(lambda: gone.set_result(None)):
            wait([cast("Future[Any]", future), gone], return_when=FIRST_COMPLETED)
        if not future.done():
            raise CallerGone
    return future.result()


class Turns(Executor):
    """An executor in which at most ``limit`` calls run at a time.

    ``_lock`` protects ``_free`` and ``_waiting`` and is never held while a call runs.
    Whoever waits is served in the order of arrival; nobody overtakes the queue.

    :param name: of the threads that work for callers who did not lend theirs.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._lock = threading.Lock()
        self._free = limit
        self._waiting: deque[_Submitted] = deque()
        # Its threads start when they are needed: never, while callers lend theirs.
        self._pool = ThreadPoolExecutor(limit, name)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn`` when it has its turn: now, on this thread, if it is lent."""
        with self._lock:
            has_turn = self._free > 0
            if has_turn:
                self._free -= 1
            else:
                self._waiting.append(waiting := _Submitted(fn, args, kwargs))
        if not has_turn:
            return waiting.future
        if not _thread.lent:
            call = _Submitted(fn, args, kwargs)
            self._to_pool(call)
            return call.future
        _thread.lent = False  # what the work itself may start is another's turn
        ended = _ended(fn, args, kwargs)
        self._pass_on()
        return ended

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See :meth:`concurrent.futures.Executor.shutdown`."""
        if cancel_futures:
            with self._lock:
                cancelled, self._waiting = self._waiting, deque()
            for call in cancelled:
                call.future.cancel()
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _to_pool(self, call: _Submitted) -> None:
        try:
            self._pool.submit(self._run, call)
        except RuntimeError as error:  # the pool is shut down
            call.future.set_exception(error)
            self._pass_on()

    def _run(self, call: _Submitted | None) -> None:
        """Run calls as long as some wait; on a thread of the pool."""
        while call is not None:
            call.run()
            call = self._next()

    def _pass_on(self) -> None:
        call = self._next()
        if call is not None:
            self._to_pool(call)

    def _next(self) -> _Submitted | None:
        """Give the turn that has ended to the next in the queue."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._free += 1
            return None


def done(result: T) -> Future[T]:
    """A future that has its result already."""
    future: Future[T] = Future()
    future.set_result(result)
    return future


_NOTHING = done(None)
"""The outcome of work that ended with nothing to say; nobody can change it any more."""


def _ended(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
    """Call it on this thread; its outcome."""
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # every outcome belongs to whoever waits
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed
    return _NOTHING if result is None else done(result)


class _Submitted:
    """What an executor was given to call, and the future of it."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.future: Future[Any] = Future()
        self._fn = fn
        self._args = args
        self._kwargs = kwargs

    def run(self) -> None:
        """Call it on this thread, unless the future was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._fn(*self._args, **self._kwargs)
        except BaseException as error:  # every outcome belongs to whoever waits
            self.future.set_exception(error)
        else:
            self.future.set_result(result)
